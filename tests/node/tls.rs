//! EDGE-08, EDGE-01: TLS on both listeners, certificates of clients, and new files under live
//! sessions. Authorities and certificates are made by each test.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arqonbus::client::{
    Client, ConnectOptions, Error, Outgoing, ProduceOptions, Reconnect, Start, SubscribeOptions,
    Tls, TlsProblem,
};
use arqonbus::proto::claims::Role;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};

use crate::raw::{self, Request};
use crate::shell::{arqon, finished};
use crate::support::{Node, PATIENCE, claims, command, now_s, signed, write};

const HOUR_S: u64 = 3600;

/// An authority, and the directory that everything of a test is in.
pub(crate) struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What a certificate says, and when it ends.
struct Subject<'a> {
    names: &'a [(DnType, &'a str)],
    uris: &'a [&'a str],
    ends_in_s: i64,
}

impl<'a> Subject<'a> {
    fn of(names: &'a [(DnType, &'a str)]) -> Self {
        Self {
            names,
            uris: &[],
            ends_in_s: 3600,
        }
    }
}

fn at_s(seconds: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now_s() - 48 * HOUR_S);
    params.not_after = epoch + Duration::from_secs(seconds);
    params
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = at_s(now_s() + 100 * 24 * HOUR_S);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let dir = tempfile::tempdir().expect("a temporary directory");
        write(&dir.path().join("ca.pem"), issuer.pem().as_bytes());
        Self { dir, issuer }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let pair = Pair {
            certificate: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        write(&pair.certificate, certificate.pem().as_bytes());
        write(&pair.key, key.serialize_pem().as_bytes());
        pair
    }

    /// A node's certificate for 127.0.0.1.
    pub(crate) fn server(&self, name: &str) -> Pair {
        let mut params = at_s(now_s() + 30 * 24 * HOUR_S + HOUR_S);
        let address = [127, 0, 0, 1].into();
        params.subject_alt_names = vec![SanType::IpAddress(address)];
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(name, &params)
    }

    fn client(&self, name: &str, subject: &Subject<'_>) -> Pair {
        let end = i64::try_from(now_s()).expect("a time") + subject.ends_in_s;
        let mut params = at_s(u64::try_from(end).expect("a time"));
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in subject.names {
            params.distinguished_name.push(kind.clone(), *text);
        }
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("a URI"));
        params.subject_alt_names = subject.uris.iter().map(uri).collect();
        self.sign(name, &params)
    }

    /// Trusts this authority, and shows `pair`.
    fn tls(&self, pair: Option<&Pair>) -> Tls {
        Tls {
            ca: Some(self.ca()),
            certificate: pair.map(|pair| pair.certificate.clone()),
            key: pair.map(|pair| pair.key.clone()),
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        roots
    }

    /// A client that takes only `versions`.
    fn raw_client(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// A node with TLS, and more settings.
fn node(server: &Pair, more: &[(&str, &str)]) -> Node {
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (certificate, key) = (text(&server.certificate), text(&server.key));
    let mut settings = vec![
        ("ARQONBUS_EDGE__TLS_CERTIFICATE", certificate.as_str()),
        ("ARQONBUS_EDGE__TLS_KEY", key.as_str()),
    ];
    settings.extend_from_slice(more);
    Node::dev_with(&settings)
}

/// A node that asks clients for certificates of `authority`.
fn asking(authority: &Authority, how: &str, more: &[(&str, &str)]) -> Node {
    let ca = authority.ca();
    let mut settings = vec![
        ("ARQONBUS_EDGE__CLIENT_CERTIFICATES", how),
        ("ARQONBUS_EDGE__CLIENT_CA", ca.to_str().expect("text")),
    ];
    settings.extend_from_slice(more);
    node(&authority.server("node"), &settings)
}

fn options(node: &Node, token: &str, tls: Tls) -> ConnectOptions {
    let mut options = ConnectOptions::new(format!("wss://{}/v1/ws", node.edge), token);
    options.tls = tls;
    options.reconnect = Reconnect::Never;
    options
}

async fn connect(node: &Node, token: &str, tls: Tls) -> Result<Client, Error> {
    Client::connect(options(node, token, tls)).await
}

/// The certificate that the next handshake gets.
async fn shown(authority: &Authority, to: SocketAddr) -> CertificateDer<'static> {
    let stream = tokio::net::TcpStream::connect(to)
        .await
        .expect("it listens");
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let connector = authority.raw_client(&[&rustls::version::TLS13]);
    let stream = connector.connect(name, stream).await.expect("TLS");
    let certificates = stream.get_ref().1.peer_certificates();
    certificates.expect("a certificate")[0].clone()
}

fn own(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&pair.certificate).expect("a certificate")
}

