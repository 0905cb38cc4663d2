//! The keys of encrypted segments, and what is done with them: AES-256-GCM.
//!
//! Every segment file has a key of its own, derived from the log's data key and from a random salt
//! in its header, and every body a random nonce. `docs/security.md` says why no two bodies can
//! ever share both. Knows no file; where data keys come from is the business of
//! [`super::keyring`].

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = NONCE_LEN;
/// Bytes of an authentication tag.
pub(super) const TAG_BYTES: usize = 16;
/// What encryption adds to a body.
pub(super) const CIPHER_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// Bytes of a data key and of a master key.
pub(super) const KEY_BYTES: usize = 32;
/// Separates this use of a data key from every other.
const SEGMENT_KEY: &[u8] = b"arqonbus segment v1";
/// Separate the uses of a master key.
const WRAPPING_KEY: &[u8] = b"arqonbus wrapping v1";
const MASTER_ID: &[u8] = b"arqonbus master id v1";
/// Bound to a wrapped data key, with its name.
const DATA_KEY: &[u8] = b"arqonbus data key v1";

/// Name of a data key, as segment headers carry it; random, never all zeros.
pub type KeyId = [u8; 16];

/// The secret that the segments of one log are encrypted with.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey([u8; KEY_BYTES]);

impl DataKey {
    /// A key of these bytes, which must be random.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// The key of one segment file.
pub(super) struct SegmentKey(LessSafeKey);

impl fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegmentKey(..)")
    }
}

/// The bytes were not encrypted with this key, or are not what was encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unopened;

struct KeyLength(usize);

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        self.0
    }
}

/// `N` bytes that follow from `secret` and `salt` for one `purpose`, and tell nothing about those
/// for another.
fn expand<const N: usize>(secret: &[u8; KEY_BYTES], salt: &[u8], purpose: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let pseudorandom = Salt::new(HKDF_SHA256, salt).extract(secret);
    let filled = pseudorandom
        .expand(&[purpose], KeyLength(N))
        .and_then(|output| output.fill(&mut bytes));
    assert!(filled.is_ok(), "HKDF gives up to 8,160 bytes");
    bytes
}

fn aead_key(bytes: &[u8; KEY_BYTES]) -> LessSafeKey {
    let Ok(key) = UnboundKey::new(&AES_256_GCM, bytes) else {
        unreachable!("an AES-256 key has {KEY_BYTES} bytes")
    };
    LessSafeKey::new(key)
}

/// What a master key wraps data keys with.
#[derive(Clone)]
pub(super) struct WrappingKey(LessSafeKey);

impl WrappingKey {
    /// The wrapping key of the master key `secret`, and what tells it from others.
    pub(super) fn derive(secret: &[u8; KEY_BYTES]) -> (Self, [u8; 8]) {
        let key = aead_key(&expand(secret, &[], WRAPPING_KEY));
        (Self(key), expand(secret, &[], MASTER_ID))
    }

    /// Nonce, encrypted key, tag. Bound to its name and to nothing else, so that a copy of the log
    /// and a fork can carry it.
    pub(super) fn wrap(
        &self,
        nonce: [u8; NONCE_BYTES],
        id: &KeyId,
        key: &DataKey,
    ) -> [u8; CIPHER_BYTES + KEY_BYTES] {
        let mut out = Vec::new();
        seal_into(&self.0, &mut out, nonce, &named(id), key.bytes());
        let Ok(wrapped) = out.try_into() else {
            unreachable!("GCM adds nonce and tag only")
        };
        wrapped
    }

    /// What [`WrappingKey::wrap`] was given.
    pub(super) fn unwrap(&self, id: &KeyId, wrapped: &[u8]) -> Result<DataKey, Unopened> {
        let bytes = open(&self.0, &named(id), wrapped)?;
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes);
        bytes.map(DataKey).map_err(|_too_short| Unopened)
    }
}

fn named(id: &KeyId) -> Vec<u8> {
    [DATA_KEY, id].concat()
}

fn seal_into(
    key: &LessSafeKey,
    out: &mut Vec<u8>,
    nonce: [u8; NONCE_BYTES],
    bound: &[u8],
    plain: &[u8],
) {
    out.reserve(plain.len() + CIPHER_BYTES);
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plain);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(bound), &mut out[start..]);
    let Ok(tag) = sealed else {
        unreachable!("AES-GCM takes bodies below 64 GiB")
    };
    out.extend_from_slice(tag.as_ref());
}

fn open(key: &LessSafeKey, bound: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Unopened)?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let mut bytes = sealed.to_vec();
    let opened = key.open_in_place(nonce, Aad::from(bound), &mut bytes);
    let len = opened.map_err(|ring::error::Unspecified| Unopened)?.len();
    bytes.truncate(len);
    Ok(bytes)
}

impl SegmentKey {
    /// The key of the segment with `salt` in its header.
    pub(super) fn derive(key: &DataKey, salt: &[u8; 16]) -> Self {
        Self(aead_key(&expand(key.bytes(), salt, SEGMENT_KEY)))
    }

    /// Appends `nonce`, the encrypted `plain` and its tag to `out`. `bound` is authenticated with
    /// it. The nonce must never have been used with this key.
    pub(super) fn seal_into(
        &self,
        out: &mut Vec<u8>,
        nonce: [u8; NONCE_BYTES],
        bound: &[u8],
        plain: &[u8],
    ) {
        seal_into(&self.0, out, nonce, bound, plain);
    }

    /// What [`SegmentKey::seal_into`] was given.
    pub(super) fn open(&self, bound: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        open(&self.0, bound, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        let key = SegmentKey::derive(&DataKey::new([1; KEY_BYTES]), &[2; 16]);
        let mut out = Vec::new();
        key.seal_into(&mut out, [3; NONCE_BYTES], b"bound", b"plain");
        out
    }

    // LOG-14: what was sealed comes back with the same key, salt and binding, and with no other.
    #[test]
    fn only_the_right_key_opens() {
        let open = |key: u8, salt: u8, bound: &[u8]| {
            let key = SegmentKey::derive(&DataKey::new([key; KEY_BYTES]), &[salt; 16]);
            key.open(bound, &sealed())
        };
        assert_eq!(open(1, 2, b"bound"), Ok(b"plain".to_vec()));
        assert_eq!(open(9, 2, b"bound"), Err(Unopened));
        assert_eq!(open(1, 9, b"bound"), Err(Unopened));
        assert_eq!(open(1, 2, b"other"), Err(Unopened));
    }

    // LOG-14: no bit can be changed unnoticed, and no length harms.
    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let key = SegmentKey::derive(&DataKey::new([1; KEY_BYTES]), &[2; 16]);
        let good = sealed();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(b"bound", &bad), Err(Unopened), "bit {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(
                key.open(b"bound", &good[..len]),
                Err(Unopened),
                "{len} bytes"
            );
        }
    }
}
