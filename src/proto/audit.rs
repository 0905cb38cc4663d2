//! The chain of a tenant's audit: how an entry is sealed, and what shows that one was changed.
//!
//! An entry ends with its hash, over all bytes before it, the hash of the entry before among them.
//! Whoever changes a byte has to make every later hash again, and then the last one is another:
//! that one, kept elsewhere, gives the change away.

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::v1::AuditEntry;

/// Where entries stand, in the reality `_system`.
pub const TOPIC: &str = "sys.audit";
/// Name of the event that holds one.
pub const KIND: &str = "audit.entry";
/// Full message name of an entry.
pub const SCHEMA: &str = "arqon.v1.AuditEntry";

/// A SHA-256.
pub type Hash = [u8; 32];

/// Field 2047, of bytes, 32 of them.
const SEAL: [u8; 3] = [0xfa, 0x7f, 32];

/// Where a chain has got to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Number of the entry.
    pub number: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Link {
    /// The hash as people write it.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.hash)
    }
}

/// Bytes in hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts `entry` behind `last`; the bytes that are stored, and where the chain stands with them.
#[must_use]
pub fn seal(mut entry: AuditEntry, last: Option<&Link>) -> (Bytes, Link) {
    entry.number = last.map_or(1, |last| last.number + 1);
    entry.previous = last.map_or_else(Bytes::new, |last| Bytes::copy_from_slice(&last.hash));
    entry.hash = Bytes::new();
    let mut bytes = entry.encode_to_vec();
    let hash: Hash = Sha256::digest(&bytes).into();
    bytes.extend_from_slice(&SEAL);
    bytes.extend_from_slice(&hash);
    let number = entry.number;
    (bytes.into(), Link { number, hash })
}

/// What is wrong with a chain.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Break {
    /// It is no entry.
    #[error("it is no audit entry")]
    NoEntry,
    /// Its own hash is another.
    #[error("entry {number} was changed: its bytes hash to {found}, and it says {expected}")]
    Changed {
        /// Its number, as it says.
        number: u64,
        /// The hash that it ends with.
        expected: String,
        /// That of its bytes.
        found: String,
    },
    /// Entries are gone, or were put in.
    #[error("entry {expected} should follow, and {found} does: entries are gone or put in")]
    Number {
        /// The number that should come.
        expected: u64,
        /// The one that comes.
        found: u64,
    },
    /// The entry before is not the one that it was written behind.
    #[error("entry {number} follows one with the hash {expected}, and {found} stands before it")]
    Previous {
        /// Its number.
        number: u64,
        /// The hash that it names.
        expected: String,
        /// That of the entry before.
        found: String,
    },
    /// It belongs to the chain of another tenant.
    #[error("entry {number} is of another tenant's chain")]
    Tenant {
        /// Its number.
        number: u64,
    },
}

/// Follows a chain, entry after entry.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    tenant: String,
    first: Option<u64>,
    last: Option<Link>,
    entries: u64,
    skipped: bool,
}

impl Chain {
    /// Of the tenant called so; an empty name is that of the first entry.
    #[must_use]
    pub fn of(tenant: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            ..Self::default()
        }
    }

    /// Takes the next entry, as stored. After a break it goes on behind the entry that is there.
    ///
    /// # Errors
    /// What shows that this entry, or something before it, is not as it was written.
    pub fn follow(&mut self, stored: &[u8]) -> Result<AuditEntry, Break> {
        let (entry, link) = open(stored)?;
        let before = self.last.replace(link);
        self.first.get_or_insert(link.number);
        self.entries += 1;
        let number = link.number;
        if self.tenant.is_empty() {
            entry.tenant.clone_into(&mut self.tenant);
        }
        if entry.tenant != self.tenant {
            return Err(Break::Tenant { number });
        }
        let skipped = std::mem::take(&mut self.skipped);
        let Some(before) = before.filter(|_| !skipped) else {
            // Retention may have taken what stood before; nothing stands before the first.
            return if (number == 1) == entry.previous.is_empty() {
                Ok(entry)
            } else {
                let (expected, found) = (hex(&entry.previous), String::new());
                Err(Break::Previous {
                    number,
                    expected,
                    found,
                })
            };
        };
        if number != before.number.saturating_add(1) {
            return Err(Break::Number {
                expected: before.number.saturating_add(1),
                found: number,
            });
        }
        if entry.previous.as_ref() != before.hash {
            return Err(Break::Previous {
                number,
                expected: hex(&entry.previous),
                found: before.hex(),
            });
        }
        Ok(entry)
    }

    /// Whatever comes next may follow something that could not be looked at.
    pub const fn skip(&mut self) {
        self.skipped = true;
    }

    /// Number of the first entry that was there; 0 if there was none.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first.unwrap_or_default()
    }

    /// The last one.
    #[must_use]
    pub const fn last(&self) -> Option<&Link> {
        self.last.as_ref()
    }

    /// How many there were.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }
}

