//! The broker's logs as projections read them. Neither of the two knows the other.

use std::sync::Arc;

use arqonbus::broker::attendance::Attendance;
use arqonbus::broker::fanout::{Subscriber, Visibility, Wanted};
use arqonbus::broker::journal::{self, Unreadable};
use arqonbus::broker::{self, Broker, Filter, Reality, RealityName, Tenancy, Tenant};
use arqonbus::log::{Log, Sequence};
use arqonbus::projections::logs::{Feed, Listening, Logs, LogsError, NewEvent, Note, Wake};
use arqonbus::projections::projection::Payloads;
use futures_util::future::BoxFuture;

/// All logs of a broker.
#[derive(Debug)]
pub(crate) struct BrokerLogs {
    pub(crate) broker: Arc<Broker>,
    pub(crate) payloads: Arc<dyn Payloads>,
}

/// A log that is open.
#[derive(Debug)]
struct OpenLog {
    tenancy: Arc<Tenancy>,
    reality: Arc<Reality>,
}

/// Wakes whoever reads a log.
struct Waker(Wake);

/// Places in the index of those who listen to a log.
#[derive(Debug)]
struct Attending(Vec<Attendance>);

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

impl Subscriber for Waker {
    fn ready(&self, _key: u64) {
        (self.0)();
    }
}

impl Listening for Attending {
    fn look(&self) {
        for attendance in &self.0 {
            attendance.look();
        }
    }
}

fn refused(error: &broker::Error) -> LogsError {
    let passing = !matches!(
        error,
        broker::Error::NoSuchReality { .. } | broker::Error::RealityDeleted { .. }
    );
    LogsError {
        reason: error.to_string(),
        passing,
    }
}

fn none_such(reason: String) -> LogsError {
    LogsError {
        reason,
        passing: false,
    }
}

impl Logs for BrokerLogs {
    fn node(&self) -> &str {
        self.broker.node_name()
    }

    fn tenants(&self, reality: &str) -> Vec<String> {
        let Ok(name) = RealityName::new(reality) else {
            return Vec::new();
        };
        let tenants = self.broker.tenants_with(&name).into_iter();
        tenants.map(|tenant| tenant.to_string()).collect()
    }

    fn open(&self, tenant: &str, reality: &str) -> Result<Arc<dyn Feed>, LogsError> {
        let tenant = Tenant::new(tenant).map_err(|error| none_such(format!("tenant {error}")))?;
        let name =
            RealityName::new(reality).map_err(|error| none_such(format!("reality {error}")))?;
        // Whoever opens a tenant that is not there makes it.
        if !self.broker.is_stored(&tenant) {
            return Err(none_such(format!("there is no tenant {tenant}")));
        }
        let open = || {
            let tenancy = self.broker.tenancy(&tenant)?;
            let reality = tenancy.reality(&name)?;
            Ok(Arc::new(OpenLog { tenancy, reality }) as Arc<dyn Feed>)
        };
        open().map_err(|error| refused(&error))
    }

    fn opened(&self) -> BoxFuture<'_, Vec<(String, String)>> {
        Box::pin(async {
            let opened = self.broker.openings().take().await;
            let named = |(tenant, reality): (Tenant, RealityName)| {
                (tenant.to_string(), reality.to_string())
            };
            opened.into_iter().map(named).collect()
        })
    }

    fn payloads(&self) -> &dyn Payloads {
        &*self.payloads
    }
}

/// As the broker's journal takes it.
fn for_journal(event: NewEvent) -> (journal::NewEvent<'static>, String) {
    let NewEvent {
        topic,
        kind,
        schema,
        data,
        key,
    } = event;
    let event = journal::NewEvent {
        topic,
        kind,
        schema,
        data,
    };
    (event, key)
}

impl Feed for OpenLog {
    fn log(&self) -> Log {
        self.reality.log()
    }

    fn listen(&self, patterns: &[String], wake: Wake) -> Result<Box<dyn Listening>, LogsError> {
        let subscriber: Arc<dyn Subscriber> = Arc::new(Waker(wake));
        let interests = patterns.iter().map(|pattern| {
            let filter = Filter::new(pattern)
                .map_err(|error| none_such(format!("topic {pattern:?} {error}")))?;
            let subscriber = Arc::clone(&subscriber);
            let (wanted, visibility) = (Wanted::Matching, Visibility::Durable);
            Ok::<_, LogsError>(
                self.reality
                    .listen(&filter, wanted, visibility, subscriber, 0),
            )
        });
        Ok(Box::new(Attending(interests.collect::<Result<_, _>>()?)))
    }

    fn append(&self, event: NewEvent) -> Result<Sequence, LogsError> {
        let (event, key) = for_journal(event);
        let appended = self.reality.record(event, &key);
        appended.map_err(|error| refused(&error))
    }

    fn append_again(
        &self,
        topic: &str,
        envelope: &[u8],
        header: (&str, &str),
    ) -> Result<Sequence, LogsError> {
        let appended = self.reality.record_again(topic, envelope, header);
        appended.map_err(|error| refused(&error))
    }

    fn note(&self, event: NewEvent) {
        self.tenancy.note(for_journal(event).0);
    }

    fn record(&self, event: NewEvent) -> Result<(), LogsError> {
        let recorded = self.tenancy.record(for_journal(event).0);
        recorded.map(drop).map_err(|error| refused(&error))
    }

    fn notes(&self, topic: &str) -> Result<Vec<Note>, LogsError> {
        let filter =
            Filter::new(topic).map_err(|error| none_such(format!("topic {topic:?} {error}")))?;
        let mut notes = Vec::new();
        let first = self.tenancy.first_event();
        let read = self.tenancy.events(&filter, first, |event| {
            notes.push(Note {
                kind: event.kind.to_owned(),
                data: bytes::Bytes::copy_from_slice(event.data),
                at: event.at,
            });
            Ok::<_, Unreadable>(())
        });
        match read {
            Ok(_) => Ok(notes),
            Err(error) => Err(LogsError {
                reason: error.to_string(),
                passing: true,
            }),
        }
    }
}
