//! The names of keys in Valkey, the only place that makes them (PRJ-11).
//!
//! Whatever is written there is written under one of these names. What a name is made of is
//! escaped, so that no value leaves its tenant or its family, and no two names are the same.
//! Knows no connection.

use std::fmt::{self, Write as _};

use redis::{RedisWrite, ToRedisArgs, ToSingleRedisArg};

/// Stands where a family wants an episode and what is kept is of none. No episode's own name, which
/// is escaped.
const NONE: &str = "_";

/// A name of the families that a node may write to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ValkeyKey<'a> {
    /// `tenant:{t}:agent:{a}:presence:{name}`.
    Presence {
        /// Whose.
        tenant: &'a str,
        /// Of which agent.
        agent: &'a str,
        /// What.
        name: &'a str,
    },
    /// `tenant:{t}:agent:{a}:rate_limit:{name}`.
    RateLimit {
        /// Whose.
        tenant: &'a str,
        /// Of which agent.
        agent: &'a str,
        /// What.
        name: &'a str,
    },
    /// `tenant:{t}:episode:{e}:cache:{agent}`, and `:{view}` where there is one.
    Cache {
        /// Whose.
        tenant: &'a str,
        /// Which.
        episode: &'a str,
        /// Of which agent.
        agent: &'a str,
        /// Tells apart what several projections keep of an episode.
        view: Option<&'a str>,
    },
    /// Where a projection stands: `tenant:{t}:episode:_:cache:cursor:{projection}:{reality}`.
    Cursor {
        /// Whose.
        tenant: &'a str,
        /// Which of the tenant's logs.
        reality: &'a str,
        /// Name of the projection.
        projection: &'a str,
    },
    /// `tenant:{t}:stream:{name}`, which exists only where configuration asks for it (PRJ-19).
    Stream {
        /// Whose.
        tenant: &'a str,
        /// What it is called.
        name: &'a str,
    },
    /// What a preflight writes and removes: `tenant:_:episode:_:cache:preflight`.
    Probe,
}

impl fmt::Display for ValkeyKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Presence {
                tenant,
                agent,
                name,
            } => {
                let (tenant, agent, name) = (Part(tenant), Part(agent), Part(name));
                write!(f, "tenant:{tenant}:agent:{agent}:presence:{name}")
            }
            Self::RateLimit {
                tenant,
                agent,
                name,
            } => {
                let (tenant, agent, name) = (Part(tenant), Part(agent), Part(name));
                write!(f, "tenant:{tenant}:agent:{agent}:rate_limit:{name}")
            }
            Self::Cache {
                tenant,
                episode,
                agent,
                view,
            } => {
                let (tenant, episode, agent) = (Part(tenant), Part(episode), Part(agent));
                write!(f, "tenant:{tenant}:episode:{episode}:cache:{agent}")?;
                view.map_or(Ok(()), |view| write!(f, ":{}", Part(view)))
            }
            Self::Cursor {
                tenant,
                reality,
                projection,
            } => {
                let (tenant, reality) = (Part(tenant), Part(reality));
                let projection = Part(projection);
                write!(
                    f,
                    "tenant:{tenant}:episode:{NONE}:cache:cursor:{projection}:{reality}"
                )
            }
            Self::Stream { tenant, name } => {
                write!(f, "tenant:{}:stream:{}", Part(tenant), Part(name))
            }
            Self::Probe => write!(f, "tenant:{NONE}:episode:{NONE}:cache:preflight"),
        }
    }
}

impl ToRedisArgs for ValkeyKey<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

impl ToSingleRedisArg for ValkeyKey<'_> {}

/// Part of a name. Letters, digits, `-`, `.` and `_` stand for themselves, everything else is
/// percent-encoded byte by byte: no `:` ends the part, no `*` or `[` is a pattern to whoever lists
/// keys, no `{` chooses a slot. A lone `_` is encoded too, so that it is never [`NONE`].
struct Part<'a>(&'a str);

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == NONE {
            return f.write_str("%5F");
        }
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                    f.write_char(char::from(byte))
                }
                _ => write!(f, "%{byte:02X}"),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // PRJ-11
    #[test]
    fn the_families_are_those_of_the_contract() {
        let (tenant, agent, name) = ("acme", "a1", "x");
        let names = [
            ValkeyKey::Presence {
                tenant,
                agent,
                name,
            },
            ValkeyKey::RateLimit {
                tenant,
                agent,
                name,
            },
            ValkeyKey::Cache {
                tenant,
                episode: "e",
                agent,
                view: None,
            },
            ValkeyKey::Cache {
                tenant,
                episode: "e",
                agent,
                view: Some("v"),
            },
            ValkeyKey::Cursor {
                tenant,
                reality: "main",
                projection: "continuum",
            },
            ValkeyKey::Stream { tenant, name },
            ValkeyKey::Probe,
        ]
        .map(|key| key.to_string());
        assert_eq!(
            names,
            [
                "tenant:acme:agent:a1:presence:x",
                "tenant:acme:agent:a1:rate_limit:x",
                "tenant:acme:episode:e:cache:a1",
                "tenant:acme:episode:e:cache:a1:v",
                "tenant:acme:episode:_:cache:cursor:continuum:main",
                "tenant:acme:stream:x",
                "tenant:_:episode:_:cache:preflight",
            ]
        );
    }

    // PRJ-11: an episode cannot pass for the place of a projection, nor a tenant for none.
    #[test]
    fn what_stands_for_none_is_nobodys_name() {
        let key = ValkeyKey::Cache {
            tenant: "_",
            episode: "_",
            agent: "cursor",
            view: Some("continuum"),
        };
        let name = "tenant:%5F:episode:%5F:cache:cursor:continuum";
        assert_eq!(key.to_string(), name);
    }

    fn hostile() -> impl Strategy<Value = String> {
        prop_oneof![
            ".{0,12}",
            "[:*_%{}\\[\\]? \n\r\\\\]{0,6}",
            Just("e:cache:a:cache".to_owned()),
            Just("acme:episode:e:cache:a".to_owned()),
        ]
    }

    proptest! {
        // PRJ-11: the parts of a name are where its family has them, whatever they hold.
        #[test]
        fn no_value_leaves_its_family(tenant in hostile(), episode in hostile(), agent in hostile()) {
            let key = ValkeyKey::Cache { tenant: &tenant, episode: &episode, agent: &agent, view: None };
            let name = key.to_string();
            let parts: Vec<_> = name.split(':').collect();
            prop_assert_eq!(parts.len(), 6);
            prop_assert_eq!((parts[0], parts[2], parts[4]), ("tenant", "episode", "cache"));
            for part in [parts[1], parts[3], parts[5]] {
                prop_assert!(part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._%".contains(&byte)));
                prop_assert_ne!(part, NONE);
            }
        }

        // PRJ-11: two values never share a name.
        #[test]
        fn names_tell_values_apart(a in hostile(), b in hostile()) {
            prop_assert_eq!(a == b, Part(&a).to_string() == Part(&b).to_string());
        }
    }
}
