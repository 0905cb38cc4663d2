//! Keys for the tests, random bytes that can be repeated, and somebody who looks whether they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arqonbus::log::batch::{self, BatchHeader};
use arqonbus::log::segment::SegmentHeader;
use arqonbus::log::{Encryption, Entropy, MasterKeys, NewSegments, Options};

use crate::dice::Dice;
use crate::session::small_options;
use crate::sim_storage::{SimStorage, Written};

/// Two master keys, as a file of them holds them.
pub(crate) const OLD: &str = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub(crate) const NEW: &str = "new:HxwdHh8bGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgE=";

const HEADER_BYTES: usize = 256;
const NONCE_BYTES: usize = 12;
const FLAG_ENCRYPTED: u16 = 16;
const WRAPPED_AT: usize = 64;
const ENTRY_BYTES: usize = 128;

/// Random bytes of a seed.
#[derive(Debug)]
struct Seeded(Mutex<Dice>);

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let mut dice = self.0.lock().expect("dice do not panic");
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&dice.roll().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The worst there can be.
#[derive(Debug)]
struct Stuck;

impl Entropy for Stuck {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0x5a);
    }
}

pub(crate) fn masters(lines: &str) -> Arc<MasterKeys> {
    Arc::new(MasterKeys::parse("the test", lines).expect("good keys"))
}

pub(crate) fn encryption(seed: u64) -> Encryption {
    Encryption {
        masters: masters(OLD),
        new_segments: NewSegments::Encrypted,
        entropy: Arc::new(Seeded(Mutex::new(Dice::new(seed ^ 0xE57)))),
    }
}

/// Small segments, encrypted.
pub(crate) fn encrypted_options(seed: u64) -> Options {
    Options {
        encryption: Some(encryption(seed)),
        ..small_options()
    }
}

/// The same, with random bytes that are none.
pub(crate) fn options_without_randomness() -> Options {
    let mut options = encrypted_options(0);
    if let Some(encryption) = &mut options.encryption {
        encryption.entropy = Arc::new(Stuck);
    }
    options
}

pub(crate) fn assert_no_nonce_repeats(storage: &SimStorage) {
    let seen = nonces(&storage.written()).unwrap_or_else(|repeated| panic!("{repeated}"));
    assert!(seen > 0, "nothing was encrypted");
}

/// What a nonce must be unique within: one segment file, or one master key.
type Domain = Vec<u8>;

/// Everything that was ever encrypted, by what it was encrypted with.
#[derive(Default)]
struct Used(HashMap<(Domain, [u8; NONCE_BYTES]), Vec<u8>>);

impl Used {
    /// The same bytes again are a copy of the ciphertext, which tells nothing new.
    fn note(&mut self, domain: &[u8], sealed: &[u8], what: &str) -> Result<(), String> {
        let nonce = *sealed.first_chunk().expect("a nonce stands first");
        let key = (domain.to_vec(), nonce);
        match self.0.insert(key, sealed.to_vec()) {
            Some(before) if before != sealed => Err(format!(
                "nonce {nonce:02x?} was used twice, the second time for {what}"
            )),
            _ => Ok(()),
        }
    }
}

/// How many nonces `written` holds: of bodies, of indexes, of wrapped keys.
///
/// # Errors
/// One was used for two different things under one key.
pub(crate) fn nonces(written: &[Written]) -> Result<usize, String> {
    let mut used = Used::default();
    // Of each file: key and salt in its header.
    let mut files: HashMap<u64, Domain> = HashMap::new();
    let mut segments: HashMap<u32, Domain> = HashMap::new();
    // A rewritten segment gets its header last.
    let mut waiting: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
    for Written {
        inode,
        offset,
        bytes,
    } in written
    {
        if bytes.starts_with(b"ARQONSEG") {
            let header = bytes.first_chunk::<HEADER_BYTES>();
            let header = SegmentHeader::decode(header.expect("headers are written whole"));
            let header = header.expect("headers are written well");
            let domain = [header.key_id, header.salt].concat();
            segments.insert(header.identity(), domain.clone());
            for sealed in waiting.remove(inode).unwrap_or_default() {
                used.note(&domain, &sealed, "a body that was written again")?;
            }
            files.insert(*inode, domain);
        } else if bytes.starts_with(&batch::MAGIC) && *offset >= 4096 {
            for sealed in encrypted_bodies(bytes) {
                match files.get(inode) {
                    Some(domain) => used.note(domain, sealed, "a body")?,
                    None => waiting.entry(*inode).or_default().push(sealed.to_vec()),
                }
            }
        } else if bytes.starts_with(b"ARQONIDX") {
            let identity = u32::from_le_bytes(*bytes[9..].first_chunk().expect("an identity"));
            let domain = &segments[&identity];
            if domain[..16] != [0; 16] {
                used.note(domain, &bytes[13..bytes.len() - 4], "an index")?;
            }
        } else if bytes.starts_with(b"ARQONKEY") {
            for entry in bytes[64..bytes.len() - 4].chunks(ENTRY_BYTES) {
                let wrapped = &entry[WRAPPED_AT..WRAPPED_AT + 60];
                used.note(&entry[24..32], wrapped, "a data key")?;
            }
        }
    }
    Ok(used.0.len())
}

fn encrypted_bodies(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut bodies = Vec::new();
    while let Some(header) = bytes.first_chunk::<{ batch::HEADER_BYTES }>() {
        let header = BatchHeader::decode(header).expect("batches are written whole");
        let len = usize::try_from(header.body_len).expect("small");
        let body = &bytes[batch::HEADER_BYTES..batch::HEADER_BYTES + len];
        if header.flags & FLAG_ENCRYPTED != 0 {
            bodies.push(body);
        }
        bytes = &bytes[batch::HEADER_BYTES + len..];
    }
    bodies
}
