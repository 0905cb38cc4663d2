//! EDGE-05: whom a revocation means, and for how long.

use super::*;
use crate::broker::{Tenant, Topics};
use crate::log::Sequence;

const NOW_S: u64 = 1_800_000_000;
const DAY_S: u64 = 86_400;

fn bearer(subject: &str, token: Option<&str>, issued_s: Option<u64>) -> Identity {
    Identity {
        tenant: Tenant::new("t").unwrap(),
        subject: subject.into(),
        role: Role::User,
        publish: Topics::All,
        subscribe: Topics::All,
        expires_at: None,
        issued_at: issued_s.map(|s| Micros(s * 1_000_000)),
        token_id: token.map(str::to_owned),
        ends_by: None,
    }
}

fn said(whom: &Whom, state: State) -> Revocation {
    Revocation {
        kind: whom.kind().into(),
        name: whom.name().into(),
        state: Some(state),
        ..Revocation::default()
    }
}

fn apply_at(
    revocations: &mut Revocations,
    now_s: u64,
    topic: &str,
    data: &[u8],
) -> Result<(), Fault> {
    revocations.apply(&Event {
        sequence: Sequence::FIRST,
        at: Micros(now_s * 1_000_000),
        topic,
        kind: EVENT,
        data,
    })
}

fn put(revocations: &mut Revocations, now_s: u64, whom: &Whom, state: State) {
    let data = said(whom, state).encode_to_vec();
    apply_at(revocations, now_s, &whom.topic(), &data).unwrap();
}

fn subject(name: &str) -> Whom {
    Whom::Subject(name.into())
}

#[test]
fn a_revocation_means_the_tokens_issued_before_it() {
    let mut revocations = Revocations::of_node(&Config::default());
    assert!(revocations.is_empty());
    put(
        &mut revocations,
        NOW_S,
        &subject("mallory"),
        State::IssuedBefore(NOW_S + 1),
    );
    put(
        &mut revocations,
        NOW_S,
        &Whom::Token("t-1".into()),
        State::IssuedBefore(NOW_S + 1),
    );
    let revoked = |identity: Identity| revocations.revoked(&identity);
    let cause = Some(Cause::Revoked);
    assert_eq!(revoked(bearer("mallory", None, Some(NOW_S - 5))), cause);
    assert_eq!(revoked(bearer("mallory", None, Some(NOW_S))), cause);
    assert_eq!(revoked(bearer("mallory", None, Some(NOW_S + 1))), None);
    // One that does not say when it was issued counts as issued at the beginning.
    assert_eq!(revoked(bearer("mallory", None, None)), cause);
    assert_eq!(revoked(bearer("alice", Some("t-1"), Some(NOW_S))), cause);
    assert_eq!(revoked(bearer("alice", Some("t-2"), Some(NOW_S))), None);
    assert_eq!(revoked(bearer("alice", None, None)), None);
    // A subject that is called like a token's id is not that token.
    assert_eq!(revoked(bearer("t-1", None, Some(NOW_S))), None);
    put(
        &mut revocations,
        NOW_S,
        &Whom::Tenant,
        State::IssuedBefore(NOW_S + 1),
    );
    assert_eq!(
        revocations.revoked(&bearer("alice", None, Some(NOW_S))),
        cause
    );
    assert_eq!(
        revocations.revoked(&bearer("alice", None, Some(NOW_S + 1))),
        None
    );
}

#[test]
fn a_ban_means_every_token_until_it_is_lifted() {
    let mut revocations = Revocations::of_node(&Config::default());
    let mallory = subject("mallory");
    put(&mut revocations, NOW_S, &mallory, State::Banned(true));
    let later = bearer("mallory", None, Some(NOW_S + 1_000 * DAY_S));
    // Something else is said much later; the ban is not forgotten.
    put(
        &mut revocations,
        NOW_S + 999 * DAY_S,
        &subject("eve"),
        State::IssuedBefore(NOW_S),
    );
    assert_eq!(revocations.revoked(&later), Some(Cause::Banned));
    put(
        &mut revocations,
        NOW_S + 999 * DAY_S,
        &mallory,
        State::Lifted(true),
    );
    assert_eq!(revocations.revoked(&later), None);
}

#[test]
fn a_revocation_is_forgotten_when_no_token_that_it_means_can_be_alive() {
    let config = Config::default();
    let mut revocations = Revocations::of_node(&config);
    let whom = subject("mallory");
    let life_s = config.auth.lifetime_max_s + 2 * config.auth.leeway_s;
    put(
        &mut revocations,
        NOW_S,
        &whom,
        State::IssuedBefore(NOW_S + 1),
    );
    put(
        &mut revocations,
        NOW_S + life_s,
        &subject("eve"),
        State::IssuedBefore(NOW_S),
    );
    assert!(revocations.entries.contains_key(&whom));
    put(
        &mut revocations,
        NOW_S + life_s + 1,
        &subject("eve"),
        State::IssuedBefore(NOW_S),
    );
    assert!(!revocations.entries.contains_key(&whom));
    assert_eq!(revocations.entries.len(), 1);
    // Where tokens live for ever, so do revocations.
    let mut unlimited = config;
    crate::edge::development::relax(&mut unlimited.auth);
    let mut revocations = Revocations::of_node(&unlimited);
    put(
        &mut revocations,
        NOW_S,
        &whom,
        State::IssuedBefore(NOW_S + 1),
    );
    put(
        &mut revocations,
        NOW_S * 100,
        &subject("eve"),
        State::IssuedBefore(NOW_S),
    );
    assert!(revocations.entries.contains_key(&whom));
}

#[test]
fn events_that_cannot_be_understood_are_refused() {
    let mut revocations = Revocations::of_node(&Config::default());
    let whom = subject("mallory");
    let good = said(&whom, State::Banned(true));
    let encoded = |change: fn(&mut Revocation)| {
        let mut said = good.clone();
        change(&mut said);
        said.encode_to_vec()
    };
    let cases = [
        ("another topic", Whom::Tenant.topic(), good.encode_to_vec()),
        ("no state", whom.topic(), encoded(|said| said.state = None)),
        (
            "no ban",
            whom.topic(),
            encoded(|said| said.state = Some(State::Banned(false))),
        ),
        ("no kind", whom.topic(), encoded(|said| said.kind = 0)),
        ("a later kind", whom.topic(), encoded(|said| said.kind = 9)),
        ("no name", whom.topic(), encoded(|said| said.name.clear())),
        ("no message", whom.topic(), vec![0xff]),
        (
            "a banned token",
            Whom::Token("a".into()).topic(),
            said(&Whom::Token("a".into()), State::Banned(true)).encode_to_vec(),
        ),
    ];
    for (name, topic, data) in cases {
        let found = apply_at(&mut revocations, NOW_S, &topic, &data);
        assert!(found.is_err(), "{name}");
    }
    assert!(revocations.is_empty());
}

#[test]
fn names_that_no_topic_could_hold_have_topics_of_their_own() {
    let names = ["a", "A", "a.>", "ü", "a b", "*"];
    let topics: std::collections::HashSet<String> =
        names.iter().map(|name| subject(name).topic()).collect();
    assert_eq!(topics.len(), names.len());
    for topic in topics {
        assert!(crate::broker::Filter::new(&topic).is_ok(), "{topic}");
    }
}
