//! The main job: real events in, and out again, from every point of the log.

use serde_json::Value;

use crate::shell::{EVENTS, Printed, earthquake_lines};
use crate::support::Node;

fn sequences(records: &[Printed]) -> Vec<u64> {
    records.iter().map(|record| record.sequence).collect()
}

fn range(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}

// MSG-03, MSG-15, BRK-03
#[test]
fn events_come_out_in_order_with_payloads_equal_to_the_lines() {
    let node = Node::dev().with_earthquakes();
    let records = node.records(&["consume", "usgs.*", "--stop-at-end"]);
    assert_eq!(sequences(&records), range(1..=EVENTS as u64));
    for (record, line) in records.iter().zip(earthquake_lines()) {
        assert_eq!(record.payload.get(), line, "#{}", record.sequence);
        assert_eq!(record.topic, "usgs.quake");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(record.key.as_deref(), event["id"].as_str());
    }
}

// MSG-02, MSG-06, MSG-09, MSG-15
#[test]
fn every_record_shows_all_that_the_contract_names() {
    let node = Node::dev().with_earthquakes();
    let text = node.ok(&["consume", ">", "--limit", "1", "--output", "json"]);
    let record: serde_json::Map<String, Value> = serde_json::from_str(&text).expect("one object");
    let keys: Vec<&str> = record.keys().map(String::as_str).collect();
    let first = [
        "sequence",
        "appended_at",
        "topic",
        "id",
        "tenant",
        "reality",
        "producer",
        "key",
        "clock",
        "headers",
        "payload",
    ];
    assert_eq!(&keys[..first.len()], first);
    let id = uuid::Uuid::parse_str(record["id"].as_str().expect("text")).expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(
        (&record["tenant"], &record["reality"]),
        (&"dev".into(), &"main".into())
    );
    assert_eq!(record["producer"], "admin");
    assert_eq!(record["headers"]["content-type"], "application/json");
    let clock = record["clock"].as_object().expect("an object");
    assert!(clock.values().any(|counter| counter == 1), "{clock:?}");
    let time = record["appended_at"].as_str().expect("text");
    assert_eq!(time.len(), "2018-01-31T01:49:59.650001Z".len(), "{time}");
    assert!(
        time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(),
        "{time}"
    );
}

// MSG-03, BRK-03
#[test]
fn replay_gives_exactly_the_range_asked_for() {
    let node = Node::dev().with_earthquakes();
    let replayed = |arguments: &[&str]| {
        sequences(&node.records(&[&["replay", ">", "--from"], arguments].concat()))
    };
    assert_eq!(replayed(&["1000"]), range(1000..=1707));
    assert_eq!(replayed(&["1000", "--to", "1010"]), range(1000..=1010));
    assert_eq!(replayed(&["1707"]), [1707]);
    assert_eq!(replayed(&["earliest", "--to", "3"]), [1, 2, 3]);
    let all = node.records(&["consume", ">", "--stop-at-end"]);
    let time = all[1200].rest["appended_at"]
        .as_str()
        .expect("text")
        .to_owned();
    let since = replayed(&[&time]);
    let first = all
        .iter()
        .find(|record| record.rest["appended_at"] == time.as_str());
    assert_eq!(since.first(), first.map(|record| &record.sequence));
    assert_eq!(since.last(), Some(&1707));
    let until = replayed(&["earliest", "--to", &time]);
    let last = all
        .iter()
        .rfind(|record| record.rest["appended_at"] == time.as_str());
    assert_eq!(until.last(), last.map(|record| &record.sequence));
}

// BRK-04
#[test]
fn named_consumer_goes_on_where_it_stopped() {
    let node = Node::dev().with_earthquakes();
    let consume = |more: &[&str]| {
        let base = [
            "consume",
            "usgs.>",
            "--consumer",
            "reader",
            "--from",
            "earliest",
        ];
        sequences(&node.records(&[&base, more].concat()))
    };
    let half = consume(&["--limit", "853"]);
    let rest = consume(&["--stop-at-end"]);
    assert_eq!([half, rest].concat(), range(1..=1707));
    assert_eq!(consume(&["--stop-at-end"]), Vec::<u64>::new());
    let listed = node.ok(&["consumers", "list", "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed["consumer"], "reader", "{listed}");
}

// BRK-01
#[test]
fn filters_choose_topics() {
    let node = Node::dev();
    for topic in ["a.b", "a.b.c", "x"] {
        assert_eq!(node.run_with_input(&["produce", topic], "1\n").code, 0);
    }
    let seen = |filter: &str| sequences(&node.records(&["consume", filter, "--stop-at-end"]));
    assert_eq!(seen("a.*"), [1]);
    assert_eq!(seen("a.>"), [1, 2]);
    assert_eq!(seen("*"), [3]);
    assert_eq!(seen(">"), [1, 2, 3]);
    assert_eq!(seen("nothing"), Vec::<u64>::new());
}

// BRK-03
#[test]
fn empty_log_ends_at_once() {
    let node = Node::dev();
    assert_eq!(node.ok(&["consume", ">", "--stop-at-end"]), "");
    let ran = node.run_with_input(&["produce", "a", "--output", "json"], "");
    assert_eq!(ran.stdout.trim(), r#"{"count":0,"first":null,"last":null}"#);
}
