//! Keys in a real log.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::broker::operators::Settings;
use crate::broker::operators::testing::Desk;

fn desk(directory: &TempDir) -> Desk {
    let store = Limits {
        key_bytes_max: 20,
        value_bytes_max: 100,
        namespace_keys_max: 3,
        keys_max: 4,
    };
    let settings = Settings {
        store,
        ..Settings::default()
    };
    Desk::new(directory.path(), settings)
}

// OPS-07
#[test]
fn a_key_is_set_shown_changed_and_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let desk = desk(&dir);
    let none = desk.ok("op.store.get", json!({"key": "a.b"}));
    let own = "tenant:acme";
    assert_eq!(
        none,
        json!({"namespace": own, "key": "a.b", "found": false, "value": null})
    );
    let set = desk.ok("op.store.set", json!({"key": "a.b", "value": {"n": 1}}));
    assert_eq!(
        (&set["updated"], &set["namespace"]),
        (&true.into(), &own.into())
    );
    let found = desk.ok("op.store.get", json!({"key": "a.b", "namespace": own}));
    assert_eq!(
        (&found["found"], &found["value"]),
        (&true.into(), &json!({"n": 1}))
    );
    assert_eq!(
        (&found["revision"], &found["updated_by"]),
        (&set["revision"], &"ada".into())
    );
    let again = desk.ok("op.store.set", json!({"key": "a.b", "value": "two"}));
    let at = set["revision"].to_string();
    let before = desk.ok("op.store.get", json!({"key": "a.b", "at": at}));
    assert_eq!(before["value"], json!({"n": 1}));
    let gone = desk.ok("op.store.delete", json!({"key": "a.b"}));
    assert_eq!(gone["deleted"], true);
    assert_eq!(
        desk.ok("op.store.delete", json!({"key": "a.b"}))["deleted"],
        false
    );
    assert_eq!(
        desk.ok("op.store.get", json!({"key": "a.b"}))["found"],
        false
    );
    let history = desk.ok("op.store.history", json!({"key": "a.b", "limit": 2}));
    let entries = history["entries"].as_array().unwrap();
    let operations: Vec<_> = entries.iter().map(|one| &one["operation"]).collect();
    assert_eq!(operations, ["delete", "set"]);
    assert_eq!(entries[1]["revision"], again["revision"]);
    let older = desk.ok(
        "op.store.history",
        json!({"key": "a.b", "before": history["next"]}),
    );
    assert_eq!(older["entries"][0]["value"], json!({"n": 1}));
    assert_eq!(older.get("next"), None);
}

// OPS-07
#[test]
fn a_key_changes_only_as_long_as_it_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let desk = desk(&dir);
    let first = json!({"key": "k", "value": 1, "if_absent": true});
    let revision = desk.ok("op.store.set", first.clone())["revision"].clone();
    let conflict = ("SEQUENCE_CONFLICT", "arguments.if_revision".to_owned());
    assert_eq!(desk.refused("op.store.set", first.clone()), conflict);
    let with =
        |revision: &serde_json::Value| json!({"key": "k", "value": 2, "if_revision": revision});
    assert_eq!(desk.refused("op.store.set", with(&0.into())), conflict);
    let second = desk.ok("op.store.set", with(&revision))["revision"].clone();
    assert_eq!(desk.refused("op.store.set", with(&revision)), conflict);
    let stale = json!({"key": "k", "if_revision": revision});
    assert_eq!(desk.refused("op.store.delete", stale), conflict);
    desk.ok(
        "op.store.delete",
        json!({"key": "k", "if_revision": second}),
    );
    desk.ok("op.store.set", first);
}

