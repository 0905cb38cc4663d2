//! The simulated disk itself does what it says, or the other tests prove nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use arqonbus::log::{Storage as _, StorageFile};

use crate::sim_storage::SimStorage;

const DIR: &str = "/d";

fn disk_with_file(seed: u64) -> (SimStorage, Box<dyn StorageFile>) {
    let storage = SimStorage::new(seed);
    storage
        .create_dir_all(Path::new(DIR))
        .expect("a sound disk");
    let file = storage
        .create(&Path::new(DIR).join("f"))
        .expect("a sound disk");
    file.allocate(4096).expect("a sound disk");
    file.sync_data().expect("a sound disk");
    storage.sync_dir(Path::new(DIR)).expect("a sound disk");
    (storage, file)
}

fn content(storage: &SimStorage) -> Vec<u8> {
    storage.files()[&Path::new(DIR).join("f")].clone()
}

#[test]
fn synced_bytes_survive_and_unsynced_may_not() {
    let (storage, file) = disk_with_file(1);
    file.write_at(0, &[1; 512]).expect("a sound disk");
    file.sync_data().expect("a sound disk");
    file.write_at(512, &[2; 1536]).expect("a sound disk");
    assert_eq!(content(&storage.copy().process_kill())[512], 2);
    let mut images = BTreeSet::new();
    for seed in 0..200 {
        let after = content(&storage.copy().power_cut(seed));
        assert_eq!(after[..512], [1; 512]);
        for sector in after[512..2048].chunks(512) {
            assert!(sector == [0; 512] || sector == [2; 512]);
        }
        images.insert(after);
    }
    assert_eq!(images.len(), 8, "every subset of three sectors");
}

#[test]
fn failed_sync_is_not_repaired_by_a_later_one() {
    let mut lost = 0;
    for seed in 0..50 {
        let (storage, file) = disk_with_file(seed);
        file.write_at(0, &[1; 512]).expect("a sound disk");
        storage.fail_sync(1);
        file.sync_data().expect_err("the disk refuses");
        file.sync_data().expect("a sound disk");
        assert_eq!(content(&storage)[0], 1, "still in the cache");
        lost += usize::from(content(&storage.power_cut(seed))[0] == 0);
    }
    assert!((10..45).contains(&lost), "{lost} of 50");
}

#[test]
fn unsynced_names_arrive_as_a_prefix() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let (storage, _file) = disk_with_file(1);
        let path = |name: &str| Path::new(DIR).join(name);
        storage.create(&path("a")).expect("a sound disk");
        storage
            .rename(&path("a"), &path("b"))
            .expect("a sound disk");
        storage.remove(&path("f")).expect("a sound disk");
        seen.insert(
            storage
                .power_cut(seed)
                .list(Path::new(DIR))
                .expect("a sound disk"),
        );
    }
    let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [
            names(&["a", "f"]),
            names(&["b"]),
            names(&["b", "f"]),
            names(&["f"])
        ]
    );
}

#[test]
fn a_full_disk_takes_what_fits_and_goes_on_when_there_is_room() {
    let (storage, file) = disk_with_file(1);
    storage.limit_bytes(4096 + 100);
    let refused = file
        .write_at(4096, &[1; 200])
        .expect_err("the disk refuses");
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    file.write_at(0, &[1; 4096]).expect("a sound disk");
    storage.limit_bytes(8192);
    file.write_at(4096, &[1; 200]).expect("a sound disk");
}

#[test]
fn nothing_works_without_power() {
    let (storage, file) = disk_with_file(1);
    storage.cut_after(1);
    file.write_at(0, &[1]).expect("a sound disk");
    file.sync_data().expect_err("the disk refuses");
    file.len().expect_err("the disk refuses");
    assert!(storage.power_is_off());
    assert_eq!(content(&storage.power_cut_losing_all())[0], 0);
}
