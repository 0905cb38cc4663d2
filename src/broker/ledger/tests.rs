//! A fold over a real log: with its cache, without it, and with one that is of another log.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::broker::scenarios::TestClock;
use crate::broker::{Broker, Options, Tenant};
use crate::log::{Committer, Environment, RealStorage};

/// How often each word was said.
#[derive(Debug, Default, PartialEq, Clone)]
struct Words(BTreeMap<String, u64>);

impl State for Words {
    const NAME: &'static str = "words";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &["sys.op.words", "sys.op.more.>"];

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        let word = std::str::from_utf8(event.data).map_err(Unfit::new)?;
        *self.0.entry(word.to_owned()).or_default() += 1;
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self)
    }
}

fn start(directory: &Path, states: Option<&Path>) -> Arc<Broker> {
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: Arc::new(TestClock::default()),
        committer: Committer::start(1),
    };
    let options = Options {
        states: states.map(Path::to_owned),
        ..Options::new(directory.to_owned(), 1, "n".to_owned())
    };
    Broker::start(environment, options).unwrap()
}

fn said(topic: &str, word: &str) -> NewEvent<'static> {
    NewEvent {
        topic: topic.to_owned(),
        kind: "said",
        schema: "",
        data: Bytes::copy_from_slice(word.as_bytes()),
    }
}

fn words(broker: &Broker) -> Result<Words, Error> {
    let tenancy = broker.tenancy(&Tenant::new("t").unwrap()).unwrap();
    tenancy.ledger::<Words>().read(Clone::clone)
}

fn say(broker: &Broker, topic: &str, word: &str) -> Result<u64, Error> {
    let tenancy = broker.tenancy(&Tenant::new("t").unwrap()).unwrap();
    tenancy.ledger::<Words>().change(|words| {
        let before = words.0.get(word).copied().unwrap_or_default();
        Ok((before, vec![said(topic, word)]))
    })
}

// OPS-14
#[test]
fn a_state_is_what_its_events_come_to_with_and_without_its_cache() {
    let (data, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let states = cache.path().join("_state");
    let broker = start(data.path(), Some(&states));
    assert_eq!(say(&broker, "sys.op.words", "a").unwrap(), 0);
    assert_eq!(say(&broker, "sys.op.more.b", "a").unwrap(), 1);
    assert_eq!(say(&broker, "sys.op.other", "a").unwrap(), 2, "not its own");
    assert_eq!(say(&broker, "sys.op.words", "b").unwrap(), 0);
    let expected = words(&broker).unwrap();
    assert_eq!(expected.0, [("a".into(), 2), ("b".into(), 1)].into());
    broker.close();
    drop(broker);

    let again = start(data.path(), Some(&states));
    assert_eq!(words(&again).unwrap(), expected, "from the cache");
    say(&again, "sys.op.words", "c").unwrap();
    again.close();
    drop(again);
    std::fs::remove_dir_all(&states).unwrap();

    let anew = start(data.path(), Some(&states));
    assert_eq!(words(&anew).unwrap().0["c"], 1, "from the log");
    anew.close();
    drop(anew);

    let without = start(data.path(), None);
    assert_eq!(words(&without).unwrap().0["a"], 2);
}

// OPS-14: a data directory that was restored to another time, with the cache of before.
#[test]
fn a_cache_of_another_log_is_not_believed() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let states = cache.path().join("_state");
    let first = start(one.path(), Some(&states));
    say(&first, "sys.op.words", "old").unwrap();
    first.close();
    drop(first);

    let second = start(other.path(), Some(&states));
    for _ in 0..3 {
        say(&second, "sys.op.words", "new").unwrap();
    }
    assert_eq!(words(&second).unwrap().0, [("new".into(), 3)].into());
}

#[test]
fn what_is_refused_changes_nothing_and_what_cannot_be_understood_stops_the_fold() {
    let data = tempfile::tempdir().unwrap();
    let broker = start(data.path(), None);
    let tenancy = broker.tenancy(&Tenant::new("t").unwrap()).unwrap();
    let refused = tenancy
        .ledger::<Words>()
        .change(|_| Err::<((), Vec<_>), _>(Error::Internal));
    assert!(matches!(refused, Err(Error::Internal)));
    assert_eq!(words(&broker).unwrap(), Words::default());
    let event = NewEvent {
        data: Bytes::from_static(&[0xff]),
        ..said("sys.op.words", "")
    };
    tenancy.record(event).unwrap();
    let stopped = words(&broker).unwrap_err();
    assert!(
        matches!(stopped, Error::StateDamaged { state: "words", .. }),
        "{stopped}"
    );
    let refused = say(&broker, "sys.op.words", "a");
    assert!(matches!(refused, Err(Error::StateDamaged { .. })));
}