/// An entry by itself, and its link.
///
/// # Errors
/// It is none, or not as it was written.
pub fn open(stored: &[u8]) -> Result<(AuditEntry, Link), Break> {
    let at = stored.len().checked_sub(SEAL.len() + size_of::<Hash>());
    let (body, sealed) = at
        .and_then(|at| stored.split_at_checked(at))
        .ok_or(Break::NoEntry)?;
    let hash = sealed.strip_prefix(&SEAL).ok_or(Break::NoEntry)?;
    let hash = Hash::try_from(hash).or(Err(Break::NoEntry))?;
    let entry = AuditEntry::decode(stored).or(Err(Break::NoEntry))?;
    let found: Hash = Sha256::digest(body).into();
    if found != hash {
        return Err(Break::Changed {
            number: entry.number,
            expected: hex(&hash),
            found: hex(&found),
        });
    }
    let number = entry.number;
    Ok((entry, Link { number, hash }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: usize) -> Vec<Bytes> {
        let mut last = None;
        let entry = |action: usize| AuditEntry {
            tenant: "t".into(),
            action: format!("do.{action}"),
            ..AuditEntry::default()
        };
        let mut next = |action| {
            let (bytes, link) = seal(entry(action), last.as_ref());
            last = Some(link);
            bytes
        };
        (0..length).map(&mut next).collect()
    }

    fn breaks(stored: &[Bytes]) -> Vec<Break> {
        let mut chain = Chain::of("t");
        let follow = |one: &Bytes| chain.follow(one).err();
        stored.iter().filter_map(follow).collect()
    }

    // BRK-13
    #[test]
    fn a_chain_holds_from_wherever_retention_has_left_it() {
        let all = chain(5);
        for from in 0..5 {
            assert_eq!(breaks(&all[from..]), [], "from {from}");
        }
        let mut follower = Chain::of("t");
        for one in &all {
            let entry = follower.follow(one).unwrap();
            assert_eq!(AuditEntry::decode(one.clone()).unwrap(), entry);
        }
        assert_eq!((follower.first(), follower.entries()), (1, 5));
        assert_eq!(follower.last().unwrap().number, 5);
    }

    // BRK-13: each byte of each entry.
    #[test]
    fn no_byte_can_be_changed() {
        let all = chain(3);
        for (index, entry) in all.iter().enumerate() {
            for at in 0..entry.len() {
                for flip in [1_u8, 0x80] {
                    let mut changed = entry.to_vec();
                    changed[at] ^= flip;
                    let mut stored = all.clone();
                    stored[index] = changed.into();
                    assert!(!breaks(&stored).is_empty(), "entry {index} byte {at}");
                }
            }
        }
    }

    // BRK-13: whoever makes the entry's own hash right has to make all later ones right.
    #[test]
    fn nothing_is_taken_out_put_in_or_moved() {
        let all = chain(4);
        let gone = [&all[..1], &all[2..]].concat();
        assert!(matches!(
            breaks(&gone)[..],
            [Break::Number {
                expected: 2,
                found: 3
            }]
        ));
        let twice = [&all[..2], &all[1..]].concat();
        assert!(!breaks(&twice).is_empty());
        let mut swapped = all.clone();
        swapped.swap(1, 2);
        assert!(!breaks(&swapped).is_empty());

        let (mut entry, _) = open(&all[1]).unwrap();
        let (_, first) = open(&all[0]).unwrap();
        entry.action = "do.nothing".into();
        let mut forged = all.clone();
        forged[1] = seal(entry, Some(&first)).0;
        assert!(matches!(
            breaks(&forged)[..],
            [Break::Previous { number: 3, .. }]
        ));
        let mut others = Chain::of("u");
        assert_eq!(others.follow(&all[0]), Err(Break::Tenant { number: 1 }));
    }

    #[test]
    fn what_is_no_entry_is_told() {
        for bytes in [&b""[..], &[0; 34], &[0xff; 80], &SEAL] {
            assert_eq!(open(bytes), Err(Break::NoEntry));
        }
    }
}