fn notices(node: &Node) -> Vec<String> {
    let ready = Request::get("/readyz").send(node.ops).json();
    assert_eq!(ready["ready"], true, "{ready}");
    let notices = ready["notices"].as_array().expect("a list");
    notices
        .iter()
        .map(|n| n.as_str().expect("text").to_owned())
        .collect()
}

fn counted(node: &Node, line: &str) -> bool {
    Request::get("/metrics")
        .send(node.ops)
        .text()
        .contains(line)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// EDGE-08
#[tokio::test(flavor = "multi_thread")]
async fn tls_1_3_and_nothing_else_is_spoken() {
    let authority = Authority::new();
    let node = node(&authority.server("node"), &[]);
    let stream = tokio::net::TcpStream::connect(node.edge)
        .await
        .expect("it listens");
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let older = authority.raw_client(&[&rustls::version::TLS12]);
    let refused = older
        .connect(name.clone(), stream)
        .await
        .expect_err("TLS 1.2");
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");

    let stream = tokio::net::TcpStream::connect(node.edge)
        .await
        .expect("it listens");
    let connector = authority.raw_client(&[&rustls::version::TLS13]);
    let mut stream = connector.connect(name, stream).await.expect("TLS 1.3");
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    let upgrade = Request::upgrade().bearer(&node.dev_token());
    stream.write_all(&upgrade.bytes()).await.expect("it reads");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");

    // Without TLS the answer is one of HTTP, with nothing in front, and the connection ends.
    let answer = upgrade.send(node.edge);
    assert_eq!(
        (answer.status, answer.json()["error"]["reason"].as_str()),
        (400, Some("tls_required"))
    );
    // And what is neither is shown the door.
    let mut stream = raw::connect(node.edge);
    stream
        .write_all(&[22, 3, 1, 255, 255, 0, 1, 2, 3])
        .expect("it reads");
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(end.is_ok() || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    assert!(rest.len() < 16, "{rest:?}");
    until("counting", async || {
        counted(&node, "arqon_edge_handshakes_refused_total{code=\"tls\"} 3")
    })
    .await;
    assert!(counted(
        &node,
        "arqon_edge_tls_days_left{certificate=\"Server\"} 30"
    ));
}

// EDGE-08
#[tokio::test(flavor = "multi_thread")]
async fn client_says_what_is_wrong_with_a_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let node = node(&authority.server("node"), &[]);
    let token = node.dev_token();
    let client = connect(&node, &token, authority.tls(None))
        .await
        .expect("a session");
    client.ping().await.expect("it answers");

    let unknown = connect(&node, &token, stranger.tls(None)).await;
    let system = connect(&node, &token, Tls::default()).await;
    for refused in [unknown, system] {
        assert!(
            matches!(
                &refused,
                Err(Error::Tls {
                    problem: TlsProblem::UnknownIssuer,
                    ..
                })
            ),
            "{:?}",
            refused.err()
        );
    }
    let mut by_name = options(&node, &token, authority.tls(None));
    by_name.url = format!("wss://localhost:{}/v1/ws", node.edge.port());
    let refused = Client::connect(by_name).await.expect_err("another name");
    assert!(
        matches!(&refused, Error::Tls { problem: TlsProblem::OtherName { host }, .. } if host == "localhost"),
        "{refused:?}"
    );
    let gone = Tls {
        ca: Some(authority.dir.path().join("gone")),
        ..Tls::default()
    };
    let refused = connect(&node, &token, gone).await.expect_err("no file");
    assert!(matches!(&refused, Error::Address { .. }), "{refused:?}");

    // A node would not start with it, so a server of this test shows it.
    let mut params = at_s(now_s() - HOUR_S);
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let expired = authority.sign("expired", &params);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(
            vec![own(&expired)],
            PrivateKeyDer::from_pem_file(&expired.key).expect("a key"),
        )
        .expect("a pair");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        drop(acceptor.accept(stream).await);
        // The second one is no TLS at all.
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .expect("it reads");
        stream.shutdown().await.expect("an end");
    });
    for wanted in [TlsProblem::NotInForce, TlsProblem::NotTls] {
        let mut options = options(&node, &token, authority.tls(None));
        options.url = format!("wss://{address}/v1/ws");
        match Client::connect(options).await {
            Err(Error::Tls { problem, .. }) => assert_eq!(problem, wanted),
            other => panic!("{:?}", other.err()),
        }
    }
}

