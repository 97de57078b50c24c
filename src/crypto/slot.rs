//! Key slots: sets of keys wrapped by a passphrase or a raw key (`docs/FORMAT.md`, section 5).

use argon2::{Algorithm, Argon2, Block, Params, Version};
use rayon::iter::{IntoParallelIterator as _, ParallelExtend as _, ParallelIterator as _};
use zeroize::Zeroizing;

use super::keys::KeySet;
use super::random::{Entropy, random_32};
use super::seal::SealKey;
use super::secret::{Passphrase, SecretKey};
use super::{Error, hash};
use crate::format::id::RepositoryId;
use crate::format::slot::{Capability, KdfParams, Slot, SlotHeader, Unlock};

/// The derivation that `init` uses for the data reader: 256 MiB, 3 passes, 4 lanes.
#[must_use]
pub fn data_reader_kdf() -> KdfParams {
    KdfParams::new(256 * 1024, 3, 4).expect("the default is within the limits")
}

/// The derivation that `init` uses for the secrets reader: 1 GiB, 2 passes, 4 lanes.
#[must_use]
pub fn secrets_reader_kdf() -> KdfParams {
    KdfParams::new(1024 * 1024, 2, 4).expect("the default is within the limits")
}

/// The derivation for hosts with little memory: 64 MiB, 3 passes, 4 lanes (RFC 9106, second choice).
#[must_use]
pub fn low_memory_kdf() -> KdfParams {
    KdfParams::new(64 * 1024, 3, 4).expect("the value is within the limits")
}

/// What opens a slot.
pub enum Opener<'a> {
    /// A passphrase.
    Passphrase(&'a Passphrase),
    /// A raw key.
    RawKey(&'a SecretKey),
}

pub(super) fn opening_key(header: &SlotHeader, opener: &Opener<'_>) -> Result<SecretKey, Error> {
    match (header.unlock, opener) {
        (Unlock::Passphrase(kdf), Opener::Passphrase(passphrase)) => {
            let no_memory = || Error::KdfMemory { memory_kib: kdf.memory_kib() };
            let params = Params::new(kdf.memory_kib(), kdf.passes(), kdf.lanes(), Some(32)).map_err(|_| no_memory())?;
            let mut blocks = Vec::new();
            blocks.try_reserve_exact(params.block_count()).map_err(|_| no_memory())?;
            // The system gives memory page by page when it is written to first, which takes as long as half a pass:
            // all cores do that, too.
            blocks.par_extend((0..params.block_count()).into_par_iter().map(|_| Block::new()));
            let mut key = Zeroizing::new([0; 32]);
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into_with_memory(passphrase.bytes(), &header.salt, key.as_mut(), &mut blocks)
                .map_err(|_| no_memory())?;
            Ok(SecretKey::new(*key))
        }
        (Unlock::RawKey, Opener::RawKey(key)) => {
            let mut hasher = blake3::Hasher::new_derive_key("orkvault 2026-11 v1 raw slot key");
            hasher.update(key.bytes()).update(&header.salt);
            Ok(SecretKey::new(*hasher.finalize().as_bytes()))
        }
        _ => Err(Error::CannotOpen { what: "key slot" }),
    }
}

/// What a new slot says about itself.
pub struct NewSlot<'a> {
    /// What the keys inside can do.
    pub capability: Capability,
    /// How it is opened.
    pub unlock: Unlock,
    /// The repository.
    pub repository: RepositoryId,
    /// Seconds since 1970.
    pub created_secs: u64,
    /// At most 64 bytes.
    pub label: &'a str,
}

/// Wraps the part of `keys` that `new.capability` names and returns the stored object.
pub fn make(new: &NewSlot<'_>, keys: &KeySet, opener: &Opener<'_>, entropy: &dyn Entropy) -> Result<Vec<u8>, Error> {
    crate::format::limits::check("slot label", new.label.len() as u64, crate::format::slot::LABEL_BYTES_MAX)?;
    let header = SlotHeader {
        capability: new.capability,
        unlock: new.unlock,
        salt: random_32(entropy)?,
        repository: new.repository,
        created_secs: new.created_secs,
        label: new.label.to_owned(),
    };
    let key = SealKey::new(&opening_key(&header, opener)?);
    let mut nonce = [0; 24];
    entropy.fill(&mut nonce)?;
    let bound = header.encode();
    let plain = Zeroizing::new(keys.encode(new.capability)?);
    let slot = Slot { commitment: key.commitment(&bound), sealed: key.encrypt(&nonce, &bound, &plain), header, nonce };
    let mut object = slot.encode();
    hash::push_checksum(&mut object);
    Ok(object)
}

/// Reads a stored slot and checks its checksum and repository. Derives nothing.
pub fn read(object: &[u8], repository: &RepositoryId) -> Result<Slot, Error> {
    let (slot, _) = Slot::decode(object)?;
    if !hash::ends_in_checksum(object) {
        return Err(Error::Checksum { what: "key slot" });
    }
    if slot.header.repository != *repository {
        return Err(Error::OtherRepository { what: "the key slot" });
    }
    Ok(slot)
}

/// Opens a slot. A wrong passphrase and a changed slot give the same error.
pub fn open(slot: &Slot, opener: &Opener<'_>) -> Result<KeySet, Error> {
    let what = "key slot";
    let key = SealKey::new(&opening_key(&slot.header, opener)?);
    let bound = slot.header.encode();
    key.check(what, &bound, &slot.commitment)?;
    let plain = Zeroizing::new(key.decrypt(what, &slot.nonce, &bound, &slot.sealed)?);
    KeySet::decode(slot.header.capability, &plain)
}
