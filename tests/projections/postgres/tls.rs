//! Encrypted connections: whom the sink believes, and when it speaks without.

use arqonbus::projections::postgres::{Options, Postgres};
use arqonbus::projections::sink::SinkError;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::servers::postgres::Server;

/// An authority, and a certificate for `name` from it with its key, in PEM form.
fn certificate(name: &str) -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("an authority");
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let signed = params.signed_by(&key, &issuer).expect("a certificate");
    (authority.pem(), signed.pem(), key.serialize_pem())
}

async fn connects(url: &str, ca: Option<&std::path::Path>) -> Result<(), SinkError> {
    let options = Options {
        ca: ca.map(ToOwned::to_owned),
        ..Options::of(url)
    };
    let status = Postgres::new(&options)?.status().await;
    status.map(|_| ()).map_err(SinkError::from)
}

// PRJ-15: `require` means encrypted and verified; `prefer` what the server has; never encrypted to
// somebody else.
#[tokio::test]
async fn certificates_are_verified() {
    let server = Server::start(&[]);
    let database = server.database();
    let with = |mode: &str| {
        database
            .url
            .replace("sslmode=disable", &format!("sslmode={mode}"))
    };
    connects(&with("disable"), None)
        .await
        .expect("in the clear");
    connects(&with("prefer"), None)
        .await
        .expect("the server has no TLS");
    connects(&with("require"), None)
        .await
        .expect_err("the server has no TLS");

    let (authority, certificate_of, key) = certificate("127.0.0.1");
    let (stranger, ..) = certificate("127.0.0.1");
    let authority = server.file("authority.pem", &authority);
    let stranger = server.file("stranger.pem", &stranger);
    let certificate_file = server.file("certificate.pem", &certificate_of);
    let key = server.file("key.pem", &key);
    let set = |name: &str, path: &std::path::Path| format!("{name}={}", path.display());
    let settings = [
        "ssl=on".to_owned(),
        set("ssl_cert_file", &certificate_file),
        set("ssl_key_file", &key),
    ];
    server.stop();
    server.start_again(&settings.each_ref().map(String::as_str));
    for mode in ["prefer", "require", "verify-full"] {
        connects(&with(mode), Some(&authority)).await.expect(mode);
        for ca in [None, Some(stranger.as_path())] {
            let refused = connects(&with(mode), ca).await;
            let Err(SinkError::Unavailable { reason, .. }) = refused else {
                panic!("{mode}: {refused:?}")
            };
            assert!(reason.contains("name the authority"), "{mode}: {reason}");
        }
    }
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'arqonbus'";
    let options = Options {
        ca: Some(authority.clone()),
        ..Options::of(with("require"))
    };
    let sink = Postgres::new(&options).expect("a sink");
    sink.migrate().await.expect("migrated");
    assert_eq!(server.sql("postgres", encrypted), "t");
    let other_name = with("require").replace("127.0.0.1", "localhost");
    connects(&other_name, Some(&authority))
        .await
        .expect_err("a certificate for another name");
}
