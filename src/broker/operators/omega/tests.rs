//! The laboratory without machines, on a real node whose clock stands. Machines are tested from
//! outside.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::lab::Lab;
use super::*;
use crate::broker::operators::testing::Desk as Bench;
use crate::broker::{Options, OwnRecord, RealityName, Role, Tenancy};
use crate::config;

fn bench(directory: &Path, states: bool, set: impl FnOnce(&mut config::Omega)) -> Bench {
    let mut omega = config::Omega {
        enabled: true,
        ..config::Omega::default()
    };
    set(&mut omega);
    let omega = Settings::of(&omega, directory).unwrap();
    let mut bench = Bench::with(directory, |options: &mut Options| {
        options.omega = omega;
        options.states = states.then(|| directory.join("_state"));
    });
    bench.who.role = Role::Admin;
    bench
}

fn registered(bench: &Bench, name: &str) -> String {
    let given = json!({"name": name, "kind": "sim", "metadata": {"rack": 7}});
    let answer = bench.ok("op.omega.register_substrate", given);
    assert_eq!(answer["name"], name);
    let id = answer["substrate_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("omega_") && id.len() == 18, "{id}");
    id
}

fn emit(bench: &Bench, substrate: &str, signal: &str, n: u64) {
    let given = json!({"substrate_id": substrate, "signal": signal, "payload": {"n": n}});
    let answer = bench.ok("op.omega.emit_event", given);
    assert!(
        answer["event_id"]
            .as_str()
            .unwrap()
            .starts_with("omega_evt_")
    );
}

fn listed(bench: &Bench, given: Json) -> Vec<u64> {
    let answer = bench.ok("op.omega.list_events", given);
    let events = answer["events"].as_array().unwrap();
    assert_eq!(answer["count"], events.len());
    let n = events.iter().map(|event| event["payload"]["n"].as_u64());
    n.map(Option::unwrap).collect()
}

// OPS-09
#[test]
fn all_but_status_is_refused_where_there_is_no_laboratory() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path(), false, |omega| omega.enabled = false);
    assert_eq!(bench.ok("op.omega.status", json!({}))["enabled"], false);
    for command in command::COMMANDS {
        if command.name == "op.omega.status" {
            continue;
        }
        let all =
            json!({"substrate_id": "x", "signal": "s", "name": "n", "kind": "k", "vm_id": "v"});
        let mut given = all.as_object().unwrap().clone();
        given.retain(|name, _| command.arguments.iter().any(|one| one.name == name));
        let error = bench.run(command.name, given.into()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::FeatureDisabled, "{}", command.name);
        assert!(error.to_string().contains("omega.enabled"), "{error}");
    }
}

// OPS-09
#[test]
fn signals_are_listed_by_filters_and_the_oldest_go() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path(), false, |omega| omega.events_max = 5);
    let (a, b) = (registered(&bench, "a"), registered(&bench, "b"));
    for (substrate, signal, n) in [(&a, "drift", 1), (&b, "drift", 2), (&a, "spike.high", 3)] {
        emit(&bench, substrate, signal, n);
    }
    assert_eq!(listed(&bench, json!({})), [1, 2, 3]);
    assert_eq!(listed(&bench, json!({"limit": 2})), [2, 3]);
    assert_eq!(listed(&bench, json!({"signal": "drift"})), [1, 2]);
    assert_eq!(
        listed(&bench, json!({"substrate_id": a, "signal": "drift"})),
        [1]
    );
    assert_eq!(listed(&bench, json!({"signal": "spike.high"})), [3]);
    assert_eq!(
        listed(&bench, json!({"signal": "spike"})),
        Vec::<u64>::new()
    );
    for n in 4..=8 {
        emit(&bench, &b, "drift", n);
    }
    assert_eq!(listed(&bench, json!({})), [4, 5, 6, 7, 8]);
    let logged = bench
        .tenancy()
        .reality(&RealityName::lab())
        .unwrap()
        .bounds();
    assert_eq!(logged.durable_end.get() - 1, 8, "the log keeps all");
    let refused = bench.refused("op.omega.list_events", json!({"limit": 6}));
    assert_eq!(refused, ("VALIDATION_ERROR", "arguments.limit".into()));
    let bad = json!({"substrate_id": b, "signal": "a..b"});
    let refused = bench.refused("op.omega.emit_event", bad);
    assert_eq!(refused, ("VALIDATION_ERROR", "arguments.signal".into()));
    for wild in ["*", ">", "a.>"] {
        let given = json!({"substrate_id": b, "signal": wild});
        assert_eq!(
            bench.refused("op.omega.emit_event", given).0,
            "VALIDATION_ERROR",
            "{wild}"
        );
    }
}

