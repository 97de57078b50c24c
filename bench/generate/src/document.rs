//! The bytes of one document: BSON of 500 to 1500 bytes with text that compresses as real text does.

use crate::database::{Entry, Shape};
use crate::random::Random;

/// Milliseconds from 1970 to the day on which the database was born.
const BIRTH_MILLIS: i64 = 1_735_689_600_000;
const DAY_MILLIS: i64 = 86_400_000;
/// How many words the language of the database has.
const WORD_COUNT: u32 = 12_000;

const STATES: [&str; 6] = ["open", "paid", "shipped", "closed", "refunded", "in_review"];
const ACTIONS: [&str; 8] = [
    "user.login",
    "user.update",
    "order.create",
    "order.update",
    "invoice.send",
    "token.refresh",
    "export.start",
    "role.grant",
];
const AGENTS: [&str; 5] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "okhttp/4.12.0",
    "python-requests/2.32.3",
];

/// Writes documents. Owns the words, so that they are made once.
pub struct Writer {
    seed: u64,
    words: Vec<String>,
}

impl Writer {
    /// Returns the writer for the database of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, words: words(seed) }
    }

    /// Appends the document to `out`.
    pub fn append(&self, out: &mut Vec<u8>, collection: u64, shape: Shape, entry: Entry) {
        // What never changes about a document, and what every change rewrites.
        let fixed = Random::new(&[self.seed, 2, collection, entry.number.into()]);
        let fresh = Random::new(&[self.seed, 3, collection, entry.number.into(), entry.revision.into()]);
        let mut document = Document { out, fixed, fresh, words: &self.words };
        let start = document.open();
        document.head(collection, entry);
        match shape {
            Shape::Order => document.order(),
            Shape::Message => document.message(),
            Shape::Session => document.session(),
            Shape::Event => document.event(),
        }
        document.close(start);
    }
}

/// A document while it is written.
struct Document<'a> {
    out: &'a mut Vec<u8>,
    fixed: Random,
    fresh: Random,
    words: &'a [String],
}

