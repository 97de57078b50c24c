//! Holds the rooms: the arrows point down, third-party crates stay behind their fences, files stay short.
//!
//! Every rule is a pure function from texts to complaints; next to each stands a sample that breaks it.

mod code;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use code::{NamedPath, Token, paths, split_tests, tokens};

/// What each room may name below `crate::`. `cli` may name everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("format", &[]),
    ("buffers", &[]),
    ("chunker", &[]),
    ("crypto", &["format"]),
    ("backend", &["format", "buffers"]),
    ("component", &["format", "buffers"]),
    ("repo", &["format", "buffers", "chunker", "crypto", "backend"]),
    // Passphrases and the place of a repository pass through; what is done with them is `repo`'s.
    ("ops", &["format", "repo", "component", "crypto::secret", "crypto::Passphrase", "backend::Backend"]),
];

/// What the tests of a room may name besides: they build what `cli` builds for the program.
const TEST_ARROWS: &[(&str, &[&str])] = &[("ops", &["crypto", "backend"])];

/// Third-party crates and the only places that may name them.
const FENCES: &[(&str, &[&str])] = &[
    ("clap", &["src/cli/"]),
    ("clap_complete", &["src/cli/"]),
    ("clap_mangen", &["src/cli/"]),
    ("indicatif", &["src/cli/"]),
    ("rpassword", &["src/cli/"]),
    ("toml", &["src/cli/"]),
    ("bollard", &["src/component/docker.rs", "src/component/docker/"]),
    ("tar", &["src/component/"]),
    ("crc64fast", &["src/component/"]),
    ("rusqlite", &["src/repo/index/cache.rs", "src/repo/index/cache/"]),
    ("aws_", &["src/backend/s3", "src/component/s3"]),
    ("http_body", &["src/backend/s3/", "src/component/s3/"]),
    ("fastcdc", &["src/chunker.rs", "src/chunker/"]),
    ("argon2", &["src/crypto/"]),
    ("chacha20poly1305", &["src/crypto/"]),
    ("hpke", &["src/crypto/"]),
    ("polyval", &["src/crypto/"]),
    ("rand_core", &["src/crypto/"]),
    ("subtle", &["src/crypto/"]),
    ("getrandom", &["src/crypto/", "src/component/"]),
    ("zeroize", &["src/crypto/", "src/component/", "src/backend/s3"]),
    ("zstd", &["src/repo/"]),
    ("rayon", &["src/crypto/slot.rs", "src/repo/"]),
];

/// Test data lies compressed in the repository: tests anywhere may open it.
const FREE_IN_TESTS: &[&str] = &["zstd"];

/// What only the shell may touch, and what the words may not touch at all.
const WORLD: &[(&str, &[&str])] = &[
    ("std::env", &["src/cli/"]),
    ("std::process::exit", &["src/cli/"]),
    ("std::io::stdin", &["src/cli/"]),
    ("std::io::stdout", &["src/cli/"]),
    ("std::io::stderr", &["src/cli/"]),
];
const NOT_IN_FORMAT: &[&str] =
    &["std::fs", "std::io", "std::net", "std::process", "std::thread", "std::time", "tokio", "futures", "rustix"];

const FILE_LINES_MAX: usize = 600;
const TEST_FILE_LINES_MAX: usize = 1200;

/// A committed text file.
#[derive(Debug, Clone)]
struct TextFile {
    /// From the top of the repository.
    path: String,
    text: String,
}

impl TextFile {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Returns the names of the modules from the crate down, where it is part of the library.
    fn module(&self) -> Option<Vec<&str>> {
        let inside = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let parts = inside.strip_suffix("/mod").unwrap_or(inside).split('/').collect();
        Some(if inside == "lib" || inside == "main" { Vec::new() } else { parts })
    }

