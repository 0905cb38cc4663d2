//! Messages that wait in a real log, for a clock that is set.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use prost::Message as _;
use serde_json::{Value as Json, json};

use super::*;
use crate::broker::accept::{Batch, Rejection};
use crate::broker::operators::testing::Desk;
use crate::broker::operators::{Settings, supervise};
use crate::log::{AppendError, AppendSink, Appended, Durability, Found};
use crate::proto::v1::{Envelope, Event, envelope};
use crate::proto::view::{EnvelopeView, RecordView};

const NOW_MS: i64 = 1_771_545_600_000;

#[derive(Debug)]
struct Ear(Sender<Result<Appended, AppendError>>);

impl AppendSink for Ear {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        self.0.send(outcome).unwrap_or_default();
    }
}

fn message(topic: &str, text: &str, deliver_at: i64) -> Envelope {
    Envelope {
        topic: topic.into(),
        deliver_at,
        headers: [("content-type".to_owned(), "application/json".to_owned())].into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "said".into(),
            data: json!(text).to_string().into(),
        })),
        ..Envelope::default()
    }
}

/// Produces as a session does.
fn produce(desk: &Desk, envelopes: &[Envelope]) -> Result<u64, Rejection> {
    let main = desk.main();
    let mut batch = Batch::new(&main, &desk.who, envelopes.len());
    for envelope in envelopes {
        let encoded = bytes::Bytes::from(envelope.encode_to_vec());
        let view = EnvelopeView::parse(&encoded).unwrap();
        let admitted = batch.admit(&encoded, &view, None)?;
        batch.take(admitted, &view, encoded.clone(), &[]);
    }
    if batch.delayed() > 0 {
        announce(&desk.broker, &desk.tenancy(), &main, batch.delayed()).unwrap();
    }
    let (tell, told) = channel();
    let sink = Arc::new(Ear(tell));
    main.append(batch, Durability::Synced, None, sink, 0)
        .unwrap();
    main.start();
    Ok(told.recv().unwrap().unwrap().first.get())
}

/// Lets the node's operators work until `done`.
fn work(desk: &Desk, done: impl Fn() -> bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    // As when the tenant is opened.
    desk.broker.duties().wake(&desk.who.tenant, NAME);
    runtime.block_on(async {
        let (close, closing) = tokio::sync::watch::channel(false);
        let working = tokio::spawn(supervise(Arc::clone(&desk.broker), closing));
        let began = std::time::Instant::now();
        while !done() {
            assert!(began.elapsed().as_secs() < 60, "not done in time");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        close.send_replace(true);
        working.await.unwrap();
    });
}

/// What stands on a topic: text and the header that names the original.
fn said(desk: &Desk, topic: &str) -> Vec<(String, String)> {
    let log = desk.main().log();
    let (mut at, end) = (log.bounds().first, log.bounds().durable_end);
    let mut found = Vec::new();
    while let Ok(Found::Records(chunk)) = log.read(at, end, 1 << 20) {
        for record in chunk.iter().filter(|record| record.topic == topic) {
            let view = RecordView::parse(record.record).unwrap();
            let text: Json = serde_json::from_slice(view.envelope.payload.data()).unwrap();
            let from = view
                .envelope
                .headers
                .get("arqon-delayed")
                .unwrap_or_default();
            assert_eq!(view.producer(), "ada");
            found.push((text.as_str().unwrap().to_owned(), from.to_owned()));
        }
        at = chunk.last.next();
    }
    found
}

fn texts(desk: &Desk, topic: &str) -> Vec<String> {
    said(desk, topic)
        .into_iter()
        .map(|(text, _)| text)
        .collect()
}

// BRK-08: in the order of their times, those of one time in the order in which they came; once.
#[test]
fn a_message_is_delivered_when_its_time_has_come_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(dir.path(), Settings::default());
    let later = |text: &str, ms: i64| message("a.b", text, NOW_MS + ms);
    let first = produce(
        &desk,
        &[
            later("third", 2_000),
            later("first", 1_000),
            later("second", 1_000),
        ],
    )
    .unwrap();
    produce(
        &desk,
        &[message("a.b", "now", 0), message("a.b", "past", NOW_MS)],
    )
    .unwrap();
    assert_eq!(texts(&desk, "a.b"), ["now", "past"]);
    let listed = desk.ok("delayed.list", json!({}));
    let order: Vec<_> = listed["waiting"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [first + 1, first + 2, first]);
    desk.clock.pass(999);
    work(&desk, || true);
    assert_eq!(texts(&desk, "a.b").len(), 2);
    desk.clock.pass(1);
    work(&desk, || texts(&desk, "a.b").len() == 4);
    desk.clock.pass(60_000);
    work(&desk, || {
        desk.ok("delayed.list", json!({}))["waiting_in_all"] == 0
    });
    let all = said(&desk, "a.b");
    let wanted = ["now", "past", "first", "second", "third"];
    assert_eq!(all.iter().map(|(text, _)| text).collect::<Vec<_>>(), wanted);
    assert_eq!(all[2].1, (first + 1).to_string());
    // Nothing is left to do, and nothing is done twice.
    work(&desk, || !is_announced(&desk.main()));
    assert_eq!(texts(&desk, "a.b").len(), 5);
    produce(&desk, &[message("a.b", "again", NOW_MS + 70_000)]).unwrap();
    desk.clock.pass(60_000);
    work(&desk, || texts(&desk, "a.b").len() == 6);
}

