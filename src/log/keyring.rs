//! The data keys of one log: the one that new segments are encrypted with, and all that its older
//! segments need.

use std::fmt::Debug;
use std::sync::Arc;

use super::body::BodyCodec;
use super::cipher::{DataKey, KeyId, NONCE_BYTES, SegmentKey};
use super::reader::Segment;
use super::segment::SegmentHeader;

/// Random bytes that nobody can foretell. Passed in, so that a run can be repeated.
pub trait Entropy: Send + Sync + Debug {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The random numbers of the operating system.
#[derive(Clone, Copy, Default, Debug)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        use ring::rand::SecureRandom as _;
        let filled = ring::rand::SystemRandom::new().fill(bytes);
        assert!(filled.is_ok(), "the operating system gives no random bytes");
    }
}

/// Data keys by their names.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<(KeyId, DataKey)>,
    current: Option<KeyId>,
    entropy: Arc<dyn Entropy>,
}

impl Default for Keyring {
    fn default() -> Self {
        Self::new(Vec::new(), None, Arc::new(OsEntropy))
    }
}

impl Keyring {
    /// The `keys` of a log; new segments are encrypted with `current`, or not at all.
    #[must_use]
    pub fn new(
        keys: Vec<(KeyId, DataKey)>,
        current: Option<KeyId>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            keys,
            current,
            entropy,
        }
    }

    fn find(&self, id: &KeyId) -> Option<&DataKey> {
        let found = self.keys.iter().find(|(known, _)| known == id);
        found.map(|(_, key)| key)
    }

    /// How the bodies of the segment with `header` are encoded. An encrypted one whose key is not
    /// here gets a codec that opens nothing.
    pub(super) fn codec(&self, header: &SegmentHeader) -> BodyCodec {
        let key = header
            .is_encrypted()
            .then(|| self.find(&header.key_id))
            .flatten()
            .map(|key| Arc::new(SegmentKey::derive(key, &header.salt)));
        BodyCodec { key }
    }

    /// Whether the segment with `header` can be read.
    pub(super) fn can_open(&self, header: &SegmentHeader) -> bool {
        !header.is_encrypted() || self.find(&header.key_id).is_some()
    }

    /// Whether `segment` is encrypted with the current key, or plain as it should be.
    pub(super) fn is_current(&self, segment: &Segment) -> bool {
        let header = segment.header.as_ref();
        header.is_none_or(|header| header.key_id == self.current.unwrap_or_default())
    }

    /// Name of the current key (zeros: none) and a new salt, for the header of a new file.
    pub(super) fn for_new_segment(&self) -> (KeyId, [u8; 16]) {
        let mut salt = [0; 16];
        let Some(id) = self.current else {
            return ([0; 16], salt);
        };
        self.entropy.fill(&mut salt);
        (id, salt)
    }

    /// A nonce for the next body.
    pub(super) fn nonce(&self) -> [u8; NONCE_BYTES] {
        let mut nonce = [0; NONCE_BYTES];
        self.entropy.fill(&mut nonce);
        nonce
    }
}
