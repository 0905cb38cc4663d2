//! What a client's certificate says of its holder (EDGE-06, EDGE-08).
//!
//! Owns the grammar of names in certificates. TLS has checked before that the certificate comes
//! from an authority in `edge.client_ca`, is in force, and belongs to who shows it. Nothing is
//! guessed or rewritten: what is not exactly in form names nobody.

use ring::digest::{SHA256, digest};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer as _, GeneralName, X509Certificate, X509Name,
};

use crate::broker::{Identity, NameError, Role, Tenant, Topics};
use crate::log::Micros;

/// Scheme of the subject alternative name that names tenant and subject.
const SCHEME: &str = "arqon://";
/// What the ids of certificates begin with, by which they are revoked.
const ID_PREFIX: &str = "x5t-";
const SUBJECT_BYTES_MAX: usize = 255;

/// Whether a certificate can make an admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admins {
    /// Its holder may be one.
    Allowed,
    /// Who issues certificates shall not make admins.
    Refused,
}

/// Why a certificate names nobody who can be served. For the node's log; quotes nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not an X.509 certificate, or with extensions that cannot be read.
    #[error("it cannot be read")]
    Unreadable,
    /// Its time is over, or has not come.
    #[error("it is not in force")]
    NotInForce,
    /// A part is not there, or several times, or not as text.
    #[error("it needs exactly one {part} of its subject, as text")]
    NotOne {
        /// Which.
        part: &'static str,
    },
    /// The URI is not `arqon://TENANT/SUBJECT`, or there are several.
    #[error("its URI is not one arqon://TENANT/SUBJECT")]
    Uri,
    /// The tenant breaks the rules for names.
    #[error("its tenant {0}")]
    Tenant(NameError),
    /// The subject is empty, too long, or holds control characters.
    #[error(
        "its subject is empty, longer than {SUBJECT_BYTES_MAX} bytes, or holds control characters"
    )]
    Subject,
    /// The organisational unit is no role.
    #[error("its organisational unit must be user, operator or controller, or not be there")]
    Role,
    /// An admin, where certificates make none.
    #[error("its organisational unit is admin, and edge.client_certificate_admins is false")]
    Admin,
}

/// Who holds a certificate.
///
/// A URI `arqon://TENANT/SUBJECT` among the subject alternative names decides alone; without one
/// the organisation (O) is the tenant and the common name (CN) the subject. The organisational unit
/// (OU) is the role.
///
/// # Errors
/// It does not say so in exactly this form.
pub fn identity(
    certificate: &CertificateDer<'_>,
    admins: Admins,
    now: Micros,
) -> Result<Identity, Unfit> {
    let (rest, parsed) = X509Certificate::from_der(certificate).or(Err(Unfit::Unreadable))?;
    if !rest.is_empty() {
        return Err(Unfit::Unreadable);
    }
    let (begins, ends) = super::lifetime(&parsed);
    if now < begins || ends <= now {
        return Err(Unfit::NotInForce);
    }
    let name = parsed.subject();
    let (tenant, subject) = match by_uri(&parsed)? {
        Some(named) => named,
        None => (
            one(name.iter_organization(), "organisation (O)")?,
            one(name.iter_common_name(), "common name (CN)")?,
        ),
    };
    let unfit = subject.is_empty()
        || subject.len() > SUBJECT_BYTES_MAX
        || subject.contains(char::is_control);
    if unfit {
        return Err(Unfit::Subject);
    }
    Ok(Identity {
        tenant: Tenant::new(tenant).map_err(Unfit::Tenant)?,
        subject: subject.to_owned(),
        role: role(name, admins)?,
        publish: Topics::All,
        subscribe: Topics::All,
        expires_at: Some(ends),
        issued_at: Some(begins),
        token_id: Some(id(certificate)),
        ends_by: Some(ends),
    })
}

