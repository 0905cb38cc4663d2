//! EDGE-24: what an attacker sends, and exactly how it is answered.
//!
//! Every case is played over a real socket against the built node, and says what it saw in a few
//! words: an HTTP status with its reason, a close code with its reason, or the code of an Error.
//! Those words are compared with the table in `docs/security.md`, which `UPDATE=1` writes anew.

mod admin;
mod frames;
mod handshake;
mod json;
mod rates;
pub(crate) mod requests;
mod shield;
mod tenants;
mod tokens;

use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;

use crate::raw::{Request, read_frame};
use crate::support::{Node, write};

/// One attack.
struct Case {
    /// What is sent.
    attack: &'static str,
    /// What must be seen.
    outcome: &'static str,
    /// Plays it and says what was seen.
    play: Box<dyn Fn(&Stage) -> String>,
}

/// Attacks of a kind, numbered in the order given.
struct Group {
    /// Letter before the number of each.
    letter: char,
    title: &'static str,
    cases: Vec<Case>,
}

fn case(
    attack: &'static str,
    outcome: &'static str,
    play: impl Fn(&Stage) -> String + 'static,
) -> Case {
    let play = Box::new(play);
    Case {
        attack,
        outcome,
        play,
    }
}

/// The nodes that are attacked.
struct Stage {
    /// With small messages.
    node: Node,
    token: String,
    /// With something of everything that the edge can have in force, for the tenant `acme`.
    guarded: Node,
    /// With small rates and counts, and without JSON.
    narrow: Node,
}

impl Stage {
    fn new() -> Self {
        let node = Node::dev_with(&[
            ("ARQONBUS_LIMITS_MESSAGE_BYTES_MAX", "65536"),
            ("ARQONBUS_LIMITS_ENVELOPE_BYTES_MAX", "32768"),
            ("ARQONBUS_LIMITS_DELIVER_BYTES_MAX", "32768"),
            ("ARQONBUS_LIMITS_HANDSHAKE_TIMEOUT_MS", "2000"),
        ]);
        let token = node.dev_token();
        let guarded = Node::dev();
        shield::furnish(&guarded);
        let narrow = rates::narrow();
        Self {
            node,
            token,
            guarded,
            narrow,
        }
    }

    /// A session of `arqon.v1` whose Welcome has been read.
    fn session(&self) -> TcpStream {
        let request = Request::upgrade().bearer(&self.token);
        let (answer, mut stream) = request.open(self.node.edge);
        assert_eq!(answer.status, 101, "{}", answer.head);
        let (first, _welcome) = read_frame(&mut stream);
        assert_eq!(first, 0x82, "the Welcome is one binary message");
        stream
    }
}

fn groups() -> Vec<Group> {
    vec![
        handshake::group(),
        tokens::group(),
        frames::group(),
        requests::group(),
        shield::group(),
        tenants::group(),
        json::group(),
        admin::group(),
        rates::group(),
    ]
}

const BEGIN: &str = "<!-- adversarial cases: written by the test -->\n";
const END: &str = "<!-- end of the adversarial cases -->\n";

fn table(groups: &[Group]) -> String {
    let mut text = String::new();
    for group in groups {
        let Group { letter, title, .. } = group;
        writeln!(
            text,
            "\n**{title}**\n\n| no | sent | answered |\n| --- | --- | --- |"
        )
        .expect("a text takes all");
        for (at, case) in group.cases.iter().enumerate() {
            let number = at + 1;
            let Case {
                attack, outcome, ..
            } = case;
            writeln!(text, "| {letter}{number:02} | {attack} | {outcome} |")
                .expect("a text takes all");
        }
    }
    text.push('\n');
    text
}

// EDGE-24
#[test]
fn every_attack_is_answered_as_the_table_says() {
    let stage = Stage::new();
    let mut wrong = Vec::new();
    for group in groups() {
        for (at, case) in group.cases.iter().enumerate() {
            let seen = (case.play)(&stage);
            if seen != case.outcome {
                let name = format!("{}{:02} {}", group.letter, at + 1, case.attack);
                wrong.push(format!("{name}: {seen:?} instead of {:?}", case.outcome));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // They still serve, and end as they should.
    drop(stage.session());
    for node in [stage.node, stage.guarded, stage.narrow] {
        assert_eq!(Request::get("/healthz").send(node.ops).status, 200);
        node.signal("TERM");
        let (status, log) = node.ended();
        assert!(status.success(), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

// EDGE-24
#[test]
fn the_table_of_attacks_is_in_the_document() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
    let document = std::fs::read_to_string(&path).expect("docs/security.md");
    let (before, rest) = document.split_once(BEGIN).expect("the table begins");
    let (found, after) = rest.split_once(END).expect("the table ends");
    let groups = groups();
    let wanted = table(&groups);
    if std::env::var_os("UPDATE").is_some() {
        write(
            &path,
            format!("{before}{BEGIN}{wanted}{END}{after}").as_bytes(),
        );
        return;
    }
    assert_eq!(found, wanted, "docs/security.md; UPDATE=1 writes it anew");
    let count: usize = groups.iter().map(|group| group.cases.len()).sum();
    assert!(count >= 220, "only {count} cases");
}
