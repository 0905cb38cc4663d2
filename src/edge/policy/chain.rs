//! What is in force for one tenant, and the chain of policies that judges a message.
//!
//! The tenant's policies judge first, by priority and name, each what the one before it has left;
//! then those of the node, which so see what will be stored. A message is judged by the chain of
//! one moment, whatever is put in force meanwhile.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::engine::Engine;
use super::module::Digest;
use super::node_policy::NodePolicy;
use super::pool::Policy;
use super::question::Question;
use super::register::{Named, Register, TOPIC_PREFIX, Version};
use super::verdict::{Failure, Judged, Ruling};
use crate::broker::Filter;
use crate::broker::journal::Event;
use crate::broker::trie::Trie;
use crate::config::Config;
use crate::edge::shield::{Blocked, Fault, Findings, Message, Workshop};
use crate::proto::ErrorCode;

/// When to send a message again that found all instances at work.
const BUSY_RETRY_MS: u64 = 20;

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// The tenant's own.
    pub register: Register,
    /// The node's, with this tenant's instances once they are made.
    node: Vec<(Arc<NodePolicy>, Option<Arc<Policy>>)>,
    /// Topics that must have one.
    required: Arc<[Filter]>,
    chain: Arc<[Member]>,
    /// Places in the chain, by the topics that their members may have to do with: what a message
    /// costs does not grow with the policies for other topics.
    places: Arc<Trie<usize>>,
}

/// A policy in its place.
#[derive(Debug)]
struct Member {
    name: String,
    topics: Vec<Filter>,
    post: Post,
    shadow: Option<Watch>,
}

/// What a member does.
#[derive(Debug)]
enum Post {
    /// It judges.
    Judging(Arc<Policy>),
    /// Only its shadow looks on.
    Vacant,
    /// It is disabled; what it judged passes without it, where nothing requires it.
    Disabled { required: bool },
    /// It should judge, and cannot.
    Broken,
}

/// A version in the shadow of a member.
#[derive(Debug)]
struct Watch {
    policy: Arc<Policy>,
    topics: Vec<Filter>,
    percent: u64,
    seen: AtomicU64,
}

impl Watch {
    /// Whether it looks at this message: exactly so many of a hundred, evenly.
    fn looks(&self, topic: &str) -> bool {
        if !matches(&self.topics, topic) {
            return false;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) % 100;
        (seen + 1) * self.percent / 100 != seen * self.percent / 100
    }
}

fn matches(topics: &[Filter], topic: &str) -> bool {
    topics.iter().any(|filter| filter.governs(topic))
}

impl Policies {
    /// What the node's settings put in force for every tenant.
    ///
    /// # Errors
    /// Everything in them that cannot be.
    pub fn of_node(config: &Config, workshop: &Workshop) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut node: Vec<(Arc<NodePolicy>, _)> = Vec::new();
        for (index, entry) in config.policy.files.iter().enumerate() {
            let twice = node.iter().any(|(known, _)| known.name == entry.name);
            match NodePolicy::read(index, entry, &workshop.engine) {
                Ok(_) if twice => {
                    let text = format!(
                        "policy.files[{index}]: the name {} is used twice",
                        entry.name
                    );
                    faults.push(Fault::invalid("policy.files", text));
                }
                Ok(policy) => node.push((Arc::new(policy), None)),
                Err(fault) => faults.push(fault),
            }
        }
        node.sort_by(|(a, _), (b, _)| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        let mut required = Vec::new();
        for topic in &config.policy.required {
            match Filter::new(topic) {
                Ok(filter) => required.push(filter),
                Err(error) => {
                    let text = format!("policy.required: {topic:?}: {error}");
                    faults.push(Fault::invalid("policy.required", text));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            node,
            required: required.into(),
            ..Self::default()
        })
    }

    /// Whether nothing is judged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.node.is_empty()
            && self.required.is_empty()
            && self.register.iter().all(|(_, named)| named.is_idle())
    }

    /// Names, topics and digests of the node's own, for those who ask.
    pub fn of_the_node(&self) -> impl Iterator<Item = (&NodePolicy, Option<&Arc<Policy>>)> {
        let node = self.node.iter();
        node.map(|(policy, ready)| (policy.as_ref(), ready.as_ref()))
    }