    fn complaint(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// The paths that a library file names outside and inside of tests.
struct Named {
    own: Vec<NamedPath>,
    tests: Vec<NamedPath>,
}

/// Returns the modules that are only compiled for tests: `#[cfg(test)] mod x;` below their declaring module.
fn test_modules(files: &[TextFile]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for file in files {
        let Some(module) = file.module() else { continue };
        let code = tokens(&file.text);
        for window in code.windows(10) {
            let words: Vec<&str> = window.iter().map(|token| token.text.as_str()).collect();
            if let ["#", "[", "cfg", "(", "test", ")", "]", "mod", name, ";"] = words.as_slice() {
                found.insert(module.iter().chain([name]).map(|part| (*part).to_owned()).collect());
            }
        }
    }
    found
}

fn named(file: &TextFile, module: &[&str], test_modules: &BTreeSet<Vec<String>>) -> Named {
    let code = tokens(&file.text);
    let is_test = (1..=module.len()).any(|len| {
        let above: Vec<String> = module.iter().take(len).map(|part| (*part).to_owned()).collect();
        test_modules.contains(&above)
    });
    if is_test {
        return Named { own: Vec::new(), tests: paths(&code) };
    }
    let (own, tests) = split_tests(&code);
    Named { own: paths(&own), tests: paths(&tests) }
}

/// Returns the path below `crate::`, also where it is reached with `super::`.
fn below_crate(path: &NamedPath, module: &[&str]) -> Option<NamedPath> {
    let skipped = match path.parts.first()?.as_str() {
        "crate" => 1,
        "super" => {
            let supers = path.parts.iter().take_while(|part| *part == "super").count();
            // A module inside of the file may climb one step more; a room's name tells.
            let room = path.parts.get(supers)?;
            let is_room = ARROWS.iter().any(|(name, _)| name == room) || room == "cli";
            (supers >= module.len() && is_room).then_some(supers)?
        }
        _ => return None,
    };
    Some(NamedPath { parts: path.parts.iter().skip(skipped).cloned().collect(), line: path.line })
}

/// The arrows between rooms point down.
fn arrows(files: &[TextFile]) -> Vec<String> {
    let test_modules = test_modules(files);
    let mut complaints = Vec::new();
    for file in files {
        let Some(module) = file.module() else { continue };
        let Some(room) = module.first().copied().filter(|room| *room != "cli") else { continue };
        let allowed = |table: &[(&str, &'static [&'static str])]| -> &'static [&'static str] {
            table.iter().find(|(name, _)| *name == room).map_or(&[], |(_, targets)| targets)
        };
        if ARROWS.iter().all(|(name, _)| *name != room) {
            complaints.push(file.complaint(1, "is in no room"));
        }
        let found = named(file, &module, &test_modules);
        let own = found.own.iter().map(|path| (path, &[][..]));
        let tests = found.tests.iter().map(|path| (path, allowed(TEST_ARROWS)));
        for (path, more) in own.chain(tests) {
            let Some(target) = below_crate(path, &module) else { continue };
            let is_allowed = target.parts.is_empty()
                || target.starts_with(room)
                || allowed(ARROWS).iter().chain(more).any(|start| target.starts_with(start));
            if !is_allowed {
                complaints.push(file.complaint(path.line, &format!("{room} may not use {}", target.parts.join("::"))));
            }
        }
    }
    complaints
}

/// Third-party crates and the world outside are named only where they belong.
fn fences(files: &[TextFile]) -> Vec<String> {
    let test_modules = test_modules(files);
    let mut complaints = Vec::new();
    for file in files {
        let Some(module) = file.module() else { continue };
        let found = named(file, &module, &test_modules);
        let tests = found.tests.iter().filter(|path| !FREE_IN_TESTS.iter().any(|name| path.starts_with(name)));
        for path in found.own.iter().chain(tests) {
            let Some(first) = path.parts.first() else { continue };
            let is_fenced = |name: &str| name == first || name.ends_with('_') && first.starts_with(name);
            let fence = FENCES.iter().find(|(name, _)| is_fenced(name));
            if fence.is_some_and(|(_, places)| !places.iter().any(|place| file.path.starts_with(place))) {
                complaints.push(file.complaint(path.line, &format!("{first} does not belong here")));
            }
        }
        for path in &found.own {
            let world = WORLD.iter().any(|(start, places)| {
                path.starts_with(start) && !places.iter().any(|place| file.path.starts_with(place))
            });
            let impure = module.first() == Some(&"format") && NOT_IN_FORMAT.iter().any(|start| path.starts_with(start));
            if world || impure {
                complaints.push(file.complaint(path.line, &format!("{} does not belong here", path.parts.join("::"))));
            }
        }
    }
    complaints
}

/// Files stay short enough to be read.
fn lengths(files: &[TextFile]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let is_test = file.path.ends_with("tests.rs") || file.path.starts_with("tests/");
        let max = if is_test { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX };
        let lines = file.text.lines().count();
        if lines > max {
            complaints.push(file.complaint(lines, &format!("{lines} lines, at most {max} are allowed")));
        }
    }
    complaints
}

