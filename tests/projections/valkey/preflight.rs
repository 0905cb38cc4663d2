//! Whether a server is fit, and TLS to it.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use arqonbus::projections::sink::Sink as _;
use arqonbus::projections::valkey::mapping::{Mapping, TTL};
use arqonbus::projections::valkey::preflight::{Check, RIGHTS, Weight, preflight};
use arqonbus::projections::valkey::{Address, ValkeySink};

use super::follower::{Follower, cached, events, newest, options};
use crate::servers::redis::{Redis, free_port};

async fn failures(url: &str) -> Vec<Check> {
    let mut address = Address::new(url);
    address.connect_timeout = Duration::from_millis(500);
    address.response_timeout = Duration::from_millis(500);
    let findings = preflight(&address).await.into_iter();
    let findings: Vec<_> = findings
        .filter(|finding| finding.weight == Weight::Failure)
        .collect();
    for finding in &findings {
        assert!(!finding.text.contains("hunter2"), "{}", finding.text);
    }
    findings.iter().map(|finding| finding.check).collect()
}

// PRJ-15: each failure has its name, and a fit server none.
#[tokio::test]
async fn what_is_wrong_with_a_server_is_named() {
    let server = Redis::start();
    let url = server.url();
    assert_eq!(failures(&url).await, []);
    assert_eq!(server.keys(), [""; 0], "nothing stays of it");
    let hints = preflight(&Address::new(&url)).await;
    let hints: Vec<_> = hints.iter().map(|hint| hint.check).collect();
    assert_eq!(hints, [Check::Memory]);
    server.set("maxmemory", "100mb");
    server.set("maxmemory-policy", "volatile-ttl");
    assert_eq!(preflight(&Address::new(&url)).await, []);

    assert_eq!(failures("http://:hunter2@x").await, [Check::Url]);
    assert_eq!(
        failures("rediss://:hunter2@x/#insecure").await,
        [Check::Url]
    );
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    assert_eq!(failures(&nobody).await, [Check::Reachable]);

    let user = format!("redis://reader:hunter2@127.0.0.1:{}", server.port());
    assert_eq!(failures(&user).await, [Check::Reachable]);
    let rights = [
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">hunter2",
        "~tenant:*",
        "+@all",
        "-@write",
    ];
    server.ask::<()>(&rights);
    assert_eq!(failures(&user).await, [Check::Writable]);
    server.ask::<()>(&["ACL", "SETUSER", "reader", "+@write", "-info"]);
    assert_eq!(failures(&user).await, [Check::Readable]);

    server.follow(free_port());
    assert_eq!(failures(&url).await, [Check::Role, Check::Writable]);
}

// PRJ-15: a cluster is no single server.
#[tokio::test]
async fn a_cluster_is_named() {
    let server = Redis::with(&["--cluster-enabled", "yes"]);
    let found = failures(&server.url()).await;
    assert!(found.contains(&Check::Single), "{found:?}");
}

// PRJ-11: a node's user needs no more than the keys of tenants and a handful of commands.
#[tokio::test]
async fn few_rights_are_enough() {
    let server = Redis::start();
    let user = [
        "ACL",
        "SETUSER",
        "node",
        "on",
        ">hunter2",
        "resetkeys",
        "-@all",
    ];
    let rights: Vec<_> = user.into_iter().chain(RIGHTS.split_whitespace()).collect();
    server.ask::<()>(&rights);
    let url = format!("redis://node:hunter2@127.0.0.1:{}", server.port());
    assert_eq!(failures(&url).await, []);
    let episodes = Mapping::episodes("episodes", TTL);
    let sink = ValkeySink::new(options(Address::new(&url), vec![episodes]));
    let mut follower = Follower::new(sink.expect("a sink"));
    follower.follow(&events(100)).await;
    assert_eq!(cached(&server), newest(&events(100)));
    assert_eq!(follower.away, 0, "{}", follower.said);
}

// PRJ-11: over TLS, with an authority of its own; nobody else's certificate will do.
#[tokio::test]
async fn tls_is_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let made = made.expect("a certificate");
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        let mut file = File::create(&path).expect("a file");
        file.write_all(text.as_bytes()).expect("room");
        path.to_str().expect("a path").to_owned()
    };
    let certificate = made.cert.pem();
    let cert = file("cert.pem", certificate.clone());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let port = free_port().to_string();
    let server = Redis::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
    ]);
    let mut address = Address::new(&format!("rediss://localhost:{port}"));
    let findings = preflight(&address).await;
    assert_eq!(findings[0].check, Check::Reachable);
    address.ca = Some(b"no certificate".to_vec());
    assert_eq!(preflight(&address).await[0].check, Check::Url);
    address.ca = Some(certificate.into_bytes());
    let findings = preflight(&address).await;
    let failed = findings
        .iter()
        .any(|finding| finding.weight == Weight::Failure);
    assert!(!failed, "{findings:?}");
    let episodes = Mapping::episodes("episodes", TTL);
    let sink = ValkeySink::new(options(address, vec![episodes])).expect("a sink");
    let mut follower = Follower::new(sink);
    follower
        .sink
        .prepare(&follower.test)
        .await
        .expect("it fits");
    follower.follow(&events(100)).await;
    assert_eq!(cached(&server), newest(&events(100)));
}
