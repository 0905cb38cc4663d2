//! The chain of a tenant's audit over a real log.

use super::*;
use crate::broker::audit::Actor;
use crate::broker::audit::read::{Outcome, Wanted};
use crate::proto::v1::AuditEntry;
use crate::proto::v1::audit_entry::Phase;

fn note(action: &str) -> AuditEntry {
    let node = Actor {
        who: None,
        from: "local",
    };
    node.entry(Phase::Note, action)
}

fn wanted() -> Wanted {
    Wanted {
        subject: String::new(),
        action: String::new(),
        since: Micros(0),
        outcome: None,
        limit: 100,
    }
}

// BRK-13
#[test]
fn one_chain_however_many_write() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let tenancy = node.tenancy();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let tenancy = Arc::clone(&tenancy);
            std::thread::spawn(move || {
                for n in 0..20 {
                    if n % 2 == 0 {
                        tenancy.audit(note(&format!("w{writer}.{n}"))).unwrap();
                    } else {
                        tenancy.audit_later(note(&format!("w{writer}.{n}")));
                    }
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|one| one.join().unwrap());
    tenancy.audit(note("last")).unwrap();
    let verified = tenancy.verify_audit(None).unwrap();
    assert_eq!(verified.broken, None);
    assert_eq!((verified.chain.first(), verified.chain.entries()), (1, 161));
    let head = tenancy.audit_head().unwrap().unwrap();
    assert_eq!(Some(&head), verified.chain.last());
    assert!(tenancy.verify_audit(Some(&head.hex())).unwrap().met);
    assert!(!tenancy.verify_audit(Some("00")).unwrap().met);
}

// BRK-13: whatever fails, no number is given twice and none is left out.
#[test]
fn the_chain_goes_on_behind_what_failed_and_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let open = node.tenancy();
    open.audit(note("one")).unwrap();
    node.failing.store(true, Ordering::SeqCst);
    assert!(open.audit(note("lost")).is_err());
    open.audit_later(note("lost too"));
    node.failing.store(false, Ordering::SeqCst);
    let started = Instant::now();
    while open.audit(note("two")).is_err() {
        assert!(started.elapsed() < WAIT, "the log is not reopened");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(open);
    node.broker.close();
    let node = Node::start(dir.path(), log::Options::default());
    let open = node.tenancy();
    open.audit(note("three")).unwrap();
    let verified = open.verify_audit(None).unwrap();
    assert_eq!(verified.broken, None);
    let actions = open.audited(&wanted()).unwrap();
    let names: Vec<_> = actions
        .iter()
        .map(|one| one.entry.action.as_str())
        .collect();
    assert!(names.ends_with(&["two", "three"]), "{names:?}");
    let numbers: Vec<_> = actions.iter().map(|one| one.entry.number).collect();
    assert_eq!(numbers, (1..=names.len() as u64).collect::<Vec<_>>());
}

// BRK-13: one that never ended stays visible, and what is asked for is found.
#[test]
fn an_action_is_its_intent_and_its_outcome() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let tenancy = node.tenancy();
    let by = |phase, action: &str, of, code: &str| {
        let actor = Actor {
            who: None,
            from: "local",
        };
        let mut entry = actor.entry(phase, action);
        entry.subject = "eve".into();
        entry.of = of;
        entry.code = code.into();
        tenancy.audit(entry).unwrap()
    };
    let done = by(Phase::Intent, "a.set", 0, "");
    let failed = by(Phase::Intent, "a.b.set", 0, "");
    by(Phase::Outcome, "a.b.set", failed, "NOT_FOUND");
    by(Phase::Outcome, "a.set", done, "");
    by(Phase::Refused, "b.set", 0, "FORBIDDEN");
    by(Phase::Intent, "a.gone", 0, "");
    tenancy.audit(note("node.started")).unwrap();

    let found = |wanted: &Wanted| -> Vec<(String, Outcome)> {
        let actions = tenancy.audited(wanted).unwrap().into_iter();
        actions
            .map(|one| (one.entry.action.clone(), one.outcome()))
            .collect()
    };
    let all = [
        ("a.set", Outcome::Done),
        ("a.b.set", Outcome::Failed),
        ("b.set", Outcome::Refused),
        ("a.gone", Outcome::Unknown),
        ("node.started", Outcome::Noted),
    ]
    .map(|(name, outcome)| (name.to_owned(), outcome));
    assert_eq!(found(&wanted()), all);
    for outcome in Outcome::ALL {
        let only = found(&Wanted {
            outcome: Some(outcome),
            ..wanted()
        });
        let expected: Vec<_> = all
            .iter()
            .filter(|(_, one)| *one == outcome)
            .cloned()
            .collect();
        assert_eq!(only, expected);
    }
    let below = found(&Wanted {
        action: "a".into(),
        subject: "eve".into(),
        limit: 2,
        ..wanted()
    });
    assert_eq!(below, [all[1].clone(), all[3].clone()]);
    let nobody = found(&Wanted {
        subject: "ev".into(),
        ..wanted()
    });
    assert_eq!(nobody, []);
    let late = found(&Wanted {
        since: Micros(u64::MAX),
        ..wanted()
    });
    assert_eq!(late, []);
}