/// Nothing unfinished, unsafe or switched off.
fn words(files: &[TextFile]) -> Vec<String> {
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for (number, line) in file.text.lines().enumerate() {
            let mut parts = line.split(|letter: char| !letter.is_alphanumeric());
            if let Some(note) = parts.find(|part| notes.contains(part)) {
                complaints.push(file.complaint(number + 1, &format!("{note}: do it or open an issue")));
            }
        }
        let code = tokens(&file.text);
        for pair in code.windows(2) {
            let [Token { text, line }, next] = pair else { continue };
            let is_forbidden = match text.as_str() {
                "unsafe" => true,
                "todo" | "unimplemented" => next.text == "!",
                "ignore" | "should_panic" => matches!(next.text.as_str(), "]" | "=" | "("),
                _ => false,
            };
            // `ignore(` may be a call; as an attribute it follows a bracket.
            let is_attribute =
                |name: &str| name != "ignore" && name != "should_panic" || is_attribute(&code, *line, name);
            if is_forbidden && is_attribute(text) {
                complaints.push(file.complaint(*line, &format!("{text} is not allowed")));
            }
        }
    }
    complaints
}

fn is_attribute(code: &[Token], line: usize, name: &str) -> bool {
    let on_line = code.windows(3).filter(|window| window.last().is_some_and(|token| token.line == line));
    on_line.into_iter().any(|window| window.iter().map(|token| token.text.as_str()).eq(["#", "[", name]))
}

/// Every file of the format is named in its document, once there is one.
fn format_is_documented(files: &[TextFile]) -> Vec<String> {
    let Some(document) = files.iter().find(|file| file.path == "docs/FORMAT.md") else { return Vec::new() };
    let mut complaints = Vec::new();
    for file in files {
        let Some(name) = file.path.strip_prefix("src/format/").filter(|name| name.ends_with(".rs")) else { continue };
        let is_plain = !name.contains('/') && name != "mod.rs";
        if is_plain && !document.text.contains(&format!("format/{name}")) {
            complaints.push(file.complaint(1, "docs/FORMAT.md does not name it"));
        }
    }
    complaints
}

/// An integration test that no `mod` line names never runs.
fn tests_are_run(files: &[TextFile]) -> Vec<String> {
    let main = files.iter().find(|file| file.path == "tests/it/main.rs");
    let code = main.map_or_else(Vec::new, |file| tokens(&file.text));
    let mut declared = BTreeSet::new();
    for window in code.windows(3) {
        if let [keyword, name, end] = window
            && keyword.text == "mod"
            && end.text == ";"
        {
            declared.insert(name.text.as_str());
        }
    }
    let mut complaints = Vec::new();
    for file in files {
        let Some(inside) = file.path.strip_prefix("tests/it/").and_then(|name| name.strip_suffix(".rs")) else {
            continue;
        };
        let name = inside.strip_suffix("/mod").unwrap_or(inside);
        if name != "main" && !name.contains('/') && !declared.contains(name) {
            complaints.push(file.complaint(1, "tests/it/main.rs has no mod line for it"));
        }
    }
    complaints
}

/// What is committed knows neither the machine that it was written on nor where its packages came from.
fn machine(files: &[TextFile]) -> Vec<String> {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/t", "mp/"), concat!("/ho", "me/")];
    let hosts = [
        concat!("crates", ".io"),
        // With the slash: a Debian package has the name of the host.
        concat!("docker", ".io/"),
        concat!("docker", ".com"),
        concat!("ghcr", ".io"),
        concat!("gcr", ".io"),
        concat!("quay", ".io"),
        concat!("pypi", ".org"),
        concat!("python", "hosted.org"),
        concat!("npmjs", ".org"),
        concat!("proxy.golang", ".org"),
        concat!("arti", "factory"),
    ];
    let mut complaints = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(place) = places.iter().find(|place| names_absolute(line, place)) {
                complaints.push(file.complaint(number + 1, &format!("names the machine's {place}")));
            }
            if let Some(host) = hosts.iter().find(|host| names_host(line, host)) {
                complaints.push(file.complaint(number + 1, &format!("names the registry {host}")));
            }
        }
    }
    complaints
}