/// By which one certificate is revoked: the SHA-256 of its DER form, as `openssl x509 -fingerprint
/// -sha256` shows it, in lower case and without colons.
fn id(certificate: &CertificateDer<'_>) -> String {
    let mut id = ID_PREFIX.to_owned();
    for byte in digest(&SHA256, certificate).as_ref() {
        id.push_str(&format!("{byte:02x}"));
    }
    id
}

fn by_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<Option<(&'a str, &'a str)>, Unfit> {
    let names = certificate
        .subject_alternative_name()
        .or(Err(Unfit::Unreadable))?;
    let Some(names) = names else {
        return Ok(None);
    };
    let ours = |uri: &&str| {
        let scheme = uri.get(..SCHEME.len());
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
    };
    let uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let mut uris = uris.filter(ours);
    match (uris.next(), uris.next()) {
        (None, _) => Ok(None),
        (Some(uri), None) => parts(uri).map(Some).ok_or(Unfit::Uri),
        (Some(_), Some(_)) => Err(Unfit::Uri),
    }
}

/// Tenant and subject. Characters that a URI would have to escape are not taken, so that there is
/// one way to write each name.
fn parts(uri: &str) -> Option<(&str, &str)> {
    let (tenant, subject) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    (!subject.is_empty() && subject.chars().all(plain)).then_some((tenant, subject))
}

fn one<'a>(
    mut found: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
    part: &'static str,
) -> Result<&'a str, Unfit> {
    match (found.next(), found.next()) {
        (Some(only), None) => only.as_str().or(Err(Unfit::NotOne { part })),
        (None, _) | (Some(_), Some(_)) => Err(Unfit::NotOne { part }),
    }
}

