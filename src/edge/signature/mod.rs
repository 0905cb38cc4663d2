//! Whose payloads must be signed (EDGE-20).
//!
//! A signature is Ed25519 over the payload's bytes, the `data` of the command or event, as the
//! envelope carries them. Producers are known by their keys, of which one may have several while
//! they are changed. Whoever has a key is spoken for by nobody else: a token whose subject is
//! another name must sign what it sends in that producer's name, whether the topic asks for it or
//! not. Must not know where private keys are.

mod command;

use std::collections::BTreeMap;

use prost::Message as _;
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

pub use self::command::COMMANDS;
use crate::broker::accept::PRODUCER_BYTES_MAX;
use crate::broker::journal::Event;
use crate::broker::{Filter, name};
use crate::edge::shield::{Blocked, Fault, Findings, Message};
use crate::proto::ErrorCode;
use crate::proto::v1::{SignatureKey, SignatureRequirement};

const KEY_PREFIX: &str = "sys.edge.signature.key.";
const REQUIRED_PREFIX: &str = "sys.edge.signature.required.";
const KEY_BYTES: usize = 32;
/// Keys of one producer: each costs a verification of a message that none of them has signed.
const KEYS_OF_ONE_MAX: usize = 4;
/// Producers with keys, of one tenant.
const PRODUCERS_MAX: usize = 10_000;
/// Patterns of topics that want signatures, of one tenant.
const REQUIREMENTS_MAX: usize = 256;
/// What the verdict says of a message whose signature was good.
const FLAG: &str = "signed";

type PublicKey = [u8; KEY_BYTES];

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Signatures {
    /// Never an empty list.
    keys: BTreeMap<String, Vec<PublicKey>>,
    required: BTreeMap<String, Filter>,
}

impl Signatures {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        let undecodable = |error| {
            let text = format!("the event does not hold what its topic says: {error}");
            Fault::invalid("", text)
        };
        if event.topic.starts_with(KEY_PREFIX) {
            let key = SignatureKey::decode(event.data).map_err(undecodable)?;
            return self.apply_key(&key, event.topic);
        }
        if event.topic.starts_with(REQUIRED_PREFIX) {
            let rule = SignatureRequirement::decode(event.data).map_err(undecodable)?;
            return self.apply_requirement(&rule, event.topic);
        }
        let text = format!("{} is nothing that this version knows", event.topic);
        Err(Fault::new(ErrorCode::FeatureDisabled, "", text))
    }

    fn apply_key(&mut self, key: &SignatureKey, topic: &str) -> Result<(), Fault> {
        let public: PublicKey = key
            .public_key
            .as_ref()
            .try_into()
            .map_err(|_wrong_length| {
                let text = format!(
                    "an Ed25519 public key has {KEY_BYTES} bytes, and this has {}",
                    key.public_key.len()
                );
                Fault::invalid("arguments.public_key", text)
            })?;
        let (field, producer) = ("arguments.producer", &key.producer);
        if producer.is_empty() || producer.len() > PRODUCER_BYTES_MAX {
            let text = format!("a producer's name has 1 to {PRODUCER_BYTES_MAX} bytes");
            return Err(Fault::invalid(field, text));
        }
        if topic != key_topic(producer, &public) {
            let text = format!("the key stands on another topic: {topic}");
            return Err(Fault::invalid(field, text));
        }
        let full = |what: String| Err(Fault::new(ErrorCode::TooLarge, field, what));
        if key.removed {
            if let Some(keys) = self.keys.get_mut(producer) {
                keys.retain(|known| *known != public);
                if keys.is_empty() {
                    self.keys.remove(producer);
                }
            }
            return Ok(());
        }
        let producers = self.keys.len();
        match self.keys.get_mut(producer) {
            Some(keys) if keys.contains(&public) => {}
            Some(keys) if keys.len() >= KEYS_OF_ONE_MAX => {
                return full(format!(
                    "{producer} has {KEYS_OF_ONE_MAX} keys, and may not have more; remove one"
                ));
            }
            Some(keys) => keys.push(public),
            None if producers >= PRODUCERS_MAX => {
                return full(format!(
                    "{PRODUCERS_MAX} producers have keys, and more may not"
                ));
            }
            None => {
                self.keys.insert(producer.clone(), vec![public]);
            }
        }
        Ok(())
    }

    fn apply_requirement(&mut self, rule: &SignatureRequirement, topic: &str) -> Result<(), Fault> {
        let field = "arguments.topics";
        let filter = Filter::new(&rule.topics);
        let filter = filter.map_err(|fault| Fault::invalid(field, fault.to_string()))?;
        if topic != required_topic(&rule.topics) {
            let text = format!("the requirement stands on another topic: {topic}");
            return Err(Fault::invalid(field, text));
        }
        if rule.removed {
            self.required.remove(&rule.topics);
            return Ok(());
        }
        if !self.required.contains_key(&rule.topics) && self.required.len() >= REQUIREMENTS_MAX {
            let text = format!("{REQUIREMENTS_MAX} patterns want signatures, and more may not");
            return Err(Fault::new(ErrorCode::TooLarge, field, text));
        }
        self.required.insert(rule.topics.clone(), filter);
        Ok(())
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }

    /// How many patterns of topics want signatures.
    #[must_use]
    pub fn requirements(&self) -> usize {
        self.required.len()
    }

    /// Whether there is nothing to check.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.keys.is_empty() && self.required.is_empty()
    }

    /// Checks a message's signature.
    ///
    /// # Errors
    /// It is missing or wrong.
    pub fn check(&self, message: &Message<'_>, findings: &mut Findings) -> Result<(), Blocked> {
        let blocked = |reason, text: &str| {
            Err(Blocked::new(ErrorCode::PolicyBlocked, reason, text).at("signature"))
        };
        let required = self
            .required
            .values()
            .any(|filter| filter.governs(message.topic));
        let producer = message.producer();
        let view = message.view;
        let Some(keys) = self.keys.get(producer) else {
            if !required {
                // Nobody here can tell whether it is good; it is stored as it is.
                return Ok(());
            }
            return blocked(
                "signature.unknown_key",
                "this topic takes signed messages only, and no key of this producer is known; an admin registers it with edge.signature.key.set",
            );
        };
        if !view.signature.is_empty() {
            let data = view.payload.data();
            // A signature over nothing could be taken from any message without data.
            let good = !data.is_empty()
                && keys.iter().any(|key| {
                    let key = UnparsedPublicKey::new(&ED25519, key);
                    key.verify(data, view.signature).is_ok()
                });
            if good {
                findings.flags.push(FLAG.into());
                return Ok(());
            }
            return blocked(
                "signature.bad",
                "the signature is not one of this producer over this payload; sign the payload's `data` with Ed25519",
            );
        }
        if required {
            return blocked(
                "signature.missing",
                "this topic takes signed messages only; sign the payload's `data` with Ed25519",
            );
        }
        if producer != message.sender.subject {
            return blocked(
                "signature.impersonation",
                "this producer has a key, and only what is signed with it may be sent in its name",
            );
        }
        Ok(())
    }
}

