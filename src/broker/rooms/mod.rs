//! Rooms and channels of a tenant: which have been created, who is in them, and who hears of it.
//!
//! - [`Place`], `members`: who is where now; [`presence`]: the records that say so.
//! - [`Seat`]: what one session has joined; [`heartbeat`]: that members are still there.
//! - [`register`]: which rooms and channels were created, and which are closed.
//! - [`command`]: what is asked about them.
//!
//! ```text
//!  session                    node                        main: op.presence.<room>.<channel>
//!     │ join ───────────────►  member, within bounds ───►  JOINED      on disk, then the answer
//!     │ ◄── who is there ────                              │
//!     │ leave, close ───────►  no member ──────────────►   LEFT
//!     ✗ silence, cut ───────►  no member ──────────────►   EXPIRED (gone)
//!                              ✗ node killed, started ─►   EXPIRED (node_went), once
//! ```
//!
//! A name need not be created to be spoken in: rooms are free, unless the node is set otherwise.
//! One that was deleted is closed until it is created again. Knows no socket and no frame.

pub mod command;
pub mod heartbeat;
mod members;
pub mod presence;
pub mod register;
mod seat;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use self::members::Members;
pub use self::members::{Member, Occupant, Place};
use self::register::Register;
pub use self::seat::{Entered, Going, NAMED_MAX, Seat};
use super::error::Error;
use super::name::RealityName;
use super::operators::{BuiltIn, Duty, Office};
use super::reality::Reality;
use super::tenancy::Tenancy;
use crate::proto::ErrorCode;

/// Longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 1_024;
/// Longest name of a room or channel, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// How large all of it may grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Rooms of a tenant that have been created, that are closed, and that have members: each.
    pub rooms_max: usize,
    /// Channels of a room: created, and with members.
    pub channels_max: usize,
    /// Members of a channel.
    pub members_max: usize,
    /// Channels that a session has joined.
    pub joined_max: usize,
    /// Whether a room need not be created to be joined and spoken in.
    pub free: bool,
    /// How often it is said who is in a channel, if somebody wants to hear that.
    pub heartbeat: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rooms_max: 10_000,
            channels_max: 1_000,
            members_max: 10_000,
            joined_max: 100,
            free: true,
            heartbeat: None,
        }
    }
}

/// Why something about a room is not to be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It was deleted.
    #[error("was deleted; create it again with room.create or channel.create, or choose another")]
    Closed,
    /// Rooms are not free here.
    #[error("has not been created, and this node lets nobody in that has not; see room.list")]
    NotCreated,
    /// Nobody has created it.
    #[error("has not been created, so there is nothing to delete")]
    NothingToDelete,
    /// Somebody has created it.
    #[error("exists already")]
    Exists,
    /// Nothing is known of it.
    #[error("is not known: nobody has created it, is in it or has spoken in it")]
    Unknown,
    /// The session has not joined it.
    #[error("is no channel that this session is a member of; join it first")]
    NotMember,
    /// Somebody else has created it.
    #[error("belongs to whoever created it; ask {owner}, or an admin")]
    NotOwner {
        /// Who that is.
        owner: String,
    },
    /// A name is empty or too long.
    #[error("must be 1 to {NAME_BYTES_MAX} bytes long")]
    Name,
    /// A description is too long.
    #[error("has a description longer than {DESCRIPTION_BYTES_MAX} bytes")]
    Description,
    /// Too many rooms.
    #[error("cannot be added: the tenant has {limit} rooms, which is the limit")]
    RoomsFull {
        /// How many there may be.
        limit: usize,
    },
    /// Too many channels.
    #[error("cannot be added: its room has {limit} channels, which is the limit")]
    ChannelsFull {
        /// How many there may be.
        limit: usize,
    },
    /// Too many members.
    #[error("has {limit} members, which is the limit")]
    MembersFull {
        /// How many there may be.
        limit: usize,
    },
    /// The session has joined too many.
    #[error(
        "cannot be joined: this session has joined {limit} channels, which is the limit; leave one"
    )]
    JoinedFull {
        /// How many it may have joined.
        limit: usize,
    },
}

impl Refused {
    /// What it is called on the wire.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Closed | Self::NotCreated | Self::NothingToDelete | Self::Unknown => {
                ErrorCode::NotFound
            }
            Self::Exists | Self::Name => ErrorCode::ValidationError,
            Self::NotMember => ErrorCode::NotMember,
            Self::NotOwner { .. } => ErrorCode::Forbidden,
            Self::Description
            | Self::RoomsFull { .. }
            | Self::ChannelsFull { .. }
            | Self::MembersFull { .. }
            | Self::JoinedFull { .. } => ErrorCode::TooLarge,
        }
    }

    /// The part of the request at fault.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::RoomsFull { .. } => "room",
            Self::Description => "description",
            _ => "channel",
        }
    }

    fn at(self, place: &Place) -> Error {
        let what = format!("{}/{}", place.room, place.channel);
        RoomError {
            what,
            refused: self,
        }
        .into()
    }

    fn of_room(self, room: &str) -> Error {
        RoomError {
            what: format!("room {room}"),
            refused: self,
        }
        .into()
    }
}

/// Which room or channel, and why not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} {refused}")]
pub struct RoomError {
    what: String,
    /// Why.
    pub refused: Refused,
}

impl From<RoomError> for Error {
    fn from(error: RoomError) -> Self {
        Self::Room(Box::new(error))
    }
}