    /// Applies an event. What it puts in force judges after [`Self::prepare`].
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        self.register.apply(event.topic, event.data)
    }

    /// Makes ready what is in force, compiling what is new; returns the topics of the events that
    /// cannot be put in force after all.
    pub fn prepare(&mut self, engine: &Engine) -> Vec<(String, Fault)> {
        let mut faults = Vec::new();
        for (policy, ready) in &mut self.node {
            if ready.is_none() {
                match policy.for_tenant(engine) {
                    Ok(made) => *ready = Some(made),
                    Err(fault) => faults.push(("policy.files".to_owned(), fault)),
                }
            }
        }
        let mut members: Vec<(u32, Member)> = Vec::new();
        for (name, named) in self.register.iter().filter(|(_, named)| !named.is_idle()) {
            let (member, fault) = Member::of(name, named, engine);
            faults.extend(fault.map(|fault| (format!("{TOPIC_PREFIX}{name}"), fault)));
            members.push(member);
        }
        // By name they are in order already.
        members.sort_by_key(|(priority, _)| *priority);
        let own = members.into_iter().map(|(_, member)| member);
        let of_node = self.node.iter().map(|(policy, ready)| Member {
            name: policy.name.clone(),
            topics: policy.topics.clone(),
            post: ready.clone().map_or(Post::Broken, Post::Judging),
            shadow: None,
        });
        self.chain = own.chain(of_node).collect();
        let mut places = Trie::default();
        for (place, member) in self.chain.iter().enumerate() {
            let watched = member.shadow.iter().flat_map(|watch| &watch.topics);
            for topic in member.topics.iter().chain(watched) {
                places.insert(topic, place);
            }
        }
        self.places = Arc::new(places);
        faults
    }

    /// The members that may have to do with `topic`, in their order.
    fn members_for(&self, topic: &str) -> impl Iterator<Item = &Member> {
        let mut places = Vec::new();
        self.places.governing(topic, |place| places.push(*place));
        places.sort_unstable();
        // A member is found once for each of its filters that match.
        places.dedup();
        places.into_iter().filter_map(|place| self.chain.get(place))
    }

    /// Has the chain of the message's topic judge it.
    ///
    /// # Errors
    /// A policy refused it, or could not decide, or none is there although one must be.
    pub fn judge(&self, message: &Message<'_>, findings: &mut Findings) -> Result<(), Blocked> {
        let topic = message.topic;
        let must = matches(&self.required, topic);
        let mut asked: Option<(Question<'_>, Vec<u8>)> = None;
        let mut judges = Judges::None;
        for member in self.members_for(topic) {
            let here = matches(&member.topics, topic);
            let watch = member.shadow.as_ref().filter(|watch| watch.looks(topic));
            let post = if here { &member.post } else { &Post::Vacant };
            let policy = match post {
                Post::Judging(policy) => Some(policy),
                Post::Vacant => None,
                Post::Disabled { required } => {
                    if *required || must {
                        return Err(missing(format!(
                            "policy {} is disabled, and its topic must have it",
                            member.name
                        )));
                    }
                    None
                }
                Post::Broken => {
                    return Err(missing(format!(
                        "policy {} could not be made ready",
                        member.name
                    )));
                }
            };
            if policy.is_none() && watch.is_none() {
                continue;
            }
            let (question, context) = asked.get_or_insert_with(|| {
                let question = Question::about(message);
                let context = question.encode();
                (question, context)
            });
            let body = findings.data(message);
            let judged = policy.map(|policy| policy.judge_in(question, context, body));
            if let Some(watch) = watch {
                watch.compare(judged.as_ref(), question, context, body);
            }
            let (Some(policy), Some(judged)) = (policy, judged) else {
                continue;
            };
            judges.add(policy.module().digest);
            member.obey(policy, judged, findings)?;
        }
        findings.policy_digest = judges.digest();
        if must && findings.policy_digest.is_none() {
            return Err(missing(
                "the topic must have a policy in force, and has none".to_owned(),
            ));
        }
        Ok(())
    }
}

