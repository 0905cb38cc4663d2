//! What the broker refuses, and what that is called on the wire.
//!
//! Texts are for the caller: they name the field and what to try, and never a path of this machine
//! or another tenant.

use super::accept::Rejection;
use super::damage::without_directories;
use super::filter::Filter;
use super::gate::Unmet;
use super::name::{NameError, RealityName, Tenant};
use super::operators::cron::BadPlan;
use super::operators::store::BadKey;
use super::reality::ReadOnly;
use super::rooms::RoomError;
use crate::log::{self, AppendError, KeyProblem, Sequence};
use crate::proto::code::ErrorCode;

/// Why the broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name breaks its rule.
    #[error("{field} {fault}")]
    Name {
        /// Part of the request that holds it.
        field: &'static str,
        /// What is wrong with it.
        fault: NameError,
    },
    /// Something about rooms is not to be.
    #[error(transparent)]
    Room(#[from] Box<RoomError>),
    /// An operator or a task is refused.
    #[error(transparent)]
    Refused(#[from] super::operators::sam::Refused),
    /// An envelope breaks a rule.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// A batch does not meet what it was sent under.
    #[error(transparent)]
    Unmet(#[from] Unmet),
    /// There is no such reality.
    #[error("there is no reality {reality}; create it with `arqon reality create {reality}`")]
    NoSuchReality {
        /// The name.
        reality: RealityName,
    },
    /// There is no such reality to do something with that needs what is in it.
    #[error("there is no reality {reality}; `arqon reality list` shows those that are there")]
    NotAmongRealities {
        /// The name.
        reality: RealityName,
    },
    /// The reality to be created is there already.
    #[error("a reality {reality} exists already; choose another name, or use that one")]
    RealityExists {
        /// The name.
        reality: RealityName,
    },
    /// A subscription that does not want to catch up has fallen too far behind.
    #[error(
        "the subscription is {behind} records behind the end of the log, more than the limit of {limit}; subscribe again from where it is to be read on, or with on_lag CATCH_UP"
    )]
    SlowConsumer {
        /// Records between it and the end.
        behind: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The reality has been deleted meanwhile.
    #[error(
        "reality {reality} has been deleted; if there is another of that name now, begin anew in it"
    )]
    RealityDeleted {
        /// The name.
        reality: RealityName,
    },
    /// A deletion names something else as what it means to delete.
    #[error(
        "reality {reality} is deleted only if `confirm` (`--yes-destroy`) names it too, and it names {found:?}"
    )]
    NotConfirmed {
        /// What would be deleted.
        reality: RealityName,
        /// What was given instead.
        found: String,
    },
    /// There is no such tenant.
    #[error("there is no tenant {tenant} in the data directory")]
    NoSuchTenant {
        /// The name.
        tenant: Tenant,
    },
    /// The tenant is open.
    #[error("tenant {tenant} is in use; stop the node first")]
    TenantInUse {
        /// The name.
        tenant: Tenant,
    },
    /// The node serves no more tenants.
    #[error("the node has {limit} tenants open, which is its limit")]
    TenantsFull {
        /// Most that may be open.
        limit: usize,
    },
    /// State that is folded from the tenant's events cannot be.
    #[error(
        "the tenant's {state} cannot be read from its system log: {reason}; have an admin look at `arqon log status --reality _system`"
    )]
    StateDamaged {
        /// Which.
        state: &'static str,
        /// Why.
        reason: String,
    },
    /// The tenant has no room for another reality.
    #[error("the tenant has {limit} realities, which is the limit")]
    RealitiesFull {
        /// Most that it may have.
        limit: usize,
    },
    /// The node holds enough pictures for backups.
    #[error(
        "{limit} backups of the tenant are under way, which is the limit; try again when one of them is done"
    )]
    BackupsFull {
        /// Most that it holds.
        limit: usize,
    },
    /// A picture for a backup is not held, or has no such file.
    #[error(
        "backup {id} is not held by this node, or has no such file; it is dropped when nobody reads it for five minutes: begin another one"
    )]
    NoSuchBackup {
        /// Its number.
        id: u64,
    },
    /// The tenant may not store so much.
    #[error(
        "the tenant stores {stored} bytes and may store {limit}, so that {wanted} more do not fit; nothing was stored; make room, or have `limits.tenant_bytes_max` raised"
    )]
    TenantBytesFull {
        /// What it stores now.
        stored: u64,
        /// What it wanted to add.
        wanted: u64,
        /// Most that it may store.
        limit: u64,
    },
    /// The tenant may not have so many topics.
    #[error(
        "the tenant has {held} topics and may have {limit}, so that {wanted} new ones do not fit; nothing was stored; publish on topics that are there, or have `limits.tenant_topics_max` raised"
    )]
    TopicsFull {
        /// How many it has.
        held: u64,
        /// How many it wanted to add.
        wanted: u64,
        /// Most that it may have.
        limit: u64,
    },
    /// The tenant has no room for another named consumer.
    #[error("the tenant has {limit} named consumers, which is the limit")]
    ConsumersFull {
        /// Most that it may have.
        limit: usize,
    },
    /// A named consumer has one subscription at a time.
    #[error(
        "consumer {consumer} is in use by another subscription; end that one first, or choose another name"
    )]
    ConsumerInUse {
        /// Its name.
        consumer: String,
    },
    /// A named consumer reads one filter.
    #[error(
        "consumer {consumer} reads {bound}, not {asked}; subscribe with that filter, or choose another name"
    )]
    ConsumerFilter {
        /// Its name.
        consumer: String,
        /// The filter that its cursor counts for.
        bound: String,
        /// The one asked for.
        asked: Filter,
    },
    /// There is no such named consumer.
    #[error(
        "there is no consumer {consumer} in reality {reality}; `arqon consumers list` shows those that are there"
    )]
    NoSuchConsumer {
        /// Where it was looked for.
        reality: RealityName,
        /// Its name.
        consumer: String,
    },
    /// There is no such group.
    #[error(
        "there is no group {group} in reality {reality}; `arqon groups list` shows those that are there"
    )]
    NoSuchGroup {
        /// Where it was looked for.
        reality: RealityName,
        /// Its name.
        group: String,
    },
    /// The group has members.
    #[error("group {group} has members; end their subscriptions first")]
    GroupInUse {
        /// Its name.
        group: String,
    },
    /// The group has been deleted, or its reality.
    #[error("group {group} has been ended; subscribe again to begin anew")]
    GroupEnded {
        /// Its name.
        group: String,
    },
    /// The group works in another way.
    #[error(
        "{field} of the group is {bound}, not {asked}; leave it out, or change it for all with `arqon groups configure`"
    )]
    GroupOtherwise {
        /// What is different.
        field: &'static str,
        /// As it is.
        bound: u64,
        /// As it was asked for.
        asked: u64,
    },
    /// The node does not allow a group to work so.
    #[error("{field} is {found}; this node allows {min} to {max}")]
    GroupOption {
        /// What is not allowed.
        field: &'static str,
        /// What was asked for.
        found: u64,
        /// The least that is allowed.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The group has no room for another member.
    #[error("the group has {limit} members, which is the limit")]
    MembersFull {
        /// Most that it may have.
        limit: usize,
    },
    /// An answer about a record that is not this member's.
    #[error(
        "record {sequence} is not leased to this member, or no longer: its deadline has passed, or it was answered for; nothing was changed"
    )]
    NotLeased {
        /// Which record.
        sequence: Sequence,
    },
    /// There is no such dead letter.
    #[error(
        "consumer {consumer} has no dead letter {id}; `arqon dlq list {consumer}` shows those that it has"
    )]
    NoSuchLetter {
        /// Whose it would be.
        consumer: String,
        /// Its id.
        id: String,
    },
    /// The log that holds the cursors is damaged.
    #[error(
        "named consumers are not served, because the log that holds their cursors is damaged; subscribe without a consumer name meanwhile; {reason}; `logdump verify DIR/{tenant}/_system` shows all of it, DIR being the node's data directory"
    )]
    CursorsDamaged {
        /// Whose they are.
        tenant: Tenant,
        /// What is damaged.
        reason: String,
    },
    /// An acknowledgement of what was never delivered.
    #[error("sequence {asked} is not on disk yet; the last that is, is {last}")]
    BeyondEnd {
        /// What was acknowledged.
        asked: u64,
        /// The last durable sequence.
        last: u64,
    },
    /// The log has lost what a consumer acknowledged.
    #[error(
        "the log is shorter than what this consumer has acknowledged: its cursor is at {cursor}, the last sequence is {last}; start anew by choosing another consumer name"
    )]
    CursorBeyondEnd {
        /// Where the consumer is.
        cursor: Sequence,
        /// The last durable sequence.
        last: u64,
    },
    /// The records asked for are gone.
    #[error("sequence {asked} is no longer in the log; the first available is {first}")]
    OutOfRange {
        /// What was asked for.
        asked: Sequence,
        /// The first there is.
        first: Sequence,
    },
    /// No record has this sequence, although the log reaches further.
    #[error("there is no record {sequence}: an unclean stop has left a gap in the sequences here")]
    NoSuchRecord {
        /// What was asked for.
        sequence: Sequence,
    },
    /// The record asked for cannot be read.
    #[error("record {sequence} is damaged on disk; `logdump verify` shows how")]
    RecordDamaged {
        /// What was asked for.
        sequence: Sequence,
    },
    /// The caller may not see the record.
    #[error("record {sequence} is on a topic that this token may not subscribe to")]
    RecordHidden {
        /// What was asked for.
        sequence: Sequence,
    },
    /// The caller may not do this with a topic that a command is about.
    #[error("{field}: this token may not {action} {topic}")]
    TopicForbidden {
        /// Part of the request that names it.
        field: &'static str,
        /// What was to be done.
        action: &'static str,
        /// The topic.
        topic: String,
    },
    /// More than an operator takes.
    #[error("{field}: {found} {unit} are more than the limit of {limit}")]
    OverLimit {
        /// Part of the request.
        field: &'static str,
        /// Of what.
        unit: &'static str,
        /// How many there would be.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A key is not as whoever wanted to change it believed.
    #[error(
        "the newest record of the key is {found}, not {wanted}; 0 means that it has no value; read it again and decide anew"
    )]
    RevisionConflict {
        /// What was believed.
        wanted: u64,
        /// What is true.
        found: u64,
    },
    /// There is no such job, or it is another's.
    #[error("you have no job {job:?}; `arqon cron list` shows those that you have")]
    NoSuchJob {
        /// Id or name.
        job: String,
    },
    /// No message waits under this sequence, or it is another's.
    #[error(
        "no message of yours waits under sequence {sequence}; `arqon delayed list` shows what waits"
    )]
    NothingWaits {
        /// Which.
        sequence: u64,
    },
    /// Another job is called so.
    #[error("there is a job {name:?} already; choose another name, or cancel that one")]
    JobExists {
        /// The name.
        name: String,
    },
    /// A replay of that name is of another reality.
    #[error("the replay {name:?} in that reality is of {from}; choose another name")]
    ReplayOfAnother {
        /// Its name.
        name: String,
        /// What it is of.
        from: String,
    },
    /// There is no operator of that name.
    #[error("there is no operator {name:?}; `arqon wasm list` shows those that are there")]
    NoSuchOperator {
        /// The name.
        name: String,
    },
    /// A module cannot be an operator.
    #[error("{reason}")]
    NoOperator {
        /// Why.
        reason: String,
    },
    /// What an operator has done cannot be done again.
    #[error(
        "operator {name} has done some of its work with the version {digest:.16}, which is not kept any more"
    )]
    VersionForgotten {
        /// Its name.
        name: String,
        /// SHA-256 of the module.
        digest: String,
    },
    /// The caller may not see all that was asked for.
    #[error("this token may not see all that {filter} matches; name topics that it may")]
    TopicsHidden {
        /// What was asked for.
        filter: Filter,
    },
    /// The caller may not do this.
    #[error("command {command} needs the role {needed}")]
    RoleMissing {
        /// What was to be done.
        command: &'static str,
        /// Who may do it.
        needed: &'static str,
    },
    /// The caller may not see this reality.
    #[error("reality {reality} is open to admins only")]
    RealityClosed {
        /// The name.
        reality: RealityName,
    },
    /// There is no such command.
    #[error("there is no command {name:?}; there are: {known}")]
    UnknownCommand {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A command's argument is missing, unknown or of the wrong type.
    #[error("command {command}: argument {argument:?} {fault}")]
    Argument {
        /// The command.
        command: &'static str,
        /// The argument.
        argument: String,
        /// What is wrong with it.
        fault: ArgumentFault,
    },
    /// The log did not take the batch.
    #[error("{}", append_text(.0))]
    Append(#[source] AppendError),
    /// The log takes no writes; nothing of the batch is stored.
    #[error("{}", read_only_text(tenant, reality, state))]
    ReadOnly {
        /// Whose it is.
        tenant: Tenant,
        /// Its name.
        reality: RealityName,
        /// Why, and whether it will pass.
        state: ReadOnly,
    },
    /// The log cannot be opened or read.
    #[error("{}", log_text(.0))]
    Log(#[source] log::Error),
    /// Something about a webhook is not done.
    #[error(transparent)]
    Webhook(Box<super::operators::webhook::Refused>),
    /// The node is going down.
    #[error("the node is going down; connect again later")]
    ShuttingDown,
    /// A bug in the node.
    #[error("the node failed to do this; its own log says why")]
    Internal,
}

/// What is wrong with a command's argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentFault {
    /// Needed and not there.
    #[error("is missing")]
    Missing,
    /// Not one of the command's.
    #[error("is not one of its arguments: {known}")]
    Unknown {
        /// What it takes.
        known: String,
    },
    /// Of the wrong type.
    #[error("must be {wanted}")]
    Kind {
        /// The right type.
        wanted: &'static str,
    },
    /// Against a rule of its own.
    #[error("{what}")]
    Wrong {
        /// What is wrong, and what to try.
        what: String,
    },
    /// Not a number, or not one that is allowed.
    #[error("is {found:?}; needed is a whole number from 1 to {max}")]
    Number {
        /// What it says.
        found: String,
        /// The largest that is allowed.
        max: u64,
    },
    /// No name.
    #[error("{0}")]
    Name(NameError),
    /// No key.
    #[error("{0}")]
    Key(BadKey),
    /// No plan.
    #[error("{0}")]
    Plan(BadPlan),
}

/// For the client: without the operating system's words, which can name paths.
fn append_text(error: &AppendError) -> String {
    match error {
        AppendError::NoSpace { .. } => {
            "the disk has no room; nothing was stored; try again later".into()
        }
        AppendError::ReadOnly { .. } => {
            "the reality takes no writes until its log is reopened; nothing was stored".into()
        }
        AppendError::Busy { waiting_bytes } => {
            format!("{waiting_bytes} bytes are waiting to be written; nothing was stored")
        }
        AppendError::Indeterminate { .. } => {
            "a write failed under way: the batch may or may not be stored".into()
        }
        AppendError::ConditionNotMet { expected, found } => {
            format!("expected {expected}, found {found}; nothing was stored")
        }
        AppendError::TooLarge { bytes, limit } => {
            format!("the batch takes {bytes} bytes in the log, more than the limit of {limit}")
        }
    }
}

fn read_only_text(tenant: &Tenant, reality: &RealityName, state: &ReadOnly) -> String {
    let reason = &state.reason;
    if state.repairing {
        format!(
            "reality {reality} takes no writes until its log is reopened, which the node is \
             trying; nothing was stored; the cause: {reason}"
        )
    } else {
        format!(
            "reality {reality} takes no writes, because its log is damaged; nothing was stored; \
             {reason}; `arqon log repair --reality {reality}` mends it, `logdump verify \
             DIR/{tenant}/{reality}` shows all of it, DIR being the node's data directory"
        )
    }
}

fn log_text(error: &log::Error) -> String {
    match error {
        log::Error::Damaged(damage) => format!(
            "the log of the reality cannot be read: {}; `logdump verify` shows all of it",
            without_directories(damage)
        ),
        log::Error::Version {
            found, supported, ..
        } => format!(
            "the log of the reality has format version {found}; this node reads version {supported}"
        ),
        log::Error::Key {
            problem: KeyProblem::Destroyed { .. },
            ..
        } => "the keys of the reality were destroyed on purpose: nobody can read it again; \
              create another one"
            .into(),
        log::Error::Key { .. } => "the log of the reality is encrypted with a key that this node \
             was not given; the node's own log says which"
            .into(),
        log::Error::NotEncrypted { .. } => "the log of the reality is not encrypted, so it has no \
             key to rotate or destroy; log.encrypt = true encrypts it from its next segment on"
            .into(),
        log::Error::Unfinished { .. } => {
            "the log of the reality is being made or deleted; the node \
             clears up when it is started again"
                .into()
        }
        log::Error::Io { .. }
        | log::Error::Locked { .. }
        | log::Error::OutOfRange { .. }
        | log::Error::BeyondEnd { .. }
        | log::Error::Occupied { .. } => {
            "the log of the reality cannot be read; the node's own log says why".into()
        }
    }
}

impl From<AppendError> for Error {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}

impl From<log::Error> for Error {
    fn from(error: log::Error) -> Self {
        match error {
            log::Error::OutOfRange { asked, first } => Self::OutOfRange { asked, first },
            log::Error::BeyondEnd { asked, last } => {
                let asked = asked.get();
                Self::BeyondEnd { asked, last }
            }
            error @ (log::Error::Io { .. }
            | log::Error::Locked { .. }
            | log::Error::Version { .. }
            | log::Error::Key { .. }
            | log::Error::Occupied { .. }
            | log::Error::Unfinished { .. }
            | log::Error::NotEncrypted { .. }
            | log::Error::Damaged(_)) => Self::Log(error),
        }
    }
}

impl Error {
    /// What it is called on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Argument {
                fault: ArgumentFault::Key(BadKey::OtherTenant),
                ..
            } => ErrorCode::TenantMismatch,
            Self::RevisionConflict { .. } => ErrorCode::SequenceConflict,
            Self::NoSuchJob { .. } | Self::NothingWaits { .. } => ErrorCode::NotFound,
            Self::OverLimit { .. } => ErrorCode::TooLarge,
            Self::TopicForbidden { .. } => ErrorCode::Forbidden,
            Self::Name { .. }
            | Self::JobExists { .. }
            | Self::BeyondEnd { .. }
            | Self::Argument { .. }
            | Self::RealityExists { .. }
            | Self::NotConfirmed { .. }
            | Self::TenantInUse { .. }
            | Self::ConsumerInUse { .. }
            | Self::GroupInUse { .. }
            | Self::GroupOtherwise { .. }
            | Self::GroupOption { .. }
            | Self::NoOperator { .. }
            | Self::ReplayOfAnother { .. }
            | Self::ConsumerFilter { .. } => ErrorCode::ValidationError,
            Self::Refused(refused) => refused.code,
            Self::NotLeased { .. } => ErrorCode::Stale,
            Self::Rejected(rejection) => rejection.fault.code(),
            Self::Room(error) => error.refused.code(),
            Self::Unmet(unmet) => unmet.code(),
            Self::SlowConsumer { .. } => ErrorCode::SlowConsumer,
            Self::NoSuchReality { .. }
            | Self::NotAmongRealities { .. }
            | Self::RealityDeleted { .. }
            | Self::NoSuchTenant { .. }
            | Self::NoSuchBackup { .. }
            | Self::NoSuchConsumer { .. }
            | Self::NoSuchGroup { .. }
            | Self::GroupEnded { .. }
            | Self::NoSuchLetter { .. }
            | Self::NoSuchOperator { .. }
            | Self::VersionForgotten { .. }
            | Self::NoSuchRecord { .. } => ErrorCode::NotFound,
            Self::BackupsFull { .. } => ErrorCode::RateLimited,
            Self::TenantsFull { .. }
            | Self::RealitiesFull { .. }
            | Self::TenantBytesFull { .. }
            | Self::MembersFull { .. }
            | Self::TopicsFull { .. }
            | Self::ConsumersFull { .. } => ErrorCode::TooLarge,
            Self::OutOfRange { .. } | Self::CursorBeyondEnd { .. } => ErrorCode::OffsetOutOfRange,
            Self::RoleMissing { .. }
            | Self::RealityClosed { .. }
            | Self::RecordHidden { .. }
            | Self::TopicsHidden { .. } => ErrorCode::Forbidden,
            Self::UnknownCommand { .. } => ErrorCode::UnknownCommand,
            Self::Append(error) => match error {
                AppendError::NoSpace { .. }
                | AppendError::ReadOnly { .. }
                | AppendError::Indeterminate { .. } => ErrorCode::StorageFailure,
                AppendError::Busy { .. } => ErrorCode::RateLimited,
                AppendError::ConditionNotMet { .. } => ErrorCode::SequenceConflict,
                AppendError::TooLarge { .. } => ErrorCode::TooLarge,
            },
            Self::Log(log::Error::NotEncrypted { .. }) => ErrorCode::ValidationError,
            Self::ReadOnly { .. }
            | Self::Log(_)
            | Self::CursorsDamaged { .. }
            | Self::StateDamaged { .. }
            | Self::RecordDamaged { .. } => ErrorCode::StorageFailure,
            Self::Webhook(refused) => refused.code,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
            Self::Internal => ErrorCode::Internal,
        }
    }

    /// Whether the same request may be sent again unchanged: only if nothing of it was done.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Append(AppendError::Indeterminate { .. })
            | Self::Log(
                log::Error::Damaged(_)
                | log::Error::Version { .. }
                | log::Error::Key { .. }
                | log::Error::NotEncrypted { .. },
            )
            | Self::CursorsDamaged { .. }
            | Self::StateDamaged { .. }
            | Self::RecordDamaged { .. } => false,
            Self::ReadOnly { state, .. } => state.repairing,
            Self::Refused(refused) => refused.retry_after_ms > 0,
            _ => self.code().retryable(),
        }
    }

    /// What would have been right, where a count was expected: the topic's last sequence, or the
    /// producer's next number. 0 otherwise.
    #[must_use]
    pub const fn actual(&self) -> u64 {
        match self {
            Self::Unmet(unmet) => unmet.actual(),
            _ => 0,
        }
    }

    /// How long to wait before that, in milliseconds.
    #[must_use]
    pub fn retry_after_ms(&self) -> u64 {
        match self {
            Self::Append(AppendError::Busy { .. }) => 20,
            Self::Refused(refused) => refused.retry_after_ms,
            _ if self.retryable() => 1_000,
            _ => 0,
        }
    }

    /// The part of the request at fault, as a path; empty if it is none in particular.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::Name { field, .. } => (*field).into(),
            Self::Refused(refused) => refused.field.clone(),
            Self::Rejected(rejection) => rejection.path(),
            Self::Room(error) => error.refused.field().into(),
            Self::Unmet(unmet) => unmet.field(),
            // Named because it is found before anything of the request is done.
            Self::NoSuchReality { .. }
            | Self::NotAmongRealities { .. }
            | Self::RealityDeleted { .. }
            | Self::ReadOnly { .. }
            | Self::RealityClosed { .. } => "reality".into(),
            Self::TopicForbidden { field, .. } | Self::OverLimit { field, .. } => (*field).into(),
            Self::RevisionConflict { .. } => "arguments.if_revision".into(),
            Self::NoSuchJob { .. } => "arguments.job_id".into(),
            Self::NothingWaits { .. } => "arguments.sequence".into(),
            Self::NotConfirmed { .. } => "arguments.confirm".into(),
            Self::NoSuchTenant { .. } | Self::TenantInUse { .. } => "tenant".into(),
            Self::ConsumerInUse { .. }
            | Self::CursorBeyondEnd { .. }
            | Self::NoSuchConsumer { .. }
            | Self::CursorsDamaged { .. } => "consumer".into(),
            Self::NoSuchGroup { .. }
            | Self::GroupInUse { .. }
            | Self::GroupEnded { .. }
            | Self::MembersFull { .. } => "group".into(),
            Self::GroupOtherwise { field, .. } | Self::GroupOption { field, .. } => {
                format!("group_options.{field}")
            }
            Self::NoSuchLetter { .. } => "arguments.id".into(),
            Self::SlowConsumer { .. } => "on_lag".into(),
            Self::ConsumerFilter { .. } => "filter".into(),
            Self::BeyondEnd { .. }
            | Self::NotLeased { .. }
            | Self::OutOfRange { .. }
            | Self::NoSuchRecord { .. }
            | Self::RecordDamaged { .. }
            | Self::StateDamaged { .. }
            | Self::RecordHidden { .. } => "sequence".into(),
            Self::TopicsHidden { .. } => "topic".into(),
            Self::NoSuchOperator { .. }
            | Self::ReplayOfAnother { .. }
            | Self::VersionForgotten { .. } => "arguments.name".into(),
            Self::NoOperator { .. } => "arguments.module".into(),
            Self::RealityExists { .. } | Self::JobExists { .. } => "arguments.name".into(),
            Self::UnknownCommand { .. } => "name".into(),
            Self::Argument { argument, .. } => format!("arguments.{argument}"),
            Self::Webhook(refused) => refused.field.clone(),
            Self::TenantsFull { .. }
            | Self::RealitiesFull { .. }
            | Self::TenantBytesFull { .. }
            | Self::TopicsFull { .. }
            | Self::ConsumersFull { .. }
            | Self::BackupsFull { .. }
            | Self::NoSuchBackup { .. }
            | Self::RoleMissing { .. }
            | Self::Append(_)
            | Self::Log(_)
            | Self::ShuttingDown
            | Self::Internal => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::accept::Fault;
    use super::*;

    // Errors name the field and what to try.
    #[test]
    fn texts_name_things_plainly_and_say_what_to_try() {
        let reality = || RealityName::new("nope").unwrap();
        let consumer = "billing".to_owned();
        let too_large = |index| {
            Error::Rejected(Rejection {
                index,
                field: "",
                fault: Fault::TooLarge {
                    found: 3,
                    limit: 2,
                    unit: "bytes",
                },
            })
        };
        let invalid = ErrorCode::ValidationError;
        for (error, code, field, text) in [
            (
                Error::NoSuchReality { reality: reality() },
                ErrorCode::NotFound,
                "reality",
                "there is no reality nope; create it with `arqon reality create nope`",
            ),
            (
                Error::RealityExists { reality: reality() },
                invalid,
                "arguments.name",
                "a reality nope exists already; choose another name, or use that one",
            ),
            (
                Error::RealityClosed { reality: reality() },
                ErrorCode::Forbidden,
                "reality",
                "reality nope is open to admins only",
            ),
            (
                Error::ConsumerInUse { consumer },
                invalid,
                "consumer",
                "consumer billing is in use by another subscription; end that one first, or choose another name",
            ),
            (
                too_large(Some(0)),
                ErrorCode::TooLarge,
                "envelopes[0]",
                "envelopes[0] has 3 bytes, more than the limit of 2",
            ),
            (
                too_large(None),
                ErrorCode::TooLarge,
                "",
                "the envelope has 3 bytes, more than the limit of 2",
            ),
        ] {
            assert_eq!(error.to_string(), text);
            assert_eq!((error.code(), error.field().as_str()), (code, field));
        }
    }
}