// EDGE-08, TOOL-02
#[test]
fn command_line_connects_with_an_authority_and_a_certificate() {
    let authority = Authority::new();
    let device = authority.client(
        "device",
        &Subject::of(&[
            (DnType::OrganizationName, "plant"),
            (DnType::CommonName, "press-7"),
        ]),
    );
    let node = asking(&authority, "optional", &[]);
    let url = format!("wss://{}/v1/ws", node.edge);
    let home = tempfile::tempdir().expect("a directory");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (ca, cert, key) = (
        text(&authority.ca()),
        text(&device.certificate),
        text(&device.key),
    );
    let run = |token: &str, arguments: &[&str]| {
        let mut command = arqon(&url, token, arguments);
        command.env("XDG_CONFIG_HOME", home.path());
        finished(command.spawn().expect("arqon starts"))
    };
    let refused = run(&node.dev_token(), &["status"]);
    assert_eq!(refused.code, 69, "{}", refused.stderr);
    assert!(refused.stderr.contains("--ca FILE"), "{}", refused.stderr);
    let by_token = run(&node.dev_token(), &["status", "--ca", &ca]);
    assert_eq!(by_token.code, 0, "{}", by_token.stderr);
    let nobody = run("", &["status", "--ca", &ca]);
    assert_eq!(nobody.code, 77, "{}", nobody.stderr);
    assert!(nobody.stderr.contains("--cert"), "{}", nobody.stderr);
    let shown = ["--ca", &ca, "--cert", &cert, "--cert-key", &key];
    let mut arguments = vec!["status", "--output", "json"];
    arguments.extend(shown);
    let by_certificate = run("", &arguments);
    assert_eq!(by_certificate.code, 0, "{}", by_certificate.stderr);
    assert!(
        by_certificate.stdout.contains("plant"),
        "{}",
        by_certificate.stdout
    );

    let mut arguments = vec!["context", "add", "plant", "--url", &url];
    arguments.extend(shown);
    let kept = run("", &arguments);
    assert_eq!(kept.code, 0, "{}", kept.stderr);
    let by_context = run("", &["status", "--context", "plant"]);
    assert_eq!(by_context.code, 0, "{}", by_context.stderr);
    let half = run(
        "",
        &["context", "add", "half", "--url", &url, "--cert", &cert],
    );
    assert_eq!(half.code, 2, "{}", half.stderr);
}

// EDGE-08
#[tokio::test(flavor = "multi_thread")]
async fn new_certificate_is_taken_over_and_no_session_ends() {
    const SESSIONS: u64 = 50;
    let authority = Authority::new();
    let files = authority.server("node");
    let first = own(&files);
    // Looked at on SIGHUP only.
    let node = node(&files, &[("ARQONBUS_EDGE__TLS_CHECK_MS", "3600000")]);
    let token = node.dev_token();
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let client = connect(&node, &token, authority.tls(None)).await;
        clients.push(client.expect("a session"));
    }
    assert_eq!(shown(&authority, node.edge).await, first);

    // While it is exchanged, all of them are in use.
    let producing: Vec<_> = clients
        .iter()
        .map(|client| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let mut batch = client.batch();
                    batch.push(&Outgoing {
                        topic: "rotation.check",
                        data: b"1",
                        ..Outgoing::default()
                    });
                    let produced = client.produce(&batch, &ProduceOptions::default()).await;
                    produced.expect("a session that lives");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        })
        .collect();
    let second = own(&authority.server("node"));
    assert_ne!(first, second);
    node.signal("HUP");
    until("the new certificate", async || {
        shown(&authority, node.edge).await == second
    })
    .await;
    for producer in producing {
        producer.await.expect("no session ends");
    }
    for client in &clients {
        client.ping().await.expect("no session ends");
    }
    // None of them has connected a second time.
    assert!(counted(&node, "arqon_edge_sessions 50\n"));
    assert!(counted(&node, "arqon_edge_sessions_opened_total 50\n"));
    assert!(counted(
        &node,
        "arqon_edge_tls_reloads_total{outcome=\"Taken\"} 1"
    ));
}

