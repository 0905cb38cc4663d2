//! Jobs of a tenant of a real node, whose office is a clock that is set.

use serde_json::{Value as Json, json};

use super::*;
use crate::broker::operators::testing::Desk;
use crate::broker::operators::{Settings, supervise};

const START: &str = "2026-02-20T00:00:00.000000Z";

fn schedule(desk: &Desk, arguments: Json) -> String {
    let answer = desk.ok("op.cron.schedule", arguments);
    answer["job_id"].as_str().unwrap().to_owned()
}

// OPS-06: the arguments of the older system, and its answers.
#[test]
fn a_job_is_scheduled_listed_shown_and_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::new(dir.path(), Settings::default());
    let asked = json!({
        "room": "ops", "channel": "alerts", "payload": {"text": "hi"},
        "delay_seconds": 0.5, "interval_seconds": 60, "repeat_count": 3,
    });
    let answer = desk.ok("op.cron.schedule", asked);
    assert_eq!(
        (&answer["room"], &answer["channel"]),
        (&"ops".into(), &"alerts".into())
    );
    assert_eq!(
        (&answer["delay_seconds"], &answer["repeat_count"]),
        (&0.5.into(), &3.into())
    );
    assert_eq!(
        (&answer["created_at"], &answer["next"]),
        (&START.into(), &"2026-02-20T00:00:00.500000Z".into())
    );
    let id = answer["job_id"].as_str().unwrap().to_owned();
    let named = json!({
        "topic": "reports.daily", "payload": {}, "name": "daily", "cron": "30 7 * * *",
        "time_zone": "Europe/Stockholm", "misfire": "all", "misfire_max": 5,
    });
    schedule(&desk, named.clone());
    assert_eq!(
        desk.refused("op.cron.schedule", named),
        ("VALIDATION_ERROR", "arguments.name".into())
    );
    assert_eq!(desk.ok("op.cron.list", json!({}))["count"], 2);
    let shown = desk.ok("op.cron.show", json!({"job_id": "daily", "next": 2}));
    assert_eq!(
        shown["next"],
        json!(["2026-02-20T06:30:00.000000Z", "2026-02-21T06:30:00.000000Z"])
    );
    // What is another's is not there; an admin sees all.
    desk.who.subject = "eve".into();
    assert_eq!(desk.ok("op.cron.list", json!({}))["count"], 0);
    let theirs = json!({"job_id": id});
    assert_eq!(
        desk.refused("op.cron.cancel", theirs.clone()),
        ("NOT_FOUND", "arguments.job_id".into())
    );
    desk.who.role = Role::Admin;
    assert_eq!(
        desk.ok("op.cron.cancel", theirs.clone())["job_id"],
        id.as_str()
    );
    assert_eq!(desk.refused("op.cron.cancel", theirs).0, "NOT_FOUND");
    assert_eq!(desk.ok("op.cron.list", json!({}))["count"], 1);
}

// OPS-06, BRK-11
#[test]
fn what_cannot_be_scheduled_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        jobs_max: 1,
        payload_bytes_max: 100,
        ..Limits::default()
    };
    let settings = Settings {
        cron: limits,
        ..Settings::default()
    };
    let mut desk = Desk::new(dir.path(), settings);
    let with = |more: Json| {
        let mut all = json!({"topic": "a", "payload": {}});
        for (name, value) in more.as_object().unwrap() {
            all[name] = value.clone();
        }
        all
    };
    for (more, field) in [
        (json!({"room": "r"}), "topic"),
        (json!({"topic": ""}), "topic"),
        (json!({"topic": "a..b"}), "topic"),
        (json!({"topic": "op.store.n.k"}), "topic"),
        (json!({"cron": "* * *"}), "cron"),
        (json!({"cron": "0 0 31 2 *"}), "cron"),
        (json!({"cron": "* * * * *", "delay_seconds": 1}), "cron"),
        (
            json!({"cron": "* * * * *", "time_zone": "Nowhere"}),
            "time_zone",
        ),
        (json!({"cron": "* * * * *", "dst": "maybe"}), "dst"),
        (json!({"time_zone": "UTC"}), "time_zone"),
        (json!({"delay_seconds": 0}), "delay_seconds"),
        (json!({"interval_seconds": 0.01}), "interval_seconds"),
        (json!({"repeat_count": 2}), "interval_seconds"),
        (json!({"misfire": "never"}), "misfire"),
        (json!({"misfire_max": 3}), "misfire_max"),
        (json!({"payload": {"text": "x".repeat(100)}}), "payload"),
        (json!({"name": "n".repeat(129)}), "name"),
    ] {
        let (_, found) = desk.refused("op.cron.schedule", with(more.clone()));
        assert_eq!(found, format!("arguments.{field}"), "{more}");
    }
    schedule(&desk, with(json!({"delay_seconds": 60})));
    assert_eq!(
        desk.refused("op.cron.schedule", with(json!({}))).0,
        "TOO_LARGE"
    );
    desk.limit("b.>");
    assert_eq!(
        desk.refused("op.cron.schedule", with(json!({}))),
        ("FORBIDDEN", "arguments.topic".into())
    );
}

