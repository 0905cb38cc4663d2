//! A tenant of a real node, whose clock stands until a test moves it, for the tests of operators.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value as Json;

use super::Settings;
use crate::broker::{
    Broker, Error, Filter, Identity, Options, Reality, RealityName, Role, Tenancy, Tenant, Topics,
    command,
};
use crate::log::{Clock, Committer, Environment, Micros, RealStorage};

/// A clock that is set.
#[derive(Debug)]
pub(super) struct Watch(AtomicU64);

impl Clock for Watch {
    fn now(&self) -> Micros {
        Micros(self.0.load(Ordering::SeqCst))
    }
}

impl Watch {
    pub(super) fn pass(&self, ms: u64) {
        self.0.fetch_add(ms * 1_000, Ordering::SeqCst);
    }
}

/// One tenant of one node.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) broker: Arc<Broker>,
    pub(super) clock: Arc<Watch>,
    pub(super) who: Identity,
}

impl Desk {
    pub(super) fn new(directory: &Path, settings: Settings) -> Self {
        Self::with(directory, |options| options.operators = settings)
    }

    /// One whose options are changed by `set`.
    pub(super) fn with(directory: &Path, set: impl FnOnce(&mut Options)) -> Self {
        let clock = Arc::new(Watch(AtomicU64::new(1_771_545_600_000_000)));
        let environment = Environment {
            storage: Arc::new(RealStorage),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            committer: Committer::start(1),
        };
        let mut options = Options::new(directory.to_owned(), 1, "n".to_owned());
        set(&mut options);
        let who = Identity {
            tenant: Tenant::new("acme").unwrap(),
            subject: "ada".into(),
            role: Role::User,
            publish: Topics::All,
            subscribe: Topics::All,
            expires_at: None,
            issued_at: None,
            token_id: None,
            ends_by: None,
        };
        Self {
            broker: Broker::start(environment, options).unwrap(),
            clock,
            who,
        }
    }

    /// Lets the caller do only what is on these topics.
    pub(super) fn limit(&mut self, topics: &str) {
        let only = Topics::Only(vec![Filter::new(topics).unwrap()]);
        (self.who.publish, self.who.subscribe) = (only.clone(), only);
    }

    pub(super) fn tenancy(&self) -> Arc<Tenancy> {
        self.broker.tenancy(&self.who.tenant).unwrap()
    }

    pub(super) fn main(&self) -> Arc<Reality> {
        self.tenancy().reality(&RealityName::main()).unwrap()
    }

    pub(super) fn run(&self, name: &str, arguments: Json) -> Result<Json, Error> {
        let Json::Object(fields) = arguments else {
            panic!("{arguments}")
        };
        let arguments: BTreeMap<_, _> = fields
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        let wait = Duration::from_secs(1);
        let answer = command::run(
            &self.broker,
            &self.tenancy(),
            wait,
            &self.who,
            name,
            &arguments,
        );
        answer.map(|answer| answer.to_json())
    }

    pub(super) fn ok(&self, name: &str, arguments: Json) -> Json {
        self.run(name, arguments).unwrap()
    }

    /// Code and field of what a command is refused with.
    pub(super) fn refused(&self, name: &str, arguments: Json) -> (&'static str, String) {
        let error = self.run(name, arguments).unwrap_err();
        (error.code().as_str(), error.field())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.broker.close();
    }
}
