//! Names of keys, and the topics that they are: `op.store.<namespace>.<key>`.
//!
//! Namespaces and keys are free texts, escaped as the names of rooms are, so that no two keys share
//! a topic. A namespace is one of the caller's tenant because its log is.

use crate::broker::name::{NameError, TOPIC_BYTES_MAX, Tenant};
use crate::proto::topic::{read_token, write_token};

/// What the topics of all keys begin with.
pub(in crate::broker) const TOPIC_PREFIX: &str = "op.store.";
/// What the names of the namespaces of tenants begin with.
const OF_TENANT: &str = "tenant:";

/// Why there is no such namespace or key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadKey {
    /// It breaks the rule of names.
    #[error("{0}")]
    Name(NameError),
    /// Another tenant's.
    #[error("is the namespace of another tenant than the token's; leave it out for your own")]
    OtherTenant,
    /// It does not fit into a topic.
    #[error(
        "is too long: with its namespace it makes a topic of {found} bytes, more than the limit of {TOPIC_BYTES_MAX}; each byte that is no letter, digit or one of _ : @ + = - counts three times"
    )]
    TooLong {
        /// Bytes of the topic that it would make.
        found: usize,
    },
}

/// Part of a tenant's store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Namespace {
    name: String,
    /// Of the topics of its keys, the last dot included.
    prefix: String,
}

impl Namespace {
    /// The one called `name`; the tenant's own, `tenant:<tenant>`, where that is empty.
    ///
    /// # Errors
    /// It is another tenant's, or too long.
    pub(super) fn new(tenant: &Tenant, name: Option<&str>) -> Result<Self, BadKey> {
        let own = format!("{OF_TENANT}{}", tenant.as_str());
        let name = match name {
            None | Some("") => own,
            Some(name) if name.starts_with(OF_TENANT) && name != own => {
                return Err(BadKey::OtherTenant);
            }
            Some(name) => name.to_owned(),
        };
        let mut prefix = TOPIC_PREFIX.to_owned();
        write_token(&name, &mut prefix);
        prefix.push('.');
        // A key has a byte at least.
        if prefix.len() >= TOPIC_BYTES_MAX {
            let found = prefix.len() + 1;
            return Err(BadKey::TooLong { found });
        }
        Ok(Self { name, prefix })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the topics of its keys begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The topic of a key.
    ///
    /// # Errors
    /// The key is empty or too long.
    pub(super) fn topic(&self, key: &str) -> Result<String, BadKey> {
        if key.is_empty() {
            return Err(BadKey::Name(NameError::Empty));
        }
        let mut topic = self.prefix.clone();
        write_token(key, &mut topic);
        if topic.len() > TOPIC_BYTES_MAX {
            let found = topic.len();
            return Err(BadKey::TooLong { found });
        }
        Ok(topic)
    }

    /// The key that a topic is, if it is one of this namespace.
    pub(super) fn key(&self, topic: &str) -> Option<String> {
        read_token(topic.strip_prefix(self.prefix.as_str())?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::name::check_topic;

    fn space(name: Option<&str>) -> Result<Namespace, BadKey> {
        Namespace::new(&Tenant::new("acme").unwrap(), name)
    }

    // OPS-07
    #[test]
    fn a_namespace_is_its_tenants() {
        let own = space(None).unwrap();
        assert_eq!(own.name(), "tenant:acme");
        assert_eq!(own.topic("a.b").unwrap(), "op.store.tenant:acme.a~2Eb");
        assert_eq!(space(Some("tenant:acme")), Ok(own.clone()));
        assert_eq!(space(Some("")), Ok(own));
        assert_eq!(space(Some("tenant:other")), Err(BadKey::OtherTenant));
        assert_eq!(space(Some("tenant:")), Err(BadKey::OtherTenant));
        let default = space(Some("default")).unwrap();
        assert_eq!(default.key("op.store.default.k"), Some("k".into()));
        assert_eq!(default.key("op.store.default.k.x"), None);
        assert_eq!(default.key("op.store.defaults.k"), None);
    }

    // OPS-07
    #[test]
    fn keys_fit_into_topics() {
        let namespace = space(Some("n")).unwrap();
        let room = TOPIC_BYTES_MAX - "op.store.n.".len();
        assert!(namespace.topic(&"k".repeat(room)).is_ok());
        let error = namespace.topic(&"k".repeat(room + 1)).unwrap_err();
        assert_eq!(error, BadKey::TooLong { found: 256 });
        assert!(namespace.topic(&"/".repeat(room / 3 + 1)).is_err());
        assert_eq!(namespace.topic(""), Err(BadKey::Name(NameError::Empty)));
        assert!(space(Some(&"n".repeat(250))).is_err());
    }

    proptest! {
        // OPS-07
        #[test]
        fn no_two_keys_share_a_topic(a in ".{1,20}", b in ".{1,20}", name in ".{1,10}") {
            prop_assume!(!name.starts_with(OF_TENANT));
            let namespace = space(Some(&name)).unwrap();
            let (topic, other) = (namespace.topic(&a).unwrap(), namespace.topic(&b).unwrap());
            prop_assert!(check_topic(&topic).is_ok());
            prop_assert_eq!(topic == other, a == b);
            prop_assert_eq!(namespace.key(&topic), Some(a));
        }
    }
}
