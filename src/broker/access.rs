//! Who asks, and what that one may do.
//!
//! Owns the decision for topics and roles (EDGE-07). Knows no token: the edge verifies one and
//! hands over what it says.

use super::filter::Filter;
use super::name::{Tenant, is_control_topic, is_direct_topic, is_reserved_topic, is_system_topic};
use super::room;
use crate::log::Micros;
use crate::proto::topic::parties;

pub use crate::proto::claims::Role;

impl Role {
    /// Whether it includes all that `needed` may do.
    #[must_use]
    pub const fn includes(self, needed: Self) -> bool {
        matches!(
            (self, needed),
            (Self::Admin, _)
                | (Self::Operator, Self::Operator)
                | (Self::Controller, Self::Controller)
                | (_, Self::User)
        )
    }
}

/// Topics that an action is allowed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Topics {
    /// All but those of the system.
    All,
    /// What one of these matches.
    Only(Vec<Filter>),
    /// What one of the first matches and none of the second.
    Except(Vec<Filter>, Vec<Filter>),
}

impl Topics {
    /// What is allowed and not denied; nothing is allowed that is not named.
    #[must_use]
    pub fn listed(allowed: Vec<Filter>, denied: Vec<Filter>) -> Self {
        if denied.is_empty() {
            Self::Only(allowed)
        } else {
            Self::Except(allowed, denied)
        }
    }

    fn allow(&self, topic: &str) -> bool {
        let any = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(topic));
        match self {
            Self::All => true,
            Self::Only(allowed) => any(allowed),
            Self::Except(allowed, denied) => any(allowed) && !any(denied),
        }
    }

    /// Whether all that `wanted` matches is allowed. Records are not sorted out afterwards, so a
    /// filter that reaches into what is denied is refused as a whole.
    fn cover(&self, wanted: &Filter) -> bool {
        let any = |filters: &[Filter]| filters.iter().any(|filter| filter.covers(wanted));
        match self {
            Self::All => true,
            Self::Only(allowed) => any(allowed),
            Self::Except(allowed, denied) => {
                any(allowed) && !denied.iter().any(|filter| filter.overlaps(wanted))
            }
        }
    }
}

/// A verified caller.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Whose data it works on: from the token alone (EDGE-06).
    pub tenant: Tenant,
    /// Who it is; the producer of envelopes that name none.
    pub subject: String,
    /// What it may do besides publishing and subscribing.
    pub role: Role,
    /// Topics it may publish on.
    pub publish: Topics,
    /// Topics it may subscribe to.
    pub subscribe: Topics,
    /// When its token ends.
    pub expires_at: Option<Micros>,
    /// When its token was issued; tokens without that time count as issued at the beginning.
    pub issued_at: Option<Micros>,
    /// The token's own id, if it has one.
    pub token_id: Option<String>,
    /// What no new token puts off: the end of the certificate that the connection came with.
    pub ends_by: Option<Micros>,
}

impl Identity {
    /// Ends at `end` at the latest, now and with every new token.
    pub fn not_beyond(&mut self, end: Option<Micros>) {
        self.ends_by = end;
        self.expires_at = match (self.expires_at, end) {
            (Some(expires), Some(end)) => Some(expires.min(end)),
            (expires, end) => expires.or(end),
        };
    }

