//! One log has one writer.

use arqonbus::log::Error;

use crate::session::{DIR, Session, SimClock, small_options};
use crate::sim_storage::SimStorage;

// LOG-07
#[test]
fn a_second_opener_is_refused_and_told_by_whom() {
    let (storage, clock) = (SimStorage::new(1), SimClock::new());
    let first = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    let before = storage.files();
    let refused = Session::open(&storage, &clock, &small_options());
    let Err(Error::Locked { path, owner }) = refused else {
        panic!("opened twice: {refused:?}");
    };
    assert!(path.starts_with(DIR), "{}", path.display());
    assert!(
        owner.contains(&std::process::id().to_string()),
        "owner: {owner:?}"
    );
    assert!(storage.files() == before, "the refused opener has written");

    first.log.close().expect("a sound disk");
    Session::open(&storage, &clock, &small_options()).expect("the lock is free after a close");
}

// LOG-07: a process that died holds nothing.
#[test]
fn the_lock_dies_with_its_process() {
    let (storage, clock) = (SimStorage::new(1), SimClock::new());
    let _open = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    let next = storage.process_kill();
    Session::open(&next, &clock, &small_options()).expect("the owner is dead");
}

// LOG-07: dropping the last handle is as good as closing, as far as the lock goes.
#[test]
fn dropping_the_last_handle_frees_the_lock() {
    let (storage, clock) = (SimStorage::new(1), SimClock::new());
    let session = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    let clone = session.log.clone();
    drop(session);
    assert!(
        Session::open(&storage, &clock, &small_options()).is_err(),
        "a handle is left"
    );
    drop(clone);
    Session::open(&storage, &clock, &small_options()).expect("no handle is left");
}
