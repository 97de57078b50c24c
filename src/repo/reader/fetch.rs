//! Segments out of the store: one request for neighbours, decoded on all cores, a bounded number of bytes under way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Reader;
use super::plan::{Request, requests_for};
use crate::backend::ErrorKind;
use crate::crypto::pack::DataKey;
use crate::crypto::tree::HashedPart;
use crate::format::id::PackId;
use crate::format::object::{Namespace, ObjectKey};
use crate::format::pack::{PackHeader, PackKind};
use crate::repo::Error;
use crate::repo::index::Segment;
use crate::repo::open::Repository;

/// Sealed bytes that are fetched or being decoded for one pipeline, in KiB. More than the largest segment and request.
pub(super) const UNDER_WAY_KIB: u32 = 10 * 1024;
/// Plain bytes of decoded segments that are kept for whoever wants them next.
const KEPT_BYTES: usize = 4 * 1024 * 1024;
/// Opened data keys that are kept; all are dropped when there are more.
const KEYS_KEPT: usize = 4096;

/// What is wanted of a segment.
#[derive(Debug)]
pub(super) struct Take {
    pub(super) form: Form,
    /// For pieces of streams.
    pub(super) parts: Vec<Part>,
}

/// In which form content is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All of it.
    Whole,
    /// Copies of the parts.
    Copies,
}

/// A range of a segment that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) start: u32,
    pub(super) len: u32,
    /// What it is, where it is hashed at once.
    pub(super) piece: Option<PieceOf>,
}

/// Which piece of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct PieceOf {
    /// The sequence number of the piece.
    pub(super) item: u64,
    /// Where it starts in its stream, and the length of that.
    pub(super) at: u64,
    pub(super) stream_len: u64,
}

/// Bytes from which a part that is handed out is also hashed where it is decoded. Shorter ones are hashed together.
pub(super) const HASHED_BYTES_LEAST: usize = 8 * 1024;

/// What was taken out of a decoded segment.
pub(super) struct Taken {
    content: Content,
    /// By the sequence number of the piece.
    hashes: HashMap<u64, HashedPart>,
}

enum Content {
    Whole(Bytes),
    /// In one piece, because they are given back together; by where each starts, its place in there and its length.
    Copies(Bytes, HashMap<u32, (usize, usize)>),
}

impl Taken {
    /// Returns the segment, where all of it was asked for.
    pub(super) fn into_whole(self) -> Option<Bytes> {
        match self.content {
            Content::Whole(plain) => Some(plain),
            Content::Copies(..) => None,
        }
    }

    /// Returns a range that was asked for.
    pub(super) fn get(&self, start: u32, len: u32) -> Option<Bytes> {
        let (bytes, at) = self.place(start, len)?;
        Some(bytes.slice(at..at + len as usize))
    }

    /// Returns a range that was asked for, to look at.
    pub(super) fn look_at(&self, start: u32, len: u32) -> Option<&[u8]> {
        let (bytes, at) = self.place(start, len)?;
        bytes.get(at..at + len as usize)
    }

    fn place(&self, start: u32, len: u32) -> Option<(&Bytes, usize)> {
        let (from, len) = (start as usize, len as usize);
        match &self.content {
            Content::Whole(plain) => (from + len <= plain.len()).then_some((plain, from)),
            Content::Copies(copies, places) => {
                let (at, _) = places.get(&start).filter(|(_, copied)| *copied >= len)?;
                Some((copies, *at))
            }
        }
    }

    /// Takes what the hash of its stream needs of a piece, where that is there.
    pub(super) fn take_hash(&mut self, item: u64) -> Option<HashedPart> {
        self.hashes.remove(&item)
    }
}

impl Take {
    /// All of a segment, whatever it is wanted for.
    pub(super) fn whole() -> Self {
        Self { form: Form::Whole, parts: Vec::new() }
    }

    /// Copies of parts: where each starts, and its length. None is hashed.
    pub(super) fn copies(parts: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let part = |(start, len)| Part { start, len, piece: None };
        Self { form: Form::Copies, parts: parts.into_iter().map(part).collect() }
    }

    /// Takes it out of a segment that was decoded just now.
    pub(super) fn of(self, plain: Bytes) -> Taken {
        let hashed = |part: &Part| {
            let PieceOf { item, at, stream_len } = part.piece?;
            let bytes = range(&plain, part).filter(|bytes| bytes.len() >= HASHED_BYTES_LEAST)?;
            Some((item, HashedPart::new(at, bytes, stream_len)))
        };
        let hashes = self.parts.iter().filter_map(hashed).collect();
        Taken { content: self.content(plain), hashes }
    }