// OPS-09
#[test]
fn what_is_cleared_leaves_the_list_and_not_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path(), false, |_| {});
    let (a, b) = (registered(&bench, "a"), registered(&bench, "b"));
    for (substrate, signal, n) in [(&a, "x", 1), (&a, "y", 2), (&b, "x", 3), (&b, "y", 4)] {
        emit(&bench, substrate, signal, n);
    }
    let cleared = bench.ok(
        "op.omega.clear_events",
        json!({"substrate_id": a, "signal": "x"}),
    );
    assert_eq!(
        (&cleared["removed_count"], &cleared["remaining_count"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(listed(&bench, json!({})), [2, 3, 4]);
    let cleared = bench.ok("op.omega.clear_events", json!({"signal": "y"}));
    assert_eq!(
        (&cleared["removed_count"], &cleared["remaining_count"]),
        (&json!(2), &json!(1))
    );
    emit(&bench, &a, "x", 5);
    assert_eq!(
        listed(&bench, json!({})),
        [3, 5],
        "what comes later is listed"
    );
    let gone = bench.ok("op.omega.unregister_substrate", json!({"substrate_id": b}));
    assert_eq!(
        (&gone["removed"], &gone["removed_events"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(listed(&bench, json!({})), [5]);
    let cleared = bench.ok("op.omega.clear_events", json!({}));
    assert_eq!(
        (&cleared["removed_count"], &cleared["remaining_count"]),
        (&json!(1), &json!(0))
    );
    let logged = bench
        .tenancy()
        .reality(&RealityName::lab())
        .unwrap()
        .bounds();
    assert_eq!(logged.durable_end.get() - 1, 5);
    let refused = bench.refused(
        "op.omega.emit_event",
        json!({"substrate_id": b, "signal": "x"}),
    );
    assert_eq!(refused, ("NOT_FOUND", "arguments.substrate_id".into()));
}

// OPS-09
#[test]
fn there_are_no_more_substrates_than_allowed_and_users_only_look() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = bench(directory.path(), false, |omega| {
        omega.substrates_max = 1;
        omega.payload_bytes_max = 1_024;
    });
    let a = registered(&bench, "a");
    let more = json!({"name": "b", "kind": "sim"});
    let refused = bench.refused("op.omega.register_substrate", more.clone());
    assert_eq!(refused, ("TOO_LARGE", "command".into()));
    let large = json!({"substrate_id": a, "signal": "s", "payload": {"x": "y".repeat(1_024)}});
    let refused = bench.refused("op.omega.emit_event", large);
    assert_eq!(refused, ("TOO_LARGE", "arguments.payload".into()));
    emit(&bench, &a, "s", 1);
    bench.who.role = Role::User;
    let all = json!({"substrate_id": a, "signal": "s", "name": "n", "kind": "k", "vm_id": "v"});
    for command in command::COMMANDS
        .iter()
        .filter(|one| one.role == Role::Admin)
    {
        let mut given = all.as_object().unwrap().clone();
        given.retain(|name, _| command.arguments.iter().any(|one| one.name == name));
        assert_eq!(
            bench.refused(command.name, given.into()).0,
            "FORBIDDEN",
            "{}",
            command.name
        );
    }
    assert_eq!(listed(&bench, json!({})), [1]);
    bench.limit("orders.>");
    assert_eq!(
        listed(&bench, json!({})),
        Vec::<u64>::new(),
        "topics bind here, too"
    );
    // Where things are on the host is for admins.
    for command in ["op.omega.status", "op.omega.vm.probe"] {
        let shown = bench.ok(command, json!({})).to_string();
        assert!(
            !shown.contains("/dev/kvm") && !shown.contains("workspace_dir"),
            "{shown}"
        );
    }
    bench.who.role = Role::Admin;
    let shown = bench.ok("op.omega.vm.probe", json!({})).to_string();
    assert!(
        shown.contains("/dev/kvm") && shown.contains("workspace_dir"),
        "{shown}"
    );
}

fn ends(tenancy: &Tenancy) -> Vec<(String, u64)> {
    let mut all: Vec<_> = tenancy.names();
    all.retain(|name| !name.is_lab());
    let end = |name: &RealityName| tenancy.reality(name).unwrap().bounds().durable_end.get();
    all.iter()
        .map(|name| (name.to_string(), end(name)))
        .collect()
}

// OPS-09: production is out of reach from there, and it from production.
#[test]
fn nothing_of_the_laboratory_gets_into_another_reality() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path(), false, |_| {});
    bench.ok("reality.create", json!({"name": "twin"}));
    let tenancy = bench.tenancy();
    bench.main();
    let before = ends(&tenancy);
    let a = registered(&bench, "main");
    // Whatever a signal is called, it stays below the laboratory's topics, in its reality.
    for (n, signal) in ["orders.new", "main", "op.store.x", "sys.audit"]
        .into_iter()
        .enumerate()
    {
        emit(&bench, &a, signal, n as u64);
    }
    bench.ok("op.omega.clear_events", json!({"signal": "main"}));
    bench.ok("op.omega.unregister_substrate", json!({"substrate_id": a}));
    assert_eq!(ends(&tenancy), before);
    let lab = tenancy.reality(&RealityName::lab()).unwrap();
    let topics = lab.log().topics().unwrap();
    assert_eq!(topics.len(), 4);
    assert!(
        topics
            .iter()
            .all(|one| one.topic.starts_with("omega.omega_"))
    );
    // The way in leads nowhere else.
    let record = || OwnRecord {
        topic: "t".into(),
        ..OwnRecord::default()
    };
    for name in ["main", "twin", "_system"] {
        let reality = tenancy.reality(&RealityName::new(name).unwrap()).unwrap();
        assert!(reality.store_signal(record()).is_err(), "{name}");
    }
    // And nobody else's way leads in.
    assert_eq!(
        lab.store(vec![record()], None).unwrap_err().code(),
        ErrorCode::Forbidden
    );
    assert_eq!(
        lab.leave(vec![record()]).unwrap_err().code(),
        ErrorCode::Forbidden
    );
    for (command, given) in [
        (
            "op.store.set",
            json!({"reality": "omega", "key": "k", "value": 1}),
        ),
        (
            "op.cron.schedule",
            json!({"reality": "omega", "topic": "a", "payload": {}}),
        ),
        (
            "reality.delete",
            json!({"name": "omega", "confirm": "omega"}),
        ),
    ] {
        assert_eq!(bench.refused(command, given).0, "FORBIDDEN", "{command}");
    }
    assert_eq!(lab.bounds().durable_end.get() - 1, 4);
}

// OPS-09
#[test]
fn nobody_takes_the_name_of_the_laboratory() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path(), false, |_| {});
    bench.main();
    for (command, given) in [
        ("reality.create", json!({"name": "omega"})),
        ("reality.fork", json!({"from": "main", "to": "omega"})),
    ] {
        assert_eq!(bench.refused(command, given).0, "FORBIDDEN", "{command}");
    }
    assert!(Lab::find(&bench.tenancy()).unwrap().is_none());
}

