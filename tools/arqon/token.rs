//! `arqon token`: make tokens for development, look into any, and revoke those that are out.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use arqonbus::client::now_micros;
use arqonbus::proto::claims::{Claims, DEFAULT_PARTY, Role};
use arqonbus::proto::v1;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand, ValueEnum};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::bounds::span;
use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, grammar, table};

/// Shorter secrets can be guessed from one token.
const SECRET_BYTES_MIN: usize = 32;

/// Make tokens, look into them, revoke them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon token mint --secret-file data/dev-secret --tenant dev --sub me
  arqon token inspect \"$ARQON_TOKEN\"
  arqon token revoke --sub sensor-7 --reason 'lost in the field'
  arqon token revocations")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Mint(Mint),
    Inspect(Inspect),
    Revoke(Revoke),
    Restore(Restore),
    /// List the revocations and bans in force
    #[command(after_help = "Example:\n  arqon token revocations --output json")]
    Revocations,
    Disconnect(Disconnect),
}

/// Who is meant.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// Tokens of this bearer
    #[arg(long, value_name = "NAME", value_parser = grammar::subject)]
    sub: Option<String>,
    /// The token with this id (jti)
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// All tokens of the tenant, the one that this is said with included
    #[arg(long)]
    all: bool,
}

impl Whom {
    fn arguments(self) -> Vec<(&'static str, v1::Value)> {
        let mut arguments = Vec::new();
        arguments.extend(self.sub.map(|sub| ("subject", sub.into())));
        arguments.extend(self.id.map(|id| ("token", id.into())));
        arguments.extend(self.all.then(|| ("all", true.into())));
        arguments
    }
}

/// Refuse tokens that were issued up to now, and end their sessions
///
/// Tokens that are issued from the next second on are good. With --ban no token of the bearer is,
/// until `arqon token restore`. Needs a token of the role admin.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon token revoke --sub sensor-7 --reason 'lost in the field'
  arqon token revoke --sub mallory --ban
  arqon token revoke --id 01977e5a-0000-7000-8000-00000000002a
  arqon token revoke --all")]
struct Revoke {
    #[command(flatten)]
    whom: Whom,
    /// Also tokens to come, until the ban is lifted
    #[arg(long, requires = "sub")]
    ban: bool,
    /// Only tokens issued before this, in seconds since the Unix epoch [default: now]
    #[arg(long, value_name = "SECONDS", conflicts_with = "ban")]
    issued_before: Option<u64>,
    /// Why, for those who read the list
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Lift a revocation or a ban
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arqon token restore --sub mallory")]
struct Restore {
    #[command(flatten)]
    whom: Whom,
    /// Why, for those who read the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// End live sessions, and forbid nothing: they may come back
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arqon token disconnect --sub sensor-7")]
struct Disconnect {
    #[command(flatten)]
    whom: Whom,
    /// Why, for those who read the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Make a token, signed with HS256
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon token mint --secret-file data/dev-secret --tenant dev --sub sensor-7 --ttl 30d \\
      --pub 'quake.>' --sub-to 'quake.*.alert'
  export ARQON_TOKEN=$(arqon token mint --secret-file data/dev-secret --tenant dev --sub me)")]
struct Mint {
    /// File with the secret that the node verifies tokens by, like DIR/dev-secret
    #[arg(long)]
    secret_file: PathBuf,
    /// The only tenant that the bearer acts in
    #[arg(long, value_parser = grammar::tenant)]
    tenant: String,
    /// The bearer's name
    #[arg(long, value_parser = grammar::subject)]
    sub: String,
    /// What the bearer may do beyond producing and subscribing
    #[arg(long, value_enum, default_value = "user")]
    role: RoleName,
    /// How long it is good for, like 15m, 1h, 30d
    #[arg(long, default_value = "1h", value_parser = span)]
    ttl: Duration,
    /// Topics that may be produced to, or with `!` in front may not; can be repeated [default: all
    /// but sys.]
    #[arg(long = "pub", value_name = "PATTERN", value_parser = grammar::permission)]
    publish: Vec<String>,
    /// Topics that may be subscribed to; can be repeated [default: all but sys.]
    #[arg(long = "sub-to", value_name = "PATTERN", value_parser = grammar::permission)]
    subscribe: Vec<String>,
    /// Who issues it
    #[arg(long, default_value = DEFAULT_PARTY)]
    issuer: String,
    /// For whom it is
    #[arg(long, default_value = DEFAULT_PARTY)]
    audience: String,
    /// Name of the key, where the node has several
    #[arg(long)]
    key_id: Option<String>,
    /// The token's own id (jti), to revoke it by [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    User,
    Operator,
    Admin,
    Controller,
}

/// Show what a token says; its signature is not checked
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon token inspect
  arqon token inspect - < data/dev-token")]
struct Inspect {
    /// The token; `-` reads it from standard input [default: the one that would be used]
    token: Option<String>,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let (name, mut given, reason) = match arguments.action {
        Action::Mint(mint) => {
            let token = make(mint)?;
            let shown = match output {
                Output::Text => Value::String(token),
                Output::Json => json!({ "token": token }),
            };
            return table::print(&shown, output);
        }
        Action::Inspect(inspect) => return table::print(&look(target, inspect)?, output),
        Action::Revoke(revoke) => {
            let mut given = revoke.whom.arguments();
            given.extend(revoke.ban.then(|| ("ban", true.into())));
            let before = revoke.issued_before;
            given.extend(before.map(|before| ("issued_before", before.into())));
            ("edge.revoke", given, revoke.reason)
        }
        Action::Restore(restore) => ("edge.restore", restore.whom.arguments(), restore.reason),
        Action::Revocations => ("edge.revocations", Vec::new(), None),
        Action::Disconnect(end) => ("edge.disconnect", end.whom.arguments(), end.reason),
    };
    given.extend(reason.map(|reason| ("reason", reason.into())));
    let client = target.connect(Patience::None).await?.client;
    let result = client.command(name, given).await?;
    table::print(&result.to_json(), output)
}

fn make(mint: Mint) -> anyhow::Result<String> {
    let path = mint.secret_file.display();
    let file = fs::read(&mint.secret_file)
        .map_err(|error| Failure::no_input(format!("reading the secret in {path}: {error}")))?;
    // A line end that an editor put there is not part of it; the node agrees.
    let secret = file.trim_ascii_end();
    if secret.len() < SECRET_BYTES_MIN {
        let found = secret.len();
        return Err(Failure::configuration(format!(
            "the secret in {path} has {found} bytes; a node accepts no fewer than {SECRET_BYTES_MIN}"
        ))
        .into());
    }
    let now_s = now_micros() / 1_000_000;
    let listed = |patterns: Vec<String>| (!patterns.is_empty()).then_some(patterns);
    let claims = Claims {
        iss: mint.issuer,
        aud: vec![mint.audience],
        sub: mint.sub,
        tenant: mint.tenant,
        role: match mint.role {
            RoleName::User => Role::User,
            RoleName::Operator => Role::Operator,
            RoleName::Admin => Role::Admin,
            RoleName::Controller => Role::Controller,
        },
        exp: now_s.saturating_add(mint.ttl.as_secs()),
        iat: Some(now_s),
        nbf: None,
        jti: Some(mint.id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string())),
        publish: listed(mint.publish),
        subscribe: listed(mint.subscribe),
    };
    let header = Header {
        kid: mint.key_id,
        ..Header::new(Algorithm::HS256)
    };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret))
        .context("signing the token")
}