    /// Takes it out of a segment that was kept: what is not asked for is not hashed.
    pub(super) fn of_kept(self, plain: Bytes) -> Taken {
        Taken { content: self.content(plain), hashes: HashMap::new() }
    }

    fn content(&self, plain: Bytes) -> Content {
        match self.form {
            Form::Whole => Content::Whole(plain),
            Form::Copies => {
                let mut places: HashMap<u32, (usize, usize)> = HashMap::with_capacity(self.parts.len());
                for part in &self.parts {
                    let (_, longest) = places.entry(part.start).or_default();
                    *longest = range(&plain, part).map_or(0, <[u8]>::len).max(*longest);
                }
                let mut copies = BytesMut::with_capacity(places.values().map(|(_, len)| len).sum());
                for (start, (at, len)) in &mut places {
                    *at = copies.len();
                    copies.extend_from_slice(plain.get(*start as usize..*start as usize + *len).unwrap_or_default());
                }
                Content::Copies(copies.freeze(), places)
            }
        }
    }
}

fn range<'a>(plain: &'a [u8], part: &Part) -> Option<&'a [u8]> {
    plain.get(part.start as usize..)?.get(..part.len as usize)
}

/// What was wanted of a segment, or why there is none.
pub(super) type Decoded = Result<Taken, Error>;

/// Who wants something of a segment.
pub(super) struct Wanted {
    pub(super) take: Take,
    pub(super) keep: Keep,
    pub(super) to: oneshot::Sender<Decoded>,
}

/// The decoded segments used last.
#[derive(Default)]
pub(super) struct Kept {
    segments: HashMap<i64, Bytes>,
    /// Oldest first. A segment that was used again is here more than once.
    order: VecDeque<i64>,
    uses: HashMap<i64, u32>,
    bytes: usize,
}

impl Kept {
    pub(super) fn get(&mut self, row: i64) -> Option<Bytes> {
        let found = self.segments.get(&row).cloned()?;
        self.used(row);
        Some(found)
    }

    fn used(&mut self, row: i64) {
        self.order.push_back(row);
        *self.uses.entry(row).or_default() += 1;
        self.forget_oldest_beyond(KEPT_BYTES);
    }

    fn keep(&mut self, row: i64, segment: Bytes) {
        self.bytes += segment.len();
        if let Some(old) = self.segments.insert(row, segment) {
            self.bytes -= old.len();
        }
        self.used(row);
    }

    /// Also bounds the order: what is used again and again is in it often.
    fn forget_oldest_beyond(&mut self, bytes: usize) {
        while self.bytes > bytes || self.order.len() > 16 * self.segments.len() + 64 {
            let Some(oldest) = self.order.pop_front() else { return };
            let Some(uses) = self.uses.get_mut(&oldest) else { continue };
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(&oldest);
                self.bytes -= self.segments.remove(&oldest).map_or(0, |segment| segment.len());
            }
        }
    }
}

impl Reader {
    /// Returns a decoded segment, from the ones that are kept or from the store.
    pub(super) async fn segment(self: &Arc<Self>, segment: &Arc<Segment>) -> Result<Bytes, Error> {
        if let Some(found) = self.kept().get(segment.row) {
            return Ok(found);
        }
        let (offset, len) = (u64::from(segment.offset), u64::from(segment.record.stored_len));
        let under_way = Arc::new(Semaphore::new(UNDER_WAY_KIB as usize));
        let (to, decoded) = oneshot::channel();
        let request = Request { segments: vec![Arc::clone(segment)], first: 0, offset, len };
        self.fetch(request, vec![Wanted { take: Take::whole(), keep: Keep::Yes, to }], &under_way).await;
        decoded.await.unwrap_or(Err(Error::Stopped))?.into_whole().ok_or(Error::Stopped)
    }

    /// Fetches and decodes segments, neighbours in one request, while the caller goes on.
    pub(super) fn launch(self: &Arc<Self>, wanted: Vec<(Arc<Segment>, Wanted)>, under_way: &Arc<Semaphore>) {
        for (request, wanted) in requests_for(wanted) {
            let (reader, under_way) = (Arc::clone(self), Arc::clone(under_way));
            tokio::spawn(async move { reader.fetch(request, wanted, &under_way).await });
        }
    }

