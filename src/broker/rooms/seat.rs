//! What one session has joined. Whoever holds it is a member; when it goes, the session has left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::members::{Member, Occupant, Place};
use super::{Refused, Rooms, presence};
use crate::broker::error::Error;
use crate::broker::name::RealityName;
use crate::broker::reality::Reality;
use crate::broker::system::{self, Queued};
use crate::broker::tenancy::Tenancy;
use crate::log::{Micros, Sequence};
use crate::proto::v1::presence::Change;

/// Members that the answer to a join names; of more, only how many there are.
pub const NAMED_MAX: usize = 1_000;

/// How a session has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Going {
    /// What is said of it.
    pub change: Change,
    /// Why, in a word.
    pub reason: &'static str,
}

impl Going {
    /// Without a word: its peer does not answer any more.
    pub const GONE: Self = Self {
        change: Change::Expired,
        reason: "gone",
    };
    /// It has said goodbye.
    pub const CLOSED: Self = Self {
        change: Change::Left,
        reason: "closed",
    };
    /// The node has ended it.
    pub const ENDED: Self = Self {
        change: Change::Left,
        reason: "ended",
    };
}

/// What a join has come to.
#[derive(Clone, Debug)]
pub struct Entered {
    /// False where the session was a member before.
    pub is_new: bool,
    /// Since when it is one.
    pub at: Micros,
    /// The record that says so; changes after it are not in `members`.
    pub sequence: Sequence,
    /// Who is there, the session itself included.
    pub members: Vec<Member>,
    /// How many that are; more than are named in a crowd.
    pub count: usize,
    /// Where the channel is.
    pub reality: Arc<Reality>,
}

/// A session among the members of its tenant's channels.
#[derive(Debug)]
pub struct Seat {
    rooms: Arc<Rooms>,
    id: Arc<str>,
    subject: Arc<str>,
    session: Arc<dyn Occupant>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Since when, and what says so.
    joined: BTreeMap<Arc<Place>, (Micros, Sequence)>,
    /// Held as long as there may be something to say in it.
    reality: Option<Arc<Reality>>,
    going: Going,
}

impl Seat {
    /// Of a session called `id`, which has joined nothing yet; `session` hears of what happens to
    /// it.
    #[must_use]
    pub fn new(
        rooms: &Arc<Rooms>,
        id: &str,
        subject: &str,
        session: Arc<dyn Occupant>,
    ) -> Arc<Self> {
        Arc::new(Self {
            rooms: Arc::clone(rooms),
            id: id.into(),
            subject: subject.into(),
            session,
            inner: Mutex::new(Inner {
                joined: BTreeMap::new(),
                reality: None,
                going: Going::GONE,
            }),
        })
    }

    /// What others call it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is to be said when it goes.
    pub fn goes(&self, going: Going) {
        self.lock().going = going;
    }

    /// Whether it is a member of a channel.
    #[must_use]
    pub fn is_in(&self, place: &Place) -> bool {
        self.lock().joined.contains_key(place)
    }

    /// Channels that it is a member of.
    #[must_use]
    pub fn places(&self) -> Vec<Arc<Place>> {
        self.lock().joined.keys().cloned().collect()
    }

    /// Becomes a member, and waits until the record that says so is on disk. Blocks.
    ///
    /// # Errors
    /// The channel is closed, or there is no room in it; it cannot be stored.
    pub fn join(self: &Arc<Self>, tenancy: &Tenancy, place: &Place) -> Result<Entered, Error> {
        let reality = tenancy.reality(&RealityName::main())?;
        self.rooms.settle(&reality)?;
        self.rooms.check_place(tenancy, place)?;
        let place = Arc::new(place.clone());
        let member = Member {
            id: Arc::clone(&self.id),
            subject: Arc::clone(&self.subject),
            since: reality.now(),
        };
        let (mut entered, stored) = self.enter(&reality, &place, &member)?;
        let Some(stored) = stored else {
            return Ok(entered);
        };
        match system::awaited(&reality, &stored) {
            Ok(appended) => {
                entered.sequence = appended.first;
                if let Some(joined) = self.lock().joined.get_mut(&place) {
                    joined.1 = appended.first;
                }
                Ok(entered)
            }
            Err(error) => {
                self.lock().joined.remove(&place);
                self.rooms.lock().leave(&place, &self.id);
                Err(error)
            }
        }
    }

