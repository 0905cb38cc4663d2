//! Effectively once: a consumer that keeps where it is together with what it has made of the records
//! (BRK-05).
//!
//! The node delivers at least once. A consumer that stores its result and its position in one step,
//! and begins again from the position that it finds there, counts each record once, whatever is
//! killed when.

use std::future::Future;

use super::{Client, Delivery, Error, Start, SubscribeOptions};

/// Where a consumer keeps its results, with its position among them: a database, mostly.
pub trait Ledger: Send {
    /// Why something cannot be kept.
    type Error: Send;

    /// The first sequence that nothing has been made of yet; `None` if that is all of them.
    fn next(&mut self) -> impl Future<Output = Result<Option<u64>, Self::Error>> + Send;

    /// Keeps what `delivery` comes to, and `delivery.next` as what [`Ledger::next`] answers from
    /// then on: both or neither, in one transaction.
    fn keep(&mut self, delivery: &Delivery)
    -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Why a consumer has stopped. Whoever begins again loses nothing and counts nothing twice.
#[derive(Debug, thiserror::Error)]
pub enum Stopped<E> {
    /// The node, or the connection to it.
    #[error(transparent)]
    Client(Error),
    /// What keeps the results.
    #[error("results cannot be kept: {0}")]
    Ledger(E),
}

impl Client {
    /// Follows `options` into `ledger`, from where that is, until a stop condition is met. What
    /// `options` says about the start counts where nothing has been kept yet. Needs no name on the
    /// node: the position is the consumer's own.
    ///
    /// # Errors
    /// The node refuses the subscription or ends it, the connection is lost for good, or `ledger`
    /// cannot keep something.
    pub async fn effectively_once<L: Ledger>(
        &self,
        options: SubscribeOptions,
        ledger: &mut L,
    ) -> Result<(), Stopped<L::Error>> {
        let next = ledger.next().await.map_err(Stopped::Ledger)?;
        let start = next.map_or(options.start, Start::Sequence);
        let options = SubscribeOptions { start, ..options };
        let mut subscription = self.subscribe(options).await.map_err(Stopped::Client)?;
        while let Some(delivery) = subscription.next().await.map_err(Stopped::Client)? {
            ledger.keep(&delivery).await.map_err(Stopped::Ledger)?;
        }
        Ok(())
    }
}
