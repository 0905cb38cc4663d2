//! Payloads as JSON, by the schemas that they were held against, for whoever keeps tables of them.
//!
//! A record says by which version it was let in. As long as that version is known it decides how
//! the payload is read; else the newest one that is bound to the record's topic does. What no
//! schema can read is JSON, or is not readable at all, which is said and never guessed.

use std::sync::{Arc, LazyLock};

use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use super::Schemas;
use super::subject::Subject;
use crate::broker::{Broker, Tenant};
use crate::edge::json::envelope::payload as of_older;
use crate::edge::shield::{Guard, Shield};
use crate::projections::projection::Payloads;
use crate::proto::json::Schemas as Contract;
use crate::proto::v1::Verdict;
use crate::proto::view::{Payload, RecordView};

/// The names and values of the JSON form of protobuf, with what is zero or empty too: a table is
/// asked for zero as for any other number.
const WHOLE: SerializeOptions = SerializeOptions::new().skip_default_fields(false);

/// The schemas of all tenants.
#[derive(Debug)]
pub struct Registered {
    broker: Arc<Broker>,
    shield: Arc<Shield>,
}

impl Registered {
    /// Reads by what `shield` has in force for tenants of `broker`.
    #[must_use]
    pub const fn new(broker: Arc<Broker>, shield: Arc<Shield>) -> Self {
        Self { broker, shield }
    }

    /// The guard of a tenant. Blocks on the disk if nobody uses the tenant.
    fn guard(&self, tenant: &str) -> Option<Arc<Guard>> {
        let tenant = Tenant::new(tenant).ok()?;
        self.shield.opened(&tenant).or_else(|| {
            let tenancy = self.broker.tenancy(&tenant).ok()?;
            Some(self.shield.open(&tenancy))
        })
    }
}

/// Must not be asked on a thread that may not wait.
impl Payloads for Registered {
    fn are_known(&self, tenant: &str) -> bool {
        self.guard(tenant).is_some_and(|guard| guard.is_ready())
    }

    fn to_json(&self, tenant: &str, record: &RecordView<'_>) -> Option<Value> {
        let schemas = self.guard(tenant)?.rules();
        schemas.schemas.to_json(record)
    }
}

impl Schemas {
    /// The payload of a record as JSON; `None` if it has none, or nothing is known to read it by.
    #[must_use]
    pub fn to_json(&self, record: &RecordView<'_>) -> Option<Value> {
        let envelope = &record.envelope;
        let data = match envelope.payload {
            Payload::Empty | Payload::Signal { .. } => return None,
            Payload::Command { data, .. } | Payload::Event { data, .. } => data,
        };
        if let Some(said) = of_older(record) {
            return Some(said);
        }
        let text = || serde_json::from_slice(data).ok();
        let by_schema = || self.read(record, data);
        let kind = envelope.headers.get("content-type");
        if kind.is_some_and(|kind| kind.contains("json")) {
            text().or_else(by_schema)
        } else {
            by_schema().or_else(text)
        }
    }

    fn read(&self, record: &RecordView<'_>, data: &[u8]) -> Option<Value> {
        let named = record.envelope.schema;
        let fits = |message: &MessageDescriptor| named.is_empty() || named == message.full_name();
        let verdict = record.verdict.and_then(|bytes| Verdict::decode(bytes).ok());
        let version = verdict.map_or(0, |verdict| verdict.schema_version);
        let subjects = self.subjects_of(record.topic);
        let let_in = subjects
            .iter()
            .filter_map(|subject| subject.version(version));
        let newest = subjects
            .iter()
            .filter_map(|subject| subject.versions.last());
        let_in
            .chain(newest)
            .filter_map(|version| version.definition.decoder())
            .filter(|message| fits(message))
            .find_map(|message| decoded(message.clone(), data))
            .or_else(|| of_contract(named, data))
    }

    /// Names of the subjects that payloads on a topic are held against.
    pub fn names_for(&self, topic: &str) -> impl Iterator<Item = &str> {
        let own = self.bindings.of(topic).into_iter();
        let of_node = self.files.of(topic).into_iter();
        let of_node = of_node.map(|(bound, _)| bound.subject.as_ref());
        own.map(|bound| bound.subject.as_ref()).chain(of_node)
    }