/// Who is where among a tenant's channels.
#[derive(Debug)]
pub struct Rooms {
    limits: Limits,
    members: Mutex<Members>,
    /// Whether it has been said who went with the node that was here before.
    settled: Mutex<bool>,
    register: OnceLock<Register>,
}

impl Rooms {
    /// Nobody is anywhere.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            members: Mutex::default(),
            settled: Mutex::new(false),
            register: OnceLock::new(),
        })
    }

    /// How large all of it may grow.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Which rooms there are. Blocks on the disk the first time.
    ///
    /// # Errors
    /// The system log is damaged.
    pub fn register(&self, tenancy: &Tenancy) -> Result<&Register, Error> {
        if let Some(register) = self.register.get() {
            return Ok(register);
        }
        let register = tenancy.ledger::<Register>().read(Clone::clone)?;
        Ok(self.register.get_or_init(|| register))
    }

    /// Says, once, who has gone with the node that was here before. Nobody is let in earlier.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// The log cannot be read or written.
    pub fn settle(&self, main: &Reality) -> Result<(), Error> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if *settled {
            return Ok(());
        }
        let left = presence::left_over(main)?;
        let gone = presence::settle(main, &left)?;
        if gone > 0 {
            tracing::info!(tenant = %main.tenant(), gone, "members of rooms went with the node before");
        }
        *settled = true;
        Ok(())
    }

    fn is_settled(&self) -> bool {
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Members of a channel, at most [`NAMED_MAX`], and how many there are.
    #[must_use]
    pub fn members(&self, place: &Place) -> (Vec<Member>, usize) {
        let members = self.lock();
        let named = members.of(place).take(NAMED_MAX).cloned().collect();
        (named, members.count(place))
    }

    /// Channels that have members, of one room or of all, and how many.
    #[must_use]
    pub fn occupied(&self, room: Option<&str>) -> Vec<(Arc<Place>, usize)> {
        self.lock().places(room)
    }

    /// Whether a session is a member of a channel.
    #[must_use]
    pub fn is_member(&self, place: &Place, id: &str) -> bool {
        self.lock().holds(place, id)
    }

    /// The subject of a member, by its name.
    #[must_use]
    pub fn subject_of(&self, id: &str) -> Option<Arc<str>> {
        self.lock().subject_of(id)
    }

    /// Members, and channels that have some.
    #[must_use]
    pub fn totals(&self) -> (usize, usize) {
        self.lock().totals()
    }

    /// Puts everybody out of some channels.
    fn clear(&self, places: &[Arc<Place>], reason: &'static str) {
        for place in places {
            // Told without the lock, which each of them takes to go.
            let occupants = self.lock().occupants(place);
            for (_, occupant) in occupants {
                if let Some(occupant) = occupant.upgrade() {
                    occupant.put_out(place, reason);
                }
            }
        }
    }

    /// Whether a channel may be joined and spoken in.
    fn check_place(&self, tenancy: &Tenancy, place: &Place) -> Result<(), Error> {
        for name in [&place.room, &place.channel] {
            if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
                return Err(Refused::Name.at(place));
            }
        }
        let checked = register::check(tenancy, &place.room, &place.channel, self.limits.free)?;
        checked.map_err(|refused| refused.at(place))
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rooms among the built-in operators.
pub const OPERATOR: BuiltIn = BuiltIn {
    name: "rooms",
    doc: "Rooms and channels: who has created them, who is in them, who comes and goes.",
    commands: command::COMMANDS,
    duty: Some(DUTY),
};

/// What the node does for rooms unasked: says who went with the node before it, and now and then
/// who is there.
const DUTY: Duty = Duty {
    is_due: |tenancy| {
        let rooms = tenancy.rooms();
        // A log that nobody has used yet holds nobody.
        let left_over = !rooms.is_settled() && tenancy.birth(&RealityName::main()).is_some();
        Ok(left_over || (rooms.limits.heartbeat.is_some() && rooms.totals().0 > 0))
    },
    run: |office| Box::pin(attend(office)),
};

/// Ends when nobody is in a room any more; whoever joins first wakes it again.
async fn attend(office: Office) -> Result<(), Error> {
    office
        .blocking(|tenancy| {
            let main = tenancy.reality(&RealityName::main())?;
            tenancy.rooms().settle(&main)
        })
        .await?;
    let Some(every) = office.tenancy.rooms().limits.heartbeat else {
        return Ok(());
    };
    while !office.is_closing() {
        let pause = tokio::time::sleep(every);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                () = office.rung() => if office.is_closing() {
                    return Ok(());
                },
            }
        }
        let beat = move |tenancy: &Arc<Tenancy>| {
            let main = tenancy.reality(&RealityName::main())?;
            heartbeat::beat(tenancy.rooms(), &main, every)
        };
        if office.blocking(beat).await? == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether something may be said on `topic`, as far as it is one of a room. Blocks only if rooms
/// have never been asked about.
///
/// # Errors
/// The room or channel is closed.
pub fn check_topic(tenancy: &Tenancy, topic: &str) -> Result<(), Error> {
    let Some((room, channel)) = super::room::of_topic(topic) else {
        return Ok(());
    };
    let free = tenancy.rooms().limits.free;
    let checked = register::check(tenancy, &room, &channel, free)?;
    checked.map_err(|refused| refused.at(&Place::new(&room, &channel)))
}
