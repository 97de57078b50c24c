//! Sealed objects as they lie in the store: payload, compression, padding, seal (`docs/FORMAT.md`,
//! section 6).

use bytes::Bytes;

use super::Error;
use super::keyring::Keyring;
use super::segment;
use crate::crypto::seal::{self, Binding, ObjectSealer};
use crate::format::envelope::{CHECKSUM_LEN, Codec, HEADER_LEN, PAYLOAD_HEADER_LEN, Payload, SealedKind, TAG_LEN};
use crate::format::object::{Namespace, ObjectKey};
use crate::format::padme::padded_len;

/// Which object is sealed or opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct ObjectBytes {
    /// What it is.
    pub(super) kind: SealedKind,
    /// Where it belongs.
    pub(super) namespace: Namespace,
    /// Its random id; zeros where its name is the hash of its bytes.
    pub(super) id: [u8; 32],
}

impl ObjectBytes {
    /// An object of the data namespace whose name is the hash of its bytes.
    pub(super) const fn hashed(kind: SealedKind) -> Self {
        Self { kind, namespace: Namespace::Data, id: [0; 32] }
    }
}

/// Manifests are small and compress well; index parts are ids, which do not.
const LEVEL: i32 = 9;

/// Returns the stored bytes of an object.
pub(super) fn seal(keyring: &Keyring, object: ObjectBytes, body: &[u8]) -> Result<Vec<u8>, Error> {
    let keys = keyring.namespace(object.namespace)?;
    let (codec, encoded) = match object.kind {
        SealedKind::Index => (Codec::Stored, Bytes::copy_from_slice(body)),
        _ => segment::encode(body.to_vec(), LEVEL),
    };
    let bare = HEADER_LEN + PAYLOAD_HEADER_LEN + encoded.len() + TAG_LEN + CHECKSUM_LEN;
    let whole = usize::try_from(padded_len(bare as u64)).expect("objects are far below 4 GiB");
    let payload = Payload { codec, raw_len: body.len() as u64, body: &encoded, padding: whole - bare };
    let binding = Binding { repository: keyring.repository, object: object.id };
    let sealer = ObjectSealer::new(keys, object.kind, keyring.entropy.as_ref())?;
    Ok(sealer.seal(object.kind, &binding, &payload.encode())?)
}

/// Returns the body of a stored object. `key` names it in errors.
pub(super) fn open(keyring: &Keyring, object: ObjectBytes, key: ObjectKey, stored: &[u8]) -> Result<Vec<u8>, Error> {
    let keys = keyring.namespace(object.namespace)?;
    let binding = Binding { repository: keyring.repository, object: object.id };
    let plain = seal::open_object(keys, object.kind, &binding, stored)
        .map_err(|source| Error::Object { object: key.to_string(), source })?;
    let payload = Payload::decode(&plain, object.kind.bytes_max())
        .map_err(|source| Error::Damaged { object: key.to_string(), source })?;
    segment::decode(payload.codec, payload.body.to_vec(), payload.raw_len)
        .ok_or_else(|| Error::WrongContent { object: key.to_string() })
}