    /// Under the lock of all members, so that the order of the records is that of what they say.
    fn enter(
        self: &Arc<Self>,
        reality: &Arc<Reality>,
        place: &Arc<Place>,
        member: &Member,
    ) -> Result<(Entered, Option<Queued>), Error> {
        let mut members = self.rooms.lock();
        let weak: Weak<Self> = Arc::downgrade(self);
        let occupant = weak as Weak<dyn Occupant>;
        let limits = &self.rooms.limits;
        let is_new = members
            .enter(place, member.clone(), occupant, limits)
            .map_err(|refused| refused.at(place))?;
        let (at, sequence, stored) = if is_new {
            let record = presence::record(reality, place, member, Change::Joined, "");
            let stored = match system::append_all(reality, vec![record]) {
                Ok(stored) => stored,
                Err(error) => {
                    members.leave(place, &self.id);
                    return Err(error);
                }
            };
            let mut inner = self.lock();
            inner.reality.get_or_insert_with(|| Arc::clone(reality));
            let known = (member.since, Sequence::FIRST);
            inner.joined.insert(Arc::clone(place), known);
            (member.since, Sequence::FIRST, Some(stored))
        } else {
            let known = self.lock().joined.get(place).copied();
            let (at, sequence) = known.unwrap_or((member.since, Sequence::FIRST));
            (at, sequence, None)
        };
        let entered = Entered {
            is_new,
            at,
            sequence,
            members: members.of(place).take(NAMED_MAX).cloned().collect(),
            count: members.count(place),
            reality: Arc::clone(reality),
        };
        Ok((entered, stored))
    }

    /// Is a member no more, and waits until that is on disk. Blocks.
    ///
    /// # Errors
    /// It is none; it cannot be stored, and it is none all the same.
    pub fn leave(&self, place: &Place, going: Going) -> Result<(), Error> {
        let stored = self.take_out(place, going)?;
        system::awaited(&stored.0, &stored.1).map(drop)
    }

    /// Is a member no more, without waiting.
    pub fn drop_out(&self, place: &Place, going: Going) {
        match self.take_out(place, going) {
            Ok(_) | Err(Error::Room(_)) => {}
            Err(error) => tracing::error!(%error, "that a member has left was not stored"),
        }
    }

    fn take_out(&self, place: &Place, going: Going) -> Result<(Arc<Reality>, Queued), Error> {
        let mut members = self.rooms.lock();
        let (joined, reality) = {
            let mut inner = self.lock();
            (inner.joined.remove_entry(place), inner.reality.clone())
        };
        let (Some((place, (since, _))), Some(reality)) = (joined, reality) else {
            return Err(Refused::NotMember.at(place));
        };
        members.leave(&place, &self.id);
        let member = Member {
            id: Arc::clone(&self.id),
            subject: Arc::clone(&self.subject),
            since,
        };
        let record = presence::record(&reality, &place, &member, going.change, going.reason);
        let stored = system::append_all(&reality, vec![record])?;
        Ok((reality, stored))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Occupant for Seat {
    fn put_out(&self, place: &Place, reason: &'static str) {
        let change = Change::Left;
        self.drop_out(place, Going { change, reason });
        self.session.put_out(place, reason);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut members = self.rooms.lock();
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let joined = std::mem::take(&mut inner.joined);
        let Some(reality) = inner.reality.take().filter(|_| !joined.is_empty()) else {
            return;
        };
        let Going { change, reason } = inner.going;
        let mut records = Vec::with_capacity(joined.len());
        for (place, (since, _)) in joined {
            if members.leave(&place, &self.id) {
                let member = Member {
                    id: Arc::clone(&self.id),
                    subject: Arc::clone(&self.subject),
                    since,
                };
                records.push(presence::record(&reality, &place, &member, change, reason));
            }
        }
        if records.is_empty() {
            return;
        }
        // Nobody is left who could wait. If it cannot be stored, the next start of the node says
        // that these members are gone.
        if let Err(error) = system::append_all(&reality, records) {
            tracing::error!(%error, "that a member has left was not stored");
        }
    }
}