// OPS-14
#[test]
fn what_was_kept_of_jobs_is_what_their_events_come_to() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(dir.path(), Settings::default());
    for name in ["a", "b", "c"] {
        schedule(
            &desk,
            json!({"topic": name, "payload": {"n": [1, null]}, "name": name, "cron": "@daily"}),
        );
    }
    desk.ok("op.cron.cancel", json!({"job_id": "a"}));
    desk.ok("op.cron.pause", json!({"job_id": "b"}));
    desk.ok("op.cron.pause", json!({"job_id": "c"}));
    desk.clock.pass(5_000);
    desk.ok("op.cron.resume", json!({"job_id": "c"}));
    let tenancy = desk.tenancy();
    let folded: Jobs = tenancy.ledger::<Jobs>().read(Clone::clone).unwrap();
    let kept =
        <Jobs as crate::broker::ledger::State>::load(&crate::broker::ledger::State::save(&folded))
            .unwrap();
    let all = |jobs: &Jobs| jobs.all().map(|job| (**job).clone()).collect::<Vec<_>>();
    assert_eq!(all(&kept), all(&folded));
    assert!(folded.get("a").is_none() && folded.get("b").unwrap().paused);
    assert_eq!(
        folded.get("c").unwrap().from_ms,
        folded.get("c").unwrap().created_ms + 5_000
    );
}

/// Lets the node's operators work until `done`.
fn work(desk: &Desk, done: impl Fn() -> bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    // As when the tenant is opened.
    desk.broker.duties().wake(&desk.who.tenant, NAME);
    runtime.block_on(async {
        let (close, closing) = tokio::sync::watch::channel(false);
        let working = tokio::spawn(supervise(std::sync::Arc::clone(&desk.broker), closing));
        let began = std::time::Instant::now();
        while !done() {
            assert!(began.elapsed().as_secs() < 60, "not done in time");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        close.send_replace(true);
        working.await.unwrap();
    });
}

fn records_on(desk: &Desk, topic: &str) -> u64 {
    let topics = desk.main().log().topics().unwrap();
    topics
        .iter()
        .find(|one| one.topic == topic)
        .map_or(0, |one| one.records)
}

// OPS-06, REL-12: a node that was away, and a clock that goes back.
#[test]
fn a_job_goes_on_where_the_log_says_that_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(dir.path(), Settings::default());
    let every = |topic: &str, misfire: &str| json!({"topic": topic, "payload": {}, "cron": "* * * * *", "misfire": misfire});
    let id = schedule(&desk, every("once", "once"));
    schedule(&desk, every("skip", "skip"));
    schedule(&desk, every("all", "all"));
    desk.clock.pass(60_000);
    work(&desk, || {
        ["once", "skip", "all"]
            .iter()
            .all(|topic| records_on(&desk, topic) == 1)
    });
    // Ten minutes away.
    desk.clock.pass(10 * 60_000 + 30_000);
    work(&desk, || {
        records_on(&desk, "all") == 11
            && records_on(&desk, "skip") == 2
            && records_on(&desk, "once") == 3
    });
    let shown = desk.ok("op.cron.show", json!({"job_id": id}));
    assert_eq!(
        (&shown["iterations"], &shown["last"]),
        (&3.into(), &"2026-02-20T00:11:00.000000Z".into())
    );
    // Each firing has its record, and nobody fires what is recorded.
    assert_eq!(records_on(&desk, &format!("op.cron.{id}")), 3);
}

// OPS-06: a job of so many times ends by itself.
#[test]
fn a_job_ends_when_it_has_run_as_often_as_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(dir.path(), Settings::default());
    schedule(
        &desk,
        json!({"room": "r", "payload": {"n": 1}, "delay_seconds": 1, "interval_seconds": 1, "repeat_count": 2}),
    );
    desk.clock.pass(10_000);
    work(&desk, || desk.ok("op.cron.list", json!({}))["count"] == 0);
    assert_eq!(records_on(&desk, "room.r.main"), 2);
}

// OPS-06, OPS-14: two who believe that the same firing is due; one of them makes it.
#[test]
fn a_firing_is_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(dir.path(), Settings::default());
    let id = schedule(
        &desk,
        json!({"topic": "t", "payload": {}, "cron": "@daily"}),
    );
    let tenancy = desk.tenancy();
    let job = tenancy
        .ledger::<Jobs>()
        .read(|jobs| jobs.get(&id).cloned())
        .unwrap()
        .unwrap();
    let main = desk.main();
    let stand = firing::Stand::of(&main, &id).unwrap();
    let fired = stand.fire(&main, &job, 1_000).unwrap();
    assert_eq!((fired.iteration, fired.planned_ms), (1, 1_000));
    let again = stand.fire(&main, &job, 1_000).unwrap_err();
    assert_eq!(again.code().as_str(), "SEQUENCE_CONFLICT");
    assert_eq!(firing::Stand::of(&main, &id).unwrap(), fired);
    assert_eq!(records_on(&desk, "t"), 1);
}