// EDGE-08
#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_leave_the_old_ones_in_force() {
    let authority = Authority::new();
    let files = authority.server("node");
    let first = own(&files);
    let node = node(&files, &[("ARQONBUS_EDGE__TLS_CHECK_MS", "50")]);
    let good = std::fs::read(&files.certificate).expect("a file");
    let stranger = std::fs::read(authority.server("other").key).expect("a file");
    let key = std::fs::read(&files.key).expect("a file");
    let mut past = at_s(now_s() - HOUR_S);
    past.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let expired = authority.sign("expired", &past);
    let expired =
        [&expired.certificate, &expired.key].map(|path| std::fs::read(path).expect("a file"));
    let cases: [(&str, &[u8], &[u8]); 5] = [
        ("nothing", b"", &key),
        (
            "no certificate",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key,
        ),
        ("the key of another", &good, &stranger),
        ("no key", &good, b"a secret canary"),
        ("one that has ended", &expired[0], &expired[1]),
    ];
    for (name, certificate, key_bytes) in cases {
        write(&files.certificate, certificate);
        write(&files.key, key_bytes);
        until(name, async || {
            notices(&node)
                .iter()
                .any(|notice| notice.starts_with("tls_reload_refused"))
        })
        .await;
        assert_eq!(shown(&authority, node.edge).await, first, "{name}");
        write(&files.certificate, &good);
        write(&files.key, &key);
        until(name, async || notices(&node).is_empty()).await;
    }
    assert!(counted(
        &node,
        "arqon_edge_tls_reloads_total{outcome=\"Refused\"}"
    ));
    let client = connect(&node, &node.dev_token(), authority.tls(None)).await;
    client.expect("a session");
    node.signal("TERM");
    let (status, said) = node.ended();
    assert!(status.success());
    assert!(said.contains("new TLS files refused"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}

// EDGE-08
#[tokio::test(flavor = "multi_thread")]
async fn new_authorities_of_clients_are_taken_over_and_no_session_ends() {
    let (authority, next) = (Authority::new(), Authority::new());
    let names = [
        (DnType::OrganizationName, "plant"),
        (DnType::CommonName, "press-7"),
    ];
    let of_old = authority.client("old", &Subject::of(&names));
    let of_next = next.client("next", &Subject::of(&names));
    // Whom clients believe stays the same; whom the node believes is a file of its own.
    let bundle = authority.directory().join("clients.pem");
    let pem = |authority: &Authority| std::fs::read(authority.ca()).expect("a file");
    let (old, new) = (pem(&authority), pem(&next));
    write(&bundle, &old);
    let node = node(
        &authority.server("node"),
        &[
            ("ARQONBUS_EDGE__CLIENT_CERTIFICATES", "required"),
            ("ARQONBUS_EDGE__CLIENT_CA", bundle.to_str().expect("text")),
            ("ARQONBUS_EDGE__TLS_CHECK_MS", "50"),
        ],
    );
    let enters = async |pair| connect(&node, "", authority.tls(Some(pair))).await;
    let session = enters(&of_old).await.expect("a session");
    assert!(enters(&of_next).await.is_err());

    write(&bundle, &[old, new.clone()].concat());
    until("both authorities", async || enters(&of_next).await.is_ok()).await;
    enters(&of_old).await.expect("a session");
    write(&bundle, &new);
    until("the new one alone", async || enters(&of_old).await.is_err()).await;
    enters(&of_next).await.expect("a session");
    session.ping().await.expect("no session ends");

    // An empty bundle lets nobody in; it is not taken.
    write(&bundle, b"");
    until("a refusal", async || {
        let notices = notices(&node);
        notices.iter().any(|n| n.starts_with("tls_reload_refused"))
    })
    .await;
    enters(&of_next).await.expect("a session");
    assert!(enters(&of_old).await.is_err());
}

// EDGE-06, EDGE-08, EDGE-24
#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_the_authority_open_a_session() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let node = asking(&authority, "required", &[]);
    let names = [
        (DnType::OrganizationName, "plant"),
        (DnType::CommonName, "press-7"),
    ];
    let good = authority.client("good", &Subject::of(&names));
    let of_stranger = stranger.client("stranger", &Subject::of(&names));
    let ended = authority.client(
        "ended",
        &Subject {
            ends_in_s: -5,
            ..Subject::of(&names)
        },
    );
    let wanted = connect(&node, "", authority.tls(None)).await;
    assert!(
        matches!(
            &wanted,
            Err(Error::Tls {
                problem: TlsProblem::CertificateWanted,
                ..
            })
        ),
        "{:?}",
        wanted.err()
    );
    // A token is no substitute where a certificate is required.
    assert!(
        connect(&node, &node.dev_token(), authority.tls(None))
            .await
            .is_err()
    );
    for pair in [&of_stranger, &ended] {
        let refused = connect(&node, "", authority.tls(Some(pair))).await;
        assert!(
            matches!(
                &refused,
                Err(Error::Tls {
                    problem: TlsProblem::CertificateRefused,
                    ..
                })
            ),
            "{:?}",
            refused.err()
        );
    }
    let client = connect(&node, "", authority.tls(Some(&good)))
        .await
        .expect("a session");
    let welcome = client.welcome();
    assert_eq!(
        (welcome.tenant.as_str(), welcome.subject.as_str()),
        ("plant", "press-7")
    );

    // With a token, both must be of one tenant.
    let secret = node.dev_secret();
    let token = |tenant: &str| {
        let mut claims = claims(tenant, Role::Operator);
        claims.sub = "a-person".into();
        signed(&claims, &secret)
    };
    let both = connect(&node, &token("plant"), authority.tls(Some(&good))).await;
    assert_eq!(both.expect("a session").welcome().subject, "a-person");
    for token in [token("other"), "x.y.z".to_owned()] {
        let status = if token == "x.y.z" { 401 } else { 403 };
        match connect(&node, &token, authority.tls(Some(&good))).await {
            Err(Error::Refused { status: found, .. }) => assert_eq!(found, status),
            other => panic!("{:?}", other.err()),
        }
    }
}

