// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sector that was answered for and waits for its commit is overwritten where it lies. If that fails half-way, neither
//! version is left: it is never read, never committed, and no flush says that all is well.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Sim, pattern, read, write};
use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt::{Btt, CreateOptions, OpenOptions, create};
use nvstack_format::btt::{ARENA_MIN, LbaSize, Version};
use nvstack_media::{Domain, Kind};
use uuid::Uuid;

const VERSION: Version = Version::V2_0;

fn open(media: Sim) -> Btt<Sim> {
    let mut options = OpenOptions::new("test", VERSION, Uuid::nil());
    options.zero_entries = true;
    Btt::open(media, options).unwrap()
}

/// LBA 5 is durable in its first version, was answered for in its second, and is torn in its third; LBA 6 waits.
fn torn() -> Btt<Sim> {
    let media = Sim::new(vec![0; usize::try_from(ARENA_MIN).unwrap()], Domain::PageCache);
    let options = CreateOptions {
        version: VERSION,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(7),
        lbasize: LbaSize::new(512).unwrap(),
        overwrite: false,
    };
    create(&media, &options).unwrap();
    let device = open(media);
    write(&device, 5, &pattern(5, 1, 512)).unwrap();
    device.flush().unwrap();
    write(&device, 6, &pattern(6, 1, 512)).unwrap();
    write(&device, 5, &pattern(5, 2, 512)).unwrap();
    device.media().fail_next_stream();
    let failed = write(&device, 5, &pattern(5, 3, 512)).unwrap_err();
    assert!(failed.to_string().contains("LBA 5"), "{failed}");
    device
}

#[test]
fn it_is_not_read_nor_committed_and_the_rest_goes_on() {
    let device = torn();
    let read_error = read(&device, 5).unwrap_err();
    assert_eq!(read_error.kind(), Kind::Io);
    assert!(read_error.to_string().contains("half overwritten"), "{read_error}");
    for _ in 0..2 {
        assert_eq!(device.flush().unwrap_err().kind(), Kind::Io);
    }
    // What waited beside it is durable, and goes on.
    write(&device, 6, &pattern(6, 2, 512)).unwrap();
    assert_eq!(read(&device, 6).unwrap(), pattern(6, 2, 512));
    let after_cut = open(Sim::memory(device.media().durable()));
    assert_eq!(read(&after_cut, 5).unwrap(), pattern(5, 1, 512));
    assert_eq!(read(&after_cut, 6).unwrap(), pattern(6, 1, 512));
}

#[test]
fn writing_it_again_makes_all_well() {
    let device = torn();
    write(&device, 5, &pattern(5, 4, 512)).unwrap();
    assert_eq!(read(&device, 5).unwrap(), pattern(5, 4, 512));
    device.flush().unwrap();
    let after_cut = open(Sim::memory(device.media().durable()));
    assert_eq!(read(&after_cut, 5).unwrap(), pattern(5, 4, 512));
    assert_eq!(read(&after_cut, 6).unwrap(), pattern(6, 1, 512));
}

#[test]
fn zeroing_it_makes_all_well_and_gives_its_lane_back() {
    let device = torn();
    device.write_zeroes(Lba(5), 1, WriteFlags::empty()).unwrap();
    assert_eq!(read(&device, 5).unwrap(), vec![0; 512]);
    device.flush().unwrap();
    let after_cut = open(Sim::memory(device.media().durable()));
    assert_eq!(read(&after_cut, 5).unwrap(), vec![0; 512]);
    // All 256 lanes are there to be filled.
    for lba in 100..356 {
        write(&device, lba, &pattern(lba, 1, 512)).unwrap();
    }
    device.flush().unwrap();
}

/// Each lane holds a torn sector: a write says so, and does not wait for ever.
#[test]
fn when_no_lane_is_left_a_write_fails_and_zeroing_helps() {
    let device = torn();
    device.write_zeroes(Lba(5), 1, WriteFlags::empty()).unwrap();
    device.flush().unwrap();
    for lba in 0..256 {
        write(&device, lba, &pattern(lba, 1, 512)).unwrap();
        device.media().fail_next_stream();
        write(&device, lba, &pattern(lba, 2, 512)).unwrap_err();
    }
    assert_eq!(write(&device, 1000, &pattern(1000, 1, 512)).unwrap_err().kind(), Kind::Poison);
    device.write_zeroes(Lba(0), 256, WriteFlags::empty()).unwrap();
    write(&device, 1000, &pattern(1000, 1, 512)).unwrap();
    device.flush().unwrap();
    assert_eq!(read(&device, 1000).unwrap(), pattern(1000, 1, 512));
}
