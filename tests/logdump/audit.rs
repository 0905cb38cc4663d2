//! The audit chain, checked offline: a changed byte is found although every checksum of the log is
//! right, and a cut-off end as far as its head was kept elsewhere.

use std::path::Path;

use arqonbus::log::{Durability, NewRecord};
use arqonbus::proto::audit::{KIND, Link, SCHEMA, TOPIC, seal};
use arqonbus::proto::v1::{AuditEntry, Envelope, Event, envelope};
use bytes::Bytes;
use prost::Message as _;

use crate::made::{Made, change, copy, logdump, record, segments};

const ENTRIES: u64 = 30;

/// The entries of a chain as stored, and its end.
fn chain() -> (Vec<Vec<u8>>, Link) {
    let (mut last, mut all) = (None, Vec::new());
    for number in 1..=ENTRIES {
        let entry = AuditEntry {
            tenant: "t".into(),
            subject: "ada".into(),
            action: format!("reality.create.{number:03}"),
            ..AuditEntry::default()
        };
        let (bytes, link) = seal(entry, last.as_ref());
        all.push(bytes.to_vec());
        last = Some(link);
    }
    (all, last.unwrap())
}

fn stored(data: &[u8]) -> NewRecord {
    let envelope = Envelope {
        topic: TOPIC.to_owned(),
        schema: SCHEMA.to_owned(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: KIND.to_owned(),
            data: data.to_vec().into(),
        })),
        ..Envelope::default()
    };
    NewRecord {
        topic: Bytes::from_static(TOPIC.as_bytes()),
        envelope: envelope.encode_to_vec().into(),
        ..record(1)
    }
}

/// A log with these entries and other records between them, every checksum of which is right.
fn log(dir: &Path, entries: &[Vec<u8>]) {
    let made = Made::open(dir, 64 << 10);
    for (entry, other) in entries.iter().zip(1..) {
        made.batch(vec![stored(entry), record(other)], Durability::Synced);
    }
    made.close();
}

fn verify(dir: &Path, more: &[&str]) -> (i32, serde_json::Value) {
    let dir = dir.to_str().unwrap();
    let run = logdump(&[&["verify", dir, "--output", "json"], more].concat());
    (run.code, run.json())
}

fn found(verified: &serde_json::Value) -> Vec<String> {
    let findings = verified["logs"][0]["findings"].as_array().unwrap();
    let what = findings.iter().map(|one| one["what"].as_str().unwrap());
    what.map(str::to_owned).collect()
}

// BRK-13
#[test]
fn a_whole_chain_is_well_and_its_head_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (entries, head) = chain();
    log(dir.path(), &entries);
    let (code, verified) = verify(dir.path(), &[]);
    assert_eq!((code, &verified["ok"]), (0, &true.into()), "{verified}");
    let audit = &verified["logs"][0]["audit"];
    assert_eq!(
        (&audit["entries"], &audit["first"]),
        (&ENTRIES.into(), &1.into())
    );
    assert_eq!(audit["hash"], head.hex());
    let text = logdump(&["verify", dir.path().to_str().unwrap()]).stdout;
    assert!(text.contains(&format!("head {}", head.hex())), "{text}");
    let (code, _) = verify(dir.path(), &["--audit-head", &head.hex()]);
    assert_eq!(code, 0);
    let bad = logdump(&["verify", "x", "--audit-head", "abc"]);
    assert!(bad.stderr.contains("64 digits"), "{}", bad.stderr);
}

// BRK-13: somebody rewrites the log with another subject in one entry: all checksums are right.
#[test]
fn a_changed_byte_is_found_although_every_checksum_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let (entries, _) = chain();
    for which in [0, 13, entries.len() - 1] {
        let mut forged = entries.clone();
        let at = forged[which].windows(3).position(|three| three == b"ada");
        forged[which][at.unwrap()] = b'e';
        let forged_log = dir.path().join(format!("changed-{which}"));
        log(&forged_log, &forged);
        let (code, verified) = verify(&forged_log, &[]);
        assert_eq!(code, 1, "{verified}");
        assert_eq!(found(&verified), ["hash of the audit entry"], "{which}");
    }
    // The entry's own hash made right, too: then the one behind it tells.
    let mut forged = entries.clone();
    let mut entry = AuditEntry::decode(entries[13].as_slice()).unwrap();
    let before = AuditEntry::decode(entries[12].as_slice()).unwrap();
    entry.subject = "eve".into();
    let link = Link {
        number: before.number,
        hash: before.hash.as_ref().try_into().unwrap(),
    };
    forged[13] = seal(entry, Some(&link)).0.to_vec();
    let forged_log = dir.path().join("sealed-again");
    log(&forged_log, &forged);
    let (code, verified) = verify(&forged_log, &[]);
    assert_eq!(
        (code, found(&verified)),
        (1, vec!["hash of the audit entry before".to_owned()])
    );
    // One taken out.
    let gone = [&entries[..5], &entries[6..]].concat();
    let gone_log = dir.path().join("gone");
    log(&gone_log, &gone);
    let (code, verified) = verify(&gone_log, &[]);
    assert_eq!(
        (code, found(&verified)),
        (1, vec!["number of the audit entry".to_owned()])
    );
    // One replaced by what is none.
    let mut none = entries.clone();
    none[7] = b"nothing was done".to_vec();
    let none_log = dir.path().join("none");
    log(&none_log, &none);
    let (code, verified) = verify(&none_log, &[]);
    assert_eq!(code, 1);
    assert!(
        found(&verified).contains(&"audit entry".to_owned()),
        "{verified}"
    );
}

// BRK-13: without anything made right the log's own checksums tell.
#[test]
fn a_byte_that_is_merely_changed_is_found_too() {
    let dir = tempfile::tempdir().unwrap();
    let (entries, _) = chain();
    let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
    log(&good, &entries);
    copy(&good, &bad);
    let segment = &segments(&bad)[0];
    let name = b"reality.create.014";
    change(segment, |bytes| {
        let at = bytes.windows(name.len()).position(|some| some == name);
        bytes[at.unwrap()] ^= 1;
    });
    let (code, verified) = verify(&bad, &[]);
    assert_eq!(code, 1, "{verified}");
    assert!(!found(&verified).is_empty());
}

// BRK-13: what was cut off leaves a chain that is whole; the head that was kept shows it.
#[test]
fn a_cut_off_end_is_shown_by_a_head_that_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (entries, head) = chain();
    log(dir.path(), &entries[..20]);
    let (code, _) = verify(dir.path(), &[]);
    assert_eq!(code, 0, "nothing else can tell");
    let (code, verified) = verify(dir.path(), &["--audit-head", &head.hex()]);
    assert_eq!((code, &verified["audit_head"]["found"]), (1, &false.into()));
    // An older head is still in it.
    let kept = AuditEntry::decode(entries[9].as_slice()).unwrap();
    let kept = arqonbus::proto::audit::hex(&kept.hash);
    let (code, verified) = verify(dir.path(), &["--audit-head", &kept]);
    assert_eq!((code, &verified["audit_head"]["found"]), (0, &true.into()));
}
