//! Where an operator works for one tenant: its logs, and what wakes it.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::broker::attendance::Attendance;
use crate::broker::error::Error;
use crate::broker::fanout::{Subscriber, Visibility, Wanted};
use crate::broker::{Broker, Filter, Reality, Tenancy};

/// One operator's place in one tenant.
#[derive(Clone, Debug)]
pub struct Office {
    /// The node's logs.
    pub broker: Arc<Broker>,
    /// The tenant's.
    pub tenancy: Arc<Tenancy>,
    pub(super) bell: Arc<Bell>,
    pub(super) closing: watch::Receiver<bool>,
}

/// Rung by changes of the operator's state and by the logs that it listens to.
#[derive(Debug, Default)]
pub(super) struct Bell(Notify);

impl Bell {
    pub(super) fn ring(&self) {
        self.0.notify_one();
    }
}

impl Subscriber for Bell {
    fn ready(&self, _key: u64) {
        self.ring();
    }
}

impl Office {
    /// Waits until the bell is rung; a ring while nobody waited counts. Returns at once, and for
    /// ever, when the node goes down: see [`Office::is_closing`].
    pub async fn rung(&self) {
        let mut closing = self.closing.clone();
        tokio::select! {
            () = self.bell.0.notified() => {}
            // An error means that the sender is gone, which ends the node too.
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }

    /// Rings the bell, as from outside.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Whether the node goes down: finish what is begun, and begin nothing.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Has the bell rung when a record on disk matches `filter`, as long as the answer is held. Call
    /// [`Attendance::look`] before looking at the end of the log each time.
    #[must_use]
    pub fn listen(&self, reality: &Reality, filter: &Filter) -> Attendance {
        let bell = Arc::clone(&self.bell) as Arc<dyn Subscriber>;
        reality.listen(filter, Wanted::Matching, Visibility::Durable, bell, 0)
    }

    /// Does something that blocks, where that is allowed.
    ///
    /// # Errors
    /// What it fails with; [`Error::Internal`] if it panics.
    pub async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Tenancy>) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let tenancy = Arc::clone(&self.tenancy);
        let done = tokio::task::spawn_blocking(move || work(&tenancy)).await;
        done.unwrap_or(Err(Error::Internal))
    }
}
