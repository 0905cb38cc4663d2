//! Which keys there are.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use arqonbus::projections::sink::{Commit, Place, Sink as _, SinkError};
use arqonbus::projections::valkey::mapping::{Mapping, TTL, TTL_MAX};
use arqonbus::projections::valkey::{Address, Options, OptionsFault, ValkeySink};

use super::follower::{
    Event, Follower, cached, check_keys, events, newest, options, place, sink_at, stream,
};
use crate::servers::redis::Redis;

const HOSTILE: [&str; 12] = [
    "e:cache:a",
    "*",
    "?[a-z]",
    "a b\r\nFLUSHALL\r\n",
    "_",
    "cursor",
    "cursor:test:main",
    "..",
    "{slot}",
    "%3A",
    "",
    "\u{202e}\u{e9}",
];

// PRJ-11: whatever agents and episodes are called, no key leaves its tenant or its family, and no
// two share one.
#[tokio::test]
async fn a_hostile_name_stays_in_its_family() {
    let server = Redis::start();
    let mut follower = Follower::new(sink_at(&server.url()));
    let pairs = HOSTILE.iter().flat_map(|a| HOSTILE.map(|e| (a, e)));
    let events: Vec<_> = pairs
        .map(|(agent, episode)| Event::new(agent, episode, "id", 2))
        .collect();
    follower.follow(&events).await;
    check_keys(&server);
    let keys: BTreeSet<_> = server.keys().into_iter().collect();
    assert_eq!(keys.len(), events.len() + 1, "one for each, and the place");
    assert!(
        keys.iter()
            .all(|key| key.starts_with("tenant:acme:episode:"))
    );
}

// PRJ-11: nor does a hostile tenant, whose rows are not those of any other.
#[tokio::test]
async fn a_hostile_tenant_stays_alone() {
    let server = Redis::start();
    for tenant in HOSTILE {
        let mut follower = Follower::new(sink_at(&server.url()));
        follower.place = Place {
            tenant: tenant.to_owned(),
            ..place()
        };
        let epoch = follower.take().await.epoch;
        let commit = |writes| Commit {
            writes,
            moves: None,
            epoch,
        };
        let own = commit(vec![Event::new("a", "e", "id", 2).put(tenant)]);
        let done = follower.sink.commit(&follower.test, &follower.place, &own);
        done.await.expect("its own row");
        let other = commit(vec![Event::new("a", "e", "id", 3).put("other")]);
        let done = follower
            .sink
            .commit(&follower.test, &follower.place, &other);
        let refused = done.await;
        assert!(
            matches!(refused, Err(SinkError::Rejected { .. })),
            "{refused:?}"
        );
    }
    check_keys(&server);
    assert_eq!(server.keys().len(), 2 * HOSTILE.len());
}

// PRJ-11: no bodies: not in a name, a field or a value.
#[tokio::test]
async fn no_body_is_kept() {
    let server = Redis::start();
    let mut follower = Follower::new(sink_at(&server.url()));
    follower.follow(&events(100)).await;
    assert_eq!(cached(&server), newest(&events(100)));
    for key in server.keys() {
        assert!(!key.contains("BODY"));
        let fields: HashMap<String, Vec<u8>> = server.ask(&["HGETALL", &key]);
        for (name, value) in fields {
            let value = String::from_utf8_lossy(&value).into_owned();
            assert!(!value.contains("BODY"), "{key} {name}: {value}");
            assert!(!["summary", "tags", "metadata"].contains(&&*name));
        }
    }
    check_keys(&server);
}

// PRJ-11
#[tokio::test]
async fn what_is_kept_goes_away() {
    let server = Redis::start();
    let ttl = Duration::from_secs(1);
    let mapping = Mapping::episodes("episodes", ttl);
    let sink = ValkeySink::new(options(Address::new(&server.url()), vec![mapping]));
    let mut follower = Follower::new(sink.expect("a sink"));
    assert_eq!(follower.sink.horizon(&follower.test), Some(ttl));
    let first = follower.follow(&events(40)).await;
    assert!(!server.keys().is_empty());
    let begin = Instant::now();
    while !server.keys().is_empty() {
        assert!(begin.elapsed() < 20 * ttl, "{:?}", server.keys());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The place went with the rows, and the holder learns of it.
    let lost = follower.step(first, &events(1)).await;
    assert!(matches!(lost, Err(SinkError::Fenced { .. })), "{lost:?}");
    let position = follower.sink.position(&follower.place).await;
    assert_eq!(position.expect("the server answers"), None);
    follower.follow(&events(40)).await;
    assert_eq!(cached(&server), newest(&events(40)));
}

// PRJ-11: what would be kept for ever, or where something else is, is not begun.
#[test]
fn what_cannot_be_followed_is_refused() {
    let refused = |mappings| {
        let made = ValkeySink::new(options(Address::new("redis://127.0.0.1"), mappings));
        made.expect_err("it cannot be followed")
    };
    for ttl in [Duration::ZERO, TTL_MAX + Duration::from_secs(1)] {
        let fault = refused(vec![Mapping::episodes("episodes", ttl)]);
        assert!(matches!(fault, OptionsFault::Ttl { .. }), "{fault}");
        let fault = refused(vec![stream(Some(ttl))]);
        assert!(matches!(fault, OptionsFault::Ttl { .. }), "{fault}");
    }
    let episodes = Mapping::episodes("episodes", TTL);
    let fault = refused(vec![episodes.clone(), episodes]);
    assert!(matches!(fault, OptionsFault::Shared { .. }), "{fault}");
    let fault = refused(vec![stream(None), stream(None)]);
    assert!(matches!(fault, OptionsFault::Shared { .. }), "{fault}");

    for url in ["", "hunter2", "http://:hunter2@h", "redis://:hunter2@h:x"] {
        let made = ValkeySink::new(Options {
            address: Address::new(url),
            mappings: HashMap::new(),
        });
        let fault = made.expect_err("no address").to_string();
        assert!(!fault.contains("hunter2"), "{fault}");
    }
    let shown = format!("{:?}", Address::new("redis://:hunter2@h"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

// PRJ-11: a mapping that would write bodies, or two rows to one key, is refused by name.
#[tokio::test]
async fn a_mapping_that_does_not_fit_is_refused() {
    let Mapping::Cache(good) = Mapping::episodes("episodes", TTL) else {
        panic!("episodes are a cache");
    };
    let with = |change: fn(&mut arqonbus::projections::valkey::mapping::Cache)| {
        let mut cache = good.clone();
        change(&mut cache);
        Mapping::Cache(cache)
    };
    let cases = [
        (with(|c| c.columns.push("metadata".to_owned())), "metadata"),
        (with(|c| c.columns.push("nothing".to_owned())), "nothing"),
        (with(|c| c.table = "nothing".to_owned()), "nothing"),
        (with(|c| c.agent = "event_type".to_owned()), "key"),
        (
            with(|c| c.episode = "last_event_ts".to_owned()),
            "Timestamp",
        ),
    ];
    for (mapping, word) in cases {
        let address = Address::new("redis://127.0.0.1:1");
        let sink = ValkeySink::new(options(address, vec![mapping])).expect("a sink");
        let follower = Follower::new(sink);
        let fault = follower.sink.prepare(&follower.test).await;
        let fault = fault.expect_err("it does not fit");
        assert!(matches!(fault, SinkError::Unfit { .. }), "{fault}");
        assert!(fault.to_string().contains(word), "{fault}");
    }
}