// EDGE-06, EDGE-08, EDGE-24
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_do_not_name_their_holder_in_form_are_refused() {
    let authority = Authority::new();
    let node = asking(&authority, "optional", &[]);
    let (o, cn, ou) = (
        DnType::OrganizationName,
        DnType::CommonName,
        DnType::OrganizationalUnitName,
    );
    let both = [(o.clone(), "plant"), (cn.clone(), "press-7")];
    let with_unit = |unit| [both[0].clone(), both[1].clone(), (ou.clone(), unit)];
    // The organisation's own object identifier: as `OrganizationName` it would take the place of
    // the first one.
    let second = DnType::CustomDnType(vec![2, 5, 4, 10]);
    let incorporated = [(o.clone(), "Plant, Inc."), (cn.clone(), "a")];
    let of_node = [(o.clone(), "_node"), (cn.clone(), "a")];
    let two = [both[0].clone(), both[1].clone(), (second, "other")];
    let (admin, no_role) = (with_unit("admin"), with_unit("Engineering"));
    let cases: [(&str, Subject<'_>); 9] = [
        ("no tenant", Subject::of(&both[1..])),
        ("no subject", Subject::of(&both[..1])),
        ("no tenant's name", Subject::of(&incorporated)),
        ("the node's own", Subject::of(&of_node)),
        ("an admin", Subject::of(&admin)),
        ("no role", Subject::of(&no_role)),
        ("two tenants", Subject::of(&two)),
        (
            "two URIs",
            Subject {
                uris: &["arqon://plant/a", "arqon://other/b"],
                ..Subject::of(&both)
            },
        ),
        (
            "a URI with more in it",
            Subject {
                uris: &["arqon://plant/a/b"],
                ..Subject::of(&both)
            },
        ),
    ];
    for (name, subject) in cases {
        let pair = authority.client("case", &subject);
        // Beside a good token too: what tenant it is of cannot be compared.
        for token in ["", &node.dev_token()] {
            match connect(&node, token, authority.tls(Some(&pair))).await {
                Err(Error::Refused { status, .. }) => assert_eq!(status, 403, "{name}"),
                other => panic!("{name}: {:?}", other.err()),
            }
        }
    }
    let by_uri = Subject {
        uris: &["https://elsewhere.example/", "arqon://other/press-8"],
        ..Subject::of(&both)
    };
    let pair = authority.client("uri", &by_uri);
    let client = connect(&node, "", authority.tls(Some(&pair)))
        .await
        .expect("a session");
    let welcome = client.welcome();
    assert_eq!(
        (welcome.tenant.as_str(), welcome.subject.as_str()),
        ("other", "press-8")
    );
    // Asked for, not required: without a certificate a token does, and without both nothing.
    connect(&node, &node.dev_token(), authority.tls(None))
        .await
        .expect("a session");
    match connect(&node, "", authority.tls(None)).await {
        Err(Error::Refused { status, .. }) => assert_eq!(status, 401),
        other => panic!("{:?}", other.err()),
    }
}

// EDGE-06, EDGE-07, EDGE-08
#[tokio::test(flavor = "multi_thread")]
async fn certificate_gives_its_tenant_and_role_and_no_more() {
    let authority = Authority::new();
    let node = asking(
        &authority,
        "optional",
        &[("ARQONBUS_EDGE__CLIENT_CERTIFICATE_ADMINS", "true")],
    );
    let pair = |tenant: &str, role: &str| {
        let names = [
            (DnType::OrganizationName, tenant),
            (DnType::CommonName, "machine"),
            (DnType::OrganizationalUnitName, role),
        ];
        authority.client(&format!("{tenant}-{role}"), &Subject::of(&names))
    };
    let mut clients = HashMap::new();
    for (tenant, role) in [
        ("a", "user"),
        ("a", "operator"),
        ("a", "admin"),
        ("b", "user"),
    ] {
        let client = connect(&node, "", authority.tls(Some(&pair(tenant, role)))).await;
        clients.insert((tenant, role), client.expect("a session"));
    }
    let create = async |who, name: &str| {
        let client: &Client = &clients[&who];
        let arguments = [("name", name.into())];
        client.command("reality.create", arguments).await.is_ok()
    };
    assert!(!create(("a", "user"), "by-user").await);
    assert!(create(("a", "operator"), "by-operator").await);
    assert!(create(("a", "admin"), "by-admin").await);

    let mine = &clients[&("a", "user")];
    let mut batch = mine.batch();
    batch.push(&Outgoing {
        topic: "secret.of-a",
        data: b"\"a\"",
        ..Outgoing::default()
    });
    mine.produce(&batch, &ProduceOptions::default())
        .await
        .expect("an acknowledgement");
    let count = async |who| {
        let client: &Client = &clients[&who];
        let mut subscription = client
            .subscribe(SubscribeOptions {
                start: Start::Earliest,
                stop_at_end: true,
                ..SubscribeOptions::new(">")
            })
            .await
            .expect("a subscription");
        let mut records = 0;
        while let Some(delivery) = subscription.next().await.expect("a delivery") {
            records += delivery.views().count();
        }
        records
    };
    assert_eq!(
        (count(("a", "user")).await, count(("b", "user")).await),
        (1, 0)
    );
}

// EDGE-04, EDGE-08
#[tokio::test(flavor = "multi_thread")]
async fn session_ends_with_its_certificate_whatever_the_token_says() {
    let authority = Authority::new();
    let node = asking(&authority, "required", &[]);
    let names = [
        (DnType::OrganizationName, "plant"),
        (DnType::CommonName, "press-7"),
    ];
    let brief = Subject {
        ends_in_s: 3,
        ..Subject::of(&names)
    };
    let pair = authority.client("brief", &brief);
    let end_ms = (now_s() + 3) * 1000;
    let token = signed(&claims("plant", Role::User), &node.dev_secret());
    let mut sessions = Vec::new();
    for token in ["", &token] {
        let client = connect(&node, token, authority.tls(Some(&pair)))
            .await
            .expect("a session");
        let end = client.welcome().token_expires_at;
        assert!(
            end > 0 && end.unsigned_abs() <= end_ms,
            "{end} is later than {end_ms}"
        );
        sessions.push(client);
    }
    until("the end", async || {
        let mut alive = false;
        for client in &sessions {
            alive |= client.ping().await.is_ok();
        }
        !alive
    })
    .await;
    // And it opens none any more.
    assert!(
        connect(&node, &token, authority.tls(Some(&pair)))
            .await
            .is_err()
    );
}

// EDGE-08, EDGE-24
#[test]
fn handshakes_that_dawdle_are_ended() {
    let authority = Authority::new();
    let node = node(
        &authority.server("node"),
        &[("ARQONBUS_LIMITS__HANDSHAKE_TIMEOUT_MS", "800")],
    );
    // A ClientHello that claims 512 bytes and trickles in.
    let hello = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    for (name, first) in [
        ("silent", &hello[..0]),
        ("one record", &hello[..5]),
        ("trickling", &hello),
    ] {
        let started = Instant::now();
        let mut stream = raw::connect(node.edge);
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a socket");
        stream.write_all(first).expect("it listens");
        let closed = loop {
            let mut sink = [0; 64];
            match stream.read(&mut sink) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break true,
            }
            if started.elapsed() > Duration::from_secs(5) {
                break false;
            }
            if name == "trickling" && stream.write_all(&[0]).is_err() {
                break true;
            }
        };
        assert!(closed, "{name} is still open");
        let took = started.elapsed();
        assert!(took > Duration::from_millis(300), "{name}: {took:?}");
        assert!(took < Duration::from_millis(2500), "{name}: {took:?}");
    }
}

