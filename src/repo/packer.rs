//! Encodes segments on all cores, fills packs with them in order, puts the packs, and lists them in index
//! parts.
//!
//! One thread seals and fills; rayon compresses; the runtime puts. What is in flight is bounded everywhere:
//! segments by the queue, packs by [`UPLOADS_MOST`].

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, mpsc};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::Error;
use super::engine::{Account, Pending};
use super::index::Index;
use super::keyring::Keyring;
use super::object::{self, ObjectBytes};
use super::pack_writer::{EncodedSegment, PACK_BYTES_TARGET, Pack, PackWriter};
use super::segment::{Compression, Encoders, segment_bytes};
use crate::backend::Backend;
use crate::buffers::Buffers;
use crate::format::envelope::SealedKind;
use crate::format::id::IndexId;
use crate::format::index::{IndexPart, PackRecord};
use crate::format::object::ObjectKey;
use crate::format::pack::{ChunkRecord, PackKind};

/// Segments in flight between cutting and packing, for each core.
const SEGMENTS_PER_CORE: usize = 2;
/// Packs that are being put at the same time.
const UPLOADS_MOST: usize = 3;
/// Chunks after which an index part is written: about 3 MiB of it.
const INDEX_PART_CHUNKS: usize = 64 * 1024;
/// Bytes of packs after which an index part is written: what a run that is killed has put in vain.
const INDEX_PART_PACK_BYTES: u64 = 1024 * 1024 * 1024;

/// Chunks that fill a segment.
pub(super) struct PackJob {
    pub(super) kind: PackKind,
    pub(super) plain: Vec<u8>,
    pub(super) chunks: Vec<ChunkRecord>,
    /// Whose bytes they are.
    pub(super) shares: Vec<(Account, u32)>,
}

/// A segment that is being encoded.
pub(super) struct Coming {
    kind: PackKind,
    shares: Vec<(Account, u32)>,
    encoded: mpsc::Receiver<EncodedSegment>,
}

/// What a packer has put.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// Bytes of packs and index parts.
    pub(super) stored_bytes: u64,
    /// Bytes of segments, by whose they are: where several share one, by their parts of its plain bytes.
    pub(super) accounts: HashMap<Account, u64>,
}

/// Where full segments go.
pub(super) struct PackJobs {
    coming: mpsc::SyncSender<Coming>,
    compression: Compression,
    encoders: Arc<Encoders>,
    submitted: std::cell::Cell<u64>,
}

impl PackJobs {
    /// Makes the queue and its other end.
    pub(super) fn new(compression: Compression) -> (Self, mpsc::Receiver<Coming>) {
        let (coming, received) = mpsc::sync_channel(SEGMENTS_PER_CORE * rayon::current_num_threads());
        (Self { coming, compression, encoders: Arc::default(), submitted: std::cell::Cell::new(0) }, received)
    }

    /// Returns the plain bytes at which the next segment is full.
    pub(super) fn segment_bytes(&self) -> usize {
        segment_bytes(self.submitted.get())
    }

    /// Returns an empty buffer for a segment of `len` bytes.
    pub(super) fn buffer(&self, len: usize) -> Vec<u8> {
        self.encoders.buffer(len)
    }

    /// Hands a segment over; waits while too many are in flight. The order of calls is the order in packs.
    pub(super) fn submit(&self, job: PackJob) -> Result<(), Error> {
        let (done, encoded) = mpsc::sync_channel(1);
        // The place in the queue first: compression may finish in any order.
        let PackJob { kind, plain, chunks, shares } = job;
        self.coming.send(Coming { kind, shares, encoded }).map_err(|_| Error::Stopped)?;
        let number = self.submitted.get();
        self.submitted.set(number + 1);
        let effort = self.compression.effort(number, plain.len());
        let encoders = Arc::clone(&self.encoders);
        rayon::spawn(move || {
            let (codec, bytes) = encoders.encode(plain, effort);
            // The packer only stops listening when it has failed, and says so itself.
            let _ = done.send(EncodedSegment { codec, bytes, chunks });
        });
        Ok(())
    }
}

/// Whether nobody waits for the end of what is written any more.
#[derive(Clone, Default)]
pub(super) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    /// From now on nobody does.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Fails where nobody does.
    pub(super) fn go_on(&self) -> Result<(), Error> {
        if self.0.load(Ordering::Acquire) { Err(Error::Stopped) } else { Ok(()) }
    }
}

/// What a packer works with.
pub(super) struct PackerParts {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) index: Arc<Index>,
    pub(super) pending: Pending,
    pub(super) abandoned: Abandoned,
    pub(super) runtime: Handle,
}

/// See the head of this file.
pub(super) struct Packer {
    backend: Arc<dyn Backend>,
    keyring: Arc<Keyring>,
    index: Arc<Index>,
    pending: Pending,
    abandoned: Abandoned,
    runtime: Handle,
    content: PackWriter,
    meta: PackWriter,
    uploads: VecDeque<JoinHandle<Result<PackRecord, Error>>>,
    listed: Vec<PackRecord>,
    packed: Packed,
}