/// Returns whether the line has the path from the root, not as the end of a longer one.
fn names_absolute(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line.get(..at).and_then(|start| start.chars().next_back());
        !before.is_some_and(|letter| letter.is_alphanumeric() || "_-.~)}>*$".contains(letter))
    })
}

/// Returns whether the line has the host, not as the start of another word (`com.docker.compose`).
fn names_host(line: &str, host: &str) -> bool {
    line.match_indices(host).any(|(at, _)| {
        let after = line.get(at + host.len()..).and_then(|rest| rest.chars().next());
        host.ends_with('/') || !after.is_some_and(char::is_alphanumeric)
    })
}

/// Returns the committed text files and those about to be.
fn committed() -> Vec<TextFile> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(top).output().expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listing = String::from_utf8(output.stdout).expect("names are UTF-8");
    let names = listing.split('\0').filter(|name| !name.is_empty() && *name != "Cargo.lock");
    // A file that is deleted but not yet committed, and what is not text, say nothing.
    let files: Vec<_> =
        names.filter_map(|name| Some(TextFile::new(name, &std::fs::read_to_string(top.join(name)).ok()?))).collect();
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the listing is that of this repository");
    files
}

fn assert_tidy(rule: fn(&[TextFile]) -> Vec<String>) {
    let complaints = rule(&committed());
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Returns how many complaints a rule has about files given as path and text.
fn complaints(rule: fn(&[TextFile]) -> Vec<String>, files: &[(&str, &str)]) -> usize {
    rule(&files.iter().map(|(path, text)| TextFile::new(path, text)).collect::<Vec<_>>()).len()
}

#[test]
fn arrows_point_down() {
    for (path, text) in [
        ("src/format/id.rs", "use crate::crypto::Key;"),
        ("src/chunker.rs", "fn f() { crate::format::limits::check(); }"),
        ("src/backend/local.rs", "use crate::{format::id, repo::Repository};"),
        ("src/backend/mod.rs", "use super::repo::Repository;"),
        ("src/component/s3/client.rs", "use super::super::super::repo::Repository;"),
        ("src/repo/mod.rs", "use crate::component::Source;"),
        ("src/repo/mod.rs", "use crate::*;"),
        ("src/ops/init.rs", "use crate::backend::LocalBackend;"),
        ("src/ops/init.rs", "use crate::crypto::{Passphrase, aead};"),
        ("src/ops/init.rs", "use crate::chunker::Sizes;"),
        ("src/ops/init.rs", "#[cfg(test)] mod tests { use crate::cli::main; }"),
        ("src/shed/mod.rs", ""),
    ] {
        assert_eq!(complaints(arrows, &[(path, text)]), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/format/id.rs", "use crate::format::Error; use super::limits; // crate::repo"),
        ("src/repo/index/cache.rs", "use crate::{backend::Backend, crypto, format, chunker}; use super::super::pack;"),
        (
            "src/ops/init.rs",
            "use crate::crypto::secret::X; use crate::{crypto::Passphrase, backend::Backend, repo, component};",
        ),
        ("src/ops/init.rs", "#[cfg(test)] mod tests { use crate::backend::MemoryBackend; }"),
        ("src/cli/mod.rs", "use crate::{ops, repo, format};"),
        ("src/main.rs", "orkvault::cli::main()"),
    ] {
        assert_eq!(complaints(arrows, &[(path, text)]), 0, "{path}: {text}");
    }
    let ops =
        [("src/ops/mod.rs", "#[cfg(test)] mod tests;"), ("src/ops/tests.rs", "use crate::backend::MemoryBackend;")];
    assert_eq!(complaints(arrows, &ops), 0);
    assert_tidy(arrows);
}

#[test]
fn crates_stay_behind_their_fences() {
    for (path, text) in [
        ("src/ops/mod.rs", "use clap::Parser;"),
        ("src/ops/mod.rs", "use clap;"),
        ("src/component/mongodb.rs", "fn f(x: ::bollard::Docker) {}"),
        ("src/repo/index/mod.rs", "use {std::fmt, rusqlite::Connection};"),
        ("src/component/redis.rs", "#[cfg(test)] mod tests { aws_config::load(); }"),
        ("src/component/redis.rs", "let x = zstd::decode_all(x);"),
        ("src/component/redis.rs", "let x = std::env::var(name);"),
        ("src/format/id.rs", "use std::{fmt, fs::File};"),
        ("src/format/id.rs", "let key = chacha20poly1305::Key::default();"),
    ] {
        assert_eq!(complaints(fences, &[(path, text)]), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/cli/args.rs", "use clap::Parser; use std::env;"),
        ("src/component/docker/exec.rs", "use bollard::Docker;"),
        ("src/repo/index/cache.rs", "use rusqlite::Connection;"),
        ("src/backend/s3.rs", "use aws_sdk_s3::Client;"),
        ("src/ops/mod.rs", "use crate::repo::zstd::Level; let clap = 1; // clap::Parser"),
        ("src/format/id.rs", "#[cfg(test)] mod tests { use std::fs; }"),
        ("src/component/redis.rs", "#[cfg(test)] mod tests { fn f() { zstd::decode_all(x) } }"),
    ] {
        assert_eq!(complaints(fences, &[(path, text)]), 0, "{path}: {text}");
    }
    assert_tidy(fences);
}

#[test]
fn files_are_short() {
    let long = "\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(complaints(lengths, &[("src/repo/mod.rs", &long)]), 1);
    assert_eq!(complaints(lengths, &[("src/repo/tests.rs", &long), ("docs/FORMAT.md", &long)]), 0);
    assert_eq!(complaints(lengths, &[("src/repo/tests.rs", &long.repeat(2))]), 1);
    assert_tidy(lengths);
}

#[test]
fn nothing_is_unfinished_unsafe_or_switched_off() {
    for text in [
        concat!("// TO", "DO: later"),
        concat!("/* FIX", "ME */"),
        "fn f() { todo!() }",
        "fn f() { unimplemented!(\"x\") }",
        "fn f() { unsafe { g() } }",
        "#[test]\n#[ignore]\nfn f() {}",
        "#[ignore = \"slow\"]\nfn f() {}",
        "#[should_panic(expected = \"x\")]\nfn f() {}",
    ] {
        assert_eq!(complaints(words, &[("src/repo/mod.rs", text)]), 1, "{text}");
        assert_eq!(complaints(words, &[("tests/it/x.rs", text)]), 1, "{text}");
    }
    let good = "#![forbid(unsafe_code)]\nfn f() { ignore(x); let todo = list; } // unsafe, todo!";
    assert_eq!(complaints(words, &[("src/repo/mod.rs", good)]), 0);
    assert_tidy(words);
}

#[test]
fn every_format_file_is_documented() {
    let document = ("docs/FORMAT.md", "Ids: `src/format/id.rs`.");
    let files = [("src/format/id.rs", ""), ("src/format/mod.rs", ""), ("src/format/pack/tests.rs", "")];
    assert_eq!(complaints(format_is_documented, &files), 0);
    assert_eq!(complaints(format_is_documented, &[&files[..], &[document]].concat()), 0);
    assert_eq!(complaints(format_is_documented, &[document, ("src/format/pack.rs", "")]), 1);
    assert_tidy(format_is_documented);
}

#[test]
fn every_integration_test_is_run() {
    let main = ("tests/it/main.rs", "mod round_trip;\n// mod lost;");
    assert_eq!(complaints(tests_are_run, &[main, ("tests/it/round_trip.rs", ""), ("tests/it/round_trip/x.rs", "")]), 0);
    assert_eq!(complaints(tests_are_run, &[main, ("tests/it/lost.rs", "")]), 1);
    assert_eq!(complaints(tests_are_run, &[main, ("tests/it/lost/mod.rs", "")]), 1);
    assert_tidy(tests_are_run);
}

#[test]
fn nothing_names_the_machine_or_a_registry() {
    for text in [
        concat!("cd /wo", "rk/vault"),
        concat!("\"/t", "mp/x\""),
        concat!("PATH=/ro", "ot/bin:/bin"),
        concat!("https://index.crates", ".io/"),
        concat!("FROM docker", ".io/library/x"),
        concat!("hub.docker", ".com"),
    ] {
        assert_eq!(complaints(machine, &[("scripts/x", text)]), 1, "{text}");
    }
    for text in
        [concat!("vault/t", "mp/x"), concat!("${DIR}/wo", "rk/x"), "com.docker.compose", "apt install docker.io"]
    {
        assert_eq!(complaints(machine, &[("scripts/x", text)]), 0, "{text}");
    }
    assert_tidy(machine);
}
