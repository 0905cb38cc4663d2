//! What a token says about its bearer (EDGE-02): the claims, not how they are signed or checked.

use serde::{Deserialize, Deserializer, Serialize};

/// Issuer and audience of tokens, where nothing else is configured.
pub const DEFAULT_PARTY: &str = "arqonbus";

/// Claims of an ArqonBus token. Times are seconds since the Unix epoch. Unknown claims are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub iss: String,
    /// For whom: one name or several.
    #[serde(
        default,
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub aud: Vec<String>,
    /// The bearer; the producer of what it sends without naming one.
    pub sub: String,
    /// The only tenant the bearer acts in.
    pub tenant: String,
    /// What the bearer may do beyond producing and subscribing.
    #[serde(default)]
    pub role: Role,
    /// When it ends.
    pub exp: u64,
    /// When it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Its own id, to revoke it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Topics that may be produced to; absent = all but `sys.`.
    #[serde(default, rename = "pub", skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    /// Topics that may be subscribed to; absent = all but `sys.`.
    #[serde(default, rename = "sub_to", skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Vec<String>>,
}

/// What a bearer may do beyond producing and subscribing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing.
    #[default]
    User,
    /// Create realities.
    Operator,
    /// Everything in the tenant, `sys.` topics included.
    Admin,
    /// Set control parameters.
    Controller,
}

impl Role {
    /// The role as it stands in a token.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Controller => "controller",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// RFC 7519 allows `aud` to be a string or a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(source)? {
        Audience::One(name) => vec![name],
        Audience::Many(names) => names,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // EDGE-02
    #[test]
    fn claims_read_both_forms_of_audience_and_default_to_the_least_role() {
        let text = r#"{"aud":"arqonbus","sub":"s","tenant":"t","exp":9,"later":true}"#;
        let claims: Claims = serde_json::from_str(text).unwrap();
        assert_eq!(
            (claims.aud, claims.role),
            (vec!["arqonbus".to_owned()], Role::User)
        );
        let text =
            r#"{"aud":["a","b"],"sub":"s","tenant":"t","role":"admin","exp":9,"pub":["x.>"]}"#;
        let claims: Claims = serde_json::from_str(text).unwrap();
        assert_eq!(claims.aud.len(), 2);
        assert_eq!(
            (claims.role, claims.publish),
            (Role::Admin, Some(vec!["x.>".to_owned()]))
        );
        let without_end = r#"{"sub":"s","tenant":"t"}"#;
        assert!(serde_json::from_str::<Claims>(without_end).is_err());
    }
}