// OPS-14
#[test]
fn without_its_cache_the_state_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let seen = |bench: &Bench| {
        [
            "op.omega.list_substrates",
            "op.omega.list_events",
            "op.omega.vm.list",
            "op.omega.status",
        ]
        .map(|command| bench.ok(command, json!({})))
    };
    let before = {
        let bench = bench(directory.path(), true, |_| {});
        let (a, b) = (registered(&bench, "a"), registered(&bench, "b"));
        for n in 1..=4 {
            emit(&bench, if n % 2 == 0 { &a } else { &b }, "s", n);
        }
        bench.ok("op.omega.clear_events", json!({"substrate_id": a}));
        emit(&bench, &a, "s", 5);
        bench.ok("op.omega.unregister_substrate", json!({"substrate_id": b}));
        let seen = seen(&bench);
        assert_eq!(listed(&bench, json!({})), [5]);
        seen
    };
    let cached = seen(&bench(directory.path(), true, |_| {}));
    assert_eq!(cached, before);
    std::fs::remove_dir_all(directory.path().join("_state")).unwrap();
    assert_eq!(seen(&bench(directory.path(), true, |_| {})), before);
}

// OPS-10
#[test]
fn what_is_missing_is_said_and_nothing_is_launched() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path(), false, |omega| {
        omega.firecracker_bin = directory.path().join("no-firecracker");
        omega.kvm_device = directory.path().join("no-kvm");
    });
    let a = registered(&bench, "a");
    let probe = bench.ok("op.omega.vm.probe", json!({}));
    assert_eq!(probe["ready"], false);
    let problem = |name: &str| {
        let checks = probe["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        assert_eq!(check["ok"], false, "{check}");
        check["problem"].as_str().unwrap().to_owned()
    };
    assert!(problem("kvm").contains("kvm_intel"));
    assert!(problem("firecracker").contains("omega.firecracker_bin"));
    assert!(problem("kernel").contains("omega.kernel_image"));
    assert!(problem("rootfs").contains("omega.rootfs_image"));
    let error = bench
        .run("op.omega.vm.launch", json!({"substrate_id": a}))
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::FeatureDisabled);
    for name in ["kvm", "firecracker", "kernel", "rootfs"] {
        assert!(error.to_string().contains(name), "{error}");
    }
    let shown = directory.path().to_string_lossy();
    assert!(!error.to_string().contains(&*shown), "{error}");
    let given = json!({"substrate_id": a, "vcpus": 3});
    let refused = bench.refused("op.omega.vm.launch", given);
    assert_eq!(refused, ("VALIDATION_ERROR", "arguments.vcpus".into()));
    let given = json!({"substrate_id": a, "memory_mib": 1 << 20});
    let refused = bench.refused("op.omega.vm.launch", given);
    assert_eq!(refused, ("VALIDATION_ERROR", "arguments.memory_mib".into()));
    let stopped = bench.ok("op.omega.vm.stop", json!({"vm_id": "nobody"}));
    assert_eq!(stopped["reason"], "not_found");
}