    /// Fetches and decodes the segments of a request; each result goes to its receiver.
    async fn fetch(self: &Arc<Self>, request: Request, wanted: Vec<Wanted>, under_way: &Arc<Semaphore>) {
        let kib = u32::try_from(request.len.div_ceil(1024)).unwrap_or(UNDER_WAY_KIB).clamp(1, UNDER_WAY_KIB);
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(under_way).acquire_many_owned(kib).await else { return };
        let permit = Arc::new(permit);
        let Some(first) = request.segments.first() else { return };
        let object = ObjectKey::Pack(first.pack);
        let backend = self.repository.backend();
        let fetched = match backend.get_range(object, request.offset, request.len).await {
            Ok(bytes) => Some(bytes),
            // A store that gave no answer in all that time will not give one for each: that is said to whoever waits first.
            Err(error) if request.segments.len() == 1 || error.kind() == ErrorKind::Transient => {
                if let Some(first) = wanted.into_iter().nth(request.first) {
                    // Whoever asked may have gone.
                    drop(first.to.send(Err(error.into())));
                }
                return;
            }
            Err(_) => None,
        };
        for (segment, wanted) in request.segments.into_iter().zip(wanted) {
            let sealed = match &fetched {
                Some(bytes) => sealed_of(bytes, &segment, request.offset).ok_or(Error::Stopped),
                // A pack that is cut short still has what lies before the cut: each by itself.
                None => {
                    let (offset, len) = (u64::from(segment.offset), u64::from(segment.record.stored_len));
                    backend.get_range(object, offset, len).await.map_err(Error::from)
                }
            };
            let key = match sealed {
                Ok(sealed) => self.data_key(&segment).await.map(|key| (key, sealed)),
                Err(error) => Err(error),
            };
            match key {
                Ok((key, sealed)) => self.decode(Work { segment, key, sealed, wanted }, Arc::clone(&permit)),
                // Whoever asked may have gone.
                Err(error) => drop(wanted.to.send(Err(error))),
            }
        }
    }

    fn decode(self: &Arc<Self>, work: Work, permit: Arc<OwnedSemaphorePermit>) {
        let reader = Arc::clone(self);
        rayon::spawn(move || {
            let Work { segment, key, sealed, wanted } = work;
            if wanted.to.is_closed() {
                return;
            }
            let ids = if segment.kind == PackKind::Content { &reader.content_ids } else { &reader.meta_ids };
            let decoded = reader.decoders.open(&segment, &key, &sealed, ids);
            drop((sealed, permit));
            if let Ok(plain) = &decoded {
                reader.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(segment.row);
                if wanted.keep == Keep::Yes {
                    reader.kept().keep(segment.row, plain.clone());
                }
            }
            // Whoever asked may have gone.
            drop(wanted.to.send(decoded.map(|plain| wanted.take.of(plain))));
        });
    }

    async fn data_key(&self, segment: &Segment) -> Result<Arc<DataKey>, Error> {
        let name = (segment.pack, segment.record.key);
        if let Some(key) = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(Arc::clone(key));
        }
        let object = ObjectKey::Pack(segment.pack);
        let header = self.repository.backend().get_range(object, 0, u64::from(segment.header_len)).await?;
        let key = Arc::new(open_data_key(&self.repository, segment.pack, segment.record.key, &header)?);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_KEPT {
            keys.clear();
        }
        keys.insert(name, Arc::clone(&key));
        Ok(key)
    }

    pub(super) fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a decoded segment is kept beyond what it was fetched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Yes,
    No,
}

struct Work {
    segment: Arc<Segment>,
    key: Arc<DataKey>,
    sealed: Bytes,
    wanted: Wanted,
}

fn sealed_of(fetched: &Bytes, segment: &Segment, offset: u64) -> Option<Bytes> {
    let start = usize::try_from(u64::from(segment.offset).checked_sub(offset)?).ok()?;
    let end = start.checked_add(segment.record.stored_len as usize)?;
    (end <= fetched.len()).then(|| fetched.slice(start..end))
}

/// Opens the data key of a pack from its header's bytes.
pub(in crate::repo) fn open_data_key(
    repository: &Repository,
    pack: PackId,
    entry: u8,
    header: &[u8],
) -> Result<DataKey, Error> {
    let object = || ObjectKey::Pack(pack).to_string();
    let (header, _) = PackHeader::decode(header).map_err(|source| Error::Damaged { object: object(), source })?;
    let entry = header.keys.get(usize::from(entry)).ok_or_else(|| Error::WrongContent { object: object() })?;
    let keyring = repository.keyring();
    let keys = keyring.namespace(Namespace::Data)?;
    DataKey::open(keys, &keyring.repository, header.kind, entry)
        .map_err(|source| Error::Object { object: object(), source })
}
