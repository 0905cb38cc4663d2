//! What is in force, and what it leaves in a record and costs a message.

use std::time::{Duration, Instant};

use prost::Message as _;

use super::journal::Change;
use super::tests::{applied, bound, compiled, registered};
use crate::broker::{Identity, Role, Tenant, Topics};
use crate::config::Config;
use crate::edge::metrics::Metrics;
use crate::edge::shield::judge::Judgement;
use crate::edge::shield::{Blocked, Message, Rules, Workshop};
use crate::proto::v1::{Envelope, Event, Verdict, envelope};
use crate::proto::view::EnvelopeView;

const FIRST: &str = "syntax = 'proto3'; package t; message M { string sku = 1; int32 n = 2; }";
const SECOND: &str =
    "syntax = 'proto3'; package t; message M { string sku = 1; int32 n = 2; bool gift = 3; }";

fn sender() -> Identity {
    Identity {
        tenant: Tenant::new("t").expect("a name"),
        subject: "tester".into(),
        role: Role::User,
        publish: Topics::All,
        subscribe: Topics::All,
        expires_at: None,
        issued_at: None,
        token_id: None,
        ends_by: None,
    }
}

fn encoded(topic: &str, headers: &[(&str, &str)], data: &[u8]) -> Vec<u8> {
    let event = Event {
        r#type: "made".into(),
        data: data.to_vec().into(),
    };
    let headers = headers
        .iter()
        .map(|&(name, value)| (name.into(), value.into()));
    let envelope = Envelope {
        topic: topic.into(),
        headers: headers.collect(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    envelope.encode_to_vec()
}

fn rules(changes: &[Change]) -> Rules {
    let config = Config::default();
    let workshop = Workshop::new(&config, &Metrics::new()).expect("a workshop");
    let mut rules = Rules::of_node(&config, &workshop).expect("rules");
    for change in changes {
        applied(&mut rules, change);
    }
    rules
}

/// The verdict that would be stored with the record.
fn judged(rules: &Rules, sender: &Identity, envelope: &[u8]) -> Result<Verdict, Blocked> {
    let view = EnvelopeView::parse(envelope).expect("an envelope");
    let message = Message {
        sender,
        topic: view.topic,
        view: &view,
        now_ms: 0,
    };
    let mut judgement = Judgement::default();
    judgement.pass(rules, &message)?;
    Ok(Verdict::decode(judgement.verdict()).expect("a verdict"))
}

// EDGE-13
#[test]
fn a_record_says_by_which_version_it_was_let_in() {
    let mut rules = rules(&[
        registered("orders", 1, &compiled(FIRST)),
        bound("orders.>", "orders"),
    ]);
    let sender = sender();
    let version = |rules: &Rules, headers: &[(&str, &str)], data: &[u8]| {
        let envelope = encoded("orders.new", headers, data);
        judged(rules, &sender, &envelope).map(|verdict| verdict.schema_version)
    };
    let (older, newer) = (b"\x0a\x02ab\x10\x07", b"\x0a\x02ab\x18\x01");
    assert_eq!(version(&rules, &[], older), Ok(1));
    assert!(version(&rules, &[], newer).is_err());
    applied(&mut rules, &registered("orders", 2, &compiled(SECOND)));
    assert_eq!(version(&rules, &[], older), Ok(2));
    assert_eq!(version(&rules, &[], newer), Ok(2));
    let named = [("schema-version", "1")];
    assert_eq!(version(&rules, &named, older), Ok(1));
    assert!(version(&rules, &named, newer).is_err());
    // Nothing is bound there, so no version says what it is.
    let elsewhere = judged(&rules, &sender, &encoded("other", &[], older));
    assert_eq!(elsewhere.expect("it is let in").schema_version, 0);
}

/// A bound so wide that a busy machine stays within it, and a search through all subjects does not.
// EDGE-13
#[test]
fn a_thousand_subjects_cost_a_message_what_one_does() {
    let descriptors = compiled(FIRST);
    let of = |subjects: usize| {
        let of_one = |subject| {
            let name = format!("orders.s{subject}");
            [
                registered(&name, 1, &descriptors),
                bound(&format!("{name}.>"), &name),
            ]
        };
        let changes: Vec<Change> = (0..subjects).flat_map(of_one).collect();
        rules(&changes)
    };
    let sender = sender();
    let envelope = encoded("orders.s0.new", &[], b"\x0a\x02ab\x10\x07");
    let took = |rules: &Rules| {
        let began = Instant::now();
        for _ in 0..200 {
            let verdict = judged(rules, &sender, &envelope).expect("it fits");
            assert_eq!(verdict.schema_version, 1);
        }
        began.elapsed()
    };
    let (one, thousand) = (of(1), of(1_000));
    // The fastest of several rounds, which take turns: what disturbs one is not the registry.
    let mut fastest = [Duration::MAX; 2];
    for _ in 0..9 {
        fastest[0] = fastest[0].min(took(&one));
        fastest[1] = fastest[1].min(took(&thousand));
    }
    assert!(fastest[1] < fastest[0] * 4, "{fastest:?}");
}