// EDGE-08, EDGE-23
#[tokio::test(flavor = "multi_thread")]
async fn operations_listener_speaks_https_when_it_is_told_to() {
    let authority = Authority::new();
    let server = authority.server("node");
    let node = asking(&authority, "required", &[("ARQONBUS_OPS__TLS", "true")]);
    assert_eq!(Request::get("/healthz").send(node.ops).status, 400);
    let stream = tokio::net::TcpStream::connect(node.ops)
        .await
        .expect("it listens");
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    // Nobody is asked for a certificate here.
    let connector = authority.raw_client(&[&rustls::version::TLS13]);
    let mut stream = connector.connect(name, stream).await.expect("TLS");
    stream
        .write_all(&Request::get("/readyz").bytes())
        .await
        .expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8(answer).expect("text");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"ready\":true"),
        "{answer}"
    );
    drop(server);
}

type Settings<'a> = &'a [(&'a str, &'a str)];

fn refused(settings: Settings<'_>) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = command(&["serve", "--listen", "0.0.0.0:0", "--ops", "0.0.0.0:0"]);
    command.arg("--data").arg(dir.path().join("data"));
    let output = command
        .envs(settings.iter().copied())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    text
}

// EDGE-01
#[test]
fn production_names_everything_that_tls_lacks() {
    let authority = Authority::new();
    let server = authority.server("node");
    let other = authority.server("other");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (certificate, key) = (text(&server.certificate), text(&server.key));
    let (ca, other) = (text(&authority.ca()), text(&other.key));
    let with = ("ARQONBUS_EDGE__TLS_CERTIFICATE", certificate.as_str());
    let its_key = ("ARQONBUS_EDGE__TLS_KEY", key.as_str());
    let required = ("ARQONBUS_EDGE__CLIENT_CERTIFICATES", "required");
    let cases: [(Settings<'_>, &[&str]); 7] = [
        (
            &[],
            &[
                "edge.listen = 0.0.0.0:0",
                "ops.listen = 0.0.0.0:0",
                "edge.tls_certificate",
            ],
        ),
        (
            &[with, its_key],
            &["ops.listen = 0.0.0.0:0", "ops.tls = true"],
        ),
        (
            &[with],
            &["edge.tls_certificate: it needs edge.tls_key too"],
        ),
        (
            &[("ARQONBUS_OPS__TLS", "true")],
            &["ops.tls: it needs edge.tls_certificate too"],
        ),
        (
            &[required],
            &[
                "edge.client_ca",
                "edge.client_certificates: it needs edge.tls_certificate",
            ],
        ),
        (
            &[with, its_key, ("ARQONBUS_EDGE__CLIENT_CA", &ca)],
            &["asks no client"],
        ),
        (
            &[with, ("ARQONBUS_EDGE__TLS_KEY", "/nowhere/key")],
            &["edge.tls_key: cannot read /nowhere/key"],
        ),
    ];
    for (settings, parts) in cases {
        let text = refused(settings);
        for part in parts {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        // Everything else is named beside it.
        assert!(text.contains("auth.keys"), "{text}");
    }
    let complete = refused(&[with, its_key, ("ARQONBUS_OPS__TLS", "true")]);
    assert!(!complete.contains("TLS for"), "{complete}");

    // What is wrong inside of the files is found before anything is written.
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = command(&[
        "serve",
        "--dev",
        "--listen",
        "127.0.0.1:0",
        "--ops",
        "127.0.0.1:0",
    ]);
    command.arg("--data").arg(dir.path().join("data"));
    command.envs([with, ("ARQONBUS_EDGE__TLS_KEY", &other)]);
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("cannot be used together"), "{text}");
    assert!(!dir.path().join("data").exists());
}
