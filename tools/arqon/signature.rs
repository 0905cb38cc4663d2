//! `arqon signature`: whose payloads must be signed; and the signing of what is produced.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use ring::signature::Ed25519KeyPair;

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, table};

/// Register producers' keys, and have topics take signed messages only
#[derive(Debug, Args)]
#[command(after_help = "\
A signature is Ed25519 over the payload. A producer that has a key is spoken for by nobody without
it. Needs a token of the role admin.

Examples:
  openssl genpkey -algorithm ed25519 -out svc.pem
  openssl pkey -in svc.pem -pubout -out svc.pub.pem
  arqon signature add svc --public-key svc.pub.pem
  arqon signature require 'pay.>'
  echo '{}' | arqon produce pay.now --sign-key svc.pem
  arqon signature list
  arqon signature remove svc 0123456789abcdef
  arqon signature unrequire 'pay.>'")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the keys, and the topics that take signed messages only
    #[command(after_help = "Example:\n  arqon signature list --output json")]
    List,
    /// Register a producer's key; its others stay good
    #[command(after_help = "Example:\n  arqon signature add svc --public-key svc.pub.pem")]
    Add {
        /// The producer, as envelopes or tokens name it
        producer: String,
        /// File with its Ed25519 public key in PEM
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
    },
    /// Take a producer's key back
    #[command(after_help = "Example:\n  arqon signature remove svc 0123456789abcdef")]
    Remove {
        /// The producer
        producer: String,
        /// Short name of the key, as `arqon signature list` shows it
        key: String,
    },
    /// Have topics take signed messages only
    #[command(after_help = "Example:\n  arqon signature require 'pay.>'")]
    Require {
        /// Topics: `*` stands for one token, a last `>` for one or more
        topics: String,
    },
    /// Have topics take unsigned messages again
    #[command(after_help = "Example:\n  arqon signature unrequire 'pay.>'")]
    Unrequire {
        /// The pattern that was required
        topics: String,
    },
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let (command, given) = match arguments.action {
        Action::List => ("edge.signature.key.list", vec![]),
        Action::Add {
            producer,
            public_key,
        } => {
            let key = read(&public_key)?;
            let given = vec![("producer", producer), ("public_key", key)];
            ("edge.signature.key.set", given)
        }
        Action::Remove { producer, key } => {
            let given = vec![("producer", producer), ("key", key)];
            ("edge.signature.key.remove", given)
        }
        Action::Require { topics } => ("edge.signature.require", vec![("topics", topics)]),
        Action::Unrequire { topics } => ("edge.signature.unrequire", vec![("topics", topics)]),
    };
    let client = target.connect(Patience::None).await?.client;
    let given = given.into_iter().map(|(name, text)| (name, text.into()));
    let result = client.command(command, given).await?;
    table::print(&result.to_json(), output)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::no_input(format!("reading {}: {error}", path.display())))
}

/// The key pair in a PEM file, as `openssl genpkey -algorithm ed25519` writes it.
pub(crate) fn signing_key(path: &Path) -> Result<Ed25519KeyPair, Failure> {
    // What is wrong with it is not quoted: it may be the key.
    let bad = || {
        let text = format!(
            "{} holds no Ed25519 private key in PEM (BEGIN PRIVATE KEY)",
            path.display()
        );
        Failure::data(text)
    };
    let text = read(path)?;
    let body = text
        .trim()
        .strip_prefix("-----BEGIN PRIVATE KEY-----")
        .and_then(|rest| rest.strip_suffix("-----END PRIVATE KEY-----"))
        .ok_or_else(bad)?;
    let body: String = body.split_whitespace().collect();
    let der = BASE64.decode(body).map_err(|_may_quote_the_key| bad())?;
    // The form without the public key, which is derived.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_may_quote_the_key| bad())
}
