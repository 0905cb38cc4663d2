//! What a production node needs of its databases: looked at by `arqonbus preflight`, brought by
//! `arqonbus migrate`, and insisted on by `arqonbus serve`. Real servers, real faults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use arqonbus::proto::claims::Role;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::postgres::{Database, Server};
use crate::servers::redis::{Redis, free_port};
use crate::shell::{arqon, finished};
use crate::support::{Node, claims, command, signed, write};

const POSTGRES: &str = "ARQONBUS_POSTGRES_URL";
const VALKEY: &str = "ARQONBUS_VALKEY_URL";
const PRODUCTION: &str = "ARQONBUS_PROJECTIONS__PRODUCTION";
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const SETTINGS: &str = "[node]\ndata_dir = 'data'\n[auth]\nkeys = [{ id = 'a', algorithm = 'HS256', file = 'secret' }]\n";
/// In every URL of these tests, and in nothing that a program may say.
const PASSWORD: &str = "swordfish";
/// The tables as they were made before there were migrations, with rows.
const BEFORE: &str = include_str!("../fixtures/postgres/before_migrations.sql");

type Settings<'a> = [(&'a str, &'a str)];

/// What a run said, which is no password.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str], settings: &Settings<'_>) -> Said {
    let mut command = command(arguments);
    command
        .envs(settings.iter().copied())
        // Not to meet a settings file of whoever runs the tests.
        .current_dir(std::env::temp_dir());
    let output = command.output().expect("it runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let said = Said {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    let shown = format!("{said:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    said
}

/// What preflight finds: verdict and detail by the name of what was looked at.
struct Findings {
    code: Option<i32>,
    all: BTreeMap<String, (String, String)>,
}

impl Findings {
    fn of(settings: &Settings<'_>) -> Self {
        let said = run(&["preflight", "--output", "json"], settings);
        let object: Value = serde_json::from_str(&said.stdout)
            .unwrap_or_else(|error| panic!("one object: {error}: {said:?}"));
        let list = object["findings"].as_array().expect("findings");
        let text = |finding: &Value, field: &str| finding[field].as_str().expect(field).to_owned();
        let all: BTreeMap<_, _> = list
            .iter()
            .map(|one| {
                let found = (text(one, "verdict"), text(one, "detail"));
                (text(one, "check"), found)
            })
            .collect();
        let failed = all.values().any(|(verdict, _)| verdict == "failed");
        assert_eq!(object["ok"], !failed, "{object}");
        assert_eq!(said.code, Some(i32::from(failed)), "{object}");
        Self {
            code: said.code,
            all,
        }
    }

    fn failed(&self) -> Vec<&str> {
        let all = self.all.iter();
        let failed = all.filter(|(_, (verdict, _))| verdict == "failed");
        failed.map(|(check, _)| check.as_str()).collect()
    }

    fn detail(&self, check: &str) -> &str {
        let found = self.all.get(check);
        found.map_or_else(|| panic!("no {check} in {:?}", self.all), |(_, text)| text)
    }
}

/// A directory with the settings of a production node in it.
fn home() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write(&dir.path().join("secret"), SECRET);
    let file = dir.path().join("arqonbus.toml");
    write(&file, SETTINGS.as_bytes());
    (dir, file)
}

/// What a node says that does not start, and leaves nothing behind.
fn refused(settings: &Settings<'_>) -> String {
    let (dir, file) = home();
    let file = file.to_str().expect("text");
    let said = run(
        &["serve", "--config", file, "--listen", "127.0.0.1:0"],
        settings,
    );
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.stdout, "", "{said:?}");
    assert!(said.stderr.contains("arqonbus preflight"), "{said:?}");
    assert!(!dir.path().join("data").exists(), "nothing was begun");
    said.stderr
}

/// A database whose owner has a password that can be looked for.
fn database(server: &Server) -> Database {
    let mut database = server.database();
    let owner = &database.owner;
    server.sql(
        "postgres",
        &format!("ALTER ROLE {owner} PASSWORD '{PASSWORD}'"),
    );
    database.url = server.url(owner, PASSWORD, &database.name);
    database
}

fn migrated(server: &Server) -> Database {
    let database = database(server);
    let said = run(&["migrate", "up"], &[(POSTGRES, &database.url)]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.ends_with("up to date\n"), "{said:?}");
    database
}