/// Short name of a key: the first eight bytes of its SHA-256, in hex.
fn key_id(key: &PublicKey) -> String {
    hex(&Sha256::digest(key), 8)
}

fn hex(bytes: &[u8], len: usize) -> String {
    let bytes = bytes.iter().take(len);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Where a key's events stand. A producer's name that is no token of a topic, or too long for one,
/// is hashed; `~` begins nothing else.
fn key_topic(producer: &str, key: &PublicKey) -> String {
    let plain = producer.len() <= 64
        && !producer.starts_with('~')
        && !producer.contains('.')
        && name::check_topic(producer).is_ok();
    let token = if plain {
        producer.to_owned()
    } else {
        format!("~{}", hex(&Sha256::digest(producer.as_bytes()), 16))
    };
    format!("{KEY_PREFIX}{token}.{}", key_id(key))
}

/// Where the events of a requirement stand: wildcards are no part of a topic.
fn required_topic(pattern: &str) -> String {
    let hash = hex(&Sha256::digest(pattern.as_bytes()), 16);
    format!("{REQUIRED_PREFIX}{hash}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;
    use crate::broker::{Identity, Role, Tenant, Topics};
    use crate::log::{Micros, Sequence};
    use crate::proto::v1::{self, Envelope, envelope};
    use crate::proto::view::EnvelopeView;

    fn pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn public(pair: &Ed25519KeyPair) -> PublicKey {
        pair.public_key().as_ref().try_into().unwrap()
    }

    fn set(
        signatures: &mut Signatures,
        producer: &str,
        key: &PublicKey,
        removed: bool,
    ) -> Result<(), Fault> {
        let message = SignatureKey {
            producer: producer.into(),
            public_key: Bytes::copy_from_slice(key),
            removed,
            by: String::new(),
        };
        signatures.apply(&Event {
            sequence: Sequence::FIRST,
            at: Micros(0),
            topic: &key_topic(producer, key),
            kind: "",
            data: &message.encode_to_vec(),
        })
    }

    fn require(signatures: &mut Signatures, topics: &str, removed: bool) -> Result<(), Fault> {
        let message = SignatureRequirement {
            topics: topics.into(),
            removed,
            by: String::new(),
        };
        signatures.apply(&Event {
            sequence: Sequence::FIRST,
            at: Micros(0),
            topic: &required_topic(topics),
            kind: "",
            data: &message.encode_to_vec(),
        })
    }

    /// What is said of a message of `subject`, naming `producer`: its flags, or why it is refused.
    fn judged(
        signatures: &Signatures,
        (subject, producer): (&str, &str),
        topic: &str,
        signature: &[u8],
    ) -> Result<Vec<String>, &'static str> {
        let envelope = Envelope {
            producer_id: producer.into(),
            signature: Bytes::copy_from_slice(signature),
            payload: Some(envelope::Payload::Event(v1::Event {
                r#type: "t".into(),
                data: Bytes::from_static(b"payload"),
            })),
            ..Envelope::default()
        };
        let bytes = envelope.encode_to_vec();
        let sender = Identity {
            tenant: Tenant::new("t").unwrap(),
            subject: subject.into(),
            role: Role::User,
            publish: Topics::All,
            subscribe: Topics::All,
            expires_at: None,
            issued_at: None,
            token_id: None,
            ends_by: None,
        };
        let message = Message {
            sender: &sender,
            topic,
            view: &EnvelopeView::parse(&bytes).unwrap(),
            now_ms: 0,
        };
        let mut findings = Findings::default();
        match signatures.check(&message, &mut findings) {
            Ok(()) => Ok(findings.flags.iter().map(ToString::to_string).collect()),
            Err(blocked) => {
                assert_eq!(blocked.code, ErrorCode::PolicyBlocked);
                assert_eq!(blocked.field, "signature");
                Err(blocked.reason)
            }
        }
    }

    // EDGE-20
    #[test]
    fn every_combination_of_key_requirement_and_signature_has_one_answer() {
        let (old, new, other) = (pair(1), pair(2), pair(3));
        let good = new.sign(b"payload");
        let mut signatures = Signatures::default();
        assert!(signatures.is_idle());
        set(&mut signatures, "svc", &public(&old), false).unwrap();
        set(&mut signatures, "svc", &public(&new), false).unwrap();
        require(&mut signatures, "pay.>", false).unwrap();
        let signed = Ok(vec![FLAG.to_owned()]);
        let (own, named) = (("svc", ""), ("ann", "svc"));
        for (from, topic, signature, expected) in [
            // Known producer.
            (own, "pay.a", good.as_ref(), signed.clone()),
            (own, "pay.a", old.sign(b"payload").as_ref(), signed.clone()),
            (own, "pay.a", b"".as_slice(), Err("signature.missing")),
            (own, "free", b"", Ok(vec![])),
            (own, "free", good.as_ref(), signed.clone()),
            (
                own,
                "free",
                other.sign(b"payload").as_ref(),
                Err("signature.bad"),
            ),
            (
                own,
                "free",
                new.sign(b"other").as_ref(),
                Err("signature.bad"),
            ),
            (own, "free", &good.as_ref()[..63], Err("signature.bad")),
            // Somebody else in its name.
            (named, "free", b"", Err("signature.impersonation")),
            (named, "free", good.as_ref(), signed.clone()),
            (named, "pay.a", b"", Err("signature.missing")),
            // A producer without a key.
            (("ann", ""), "free", good.as_ref(), Ok(vec![])),
            (
                ("ann", ""),
                "pay.a",
                good.as_ref(),
                Err("signature.unknown_key"),
            ),
            (
                ("svc", "ann"),
                "pay.a",
                good.as_ref(),
                Err("signature.unknown_key"),
            ),
        ] {
            let found = judged(&signatures, from, topic, signature);
            assert_eq!(found, expected, "{from:?} {topic} {signature:?}");
        }
        // Rotation: the old key is taken back, the new one stays.
        set(&mut signatures, "svc", &public(&old), true).unwrap();
        let outdated = old.sign(b"payload");
        assert_eq!(
            judged(&signatures, own, "free", outdated.as_ref()),
            Err("signature.bad")
        );
        assert_eq!(judged(&signatures, own, "pay.a", good.as_ref()), signed);
        set(&mut signatures, "svc", &public(&new), true).unwrap();
        assert_eq!(
            judged(&signatures, own, "pay.a", good.as_ref()),
            Err("signature.unknown_key")
        );
        require(&mut signatures, "pay.>", true).unwrap();
        assert!(signatures.is_idle());
    }

    // EDGE-20
    #[test]
    fn keys_are_bounded_and_stand_on_topics_of_their_own() {
        let mut signatures = Signatures::default();
        for seed in 0..4 {
            set(&mut signatures, "svc", &[seed; 32], false).unwrap();
        }
        set(&mut signatures, "svc", &[3; 32], false).expect("it is there already");
        let full = set(&mut signatures, "svc", &[9; 32], false).unwrap_err();
        assert_eq!(full.code, ErrorCode::TooLarge);
        for producer in ["a.b", "~a", "ü", &"x".repeat(255), "a b", ">"] {
            let topic = key_topic(producer, &[1; 32]);
            assert!(topic.starts_with("sys.edge.signature.key.~"), "{topic}");
            name::check_topic(&topic).expect(producer);
        }
        let topic = key_topic("svc-1", &[1; 32]);
        assert!(
            topic.starts_with("sys.edge.signature.key.svc-1."),
            "{topic}"
        );
        assert!(set(&mut signatures, "", &[1; 32], false).is_err());
        assert!(require(&mut signatures, "a.>.b", false).is_err());
        assert_eq!((signatures.keys(), signatures.requirements()), (4, 0));
    }
}
