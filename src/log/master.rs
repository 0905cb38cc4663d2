//! Master keys: they encrypt the data keys of logs, and nothing else.
//!
//! Owns their text form, one `NAME:base64 of 32 bytes` a line, and what is done with them. No key
//! is ever shown: neither by an error nor by `Debug`.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cipher::{CIPHER_BYTES, DataKey, KEY_BYTES, KeyId, NONCE_BYTES, WrappingKey};
use super::error::hex;
use super::keyring::Entropy;

/// Bytes of a wrapped data key: nonce, key, tag.
pub(super) const WRAPPED_BYTES: usize = CIPHER_BYTES + KEY_BYTES;
/// Longest name of a master key.
pub(super) const NAME_BYTES_MAX: usize = 32;
/// Enough for thousands of keys.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Whoever may read the keys may read the logs; whoever may write them may lock everybody out.
const FORBIDDEN_MODE: u32 = 0o027;

/// Tells a master key from every other, also from another one of its name. Says nothing about it.
pub type MasterId = [u8; 8];

/// Why a text holds no master keys. Never says what it holds.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file cannot be read.
    #[error("cannot read the master keys in {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read or write the file.
    #[error(
        "{path} holds master keys and has mode {mode:03o}: others may read or write it; `chmod 600 {path}`, and take new keys if somebody did",
        path = path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is no key.
    #[error("{place} holds no master key; `arqonbus keygen NAME` makes one")]
    Empty {
        /// File or variable.
        place: String,
    },
    /// A line is not of the form.
    #[error(
        "{place}, line {line}: {fault}; a line is NAME:KEY, as `arqonbus keygen NAME` prints it"
    )]
    Line {
        /// File or variable.
        place: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        fault: LineFault,
    },
}

/// What is wrong with a line of a file of master keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LineFault {
    /// There is no colon.
    #[error("there is no colon")]
    Colon,
    /// The name is not allowed.
    #[error("the name must be 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'")]
    Name,
    /// An earlier line has the same name.
    #[error("the name stands there twice")]
    Twice,
    /// The key is no base64.
    #[error("the key is no base64")]
    Base64,
    /// The key is too long or too short.
    #[error("the key has {found} bytes, it must have {KEY_BYTES}")]
    Length {
        /// Its length.
        found: usize,
    },
}

/// A key that wraps data keys, with the name that people know it by.
#[derive(Clone)]
struct MasterKey {
    name: String,
    id: MasterId,
    key: WrappingKey,
}

/// The master keys at hand. The first wraps; the others only unwrap, until nothing is wrapped by
/// them any more.
#[derive(Clone)]
pub struct MasterKeys(Vec<MasterKey>);

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKeys({})", self.names())
    }
}

/// Which master key a data key is wrapped by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MasterName {
    /// For people.
    pub name: String,
    /// Also differs between two keys of one name.
    pub id: MasterId,
}

impl fmt::Display for MasterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (id {})", self.name, hex(&self.id))
    }
}

/// A data key as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrapped {
    pub(super) by: MasterName,
    pub(super) bytes: [u8; WRAPPED_BYTES],
}

/// Why a wrapped data key cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unwrapped {
    /// Its master key is not at hand.
    NoMaster,
    /// Its master key is, and says that these bytes are not what it has made.
    Altered,
}