    /// What is bound to a topic; the tenant's own goes before the node's, as it does in verdicts.
    fn subjects_of(&self, topic: &str) -> Vec<&Subject> {
        let own = self.bindings.of(topic);
        let own = own.and_then(|bound| self.subjects.get(&bound.subject));
        let of_node = self.files.of(topic).map(|(_, subject)| subject);
        own.map(Arc::as_ref).into_iter().chain(of_node).collect()
    }
}

/// A message of ArqonBus itself, or one of the well-known ones.
fn of_contract(name: &str, data: &[u8]) -> Option<Value> {
    static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::builtin);
    if name.is_empty() {
        return None;
    }
    decoded(CONTRACT.message(name)?, data)
}

fn decoded(message: MessageDescriptor, data: &[u8]) -> Option<Value> {
    let message = DynamicMessage::decode(message, data).ok()?;
    let json = message.serialize_with_options(serde_json::value::Serializer, &WHOLE);
    json.ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::broker::Options;
    use crate::config::Config;
    use crate::edge::schema::journal::Change;
    use crate::edge::schema::tests::{EVERYTHING, applied, bound, compiled, registered};
    use crate::edge::shield::{Rules, Workshop};
    use crate::log::{Clock, Committer, Environment, Micros, RealStorage};
    use crate::proto::pybus::BusPayload;
    use crate::proto::v1::{Envelope, Event, Record, SystemSignal, envelope};

    const FIRST: &str =
        "syntax = 'proto3'; package t; message M { string sku = 1; int64 how_many = 2; }";
    const SECOND: &str = "syntax = 'proto3'; package t; message M { string sku = 1; int64 how_many = 2; string note = 3; }";
    const ORDER: &[u8] = b"\x0a\x02ab\x10\x07";

    fn rules(changes: &[Change]) -> Rules {
        let config = Config::default();
        let workshop = Workshop::new(&config, &crate::edge::metrics::Metrics::new()).unwrap();
        let mut rules = Rules::of_node(&config, &workshop).unwrap();
        for change in changes {
            applied(&mut rules, change);
        }
        rules
    }

    fn event(data: &[u8]) -> Envelope {
        let event = Event {
            r#type: "made".into(),
            data: data.to_vec().into(),
        };
        Envelope {
            payload: Some(envelope::Payload::Event(event)),
            ..Envelope::default()
        }
    }

    fn stored(topic: &str, version: u64, envelope: &Envelope) -> Vec<u8> {
        let verdict = Verdict {
            schema_version: version,
            ..Verdict::default()
        };
        Record {
            sequence: 1,
            topic: topic.into(),
            verdict: (version > 0).then_some(verdict),
            envelope: envelope.encode_to_vec().into(),
            ..Record::default()
        }
        .encode_to_vec()
    }

    fn read(rules: &Rules, topic: &str, version: u64, envelope: &Envelope) -> Option<Value> {
        let encoded = stored(topic, version, envelope);
        let record = RecordView::parse(&encoded).unwrap();
        rules.schemas.to_json(&record)
    }

    // PRJ-14: by the version that let it in, else by the newest; zeros are values.
    #[test]
    fn a_payload_is_read_by_the_version_that_let_it_in() {
        let rules = rules(&[
            registered("orders", 1, &compiled(FIRST)),
            registered("orders", 2, &compiled(SECOND)),
            bound("orders.>", "orders"),
        ]);
        let of = |version| read(&rules, "orders.new", version, &event(ORDER));
        let first = json!({"sku": "ab", "howMany": "7"});
        let second = json!({"sku": "ab", "howMany": "7", "note": ""});
        assert_eq!(of(1), Some(first));
        assert_eq!(of(2), Some(second.clone()));
        // From before it had a schema, or by one that is not known any more.
        assert_eq!(of(0), Some(second.clone()));
        assert_eq!(of(9), Some(second));
        let nothing = read(&rules, "orders.new", 1, &event(b""));
        assert_eq!(nothing, Some(json!({"sku": "", "howMany": "0"})));
        assert_eq!(read(&rules, "elsewhere", 0, &event(ORDER)), None);
    }

    // PRJ-14
    #[test]
    fn json_is_read_as_it_is() {
        let rules = rules(&[
            registered("orders", 1, &compiled(FIRST)),
            bound("orders.>", "orders"),
        ]);
        let payload = json!({"a": [1, "x"]});
        let envelope = event(payload.to_string().as_bytes());
        assert_eq!(read(&rules, "free", 0, &envelope), Some(payload.clone()));
        // The topic's schema was bound later.
        assert_eq!(read(&rules, "orders.new", 0, &envelope), Some(payload));
        for data in [b"".as_slice(), b"\xff", b"{"] {
            assert_eq!(read(&rules, "free", 0, &event(data)), None);
        }
        assert_eq!(read(&rules, "free", 0, &Envelope::default()), None);
    }

    #[test]
    fn what_an_envelope_names_is_not_read_as_something_else() {
        let rules = rules(&[
            registered("orders", 1, &compiled(FIRST)),
            bound("orders.>", "orders"),
        ]);
        let named = |schema: &str, data: &[u8]| Envelope {
            schema: schema.into(),
            ..event(data)
        };
        let of = |envelope: &Envelope| read(&rules, "orders.new", 0, envelope);
        assert!(of(&named("t.M", ORDER)).is_some());
        assert_eq!(of(&named("t.Other", ORDER)), None);
        let signal = SystemSignal {
            r#type: 0,
            reason: "spam".into(),
        };
        let signal = named("arqon.v1.SystemSignal", &signal.encode_to_vec());
        assert_eq!(of(&signal).unwrap()["reason"], "spam");
    }

    // PRJ-14: what came over JSON is what its sender wrote.
    #[test]
    fn a_message_of_an_older_client_is_what_it_wraps() {
        let text = prost_types::Value {
            kind: Some(prost_types::value::Kind::StringValue("hi".into())),
        };
        let wrapped = BusPayload {
            payload: Some(prost_types::Struct {
                fields: [("text".to_owned(), text)].into(),
            }),
            ..BusPayload::default()
        };
        let mut envelope = event(&wrapped.encode_to_vec());
        let header = ("envelope_type".to_owned(), "message".to_owned());
        envelope.headers = [header].into();
        let rules = rules(&[]);
        let found = read(&rules, "room.a.b", 0, &envelope);
        assert_eq!(found, Some(json!({"text": "hi"})));
    }

    #[derive(Debug)]
    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Micros {
            Micros(1_700_000_000_000_000)
        }
    }

    // PRJ-14: what a tenant has registered is read from its log, and is nobody else's.
    #[test]
    fn each_tenant_is_read_by_its_own_schemas() {
        let dir = TempDir::new().unwrap();
        let environment = Environment {
            storage: Arc::new(RealStorage),
            clock: Arc::new(Noon),
            committer: Committer::start(1),
        };
        let options = Options::new(dir.path().to_owned(), 1, "n1".into());
        let broker = Broker::start(environment, options).unwrap();
        let shield = Shield::new(&Config::default(), Arc::default()).unwrap();
        let acme = broker.tenancy(&Tenant::new("acme").unwrap()).unwrap();
        for change in [
            registered("orders", 1, &compiled(FIRST)),
            bound("orders.>", "orders"),
        ] {
            let guard = shield.open(&acme);
            guard.change(&acme, change.event()).unwrap();
        }
        // As after a start: nobody has used the tenant yet.
        let shield = Shield::new(&Config::default(), Arc::default()).unwrap();
        let payloads = Registered::new(broker, shield);
        let encoded = stored("orders.new", 1, &event(ORDER));
        let record = RecordView::parse(&encoded).unwrap();
        let found = payloads.to_json("acme", &record).unwrap();
        assert_eq!(found["howMany"], "7");
        assert_eq!(payloads.to_json("other", &record), None);
        assert_eq!(payloads.to_json("no tenant", &record), None);
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(data in proptest::collection::vec(any::<u8>(), 0..48)) {
            let rules = rules(&[
                registered("all", 1, &compiled(EVERYTHING)),
                bound("all", "all"),
            ]);
            let first = read(&rules, "all", 1, &event(&data));
            prop_assert_eq!(first, read(&rules, "all", 1, &event(&data)));
        }
    }
}
