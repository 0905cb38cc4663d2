//! All operators of a tenant at work: each in turn, as long as one of them has something to do.
//!
//! Its bell is rung by records that an operator reads, and by changes of the register. It ends when
//! no operator works, or when the node goes down. One that fails does not hold up the others: it
//! begins again from where it stands, after a pause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::register::{Register, Version};
use super::run::{Run, Step};
use crate::broker::Tenancy;
use crate::broker::attendance::Attendance;
use crate::broker::error::Error;
use crate::broker::operators::Office;

/// An operator that failed begins again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(super) fn is_due(tenancy: &Arc<Tenancy>) -> Result<bool, Error> {
    let register = tenancy.ledger::<Register>();
    register.read(|register| register.working().next().is_some())
}

pub(super) fn run(office: Office) -> BoxFuture<'static, Result<(), Error>> {
    work(office).boxed()
}

/// One operator, and what wakes it.
struct Seat {
    version: Arc<Version>,
    run: Box<Run>,
    /// Held as long as it listens.
    attendance: Vec<Attendance>,
}

async fn work(office: Office) -> Result<(), Error> {
    let mut seats: BTreeMap<String, Seat> = BTreeMap::new();
    loop {
        if office.is_closing() {
            return Ok(());
        }
        let working = office.blocking(|tenancy| {
            let register = tenancy.ledger::<Register>();
            let owned =
                |(name, version): (&String, &Arc<Version>)| (name.clone(), Arc::clone(version));
            register.read(|register| register.working().map(owned).collect::<Vec<_>>())
        });
        let working = working.await?;
        if working.is_empty() {
            return Ok(());
        }
        let (mut kept, mut further, mut failed) = (BTreeMap::new(), false, false);
        for (name, version) in working {
            let seat = seats.remove(&name);
            // What was removed and pushed again is another version of the same number.
            let seat = seat.filter(|seat| Arc::ptr_eq(&seat.version, &version));
            match step(&office, &name, version, seat).await {
                Ok((seat, step)) => {
                    further |= step == Step::Further;
                    kept.insert(name, seat);
                }
                Err(error) => {
                    let tenant = office.tenancy.tenant();
                    tracing::warn!(%tenant, operator = name, %error, "a wasm operator failed; it begins again");
                    failed = true;
                }
            }
        }
        // Those that were taken out of work are let go.
        seats = kept;
        if further {
            continue;
        }
        if failed {
            let pause = tokio::time::sleep(AGAIN_AFTER);
            tokio::select! {
                () = pause => {}
                () = office.rung() => {}
            }
        } else {
            office.rung().await;
        }
    }
}

async fn step(
    office: &Office,
    name: &str,
    version: Arc<Version>,
    seat: Option<Seat>,
) -> Result<(Seat, Step), Error> {
    let mut seat = match seat {
        Some(seat) => seat,
        None => {
            let (name, of) = (name.to_owned(), Arc::clone(&version));
            let begun = office.blocking(move |tenancy| Run::resume(tenancy, &name, &of));
            let run = Box::new(begun.await?);
            let listen = |filter| office.listen(run.input(), filter);
            let attendance = version.manifest.topics.iter().map(listen).collect();
            Seat {
                version,
                run,
                attendance,
            }
        }
    };
    for attendance in &seat.attendance {
        attendance.look();
    }
    let stepped = office.blocking(move |_| {
        let step = seat.run.step()?;
        Ok((seat, step))
    });
    stepped.await
}
