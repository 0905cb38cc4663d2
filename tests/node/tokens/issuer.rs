//! Who makes tokens, and publishes the keys that verify them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A key pair on P-256.
pub(crate) struct Pair {
    id: String,
    key: EncodingKey,
}

impl Pair {
    pub(crate) fn new(id: &str) -> Self {
        let pair = rcgen::KeyPair::generate().expect("a key pair");
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes());
        Self {
            id: id.to_owned(),
            key: key.expect("a private key"),
        }
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            kid: Some(self.id.clone()),
            ..Header::new(Algorithm::ES256)
        }
    }

    pub(crate) fn sign(&self, claims: &impl serde::Serialize) -> String {
        self.sign_as(&self.header(), claims)
    }

    pub(crate) fn sign_as(&self, header: &Header, claims: &impl serde::Serialize) -> String {
        jsonwebtoken::encode(header, claims, &self.key).expect("a token")
    }

    fn public(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("a public key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = self.id.as_str().into();
        jwk["use"] = "sig".into();
        jwk
    }
}

/// What an issuer publishes.
pub(crate) fn set(pairs: &[&Pair]) -> String {
    let keys: Vec<Value> = pairs.iter().map(|pair| pair.public()).collect();
    json!({ "keys": keys }).to_string()
}

/// A small HTTP server on loopback that answers every request alike, and counts them.
pub(crate) struct Issuer {
    pub(crate) address: SocketAddr,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    scheme: &'static str,
}

impl Issuer {
    pub(crate) fn publishing(pairs: &[&Pair]) -> Self {
        let issuer = Self::start("http", exchange);
        issuer.publish(pairs);
        issuer
    }

    /// The same over TLS, and the certificate to trust it by.
    pub(crate) fn publishing_safely(pairs: &[&Pair]) -> (Self, String) {
        let names = vec!["127.0.0.1".to_owned()];
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names).expect("a certificate");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let private = signing_key.serialize_der().try_into().expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], private)
            .expect("a server");
        let config = Arc::new(config);
        let issuer = Self::start("https", move |stream, answer| {
            let tls = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            exchange(StreamOwned::new(tls, stream), answer);
        });
        issuer.publish(pairs);
        (issuer, cert.pem())
    }

    fn start(
        scheme: &'static str,
        serve: impl Fn(std::net::TcpStream, &str) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let answer: Arc<Mutex<String>> = Arc::default();
        let asked: Arc<AtomicUsize> = Arc::default();
        let (said, count) = (Arc::clone(&answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = said.lock().expect("no panic").clone();
                serve(stream.expect("a connection"), &answer);
            }
        });
        Self {
            address,
            answer,
            asked,
            scheme,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}/jwks.json", self.scheme, self.address)
    }

    /// How often it was connected to.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn publish(&self, pairs: &[&Pair]) {
        self.answer("200 OK", "", &set(pairs));
    }

    pub(crate) fn answer(&self, status: &str, header: &str, body: &str) {
        let len = body.len();
        *self.answer.lock().expect("no panic") = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\n{header}content-length: {len}\r\n\r\n{body}"
        );
    }
}

/// Whoever does not like the answer may hang up.
fn exchange(mut stream: impl Read + Write, answer: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    drop(stream.write_all(answer.as_bytes()));
    drop(stream.flush());
}
