//! Operators over a real log, closed and opened again, with the time given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::manifest::tests::join as asked;
use super::task::{Order, Parcel};
use super::*;
use crate::broker::access::{Role, Topics};
use crate::broker::{Options, RealityName, Tenant, command};
use crate::log::{Clock, Committer, Environment, RealStorage};
use crate::proto::v1::{TaskResult, Value, task_result};

#[derive(Debug, Default)]
struct Watch(AtomicU64);

impl Clock for Watch {
    fn now(&self) -> Micros {
        Micros(1_700_000_000_000_000 + self.0.load(Ordering::SeqCst))
    }
}

#[derive(Debug, Default)]
struct Tray(Mutex<Vec<Given>>);

impl Hands for Tray {
    fn give(&self, task: Given) {
        lock(&self.0).push(task);
    }
}

struct Node {
    broker: Arc<Broker>,
    tenancy: Arc<Tenancy>,
    watch: Arc<Watch>,
    identity: Identity,
}

impl Node {
    fn start(directory: &Path) -> Self {
        let watch = Arc::new(Watch::default());
        let environment = Environment {
            storage: Arc::new(RealStorage),
            clock: Arc::clone(&watch) as Arc<dyn Clock>,
            committer: Committer::start(1),
        };
        let options = Options::new(directory.to_owned(), 1, "n".to_owned());
        let broker = Broker::start(environment, options).unwrap();
        let tenant = Tenant::new("t").unwrap();
        Self {
            tenancy: broker.tenancy(&tenant).unwrap(),
            broker,
            watch,
            identity: Identity {
                tenant,
                subject: "bob".into(),
                role: Role::User,
                publish: Topics::All,
                subscribe: Topics::All,
                expires_at: None,
                issued_at: None,
                token_id: None,
                ends_by: None,
            },
        }
    }

    fn later(&self, ms: u64) {
        self.watch.0.fetch_add(ms * 1_000, Ordering::SeqCst);
        settle::round(&self.broker, &self.tenancy).unwrap();
    }

    fn join(&self, instance: &str) -> (Membership, Arc<Tray>) {
        let tray = Arc::new(Tray::default());
        let hands = Arc::clone(&tray) as Arc<dyn Hands>;
        let joined = join(
            &self.broker,
            &self.tenancy,
            &self.identity,
            asked(instance),
            hands,
        );
        let joined = joined.unwrap();
        joined.begin();
        self.later(0);
        (joined, tray)
    }

    fn dispatch(&self) -> String {
        let given = BTreeMap::from([("group".to_owned(), Value::from("g"))]);
        let wait = Duration::ZERO;
        let told = command::run(
            &self.broker,
            &self.tenancy,
            wait,
            &self.identity,
            "op.dispatch",
            &given,
        );
        let told = told.unwrap().to_json();
        told["task"].as_str().unwrap().to_owned()
    }

    fn states(&self) -> BTreeMap<String, State> {
        let known = |registry: &Registry| {
            let operators = registry.groups["g"].operators.iter();
            operators
                .map(|(name, known)| (name.clone(), known.state))
                .collect()
        };
        self.tenancy.ledger::<Registry>().read(known).unwrap()
    }

    fn stop(self) {
        drop(self.tenancy);
        self.broker.close();
    }
}

fn result(given: &Given, outcome: task_result::Outcome) -> TaskResult {
    TaskResult {
        id: given.id.clone(),
        lease: given.lease,
        outcome: Some(outcome),
        ..TaskResult::default()
    }
}

fn busy() -> task_result::Outcome {
    task_result::Outcome::Error(crate::proto::v1::Error {
        message: "busy".into(),
        retryable: true,
        ..crate::proto::v1::Error::default()
    })
}

fn last(tray: &Tray) -> Given {
    lock(&tray.0).last().cloned().unwrap()
}

// OPS-14, OPS-01, OPS-04: what is open, how often it has failed and who was there is in the log.
#[test]
fn open_tasks_and_their_attempts_are_read_from_the_log() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let (worker, tray) = node.join("a");
    let (done, open) = (node.dispatch(), node.dispatch());
    let given = last(&tray);
    assert_eq!((given.id.as_str(), given.attempt), (done.as_str(), 1));
    let output = task_result::Outcome::Output(Bytes::from_static(b"x"));
    let taken = worker.answer(result(&given, output.clone())).unwrap();
    assert_eq!(taken.state, "done");
    let given = last(&tray);
    assert_eq!(given.id, open);
    let taken = worker.answer(result(&given, busy())).unwrap();
    assert_eq!(taken.state, "again");
    assert_eq!(node.states(), [("a".to_owned(), State::Ready)].into());
    // As after a crash: that it leaves is not written down.
    drop(worker);
    node.stop();

    let node = Node::start(data.path());
    rebuild::ensure(&node.tenancy).unwrap();
    assert_eq!(node.states(), [("a".to_owned(), State::Gone)].into());
    assert_eq!(node.tenancy.sam().floor().open(None), 1);
    let (worker, tray) = node.join("b");
    let given = last(&tray);
    assert_eq!((given.id.as_str(), given.attempt), (open.as_str(), 2));
    let taken = worker.answer(result(&given, output)).unwrap();
    assert_eq!(taken.state, "done");
    let stale = worker.answer(result(&given, busy())).unwrap_err();
    assert_eq!(stale.code(), ErrorCode::Stale);
    drop(worker);
    node.later(0);
    assert_eq!(node.states()["b"], State::Gone);
    node.stop();
}

// OPS-02: one that was put back by hand, and is not done twice for having been dispatched.
#[test]
fn a_task_that_was_put_back_is_taken_up() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let (worker, tray) = node.join("a");
    let first = node.dispatch();
    let output = task_result::Outcome::Output(Bytes::from_static(b"x"));
    worker.answer(result(&last(&tray), output.clone())).unwrap();
    node.later(2_000);
    assert_eq!(lock(&tray.0).len(), 1, "it is done");
    let main = node.tenancy.reality(&RealityName::main()).unwrap();
    let again = Order {
        id: first.clone(),
        group: "g".into(),
        ..Order::default()
    };
    main.store(vec![again.record(Parcel::default())], None)
        .unwrap();
    node.later(2_000);
    let given = last(&tray);
    assert_eq!((lock(&tray.0).len(), &given.id), (2, &first));
    worker.answer(result(&given, output)).unwrap();
    node.later(2_000);
    assert_eq!(lock(&tray.0).len(), 2);
    drop(worker);
    node.stop();
}
