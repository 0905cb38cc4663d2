//! The data keys of one log: the one that new segments are encrypted with, and all that its older
//! segments need.
//!
//! Owns what is made of the file `keys` and of the master keys at hand when a log is opened: the
//! first data key, and the wrapping of all keys by the current master key. A key is on the disk,
//! wrapped, before anything is encrypted with it.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use super::body::BodyCodec;
use super::cipher::{DataKey, KEY_BYTES, KeyId, NONCE_BYTES, SegmentKey};
use super::error::{Error, KeyProblem};
use super::keyfile::{Entry, KEYS, KeyFile};
use super::master::{MasterKeys, Unwrapped};
use super::options::{Encryption, NewSegments};
use super::position::Micros;
use super::reader::Segment;
use super::segment::SegmentHeader;
use super::storage::Storage;

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
        if ring::rand::SystemRandom::new().fill(bytes).is_err() {
            // Linux gives them to every process once it has booted. A panic would end one thread
            // of many, and leave its log waiting for ever.
            tracing::error!("the operating system gives no random bytes; ended");
            std::process::abort();
        }
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

    /// Name of the key that new segments are encrypted with; `None` if they are not.
    pub(super) fn current(&self) -> Option<KeyId> {
        self.current
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

/// The file `keys` of a log, and what the master keys at hand open of it. Nothing is written until
/// [`Loaded::settle`].
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    file: Option<KeyFile>,
    masters: Option<&'a MasterKeys>,
    /// Without a current key.
    pub(super) keyring: Keyring,
}

impl<'a> Loaded<'a> {
    /// Reads the file in `dir`.
    pub(super) fn load(
        storage: &dyn Storage,
        dir: &Path,
        masters: Option<&'a MasterKeys>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, Error> {
        let file = KeyFile::load(storage, dir)?;
        let mut keys = Vec::new();
        if let (Some(file), Some(masters)) = (&file, masters) {
            keys.extend(file.entries.iter().filter_map(|entry| {
                let key = masters.unwrap(&entry.id, &entry.wrapped).ok()?;
                Some((entry.id, key))
            }));
        }
        Ok(Self {
            file,
            masters,
            keyring: Keyring::new(keys, None, entropy),
        })
    }

    /// Whether the segment at `path` with `header` can be read.
    ///
    /// # Errors
    /// It cannot, and why.
    pub(super) fn check(&self, path: &Path, header: &SegmentHeader) -> Result<(), Error> {
        if self.keyring.can_open(header) {
            return Ok(());
        }
        Err(Error::Key {
            path: path.to_owned(),
            key_id: header.key_id,
            problem: self.problem(&header.key_id),
        })
    }

    fn problem(&self, id: &KeyId) -> KeyProblem {
        let Some(file) = &self.file else {
            return KeyProblem::NoKeyFile;
        };
        let Some(entry) = file.entry(id) else {
            return match file.destroyed_at {
                Some(at) => KeyProblem::Destroyed { at },
                None => KeyProblem::Unlisted,
            };
        };
        let wanted = entry.wrapped.by.clone();
        let unwrapped = self
            .masters
            .map(|masters| masters.unwrap(id, &entry.wrapped));
        match unwrapped {
            Some(Err(Unwrapped::Altered)) => KeyProblem::Altered { wanted },
            None | Some(Ok(_) | Err(Unwrapped::NoMaster)) => KeyProblem::NoMaster {
                wanted,
                given: self.masters.map(MasterKeys::names),
            },
        }
    }

    /// Gets the keyring ready for writing: with a current key, and with all keys wrapped by the
    /// current master key. Whatever it needs for that is on the disk on `Ok`.
    pub(super) fn settle(
        self,
        storage: &dyn Storage,
        dir: &Path,
        encryption: Option<&Encryption>,
        now: Micros,
    ) -> Result<Keyring, Error> {
        let Self {
            file, mut keyring, ..
        } = self;
        let Some(encryption) = encryption else {
            return Ok(keyring);
        };
        let mut file = file.unwrap_or_default();
        let rewrapped = rewrap(&mut file, &keyring, encryption);
        let encrypts = encryption.new_segments == NewSegments::Encrypted;
        let current = file.current.filter(|id| keyring.find(id).is_some());
        if encrypts && current.is_none() {
            let (id, key) = add_key(&mut file, encryption, now);
            file.store(storage, dir)?;
            keyring.keys.push((id, key));
        } else if rewrapped && let Err(error) = file.store(storage, dir) {
            // The old master key has opened it, and will again.
            tracing::warn!(dir = %dir.display(), %error, "data keys not wrapped by the current master key");
        }
        keyring.current = if encrypts { file.current } else { None };
        Ok(keyring)
    }
}