// OPS-07: many at once, of whom one wins each time.
#[test]
fn of_writers_who_believe_the_same_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let desk = desk(&dir);
    desk.ok("op.store.set", json!({"key": "n", "value": 0}));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    loop {
                        let now = desk.ok("op.store.get", json!({"key": "n"}));
                        let next = now["value"].as_u64().unwrap() + 1;
                        let set =
                            json!({"key": "n", "value": next, "if_revision": now["revision"]});
                        match desk.run("op.store.set", set) {
                            Ok(_) => break,
                            Err(error) => assert_eq!(error.code().as_str(), "SEQUENCE_CONFLICT"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(desk.ok("op.store.get", json!({"key": "n"}))["value"], 40);
}

// OPS-07, REL-12
#[test]
fn what_has_lived_its_time_is_gone_by_the_nodes_clock() {
    let dir = tempfile::tempdir().unwrap();
    let desk = desk(&dir);
    desk.ok(
        "op.store.set",
        json!({"key": "k", "value": 1, "ttl_ms": 1000}),
    );
    assert_eq!(desk.ok("op.store.get", json!({"key": "k"}))["found"], true);
    desk.clock.pass(1_000);
    assert_eq!(desk.ok("op.store.get", json!({"key": "k"}))["found"], false);
    assert_eq!(desk.ok("op.store.list", json!({}))["count"], 0);
    assert_eq!(
        desk.ok("op.store.delete", json!({"key": "k"}))["deleted"],
        false
    );
    desk.ok(
        "op.store.set",
        json!({"key": "k", "value": 2, "if_absent": true}),
    );
    let bad = json!({"key": "k", "value": 2, "ttl_ms": 0});
    assert_eq!(desk.refused("op.store.set", bad).1, "arguments.ttl_ms");
}

// OPS-07, BRK-18
#[test]
fn a_store_has_bounds_that_what_is_gone_does_not_count_for() {
    let dir = tempfile::tempdir().unwrap();
    let desk = desk(&dir);
    let set = |namespace: &str, key: &str, ttl: u64| json!({"namespace": namespace, "key": key, "value": 1, "ttl_ms": ttl});
    for key in ["a", "b", "c"] {
        desk.ok("op.store.set", set("n", key, 1_000));
    }
    let full = ("TOO_LARGE", "arguments.key".to_owned());
    assert_eq!(desk.refused("op.store.set", set("n", "d", 1_000)), full);
    desk.ok("op.store.set", set("n", "a", 9_000));
    desk.ok("op.store.set", set("m", "d", 9_000));
    assert_eq!(desk.refused("op.store.set", set("m", "e", 9_000)), full);
    desk.clock.pass(1_000);
    desk.ok("op.store.set", set("m", "e", 9_000));
    let long = json!({"key": "k".repeat(21), "value": 1});
    assert_eq!(desk.refused("op.store.set", long), full);
    let large = json!({"key": "k", "value": "v".repeat(99)});
    assert_eq!(
        desk.refused("op.store.set", large),
        ("TOO_LARGE", "arguments.value".into())
    );
}

// OPS-07, EDGE-07
#[test]
fn a_token_reaches_only_the_keys_of_its_topics() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = desk(&dir);
    desk.ok(
        "op.store.set",
        json!({"namespace": "other", "key": "k", "value": 1}),
    );
    let foreign = json!({"namespace": "tenant:evil", "key": "k"});
    assert_eq!(
        desk.refused("op.store.get", foreign),
        ("TENANT_MISMATCH", "arguments.namespace".into())
    );
    desk.limit("op.store.mine.>");
    let forbidden = ("FORBIDDEN", "arguments.key".to_owned());
    let others = json!({"namespace": "other", "key": "k"});
    assert_eq!(desk.refused("op.store.get", others.clone()), forbidden);
    assert_eq!(desk.refused("op.store.history", others.clone()), forbidden);
    assert_eq!(desk.refused("op.store.delete", others), forbidden);
    let set = json!({"namespace": "other", "key": "k", "value": 2});
    assert_eq!(desk.refused("op.store.set", set), forbidden);
    assert_eq!(
        desk.ok("op.store.list", json!({"namespace": "other"}))["count"],
        0
    );
    desk.ok(
        "op.store.set",
        json!({"namespace": "mine", "key": "k", "value": 2}),
    );
    let purge = json!({"namespace": "mine", "confirm": ""});
    assert_eq!(desk.refused("op.store.purge", purge).0, "FORBIDDEN");
}

// OPS-07, OPS-14
#[test]
fn keys_are_listed_by_page_and_the_list_is_a_fold_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::new(dir.path(), Settings::default());
    for key in ["a/1", "a/2", "b.x", "a/3", "c"] {
        desk.ok("op.store.set", json!({"key": key, "value": 1}));
    }
    desk.ok("op.store.delete", json!({"key": "a/2"}));
    let page = desk.ok("op.store.list", json!({"limit": 2}));
    assert_eq!(page["keys"], json!(["a/1", "a/3"]));
    let rest = desk.ok("op.store.list", json!({"after": page["next"]}));
    assert_eq!(
        (&rest["keys"], rest.get("next")),
        (&json!(["b.x", "c"]), None)
    );
    let found = desk.ok("op.store.list", json!({"prefix": "a/"}));
    assert_eq!(found["count"], 2);
    // Folded anew, it is the same.
    *desk.main().keys() = Names::default();
    assert_eq!(desk.ok("op.store.list", json!({"prefix": "a/"})), found);
    desk.who.role = Role::Operator;
    let wrong = json!({"prefix": "a/", "confirm": "a"});
    assert_eq!(desk.refused("op.store.purge", wrong).1, "arguments.confirm");
    assert_eq!(
        desk.ok("op.store.purge", json!({"prefix": "a/", "confirm": "a/"}))["purged"],
        2
    );
    assert_eq!(
        desk.ok("op.store.list", json!({}))["keys"],
        json!(["b.x", "c"])
    );
}