impl MasterKeys {
    /// The keys in the file at `path`.
    ///
    /// # Errors
    /// It cannot be read; others may read it; it holds no keys, or something else besides.
    pub fn read(path: &Path) -> Result<Self, MasterKeyError> {
        let io = |source| MasterKeyError::Io {
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(io)?;
        // Of the file that was opened, whatever stands under the name meanwhile.
        let metadata = file.metadata().map_err(io)?;
        let mode = metadata.mode() & 0o777;
        if metadata.is_file() && mode & FORBIDDEN_MODE != 0 {
            return Err(MasterKeyError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        let mut limited = file.take(FILE_BYTES_MAX);
        limited.read_to_string(&mut text).map_err(io)?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// The keys in `text`, which stands in `place`: one `NAME:KEY` a line; empty lines and what
    /// follows a `#` mean nothing.
    ///
    /// # Errors
    /// There is none, or a line is of another form.
    pub fn parse(place: &str, text: &str) -> Result<Self, MasterKeyError> {
        let mut keys: Vec<MasterKey> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line_end = line.find('#').unwrap_or(line.len());
            let meant = line.get(..line_end).unwrap_or_default().trim();
            if meant.is_empty() {
                continue;
            }
            let fault = |fault| MasterKeyError::Line {
                place: place.to_owned(),
                line: at + 1,
                fault,
            };
            let key = parse_line(meant).map_err(fault)?;
            if keys.iter().any(|known| known.name == key.name) {
                return Err(fault(LineFault::Twice));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            let place = place.to_owned();
            return Err(MasterKeyError::Empty { place });
        }
        Ok(Self(keys))
    }

    /// A line with a new key, ready for a file of keys.
    ///
    /// # Errors
    /// The name is not allowed.
    pub fn generate(name: &str, entropy: &dyn Entropy) -> Result<String, LineFault> {
        check_name(name)?;
        let mut key = [0; KEY_BYTES];
        entropy.fill(&mut key);
        Ok(format!("{name}:{}", STANDARD.encode(key)))
    }

    fn current(&self) -> &MasterKey {
        let Some(current) = self.0.first() else {
            unreachable!("parse refuses an empty list")
        };
        current
    }

    /// Name of the key that wraps.
    #[must_use]
    pub fn current_name(&self) -> MasterName {
        self.current().name()
    }

    /// All of them, for messages.
    #[must_use]
    pub fn names(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|key| key.name().to_string()).collect();
        names.join(", ")
    }

    /// Encrypts `key` by the current master key. It can only be had back as the key `id`.
    pub(super) fn wrap(&self, id: &KeyId, key: &DataKey, entropy: &dyn Entropy) -> Wrapped {
        let current = self.current();
        let mut nonce = [0; NONCE_BYTES];
        entropy.fill(&mut nonce);
        Wrapped {
            by: current.name(),
            bytes: current.key.wrap(nonce, id, key),
        }
    }

    /// What [`MasterKeys::wrap`] was given, also when another of the keys was current then.
    pub(super) fn unwrap(&self, id: &KeyId, wrapped: &Wrapped) -> Result<DataKey, Unwrapped> {
        let master = self.0.iter().find(|master| master.id == wrapped.by.id);
        let master = master.ok_or(Unwrapped::NoMaster)?;
        let opened = master.key.unwrap(id, &wrapped.bytes);
        opened.map_err(|_unopened| Unwrapped::Altered)
    }
}

impl MasterKey {
    fn name(&self) -> MasterName {
        MasterName {
            name: self.name.clone(),
            id: self.id,
        }
    }
}

pub(super) fn check_name(name: &str) -> Result<(), LineFault> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(LineFault::Name);
    }
    Ok(())
}

fn parse_line(line: &str) -> Result<MasterKey, LineFault> {
    let (name, key) = line.split_once(':').ok_or(LineFault::Colon)?;
    let name = name.trim_end();
    check_name(name)?;
    let decoded = STANDARD.decode(key.trim_start());
    let bytes = decoded.map_err(|_shows_the_key| LineFault::Base64)?;
    let found = bytes.len();
    let bytes = bytes
        .try_into()
        .map_err(|_shows_the_key| LineFault::Length { found })?;
    let (key, id) = WrappingKey::derive(&bytes);
    Ok(MasterKey {
        name: name.to_owned(),
        id,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::super::keyring::OsEntropy;
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn fault(text: &str) -> String {
        MasterKeys::parse("F", text).unwrap_err().to_string()
    }

    // LOG-14: every wrong line is named by its number, and no error and no Debug shows a key.
    #[test]
    fn wrong_lines_are_named_and_no_key_is_shown() {
        let good = format!("# made by hand\n\n new:{KEY} # current\nold: {KEY}\n");
        let keys = MasterKeys::parse("F", &good).unwrap();
        assert_eq!(keys.current_name().name, "new");
        let half = KEY.get(..20).unwrap();
        assert!(!format!("{keys:?}").contains(half), "{keys:?}");
        for (text, wanted) in [
            (String::new(), "F holds no master key"),
            ("# only this".to_owned(), "F holds no master key"),
            (KEY.to_owned(), "F, line 1: there is no colon"),
            (format!("\na b:{KEY}"), "F, line 2: the name must be"),
            (format!("{}:{KEY}", "n".repeat(33)), "the name must be"),
            (
                format!("a:{KEY}\na:{KEY}"),
                "F, line 2: the name stands there twice",
            ),
            (format!("a:{half}!"), "F, line 1: the key is no base64"),
            (format!("a:{half}"), "F, line 1: the key has 15 bytes"),
        ] {
            let error = fault(&text);
            assert!(error.contains(wanted), "{text:?} gave {error}");
            assert!(!error.contains(half), "the key is in {error}");
        }
    }

    // LOG-14: a data key comes back with its master key and its own name, and with no other.
    #[test]
    fn only_the_right_master_key_unwraps() {
        let fresh = |name| MasterKeys::generate(name, &OsEntropy).unwrap();
        let (old, new) = (fresh("old"), fresh("new"));
        let before = MasterKeys::parse("F", &old).unwrap();
        let data = DataKey::new([9; KEY_BYTES]);
        let wrapped = before.wrap(&[1; 16], &data, &OsEntropy);

        let both = MasterKeys::parse("F", &format!("{new}\n{old}")).unwrap();
        assert!(both.unwrap(&[1; 16], &wrapped) == Ok(data));
        assert!(both.unwrap(&[2; 16], &wrapped) == Err(Unwrapped::Altered));
        for bit in 0..WRAPPED_BYTES * 8 {
            let mut altered = wrapped.clone();
            altered.bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(both.unwrap(&[1; 16], &altered) == Err(Unwrapped::Altered));
        }
        // The same name, and another key.
        let other = MasterKeys::parse("F", &fresh("old")).unwrap();
        assert!(other.unwrap(&[1; 16], &wrapped) == Err(Unwrapped::NoMaster));
    }

    // LOG-14: a file that others may read is refused, with what to do.
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        super::super::fsync::replace(&path, format!("a:{KEY}\n").as_bytes()).unwrap();
        MasterKeys::read(&path).unwrap();
        for (mode, good) in [(0o400, true), (0o640, true), (0o644, false), (0o620, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = MasterKeys::read(&path);
            assert_eq!(read.is_ok(), good, "mode {mode:o}");
            if let Err(error) = read {
                let error = error.to_string();
                assert!(error.contains("chmod 600"), "{error}");
            }
        }
        let missing = MasterKeys::read(&dir.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
    }
}