    /// Whether it may append to `topic`. Nobody outside appends to the `sys.` topics, nor to those
    /// of dead letters; private messages are sent in one's own name alone.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        let open = if is_direct_topic(topic) {
            parties(topic).is_some_and(|(_, sender)| sender == room::token(&self.subject))
        } else {
            !is_reserved_topic(topic)
        };
        open && self.publish.allow(topic)
    }

    /// Whether it may have the node append to `topic`, which may be one that only the node appends
    /// to.
    #[must_use]
    pub fn may_have_written(&self, topic: &str) -> bool {
        !is_system_topic(topic) && self.publish.allow(topic)
    }

    /// Whether its token names `topic` among those it may publish on, be it one that the node alone
    /// appends to: then it may have the node append there, by a command.
    #[must_use]
    pub fn is_granted(&self, topic: &str) -> bool {
        !is_system_topic(topic) && self.publish.allow(topic)
    }

    /// Whether it may see everything that `filter` matches. The `sys.` topics are for admins that
    /// name them, as far as their token does not limit them; private messages are for their two
    /// parties, and for such admins.
    #[must_use]
    pub fn may_subscribe(&self, filter: &Filter) -> bool {
        if is_control_topic(filter.as_str()) {
            return self.may_hear_control(filter);
        }
        let open = self.role == Role::Admin || self.is_open(filter.as_str());
        open && self.subscribe.cover(filter)
    }

    /// Control parameters are for whoever may subscribe to anything of the reality, unless they are
    /// denied by name (MSG-13).
    fn may_hear_control(&self, wanted: &Filter) -> bool {
        match &self.subscribe {
            Topics::All => true,
            Topics::Only(allowed) => !allowed.is_empty(),
            Topics::Except(allowed, denied) => {
                !allowed.is_empty() && !denied.iter().any(|filter| filter.overlaps(wanted))
            }
        }
    }

    /// Whether it may see `topic`.
    #[must_use]
    pub fn may_see(&self, topic: &str) -> bool {
        if is_control_topic(topic) {
            return Filter::new(topic).is_ok_and(|filter| self.may_hear_control(&filter));
        }
        (self.role == Role::Admin || self.is_open(topic)) && self.subscribe.allow(topic)
    }

    /// Whether a topic or filter is one that is not for admins alone.
    fn is_open(&self, topic: &str) -> bool {
        if is_direct_topic(topic) {
            let own = room::token(&self.subject);
            return parties(topic)
                .is_some_and(|(addressee, sender)| addressee == own || sender == own);
        }
        !is_system_topic(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(role: Role, topics: Topics) -> Identity {
        Identity {
            tenant: Tenant::new("t").unwrap(),
            subject: "s".into(),
            role,
            publish: topics.clone(),
            subscribe: topics,
            expires_at: None,
            issued_at: None,
            token_id: None,
            ends_by: None,
        }
    }

    // EDGE-04, EDGE-08
    #[test]
    fn no_end_is_put_off_beyond_the_certificates() {
        for (token, certificate, both) in [
            (None, None, None),
            (Some(5), None, Some(5)),
            (None, Some(3), Some(3)),
            (Some(5), Some(3), Some(3)),
            (Some(2), Some(3), Some(2)),
        ] {
            let mut who = identity(Role::User, Topics::All);
            who.expires_at = token.map(Micros);
            who.not_beyond(certificate.map(Micros));
            assert_eq!(who.expires_at, both.map(Micros));
            assert_eq!(who.ends_by, certificate.map(Micros));
        }
    }

    // EDGE-07
    #[test]
    fn system_topics_are_denied_by_default() {
        let sys = Filter::new("sys.>").unwrap();
        for role in [Role::User, Role::Operator, Role::Controller, Role::Admin] {
            let who = identity(role, Topics::All);
            assert!(!who.may_publish("sys.log"));
            assert_eq!(who.may_subscribe(&sys), role == Role::Admin);
            assert_eq!(who.may_see("sys.log"), role == Role::Admin);
            assert!(who.may_publish("a.b"));
        }
    }

    // MSG-13: what a controller sets is for every subscriber of the reality, and nothing else of
    // the system's is.
    #[test]
    fn control_parameters_are_for_whoever_may_subscribe() {
        let filter = |text: &str| Filter::new(text).unwrap();
        let some = Topics::Only(vec![filter("a.>")]);
        let all = [
            "sys.control.>",
            "sys.control.set.*",
            "sys.control.set.speed",
        ];
        for topics in [Topics::All, some] {
            for role in [Role::User, Role::Operator, Role::Controller, Role::Admin] {
                let who = identity(role, topics.clone());
                for text in all {
                    assert!(who.may_subscribe(&filter(text)), "{role:?} {text}");
                }
                assert!(who.may_see("sys.control.set.speed"));
                assert!(!who.may_publish("sys.control.set.speed"));
            }
        }
        let user = identity(Role::User, Topics::All);
        for other in ["sys.>", "sys.*.set.speed", "sys.controls.>", "sys.audit"] {
            assert!(!user.may_subscribe(&filter(other)), "{other}");
        }
        let denied = Topics::listed(vec![filter("a.>")], vec![filter("sys.control.>")]);
        assert!(!identity(Role::User, denied).may_see("sys.control.set.speed"));
        let nothing = identity(Role::User, Topics::Only(Vec::new()));
        assert!(!nothing.may_subscribe(&filter("sys.control.>")));
    }

    // PRJ-04, EDGE-07: a letter that a client wrote would be taken for the node's word.
    #[test]
    fn dead_letters_are_the_nodes_to_write_and_anybodys_to_read() {
        let named = Topics::Only(vec![Filter::new("dlq.>").unwrap()]);
        for (topics, topic) in [
            (Topics::All, "continuum.episode.dlq.v1"),
            (Topics::All, "dlq.orders"),
            (named, "dlq.orders"),
        ] {
            for role in [Role::User, Role::Operator, Role::Controller, Role::Admin] {
                let who = identity(role, topics.clone());
                assert!(!who.may_publish(topic), "{role:?} {topic}");
                assert!(who.may_see(topic), "{role:?} {topic}");
            }
        }
        assert!(identity(Role::User, Topics::All).may_publish("orders.dlq"));
    }

    // EDGE-07
    #[test]
    fn claims_limit_both_directions() {
        let who = identity(
            Role::User,
            Topics::Only(vec![Filter::new("a.*.c").unwrap()]),
        );
        assert!(who.may_publish("a.b.c"));
        assert!(!who.may_publish("a.b"));
        assert!(who.may_subscribe(&Filter::new("a.x.c").unwrap()));
        assert!(!who.may_subscribe(&Filter::new("a.>").unwrap()));
        let none = identity(Role::User, Topics::Only(Vec::new()));
        assert!(!none.may_publish("a"));
    }

    // EDGE-07
    #[test]
    fn what_is_denied_wins_over_what_is_allowed() {
        let filter = |text: &str| Filter::new(text).unwrap();
        let topics = Topics::listed(vec![filter("a.>")], vec![filter("a.secret.>")]);
        let who = identity(Role::User, topics);
        assert!(who.may_publish("a.b") && who.may_publish("a.secret"));
        assert!(!who.may_publish("a.secret.x") && !who.may_publish("b"));
        assert!(who.may_subscribe(&filter("a.*")) && who.may_see("a.b"));
        for reaching in ["a.>", "a.*.x", "a.secret.x", "a.secret.>"] {
            assert!(!who.may_subscribe(&filter(reaching)), "{reaching}");
        }
        assert!(!who.may_see("a.secret.x"));
        let only_denied = Topics::listed(Vec::new(), vec![filter("a")]);
        let who = identity(Role::User, only_denied);
        assert!(!who.may_publish("b") && !who.may_see("b"));
    }

    // EDGE-07
    #[test]
    fn a_claim_limits_an_admin_on_system_topics_too() {
        let consumers = Filter::new("sys.consumer.>").unwrap();
        let all = Filter::new("sys.>").unwrap();
        let other = Topics::Only(vec![Filter::new("a.>").unwrap()]);
        let admin = identity(Role::Admin, other);
        assert!(!admin.may_subscribe(&consumers) && !admin.may_see("sys.log"));
        let named = Topics::Only(vec![consumers.clone()]);
        let admin = identity(Role::Admin, named.clone());
        assert!(admin.may_subscribe(&consumers) && !admin.may_subscribe(&all));
        assert!(admin.may_see("sys.consumer.main.c") && !admin.may_see("sys.log"));
        let user = identity(Role::User, named);
        assert!(!user.may_subscribe(&consumers) && !user.may_see("sys.consumer.main.c"));
    }

    // BRK-09, EDGE-07: fails closed: whatever is not plainly one's own is refused.
    #[test]
    fn private_messages_are_seen_by_their_two_parties_and_admins() {
        let named = |subject: &str, role, topics: &Topics| Identity {
            subject: subject.to_owned(),
            ..identity(role, topics.clone())
        };
        let filter = |text: &str| Filter::new(text).unwrap();
        let granted = Topics::Only(vec![filter("direct.>"), filter("room.>")]);
        for topics in [&Topics::All, &granted] {
            let ann = named("a.nn", Role::User, topics);
            let own = ["direct.a~2Enn.*", "direct.*.a~2Enn", "direct.a~2Enn.bob"];
            for own in own {
                assert!(ann.may_subscribe(&filter(own)), "{own}");
            }
            assert!(ann.may_see("direct.bob.a~2Enn") && ann.may_see("direct.a~2Enn.bob"));
            for others in [
                "direct.>",
                "direct.*.*",
                "direct.bob.*",
                "direct.bob.eve",
                "direct.*",
                "direct.a~2Enn.>.",
                "direct.a~2Enn.*.*",
                "direct",
                "direct.*.>",
            ] {
                let Ok(others) = Filter::new(others) else {
                    continue;
                };
                assert!(!ann.may_subscribe(&others), "{others}");
            }
            assert!(!ann.may_see("direct.bob.eve") && !ann.may_see("direct.a~2Enn"));
            assert!(ann.may_publish("direct.bob.a~2Enn"));
            for forged in [
                "direct.a~2Enn.bob",
                "direct.bob.eve",
                "direct.bob",
                "direct",
            ] {
                assert!(!ann.may_publish(forged), "{forged}");
            }
            let admin = named("root", Role::Admin, topics);
            assert!(admin.may_subscribe(&filter("direct.>")) && admin.may_see("direct.bob.eve"));
            assert!(!admin.may_publish("direct.bob.eve"));
        }
        let limited = Topics::Only(vec![filter("room.>"), filter(">")]);
        let ann = named("ann", Role::User, &limited);
        assert!(!ann.may_subscribe(&filter("direct.ann.*")) && !ann.may_publish("direct.bob.ann"));
        for everything in [">", "*.*.*", "*.ann.*"] {
            assert!(
                !filter(everything).matches("direct.ann.bob"),
                "{everything}"
            );
        }
    }

    #[test]
    fn only_admin_includes_every_role() {
        assert!(Role::Admin.includes(Role::Controller));
        assert!(Role::Operator.includes(Role::User));
        assert!(!Role::Operator.includes(Role::Admin));
        assert!(!Role::User.includes(Role::Operator));
        assert!(!Role::Controller.includes(Role::Operator));
    }
}