impl Document<'_> {
    fn head(&mut self, collection: u64, entry: Entry) {
        let created = BIRTH_MILLIS + i64::from(entry.number) * 1777;
        self.key(7, "_id");
        let seconds = u32::try_from(created / 1000).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&seconds.to_be_bytes());
        self.out.extend_from_slice(&Random::new(&[4, collection]).next().to_be_bytes()[..5]);
        self.out.extend_from_slice(&entry.number.to_be_bytes()[1..]);
        let tenant = self.fixed.skewed(400);
        self.text("tenantId", &format!("tenant-{tenant:04}"));
        self.date("createdAt", created);
        let jitter = i64::from(self.fresh.below(DAY_MILLIS as u32));
        self.date("updatedAt", created.max(BIRTH_MILLIS + i64::from(entry.revision) * DAY_MILLIS) + jitter);
        self.int("revision", i32::from(entry.revision));
    }

    fn order(&mut self) {
        let number = self.fixed.next();
        self.text("number", &format!("2025-{:08}", number % 100_000_000));
        let state = STATES[self.fresh.skewed(6) as usize];
        self.text("status", state);
        let customer = self.hex_of_fixed(12);
        self.text("customerId", &customer);
        let lines = self.open_under(4, "lines");
        let count = 2 + self.fresh.below(4);
        for index in 0..count {
            let line = self.open_under(3, &index.to_string());
            let sku = self.fresh.skewed(5000);
            self.text("sku", &format!("SKU-{sku:06}"));
            let words = 5 + self.fresh.below(6);
            self.prose("description", words);
            let quantity = 1 + self.fresh.skewed(20);
            self.int("quantity", quantity as i32);
            let cents = self.fresh.skewed(200_000);
            self.double("unitPrice", f64::from(cents) / 100.0);
            self.close(line);
        }
        self.close(lines);
        let address = self.open_under(3, "shippingAddress");
        self.prose("street", 2);
        self.prose("city", 1);
        let code = self.fixed.below(90_000) + 10_000;
        self.text("postalCode", &code.to_string());
        self.text("country", "DE");
        self.close(address);
        let words = 6 + self.fresh.below(40);
        self.prose("notes", words);
    }

    fn message(&mut self) {
        let thread = self.hex_of_fixed(12);
        self.text("threadId", &thread);
        let author = self.hex_of_fixed(12);
        self.text("authorId", &author);
        let words = 3 + self.fresh.below(5);
        self.prose("subject", words);
        let words = 30 + self.fresh.below(110);
        self.prose("body", words);
        let read = self.fresh.below(2) == 0;
        self.key(8, "read");
        self.out.push(u8::from(read));
    }

    fn session(&mut self) {
        let user = self.hex_of_fixed(12);
        self.text("userId", &user);
        let token = self.hex_of_fresh(16);
        self.text("tokenHash", &token);
        let agent = AGENTS[self.fixed.skewed(5) as usize];
        self.text("userAgent", agent);
        let address = self.fresh.next();
        self.text("ip", &format!("10.{}.{}.{}", address & 7, address >> 8 & 255, address >> 16 & 255));
        let scopes = self.open_under(4, "scopes");
        for (index, scope) in ["profile.read", "orders.read", "orders.write", "billing.read"].iter().enumerate() {
            self.text(&index.to_string(), scope);
        }
        self.close(scopes);
        let words = 8 + self.fresh.below(30);
        self.prose("lastActivity", words);
    }

    fn event(&mut self) {
        let actor = self.hex_of_fixed(12);
        self.text("actorId", &actor);
        let action = ACTIONS[self.fixed.skewed(8) as usize];
        self.text("action", action);
        let request = self.hex_of_fresh(16);
        self.text("requestId", &request);
        for side in ["before", "after"] {
            let fields = self.open_under(3, side);
            let state = STATES[self.fresh.skewed(6) as usize];
            self.text("status", state);
            let cents = self.fresh.skewed(200_000);
            self.double("total", f64::from(cents) / 100.0);
            let words = 8 + self.fresh.below(24);
            self.prose("comment", words);
            self.close(fields);
        }
        let words = 8 + self.fresh.below(20);
        self.prose("message", words);
    }

    /// Adds a text of `words` words, the frequent ones frequently.
    fn prose(&mut self, name: &str, words: u32) {
        self.key(2, name);
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        for index in 0..words {
            if index > 0 {
                self.out.push(b' ');
            }
            let word = self.fresh.skewed(WORD_COUNT) as usize;
            match word % 32 {
                // A number of something: text of a business is full of them.
                31 => self.out.extend_from_slice(format!("#{}", self.fresh.below(1_000_000)).as_bytes()),
                _ => self.out.extend_from_slice(self.words[word].as_bytes()),
            }
        }
        self.out.push(0);
        let len = (self.out.len() - at - 4) as u32;
        self.out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }

    fn hex_of_fixed(&mut self, bytes: usize) -> String {
        hex(&mut self.fixed, bytes)
    }

    fn hex_of_fresh(&mut self, bytes: usize) -> String {
        hex(&mut self.fresh, bytes)
    }

    fn key(&mut self, kind: u8, name: &str) {
        key(self.out, kind, name);
    }

    fn text(&mut self, name: &str, value: &str) {
        text(self.out, name, value);
    }

    fn int(&mut self, name: &str, value: i32) {
        int(self.out, name, value);
    }

    fn double(&mut self, name: &str, value: f64) {
        self.key(1, name);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    fn date(&mut self, name: &str, millis: i64) {
        self.key(9, name);
        self.out.extend_from_slice(&millis.to_le_bytes());
    }

    fn open_under(&mut self, kind: u8, name: &str) -> usize {
        self.key(kind, name);
        self.open()
    }

    fn open(&mut self) -> usize {
        open(self.out)
    }

    fn close(&mut self, start: usize) {
        close(self.out, start);
    }
}

/// Starts a document; what it returns is handed to [`close`].
pub fn open(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len() - 4
}

/// Ends the document that starts at `start`.
pub fn close(out: &mut Vec<u8>, start: usize) {
    out.push(0);
    let len = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Appends the type and the name of an element.
pub fn key(out: &mut Vec<u8>, kind: u8, name: &str) {
    out.push(kind);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

/// Appends a string element.
pub fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, 2, name);
    out.extend_from_slice(&(value.len() as u32 + 1).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// Appends a 32-bit integer element.
pub fn int(out: &mut Vec<u8>, name: &str, value: i32) {
    key(out, 16, name);
    out.extend_from_slice(&value.to_le_bytes());
}

fn hex(random: &mut Random, bytes: usize) -> String {
    let mut digits = String::with_capacity(bytes * 2 + 16);
    while digits.len() < bytes * 2 {
        digits.push_str(&format!("{:016x}", random.next()));
    }
    digits.truncate(bytes * 2);
    digits
}

/// Returns the words of the language, the most frequent first: these are short, as in every language.
fn words(seed: u64) -> Vec<String> {
    const FIRST: [&str; 20] =
        ["b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr", "pl", "sch"];
    const SECOND: [&str; 8] = ["a", "e", "i", "o", "u", "ei", "ou", "ea"];
    const LAST: [&str; 9] = ["", "n", "r", "s", "t", "l", "ng", "ck", "m"];
    let mut random = Random::new(&[seed, 5]);
    let mut word = |syllables: u32| {
        let mut word = String::new();
        for _ in 0..syllables {
            word.push_str(FIRST[random.below(20) as usize]);
            word.push_str(SECOND[random.below(8) as usize]);
            word.push_str(LAST[random.below(9) as usize]);
        }
        word
    };
    (0..WORD_COUNT).map(|rank| word(1 + u32::from(rank > 40) + u32::from(rank % 5 == 4))).collect()
}