/// Wraps what the current master key did not wrap; whether there was something.
fn rewrap(file: &mut KeyFile, keyring: &Keyring, encryption: &Encryption) -> bool {
    let masters = &encryption.masters;
    let by = masters.current_name();
    let mut changed = false;
    for entry in file.entries.iter_mut().filter(|e| e.wrapped.by != by) {
        if let Some(key) = keyring.find(&entry.id) {
            entry.wrapped = masters.wrap(&entry.id, key, &*encryption.entropy);
            changed = true;
        }
    }
    changed
}

/// Adds a new data key to `file` and makes it the current one.
fn add_key(file: &mut KeyFile, encryption: &Encryption, now: Micros) -> (KeyId, DataKey) {
    let mut id = KeyId::default();
    encryption.entropy.fill(&mut id);
    // Zeros mean "not encrypted". Neither happens by chance.
    assert!(
        id != KeyId::default() && file.entry(&id).is_none(),
        "random bytes repeat: {id:02x?}"
    );
    let mut bytes = [0; KEY_BYTES];
    encryption.entropy.fill(&mut bytes);
    let key = DataKey::new(bytes);
    file.entries.push(Entry {
        id,
        created_at: now,
        wrapped: encryption.masters.wrap(&id, &key, &*encryption.entropy),
    });
    file.current = Some(id);
    file.destroyed_at = None;
    (id, key)
}

/// A further data key for the log in `dir`, and the keyring with it. It is on the disk on `Ok`.
pub(super) fn rotated(
    storage: &dyn Storage,
    dir: &Path,
    encryption: &Encryption,
    now: Micros,
) -> Result<(Keyring, KeyId), Error> {
    let entropy = Arc::clone(&encryption.entropy);
    let loaded = Loaded::load(storage, dir, Some(&encryption.masters), entropy)?;
    let mut keyring = loaded.keyring;
    let mut file = loaded.file.ok_or_else(|| Error::NotEncrypted {
        path: dir.join(KEYS),
    })?;
    rewrap(&mut file, &keyring, encryption);
    let (id, key) = add_key(&mut file, encryption, now);
    file.store(storage, dir)?;
    keyring.keys.push((id, key));
    keyring.current = Some(id);
    Ok((keyring, id))
}

/// Destroys all keys of the log in `dir`, which nobody has open. Needs no master key.
pub(super) fn destroy(storage: &dyn Storage, dir: &Path, now: Micros) -> Result<(), Error> {
    match KeyFile::load(storage, dir) {
        Ok(Some(file)) if file.destroyed_at.is_none() => {}
        // Done already; or there is nothing to destroy.
        Ok(Some(_)) => return Ok(()),
        Ok(None) => {
            return Err(Error::NotEncrypted {
                path: dir.join(KEYS),
            });
        }
        // Who wants its keys gone does not care that it is damaged.
        Err(Error::Damaged(damage)) => {
            tracing::warn!(%damage, "destroying a damaged file of keys");
        }
        Err(error) => return Err(error),
    }
    let destroyed = KeyFile {
        current: None,
        destroyed_at: Some(now),
        entries: Vec::new(),
    };
    destroyed.store(storage, dir)
}

/// Gives the log that is being made in `to` the keys that the segments it shares with the log in
/// `from` need, wrapped as they are. It makes a data key of its own when it is first opened.
///
/// Does nothing if the log in `from` has no keys. On `Ok` they are on the disk.
///
/// # Errors
/// I/O errors; the file of keys is damaged.
pub(super) fn carry_over(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), Error> {
    match KeyFile::load(storage, from)? {
        Some(file) => KeyFile {
            current: None,
            ..file
        }
        .store(storage, to),
        None => Ok(()),
    }
}
