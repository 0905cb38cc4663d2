//! Signed payloads, from a key on disk to the flag in the record.

use arqonbus::client::{Client, Error, ProduceOptions};
use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::Envelope;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::Value;
use tempfile::TempDir;

use crate::mirror::{connect, event, seen};
use crate::shell::arqon;
use crate::support::{Node, claims, signed, write};

/// A key pair in two files, as `openssl` writes them.
struct Keys {
    dir: TempDir,
    pair: Ed25519KeyPair,
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

impl Keys {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut public = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        public.extend_from_slice(pair.public_key().as_ref());
        write(
            &dir.path().join("svc.pub.pem"),
            pem("PUBLIC KEY", &public).as_bytes(),
        );
        let private = pem("PRIVATE KEY", document.as_ref());
        write(&dir.path().join("svc.pem"), private.as_bytes());
        Self { dir, pair }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn sign(&self, mut envelope: Envelope, data: &str) -> Envelope {
        let signature = self.pair.sign(data.as_bytes());
        envelope.signature = Bytes::copy_from_slice(signature.as_ref());
        envelope
    }
}

/// The code, field and reason's text of a refusal; `None` if it was stored.
async fn refusal(client: &Client, envelope: &Envelope) -> Option<(String, String)> {
    let mut batch = client.batch();
    batch.push_message(envelope);
    match client.produce(&batch, &ProduceOptions::default()).await {
        Ok(_) => None,
        Err(Error::Answered { code, field, .. }) => Some((code, field)),
        Err(other) => panic!("{other}"),
    }
}

// EDGE-20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_its_producer_has_signed_is_stored() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Node::dev_on(dir.path());
    let keys = Keys::new();
    let blocked = Some((
        "POLICY_BLOCKED".to_owned(),
        "envelopes[0].signature".to_owned(),
    ));
    // The development token's subject is `admin`.
    let added = node.ok(&[
        "signature",
        "add",
        "admin",
        "--public-key",
        &keys.file("svc.pub.pem"),
        "--output",
        "json",
    ]);
    let added: Value = serde_json::from_str(&added).expect("an object");
    node.ok(&["signature", "require", "pay.>"]);

    let unsigned = node.run_with_input(&["produce", "pay.now"], "1\n");
    assert_eq!(unsigned.code, 1);
    assert!(
        unsigned.stderr.contains("POLICY_BLOCKED"),
        "{}",
        unsigned.stderr
    );
    let sign_key = keys.file("svc.pem");
    let produced = node.run_with_input(
        &["produce", "pay.now", "--sign-key", &sign_key],
        "{\"amount\":1}\n{\"amount\":2}\n",
    );
    assert_eq!(produced.code, 0, "{}", produced.stderr);
    let bad = node.run_with_input(
        &[
            "produce",
            "pay.now",
            "--sign-key",
            &keys.file("svc.pub.pem"),
        ],
        "1\n",
    );
    assert_eq!(bad.code, 65, "a public key signs nothing");

    let client = connect(&node).await;
    let stored = seen(&client, "main", ">").await;
    assert_eq!(stored.len(), 2, "{stored:?}");
    assert!(
        stored.iter().all(|one| one.flags == ["signed"]),
        "{stored:?}"
    );
    let changed = keys.sign(event("pay.now", "", "2"), "1");
    assert_eq!(refusal(&client, &changed).await, blocked);

    // Somebody else of the tenant, in that producer's name.
    let mut other = claims("dev", Role::User);
    other.sub = "mallory".into();
    let token = signed(&other, &node.dev_secret());
    let options = arqonbus::client::ConnectOptions::new(node.url(), token);
    let mallory = Client::connect(options).await.expect("a session");
    let mut spoofed = event("free", "", "1");
    assert_eq!(refusal(&mallory, &spoofed).await, None, "in its own name");
    spoofed.producer_id = "admin".into();
    assert_eq!(refusal(&mallory, &spoofed).await, blocked);
    spoofed.signature = Bytes::from_static(&[7; 64]);
    assert_eq!(refusal(&mallory, &spoofed).await, blocked);
    spoofed.signature = stored_signature(&stored[0].envelope);
    assert_eq!(
        refusal(&mallory, &spoofed).await,
        blocked,
        "of another payload"
    );
    let passed_on = keys.sign(spoofed, "1");
    assert_eq!(
        refusal(&mallory, &passed_on).await,
        None,
        "signed by the producer"
    );
    // Whoever has no key cannot sign for the topic at all.
    assert_eq!(refusal(&mallory, &event("pay.now", "", "1")).await, blocked);

    node.signal("TERM");
    drop(node.ended());
    let node = Node::dev_on(dir.path());
    let status = node.ok(&["edge", "status", "--output", "json"]);
    let status: Value = serde_json::from_str(&status).expect("an object");
    assert_eq!(status["signature_keys"], 1, "{status}");
    assert_eq!(status["signature_requirements"], 1, "{status}");
    assert_eq!(
        (&status["fit"], &status["judging"]),
        (&true.into(), &true.into())
    );
    assert_eq!(node.run_with_input(&["produce", "pay.now"], "1\n").code, 1);
    let key = added["key"].as_str().expect("a name");
    node.ok(&["signature", "remove", "admin", key]);
    node.ok(&["signature", "unrequire", "pay.>"]);
    assert_eq!(node.run_with_input(&["produce", "pay.now"], "1\n").code, 0);
    let again = node.run(&["signature", "unrequire", "pay.>"]);
    assert!(again.stderr.contains("NOT_FOUND"), "{}", again.stderr);
}

fn stored_signature(envelope: &Bytes) -> Bytes {
    use prost::Message as _;
    Envelope::decode(envelope.clone())
        .expect("an envelope")
        .signature
}

// EDGE-20, EDGE-07
#[test]
fn keys_are_registered_by_admins_alone() {
    let node = Node::dev();
    let keys = Keys::new();
    let token = signed(&claims("dev", Role::Operator), &node.dev_secret());
    let public = keys.file("svc.pub.pem");
    for arguments in [
        &["signature", "add", "alice", "--public-key", &public][..],
        &["signature", "require", ">"],
        &["signature", "unrequire", ">"],
        &["signature", "list"],
        &[
            "mirror",
            "set",
            "all",
            "--topics",
            ">",
            "--to-topic",
            "copy",
        ],
        &["mirror", "list"],
    ] {
        let child = arqon(&node.url(), &token, arguments).spawn();
        let ran = crate::shell::finished(child.expect("arqon starts"));
        assert_eq!(ran.code, 77, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("FORBIDDEN"), "{}", ran.stderr);
    }
}