// BRK-08
#[test]
fn what_waits_is_cancelled_by_who_sent_it_or_an_operator() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::new(dir.path(), Settings::default());
    let later = |text: &str| message("a", text, NOW_MS + 1_000);
    let first = produce(&desk, &[later("x"), later("y"), later("z")]).unwrap();
    assert_eq!(
        desk.ok("delayed.cancel", json!({"sequence": first}))["topic"],
        "a"
    );
    let not_found = ("NOT_FOUND", "arguments.sequence".to_owned());
    assert_eq!(
        desk.refused("delayed.cancel", json!({"sequence": first})),
        not_found
    );
    desk.who.subject = "eve".into();
    let second = json!({"sequence": first + 1});
    assert_eq!(desk.refused("delayed.cancel", second.clone()), not_found);
    desk.who.role = Role::Operator;
    desk.ok("delayed.cancel", second);
    desk.who.subject = "ada".into();
    desk.clock.pass(1_000);
    work(&desk, || texts(&desk, "a") == ["z"]);
}

// BRK-08, BRK-18
#[test]
fn what_may_not_wait_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let delayed = Limits {
        waiting_max: 2,
        ahead_max_ms: 10_000,
    };
    let settings = Settings {
        delayed,
        ..Settings::default()
    };
    let desk = Desk::new(dir.path(), settings);
    let refused = |envelope: Envelope| {
        let rejection = produce(&desk, &[envelope]).unwrap_err();
        (rejection.fault.code().as_str(), rejection.path())
    };
    let invalid = |field: &str| ("VALIDATION_ERROR", format!("envelopes[0].{field}"));
    assert_eq!(
        refused(message("a", "", NOW_MS + 10_001)),
        invalid("deliver_at")
    );
    assert_eq!(refused(message("a", "", -1)), invalid("deliver_at"));
    let expiring = |deliver_at: i64, expires_at: i64| Envelope {
        expires_at: NOW_MS + expires_at,
        ..message("a", "", NOW_MS + deliver_at)
    };
    assert_eq!(refused(expiring(2_000, 1_000)), invalid("deliver_at"));
    assert_eq!(refused(expiring(0, 0)), invalid("expires_at"));
    assert_eq!(
        refused(message(&"t".repeat(250), "", NOW_MS + 1)),
        invalid("topic")
    );
    produce(
        &desk,
        &[message("a", "", NOW_MS + 1), message("a", "", NOW_MS + 1)],
    )
    .unwrap();
    let full = refused(message("a", "", NOW_MS + 1));
    assert_eq!(full, ("TOO_LARGE", "envelopes[0].deliver_at".into()));
    desk.clock.pass(1);
    work(&desk, || texts(&desk, "a").len() == 2);
    produce(&desk, &[message("a", "", NOW_MS + 9)]).unwrap();
}

// BRK-08: what has expired while it waited is delivered to nobody.
#[test]
fn what_expires_while_it_waits_is_not_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(dir.path(), Settings::default());
    let short = Envelope {
        expires_at: NOW_MS + 2_000,
        ..message("a", "short", NOW_MS + 1_000)
    };
    produce(&desk, &[short, message("a", "long", NOW_MS + 1_000)]).unwrap();
    desk.clock.pass(5_000);
    work(&desk, || texts(&desk, "a") == ["long"]);
}

// BRK-08: what waits is a fold of the log, which another node that opens it comes to as well.
#[test]
fn what_waits_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let desk = Desk::new(dir.path(), Settings::default());
        produce(&desk, &[message("a", "x", NOW_MS + 1_000)]).unwrap();
    }
    let desk = Desk::new(dir.path(), Settings::default());
    assert_eq!(desk.ok("delayed.list", json!({}))["count"], 1);
    desk.clock.pass(1_000);
    work(&desk, || texts(&desk, "a") == ["x"]);
}
