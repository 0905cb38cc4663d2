//! EDGE-01: what a profile refuses, and what the development profile makes.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use crate::raw::{Request, read_frame};
use crate::support::{Node, command, write};

fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(arguments).output().expect("it runs");
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn production_names_everything_that_is_missing() {
    let (code, text) = refused(&["serve", "--listen", "0.0.0.0:0", "--ops", "0.0.0.0:0"]);
    assert_eq!(code, Some(78), "{text}");
    for part in [
        "node.data_dir",
        "auth.keys",
        "edge.listen = 0.0.0.0:0",
        "ops.listen = 0.0.0.0:0",
        "edge.proxy_terminates_tls",
        "--dev",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

// PRJ-15: URLs hold passwords.
#[test]
fn settings_are_listed_without_the_urls_of_databases() {
    for output in ["text", "json"] {
        let found = command(&["config", "--output", output])
            .env("ARQONBUS_POSTGRES_URL", "postgres://bus:swordfish@db/bus")
            .env("ARQONBUS_VALKEY_URL", "valkey://:swordfish@cache:6379/0")
            .output()
            .expect("it runs");
        assert!(found.status.success());
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        assert_eq!(text.matches("(hidden)").count(), 2, "{text}");
        assert!(text.contains("ARQONBUS_POSTGRES_URL"), "{text}");
        assert!(!text.contains("swordfish"), "{text}");
    }
}

// PRJ-14
#[test]
fn a_projection_that_cannot_be_stops_the_start_by_entry_and_field() {
    let own = "[{name=q,topics=[q],key=[id],columns=[{name=id,type=text}]}]";
    let found = command(&["serve", "--dev"])
        .env("ARQONBUS_PROJECTIONS_OWN", own)
        .env("ARQONBUS_POSTGRES_URL", "mysql://bus:swordfish@db/bus")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&found.stderr).into_owned();
    assert_eq!(found.status.code(), Some(78), "{text}");
    for part in ["projections.own[0].key[0] = id", "required", "postgres.url"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(!text.contains("swordfish"), "{text}");
}

#[test]
fn production_refuses_keys_that_cannot_be_used() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("arqonbus.toml");
    write(&dir.path().join("short"), b"0123456789");
    write(
        &file,
        b"[node]\ndata_dir = 'data'\n[auth]\nkeys = [\n{ id = 'a', algorithm = 'HS256', file = 'short' },\n{ id = 'b', algorithm = 'ES256', file = 'gone' },\n]\n",
    );
    let (code, text) = refused(&["serve", "--config", file.to_str().expect("a path")]);
    assert_eq!(code, Some(78), "{text}");
    assert!(
        text.contains("auth key a") && text.contains("auth key b"),
        "{text}"
    );
    assert!(
        !dir.path().join("data").exists(),
        "nothing is written before the keys are good"
    );
}

#[test]
fn no_setting_turns_authentication_off() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("arqonbus.toml");
    write(&file, b"[auth]\nenabled = false\n");
    let (code, text) = refused(&["serve", "--config", file.to_str().expect("a path")]);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("unknown setting auth.enabled"), "{text}");
}

#[test]
fn development_refuses_every_address_but_loopback() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let data = data.to_str().expect("a path");
    let (code, text) = refused(&["serve", "--dev", "--data", data, "--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("edge.listen = 0.0.0.0:0"), "{text}");
}

#[test]
fn wrong_usage_and_wrong_settings_have_their_exit_codes() {
    assert_eq!(refused(&["serve", "--nonsense"]).0, Some(2));
    let (code, text) = refused(&["serve", "--dev", "--listen", "nowhere"]);
    assert_eq!(code, Some(78), "{text}");
    assert!(
        text.contains("edge.listen") && text.contains("--listen"),
        "{text}"
    );
}

#[test]
fn development_makes_a_secret_and_a_token_for_its_owner_alone() {
    let node = Node::dev();
    for name in ["dev-secret", "dev-token", "node.id"] {
        let mode = std::fs::metadata(node.data.join(name))
            .expect(name)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(node.dev_secret().len() >= 32);
    let (token, data) = (node.dev_token(), node.data.clone());
    node.signal("TERM");
    let (status, text) = node.ended();
    assert!(status.success());
    assert!(
        text.contains("dev-token") && text.contains("arqon token mint"),
        "{text}"
    );
    assert!(!text.contains(&token), "the token is shown");
    assert!(!data.exists() || data.is_dir());
}

#[test]
fn two_nodes_cannot_share_a_data_directory() {
    let node = Node::dev();
    let data = node.data.to_str().expect("a path");
    let (code, text) = refused(&[
        "serve",
        "--dev",
        "--data",
        data,
        "--listen",
        "127.0.0.1:0",
        "--ops",
        "127.0.0.1:0",
    ]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("in use"), "{text}");
}

// One object for scripts.
#[test]
fn version_can_be_an_object() {
    let output = command(&["version", "--output", "json"]).output();
    let output = output.expect("it runs");
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
}

// EDGE-01: nobody else on the machine reads what tenants store.
#[test]
fn data_directories_are_open_to_their_owner_only() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let node = Node::dev_on(&parent.path().join("data"));
    let mut dirs = vec![node.data.clone()];
    let token = node.dev_token();
    let (answer, mut session) = Request::upgrade().bearer(&token).open(node.edge);
    assert_eq!(answer.status, 101);
    // The Welcome: the tenant is open.
    read_frame(&mut session);
    dirs.push(node.data.join("dev"));
    dirs.push(node.data.join("dev/_system"));
    for dir in dirs {
        let mode = std::fs::metadata(&dir).expect("a directory").permissions();
        assert_eq!(mode.mode() & 0o777, 0o700, "{}", dir.display());
    }
}