impl Packer {
    pub(super) fn new(parts: PackerParts) -> Self {
        let PackerParts { backend, keyring, index, pending, abandoned, runtime } = parts;
        let bodies = Buffers::new(UPLOADS_MOST * PACK_BYTES_TARGET);
        let content = PackWriter::new(Arc::clone(&keyring), PackKind::Content, Arc::clone(&bodies));
        let meta = PackWriter::new(Arc::clone(&keyring), PackKind::Meta, bodies);
        Self {
            backend,
            keyring,
            index,
            pending,
            abandoned,
            runtime,
            content,
            meta,
            uploads: VecDeque::new(),
            listed: Vec::new(),
            packed: Packed::default(),
        }
    }

    /// Works until the queue is closed; then everything is durable and listed. Where that cannot be or is no longer wanted, what is
    /// durable is listed, so that the next run need not put it again.
    pub(super) fn run(mut self, coming: &mpsc::Receiver<Coming>) -> Result<Packed, Error> {
        match self.work(coming) {
            Ok(()) => Ok(self.packed),
            // It would take as long as whatever was waited for in vain.
            Err(error) if error.is_outage() => Err(error),
            Err(error) => {
                let _ = self.list_what_is_durable();
                Err(error)
            }
        }
    }

    fn work(&mut self, coming: &mpsc::Receiver<Coming>) -> Result<(), Error> {
        while let Ok(Coming { kind, shares, encoded }) = coming.recv() {
            self.abandoned.go_on()?;
            let segment = encoded.recv().map_err(|_| Error::Stopped)?;
            let plain: u64 = shares.iter().map(|(_, share)| u64::from(*share)).sum();
            for (account, share) in shares {
                let stored = segment.bytes.len() as u64 * u64::from(share) / plain.max(1);
                *self.packed.accounts.entry(account).or_default() += stored;
            }
            let writer = match kind {
                PackKind::Content => &mut self.content,
                PackKind::Meta => &mut self.meta,
            };
            if let Some(pack) = writer.add(segment)? {
                self.put(pack)?;
            }
        }
        self.abandoned.go_on()?;
        for pack in [self.content.finish()?, self.meta.finish()?].into_iter().flatten() {
            self.put(pack)?;
        }
        self.settle(0)?;
        self.put_index_part()
    }

    fn list_what_is_durable(&mut self) -> Result<(), Error> {
        // First what is: whoever ends the program may not wait for what is still under way on a slow line.
        self.put_index_part()?;
        while let Some(upload) = self.uploads.pop_front() {
            if let Ok(Ok(record)) = self.runtime.block_on(upload) {
                self.listed.push(record);
            }
        }
        self.put_index_part()
    }

    fn put(&mut self, pack: Pack) -> Result<(), Error> {
        self.settle(self.uploads_most() - 1)?;
        self.packed.stored_bytes += u64::from(pack.record.stored_len);
        let backend = Arc::clone(&self.backend);
        self.uploads.push_back(self.runtime.spawn(async move {
            // Already there means the same bytes: the name is their hash.
            let _ = backend.put(ObjectKey::Pack(pack.record.id), vec![pack.body]).await?;
            Ok(pack.record)
        }));
        Ok(())
    }

    /// Returns how many packs may be put at the same time: one less where much of one of structure is filled beside that of
    /// content, and takes the memory.
    fn uploads_most(&self) -> usize {
        UPLOADS_MOST - usize::from(self.meta.bytes() > PACK_BYTES_TARGET / 4)
    }

    /// Waits until at most `most` packs are under way; a pack is listed only after it is durable.
    fn settle(&mut self, most: usize) -> Result<(), Error> {
        while self.uploads.len() > most {
            let Some(upload) = self.uploads.pop_front() else { break };
            let record = self.runtime.block_on(upload).map_err(|_| Error::Stopped)??;
            self.listed.push(record);
            let chunks = |pack: &PackRecord| -> usize {
                pack.directory.segments.iter().map(|segment| segment.chunks.len()).sum()
            };
            let bytes = |pack: &PackRecord| u64::from(pack.stored_len);
            if self.listed.iter().map(chunks).sum::<usize>() >= INDEX_PART_CHUNKS
                || self.listed.iter().map(bytes).sum::<u64>() >= INDEX_PART_PACK_BYTES
            {
                self.put_index_part()?;
            }
        }
        Ok(())
    }

    fn put_index_part(&mut self) -> Result<(), Error> {
        let mut part = IndexPart { packs: std::mem::take(&mut self.listed) };
        if part.packs.is_empty() {
            return Ok(());
        }
        part.packs.sort_by_key(|pack| pack.id);
        let sealed = object::seal(&self.keyring, ObjectBytes::hashed(SealedKind::Index), &part.encode())?;
        let id = IndexId::from_bytes(*crate::crypto::hash::content_hash(&sealed).as_bytes());
        self.packed.stored_bytes += sealed.len() as u64;
        let body = vec![sealed.into()];
        let _ = self.runtime.block_on(self.backend.put(ObjectKey::Index(id), body))?;
        match self.index.add_part(&id, &part) {
            Ok(()) => {}
            // The part is in the repository, which is what counts: the next run reads it from there. In this
            // one its chunks stay pending, so that none of them is stored twice.
            Err(Error::Cache { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for pack in &part.packs {
            for segment in &pack.directory.segments {
                for chunk in &segment.chunks {
                    pending.remove(&chunk.id);
                }
            }
        }
        Ok(())
    }
}