fn look(target: &Target, inspect: Inspect) -> anyhow::Result<Value> {
    let token = match inspect.token {
        Some(dash) if dash == "-" => {
            let mut text = String::new();
            std::io::stdin().take(64 << 10).read_to_string(&mut text)?;
            text
        }
        Some(token) => token,
        None => target.token()?.ok_or_else(|| {
            Failure::usage(
                "no token is given: pass one, `-` for standard input, or set ARQON_TOKEN",
            )
        })?,
    };
    let mut parts = token.trim().split('.');
    let mut part = |name: &str| -> anyhow::Result<Value> {
        let text = parts.next().unwrap_or_default();
        let wrong = |error: String| {
            Failure::data(format!(
                "this is no token: its {name} cannot be read: {error}"
            ))
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?)
    };
    let (header, claims) = (part("header")?, part("claims")?);
    let mut shown = json!({ "algorithm": header["alg"], "key_id": header["kid"] });
    let fields = shown.as_object_mut().context("an object was just made")?;
    for (name, value) in claims.as_object().into_iter().flatten() {
        fields.insert(name.clone(), value.clone());
        let seconds = value
            .as_i64()
            .filter(|_| matches!(name.as_str(), "exp" | "iat" | "nbf"));
        if let Some(time) = seconds.and_then(|time| jiff::Timestamp::from_second(time).ok()) {
            fields.insert(format!("{name}_time"), time.to_string().into());
        }
    }
    let now_s = now_micros() / 1_000_000;
    let expired = claims["exp"].as_u64().map(|end| end <= now_s);
    fields.insert("expired".to_owned(), expired.into());
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    // EDGE-02
    #[test]
    fn minted_token_says_what_was_asked() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789abcdef0123456789abcdef\n")
            .unwrap();
        let mint = Mint {
            secret_file: file.path().to_owned(),
            tenant: "dev".into(),
            sub: "me".into(),
            role: RoleName::Operator,
            ttl: Duration::from_secs(60),
            publish: vec!["a.>".into()],
            subscribe: vec![],
            issuer: DEFAULT_PARTY.into(),
            audience: DEFAULT_PARTY.into(),
            key_id: None,
            id: Some("t-1".into()),
        };
        let token = make(mint).unwrap();
        let payload = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        let claims: Claims = serde_json::from_slice(&payload).unwrap();
        assert_eq!(
            (claims.tenant.as_str(), claims.role),
            ("dev", Role::Operator)
        );
        assert_eq!(claims.exp, claims.iat.unwrap() + 60);
        assert_eq!(
            (claims.publish, claims.subscribe),
            (Some(vec!["a.>".to_owned()]), None)
        );
    }
}