impl Member {
    /// The member that a name makes, with its priority, and why it cannot do what it should.
    fn of(name: &str, named: &Named, engine: &Engine) -> ((u32, Self), Option<Fault>) {
        let mut fault = None;
        let mut prepare = |version: &Arc<Version>| match version.prepare(engine) {
            Ok(policy) => Some(policy),
            Err(found) => {
                fault = Some(found);
                None
            }
        };
        let (version, post) = match (&named.active, &named.disabled) {
            (Some(active), _) => {
                let post = prepare(active).map_or(Post::Broken, Post::Judging);
                (Some(active), post)
            }
            (None, Some(disabled)) => {
                let required = disabled.manifest.required;
                (Some(disabled), Post::Disabled { required })
            }
            (None, None) => (None, Post::Vacant),
        };
        let shadow = named.shadow.as_ref().and_then(|shadow| {
            Some(Watch {
                policy: prepare(&shadow.version)?,
                topics: shadow.version.topics.clone(),
                percent: u64::from(shadow.percent),
                seen: AtomicU64::new(0),
            })
        });
        let placed = version.or(named.shadow.as_ref().map(|shadow| &shadow.version));
        let member = Self {
            name: name.to_owned(),
            topics: version
                .map(|version| version.topics.clone())
                .unwrap_or_default(),
            post,
            shadow,
        };
        let priority = placed.map_or(0, |version| version.manifest.priority);
        ((priority, member), fault)
    }

    /// Does what was judged.
    fn obey(
        &self,
        policy: &Policy,
        judged: Judged,
        findings: &mut Findings,
    ) -> Result<(), Blocked> {
        let name = &self.name;
        for line in &judged.log {
            tracing::debug!(policy = name, line, "logged by a policy");
        }
        for tag in judged.tags {
            flag(findings, format!("label:{tag}").into());
        }
        match judged.outcome {
            Ok(Ruling::Allow) => {}
            Ok(Ruling::Deny(denial)) => {
                let mut text = format!("policy {name} refused it");
                if !denial.code.is_empty() {
                    text = format!("{text}: {}", denial.code);
                }
                if !denial.message.is_empty() {
                    text = format!("{text}: {}", denial.message);
                }
                let mut blocked = Blocked::new(ErrorCode::PolicyBlocked, "policy.denied", text);
                // The author's text may quote the payload; a code is too short for more than a word.
                blocked.told = Some(format!("policy {name}: {}", denial.code));
                return Err(blocked.at("payload"));
            }
            Ok(Ruling::Redact(data)) => change(findings, data, "redacted"),
            Ok(Ruling::Replace(data)) => change(findings, data, "rewritten"),
            Err(failure) => {
                if policy.tally.alarms() {
                    let reason = failure.reason();
                    tracing::warn!(
                        policy = name,
                        reason,
                        "a policy fails again and again; every message to its topics is refused when it does"
                    );
                }
                return Err(undecided(name, &failure));
            }
        }
        Ok(())
    }
}

impl Watch {
    /// Judges too, and counts whether it agrees. Whatever it does, the message does not feel it.
    fn compare(
        &self,
        judged: Option<&Judged>,
        question: &Question<'_>,
        context: &[u8],
        body: &[u8],
    ) {
        let shadow = self.policy.judge_in(question, context, body);
        let same = match judged {
            Some(judged) => judged.outcome == shadow.outcome && judged.tags == shadow.tags,
            None => shadow.outcome == Ok(Ruling::Allow) && shadow.tags.is_empty(),
        };
        self.policy.compared(same);
    }
}

fn change(findings: &mut Findings, data: bytes::Bytes, flagged: &'static str) {
    findings.data = Some(data);
    if !findings.changes.contains(&"policy.rewritten") {
        findings.changes.push("policy.rewritten");
    }
    flag(findings, flagged.into());
}

fn flag(findings: &mut Findings, text: Cow<'static, str>) {
    if !findings.flags.contains(&text) {
        findings.flags.push(text);
    }
}

fn undecided(name: &str, failure: &Failure) -> Blocked {
    let text = format!("policy {name} could not decide: {failure}");
    let mut blocked = Blocked::new(ErrorCode::PolicyFailure, failure.reason(), text).at("payload");
    if *failure == Failure::Busy {
        blocked.retry_after_ms = BUSY_RETRY_MS;
    }
    blocked
}

fn missing(text: String) -> Blocked {
    Blocked::new(ErrorCode::PolicyFailure, "policy.missing", text).at("topic")
}

/// Who has judged, as a record tells it: of one, its digest; of several, the digest of theirs.
enum Judges {
    None,
    One(Digest),
    Several(Sha256),
}

impl Judges {
    fn add(&mut self, digest: Digest) {
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(digest),
            Self::One(first) => {
                Self::Several(Sha256::new().chain_update(first).chain_update(digest))
            }
            Self::Several(so_far) => Self::Several(so_far.chain_update(digest)),
        };
    }

    fn digest(self) -> Option<Digest> {
        match self {
            Self::None => None,
            Self::One(digest) => Some(digest),
            Self::Several(all) => Some(all.finalize().into()),
        }
    }
}