fn role(name: &X509Name<'_>, admins: Admins) -> Result<Role, Unfit> {
    if name.iter_organizational_unit().next().is_none() {
        return Ok(Role::User);
    }
    match one(name.iter_organizational_unit(), "organisational unit (OU)")? {
        "user" => Ok(Role::User),
        "operator" => Ok(Role::Operator),
        "controller" => Ok(Role::Controller),
        "admin" => match admins {
            Admins::Allowed => Ok(Role::Admin),
            Admins::Refused => Err(Unfit::Admin),
        },
        _ => Err(Unfit::Role),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    const BEGINS_S: u64 = 1_767_225_600;
    const ENDS_S: u64 = 1_798_761_600;

    fn made(names: &[(DnType, &str)], uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in names {
            params.distinguished_name.push(kind.clone(), *text);
        }
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn at(seconds: u64) -> Micros {
        Micros(seconds * 1_000_000)
    }

    fn named(o: &str, cn: &str, ou: Option<&str>, uris: &[&str]) -> Result<Identity, Unfit> {
        let mut names = vec![(DnType::OrganizationName, o), (DnType::CommonName, cn)];
        names.extend(ou.map(|ou| (DnType::OrganizationalUnitName, ou)));
        identity(&made(&names, uris), Admins::Refused, at(BEGINS_S))
    }

    // EDGE-06, EDGE-08
    #[test]
    fn holder_is_who_the_certificate_names_until_it_ends() {
        let certificate = made(
            &[
                (DnType::OrganizationName, "plant"),
                (DnType::CommonName, "press 7"),
                (DnType::OrganizationalUnitName, "operator"),
            ],
            &["https://elsewhere.example/x"],
        );
        let holder = |now| identity(&certificate, Admins::Refused, now);
        let found = holder(at(BEGINS_S)).unwrap();
        assert_eq!(
            (found.tenant.as_str(), found.subject.as_str()),
            ("plant", "press 7")
        );
        assert_eq!(found.role, Role::Operator);
        assert_eq!(found.issued_at, Some(at(BEGINS_S)));
        assert_eq!(
            (found.expires_at, found.ends_by),
            (Some(at(ENDS_S)), Some(at(ENDS_S)))
        );
        let id = found.token_id.unwrap();
        assert!(id.len() == 68 && id.starts_with("x5t-"), "{id}");
        assert!(holder(at(ENDS_S - 1)).is_ok());
        for outside in [at(ENDS_S), at(BEGINS_S - 1)] {
            assert_eq!(holder(outside).unwrap_err(), Unfit::NotInForce);
        }
    }

    // EDGE-06, EDGE-08
    #[test]
    fn names_that_are_not_in_form_name_nobody() {
        assert!(matches!(
            named("Plant", "a", None, &[]),
            Err(Unfit::Tenant(_))
        ));
        assert!(matches!(
            named("a/b", "a", None, &[]),
            Err(Unfit::Tenant(_))
        ));
        assert!(matches!(
            named("_node", "a", None, &[]),
            Err(Unfit::Tenant(_))
        ));
        assert_eq!(named("plant", "", None, &[]).unwrap_err(), Unfit::Subject);
        assert_eq!(
            named("plant", "a\nb", None, &[]).unwrap_err(),
            Unfit::Subject
        );
        let longest = "x".repeat(SUBJECT_BYTES_MAX);
        assert!(named("plant", &longest, None, &[]).is_ok());
        let longer = longest + "x";
        assert_eq!(
            named("plant", &longer, None, &[]).unwrap_err(),
            Unfit::Subject
        );
        for role in ["", "User", "user ", "root", "Engineering"] {
            let found = named("plant", "a", Some(role), &[]);
            assert_eq!(found.unwrap_err(), Unfit::Role, "{role}");
        }
        let found = named("plant", "a", Some("admin"), &[]);
        assert_eq!(found.unwrap_err(), Unfit::Admin);
        // The organisation's own object identifier: as `OrganizationName` it would take the place
        // of the first one.
        let again = DnType::CustomDnType(vec![2, 5, 4, 10]);
        let names = [
            (DnType::OrganizationName, "plant"),
            (again, "other"),
            (DnType::CommonName, "a"),
        ];
        let found = identity(&made(&names, &[]), Admins::Refused, at(BEGINS_S));
        assert!(matches!(found, Err(Unfit::NotOne { .. })));
        assert!(matches!(
            identity(
                &CertificateDer::from(vec![48, 1]),
                Admins::Allowed,
                at(BEGINS_S)
            ),
            Err(Unfit::Unreadable)
        ));
    }

    // EDGE-06, EDGE-08
    #[test]
    fn uri_decides_alone_or_not_at_all() {
        let by = |uri| named("plant", "a", None, &[uri]);
        let found = by("arqon://other/press-8.a_b~c").unwrap();
        assert_eq!(
            (found.tenant.as_str(), found.subject.as_str()),
            ("other", "press-8.a_b~c")
        );
        for uri in [
            "arqon://other",
            "arqon://other/",
            "arqon://other/a/b",
            "arqon://other/a?b",
            "arqon://other/a#b",
            "arqon://other/%61",
            "ARQON://other/a",
        ] {
            assert_eq!(by(uri).unwrap_err(), Unfit::Uri, "{uri}");
        }
        for uri in [
            "arqon:///a",
            "arqon://x@other/a",
            "arqon://other:1/a",
            "arqon://Other/a",
        ] {
            assert!(matches!(by(uri), Err(Unfit::Tenant(_))), "{uri}");
        }
        let two = named("plant", "a", None, &["arqon://other/a", "arqon://other/a"]);
        assert_eq!(two.unwrap_err(), Unfit::Uri);
    }

    // EDGE-08
    #[test]
    fn certificates_make_admins_only_where_they_may() {
        let names = [
            (DnType::OrganizationName, "plant"),
            (DnType::CommonName, "a"),
            (DnType::OrganizationalUnitName, "admin"),
        ];
        let found = identity(&made(&names, &[]), Admins::Allowed, at(BEGINS_S)).unwrap();
        assert_eq!(found.role, Role::Admin);
    }
}
