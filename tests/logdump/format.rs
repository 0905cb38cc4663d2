//! The examples of `docs/log-format.md` are what the library writes and what `logdump` shows.

use std::path::Path;

use arqonbus::log::{Durability, NewRecord};
use arqonbus::proto::v1::{Envelope, Event, envelope};
use bytes::Bytes;
use prost::Message as _;

use crate::made::{Made, logdump};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/log-format.md");

/// The log of the document, and where the mark of its clean close stands.
fn example(dir: &Path) -> usize {
    let made = Made::open(dir, 16 << 10);
    let event = Event {
        r#type: "quake".to_owned(),
        data: r#"{"mag":4.1}"#.into(),
    };
    let envelope = Envelope {
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    let mut stamp = vec![0x2a, 16];
    stamp.extend_from_slice(b"\x01\x61\x49\xe5\x1c\x12\x70\0\x80\0\0\0\0\0\0\x01");
    stamp.extend_from_slice(b"\x32\x04usgs");
    let record = NewRecord {
        topic: Bytes::from_static(b"quake.ak"),
        clock_entries: Bytes::new(),
        stamp: stamp.into(),
        envelope: envelope.encode_to_vec().into(),
    };
    made.batch(vec![record], Durability::Synced);
    made.log.close().unwrap();
    let bytes = std::fs::read(dir.join("00000000000000000001.seg")).unwrap();
    bytes
        .windows(4)
        .rposition(|window| window == b"AQB\x01")
        .unwrap()
}

// TOOL-12: the worked example of the document.
#[test]
fn the_documents_examples_are_what_the_library_writes() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("dev/main");
    let close = example(&log).to_string();
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let mut written = String::new();
    let mut examples = 0;
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        written.push_str(line);
        written.push('\n');
        let command = line
            .strip_prefix("<!-- example: ")
            .and_then(|rest| rest.strip_suffix(" -->"));
        let Some(command) = command else { continue };
        examples += 1;
        let arguments: Vec<String> = command
            .split(' ')
            .map(|word| match word {
                "CLOSE" => close.clone(),
                file if file.ends_with(".seg") => log.join(file).display().to_string(),
                other => other.to_owned(),
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = logdump(&arguments);
        assert_eq!(run.code, 0, "{}", run.stderr);
        written.push_str(lines.next().unwrap());
        written.push('\n');
        written.push_str(&run.stdout);
        written.push_str("```\n");
        assert!(
            lines.any(|line| line == "```"),
            "the block of {command} has no end"
        );
    }
    assert_eq!(examples, 2);
    if std::env::var_os("UPDATE").is_some() {
        #[expect(
            clippy::disallowed_methods,
            reason = "a source file, under version control"
        )]
        std::fs::write(DOCUMENT, &written).unwrap();
        return;
    }
    assert!(
        written == document,
        "UPDATE=1 writes the examples of docs/log-format.md as they are now"
    );
}