/// As a production server is set up, and asks for a password.
fn valkey() -> Redis {
    let server = Redis::with(&["--maxmemory", "64mb", "--maxmemory-policy", "volatile-ttl"]);
    let password = format!(">{PASSWORD}");
    server.ask::<()>(&[
        "ACL",
        "SETUSER",
        "node",
        "on",
        &password,
        "~tenant:*",
        "+@all",
    ]);
    server
}

fn valkey_url(server: &Redis) -> String {
    format!("redis://node:{PASSWORD}@127.0.0.1:{}", server.port())
}

// PRJ-15: a production node does without either server only where it was told so.
#[test]
fn both_servers_are_required_unless_it_is_said_otherwise() {
    let database = migrated(Server::of_all());
    let valkey = valkey();
    let cache = valkey_url(&valkey);
    let cases: [(&Settings<'_>, &[&str]); 3] = [
        (&[], &["postgres.url", "valkey.url"]),
        (&[(VALKEY, &cache)], &["postgres.url"]),
        (&[(POSTGRES, &database.url)], &["valkey.url"]),
    ];
    for (settings, missing) in cases {
        let findings = Findings::of(settings);
        assert_eq!(findings.failed(), missing);
        let said = refused(settings);
        for setting in missing {
            assert!(findings.detail(setting).contains("ARQONBUS_"), "{setting}");
            assert!(said.contains(&format!("- {setting}: ")), "{said}");
        }
        assert_eq!(said.matches("\n  - ").count(), missing.len(), "{said}");
    }
    // Three ways to do without.
    let ways = [
        (PRODUCTION, "embedded"),
        ("ARQONBUS_PROJECTIONS__ENABLED", "false"),
        ("ARQONBUS_PROJECTIONS__CONTINUUM", "false"),
    ];
    for way in ways {
        let findings = Findings::of(&[way]);
        assert_eq!(findings.failed(), [""; 0], "{way:?}");
        let node = Node::production_with(home().0, SETTINGS, &[way]);
        node.signal("TERM");
        assert!(node.ended().0.success(), "{way:?}");
    }
}

// PRJ-15: a server that is named is looked at, also where none is required.
#[test]
fn doing_without_is_no_excuse_for_a_server_that_is_away() {
    let away = format!(
        "postgres://bus:{PASSWORD}@127.0.0.1:{}/bus?sslmode=disable",
        free_port()
    );
    let settings = [(PRODUCTION, "embedded"), (POSTGRES, &away)];
    assert_eq!(Findings::of(&settings).failed(), ["postgres.reachable"]);
    assert!(refused(&settings).contains("- postgres.reachable: "));
}

// PRJ-12, PRJ-15
#[test]
fn a_migrated_database_is_served_and_a_newer_one_is_not() {
    let server = Server::of_all();
    let database = database(server);
    let valkey = valkey();
    let cache = valkey_url(&valkey);
    let settings = [(POSTGRES, database.url.as_str()), (VALKEY, cache.as_str())];

    let findings = Findings::of(&settings);
    assert_eq!(findings.failed()[0], "postgres.migrated");
    assert!(
        findings
            .detail("postgres.migrated")
            .contains("arqonbus migrate up")
    );
    assert!(refused(&settings).contains("arqonbus migrate up"));
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(server.sql(&database.name, tables), "0", "only looked at");

    let status = run(&["migrate", "status", "--output", "json"], &settings);
    let status: Value = serde_json::from_str(&status.stdout).expect("one object");
    assert!(status["pending"].as_u64() > Some(0), "{status}");
    let up = run(&["migrate", "up"], &settings);
    assert_eq!(up.code, Some(0), "{up:?}");

    let findings = Findings::of(&settings);
    assert_eq!(findings.code, Some(0), "{:?}", findings.all);
    assert!(
        findings.all.values().all(|(verdict, _)| verdict == "ok"),
        "{:?}",
        findings.all
    );
    let text = run(&["preflight"], &settings);
    assert_eq!(text.code, Some(0));
    assert_eq!(text.stdout.lines().count(), findings.all.len(), "{text:?}");

    let node = Node::production_with(home().0, SETTINGS, &settings);
    let token = signed(&claims("acme", Role::Admin), SECRET);
    let event = json!({
        "event_id": "01J9ZQ6T2N8W4V5X6Y7Z8A0001", "event_type": "episode.created",
        "tenant_id": "acme", "agent_id": "planner",
        "episode_id": "01J9ZQ6T2N8W4V5X6Y7Z8B0001",
        "source_ts": "2026-01-31T12:00:00Z", "schema_version": 1,
        "payload": { "content_ref": "sqlite://episodes/1" },
    });
    let url = format!("ws://{}/v1/ws", node.edge);
    let ran = |arguments: &[&str], input: &str| {
        let mut command = arqon(&url, &token, arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("arqon starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, input.as_bytes()).expect("it reads");
        drop(stdin);
        let ran = finished(child);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    };
    ran(&["produce", "continuum.episode.v1"], &format!("{event}\n"));
    for sink in ["postgres", "valkey", "sled"] {
        ran(&["projector", "wait", "1", "--sink", sink], "");
    }
    let row = "SELECT tenant_id, content_ref, last_sequence FROM arqonbus_continuum_projection";
    assert_eq!(
        server.sql(&database.name, row),
        "acme|sqlite://episodes/1|1"
    );
    assert!(!valkey.keys().is_empty(), "nothing is cached");
    node.signal("TERM");
    let (status, said) = node.ended();
    assert!(status.success() && !said.contains(PASSWORD), "{said}");

    let newer = "INSERT INTO arqonbus_schema_migrations VALUES (99, 'later', 'x')";
    server.sql(&database.name, newer);
    let findings = Findings::of(&settings);
    assert_eq!(findings.failed(), ["postgres.migrated"]);
    assert!(findings.detail("postgres.migrated").contains("version 99"));
    assert!(refused(&settings).contains("version 99"));
    for action in ["status", "up"] {
        let said = run(&["migrate", action], &settings);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("use the newer one"), "{said:?}");
    }
}

// PRJ-15: each failure is named, by the command and by a node that does not start, and no password.
#[test]
fn what_is_wrong_with_a_server_is_named() {
    let server = Server::of_all();
    let database = migrated(server);
    let (valkey, replica) = (valkey(), valkey());
    replica.follow(valkey.port());
    let cache = valkey_url(&valkey);

    let guest = format!("{}_guest", database.name);
    server.sql(
        &database.name,
        &format!(
            "CREATE ROLE {guest} LOGIN PASSWORD '{PASSWORD}'; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {guest}; \
             CREATE ROLE {guest}_reads LOGIN PASSWORD '{PASSWORD}' IN ROLE {owner}; \
             ALTER ROLE {guest}_reads SET default_transaction_read_only = on",
            owner = database.owner
        ),
    );
    let by = |role: &str, password: &str| server.url(role, password, &database.name);
    let away = database.url.replace(&server.port.to_string(), "1");
    let no_database = server.url(&database.owner, PASSWORD, "swordfish_is_no_database");
    let wrong = by(&database.owner, "no-swordfish");
    let plain = database.url.replace("sslmode=disable", "sslmode=require");
    let (less, reads) = (
        by(&guest, PASSWORD),
        by(&format!("{guest}_reads"), PASSWORD),
    );
    let plain_cache = cache.replace("redis://", "rediss://");
    let away_cache = format!("redis://node:{PASSWORD}@127.0.0.1:{}", free_port());
    let wrong_cache = cache.replace(PASSWORD, "no-swordfish");
    let replica_cache = valkey_url(&replica);

    let cases = [
        (POSTGRES, &away, "postgres.reachable", ""),
        (POSTGRES, &wrong, "postgres.reachable", "28P01"),
        (POSTGRES, &plain, "postgres.reachable", "TLS"),
        (POSTGRES, &reads, "postgres.writable", "read-only"),
        (
            POSTGRES,
            &less,
            "postgres.table_arqonbus_continuum_projection",
            "may not INSERT, UPDATE, DELETE",
        ),
        (VALKEY, &away_cache, "valkey.reachable", ""),
        (VALKEY, &wrong_cache, "valkey.reachable", ""),
        (VALKEY, &plain_cache, "valkey.reachable", ""),
        (VALKEY, &replica_cache, "valkey.role", "primary"),
    ];
    for (setting, url, check, text) in cases {
        // The other server is as it should be, and nothing else is said of it.
        let (database, cache) = match setting {
            POSTGRES => (url.as_str(), cache.as_str()),
            _ => (database.url.as_str(), url.as_str()),
        };
        let settings = [
            (POSTGRES, database),
            (VALKEY, cache),
            ("ARQONBUS_POSTGRES__CONNECT_TIMEOUT_MS", "2000"),
        ];
        let findings = Findings::of(&settings);
        let failed = findings.failed();
        assert!(failed.contains(&check), "{check}: {:?}", findings.all);
        let family = check.split('.').next().unwrap_or_default();
        assert!(
            failed.iter().all(|failed| failed.starts_with(family)),
            "{failed:?}"
        );
        assert!(
            findings.detail(check).contains(text),
            "{text}: {:?}",
            findings.all
        );
        let said = refused(&settings);
        for check in failed {
            assert!(said.contains(&format!("  - {check}: ")), "{said}");
        }
    }
    // Its name is part of what the server says, so that it is compared here alone.
    let mut command = command(&["preflight"]);
    let output = command
        .env(POSTGRES, &no_database)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("3D000"), "{said}");
    assert!(!said.contains(&format!(":{PASSWORD}@")), "{said}");
}

// PRJ-15: a standby answers, and takes no writes.
#[test]
fn a_standby_is_named() {
    let server = Server::start(&[]);
    let database = migrated(&server);
    server.follow();
    let settings = [(POSTGRES, database.url.as_str()), (PRODUCTION, "embedded")];
    let findings = Findings::of(&settings);
    assert_eq!(findings.failed(), ["postgres.writable"]);
    assert!(
        findings
            .detail("postgres.writable")
            .contains("name the primary")
    );
    assert!(refused(&settings).contains("  - postgres.writable: "));
}

// PRJ-12: tables of the time before become those of today with their rows, however many try it at
// once and however often.
#[test]
fn an_older_database_is_migrated_once_by_many_at_once() {
    let server = Server::of_all();
    let database = database(server);
    let owner = &database.owner;
    let made = server.try_sql_as(&database.name, owner, PASSWORD, BEFORE);
    made.expect("the tables of before");
    let rows = "SELECT (SELECT count(*) FROM arqonbus_continuum_projection),
        (SELECT count(*) FROM arqonbus_continuum_projection_events),
        (SELECT count(*) FROM arqonbus_continuum_projection_dlq),
        (SELECT count(*) FROM arqonbus_message_history)";
    let before = server.sql(&database.name, rows);
    assert_eq!(before, "1|1|2|2");

    let settings = [(POSTGRES, database.url.as_str())];
    let up = ["migrate", "up", "--output", "json"];
    let (first, second) = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| run(&up, &settings)))
            .collect();
        let all: Vec<_> = all
            .into_iter()
            .map(|one| one.join().expect("it ends"))
            .collect();
        for said in &all {
            assert_eq!(said.code, Some(0), "{said:?}");
            assert_eq!(said.stdout, all[0].stdout, "all see the same");
        }
        (all[0].stdout.clone(), run(&up, &settings).stdout)
    });
    assert_eq!(first, second, "applied once, at one time");
    let status = run(&["migrate", "status", "--output", "json"], &settings);
    assert_eq!(status.stdout, first);
    let object: Value = serde_json::from_str(&first).expect("one object");
    assert_eq!(
        (&object["pending"], &object["has_reader"]),
        (&json!(0), &json!(true))
    );
    let migrations = object["migrations"].as_array().expect("migrations");
    for (number, migration) in (1..).zip(migrations) {
        assert_eq!(migration["version"], number, "{object}");
        assert!(migration["applied_at"].is_string(), "{object}");
    }
    let applied = server.sql(
        &database.name,
        "SELECT count(*) FROM arqonbus_schema_migrations",
    );
    assert_eq!(applied, migrations.len().to_string());
    assert_eq!(server.sql(&database.name, rows), before);
    let text = run(&["migrate", "status"], &settings).stdout;
    assert!(text.ends_with("up to date\n"), "{text}");
    assert_eq!(text.lines().count(), migrations.len() + 1, "{text}");
}

// PRJ-12: without a database there is nothing to migrate.
#[test]
fn migrating_needs_a_database() {
    for action in ["status", "up"] {
        let said = run(&["migrate", action], &[]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(POSTGRES), "{said:?}");
    }
    assert_eq!(run(&["migrate", "sideways"], &[]).code, Some(2));
    let wrong = [(POSTGRES, "mysql://bus:swordfish@db/bus")];
    assert_eq!(run(&["preflight"], &wrong).code, Some(78));
}
