// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole engine, where every write is durable by itself.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use loom::thread;
use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_media::Domain;

use super::medium::{SECTOR, Words};
use crate::Btt;

pub(super) fn write(btt: &Btt<Words>, sector: u64, value: u8) {
    btt.write(Lba(sector), &[IoSlice::new(&[value; SECTOR])], WriteFlags::empty()).unwrap();
}

/// What a sector holds: one value from end to end.
pub(super) fn read(btt: &Btt<Words>, sector: u64) -> u8 {
    let mut bytes = [0xff; SECTOR];
    btt.read(Lba(sector), &mut [IoSliceMut::new(&mut bytes)]).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a torn read");
    bytes[0]
}

fn device(sectors: u32, lanes: u32) -> (Words, Arc<Btt<Words>>) {
    let words = Words::new(sectors, lanes, Domain::Memory);
    let btt = Arc::new(words.open());
    (words, btt)
}

fn with(btt: &Arc<Btt<Words>>, work: impl FnOnce(&Btt<Words>) + 'static) -> thread::JoinHandle<()> {
    let btt = Arc::clone(btt);
    thread::spawn(move || work(&btt))
}

/// One writes a sector three times, so that its first block leaves, returns and leaves; one reads it meanwhile.
pub fn reader_and_writer() {
    let (words, btt) = device(2, 2);
    let writer = with(&btt, |btt| (1..=3).for_each(|value| write(btt, 0, value)));
    assert!(read(&btt, 0) <= 3);
    writer.join().unwrap();
    assert_eq!((read(&btt, 0), words.recovered()[0]), (3, 3));
}

/// Reads do not go back in time.
pub fn two_reads() {
    let (_words, btt) = device(2, 2);
    let writer = with(&btt, |btt| (1..=2).for_each(|value| write(btt, 0, value)));
    let first = read(&btt, 0);
    assert!(first <= read(&btt, 0), "went back");
    writer.join().unwrap();
}

/// Two write one sector, which ends as one of them left it.
pub fn two_writers_one_sector() {
    let (words, btt) = device(2, 2);
    let other = with(&btt, |btt| write(btt, 0, 1));
    write(&btt, 0, 2);
    let seen = read(&btt, 0);
    assert!((1..=2).contains(&seen));
    other.join().unwrap();
    let end = read(&btt, 0);
    assert_eq!(words.recovered()[0], end);
    assert!(seen == end || (seen, end) == (2, 1), "{seen} was there, then {end}");
}

/// Two write two sectors, and both are there.
pub fn two_writers_two_sectors() {
    let (words, btt) = device(2, 2);
    let other = with(&btt, |btt| (1..=2).for_each(|value| write(btt, 0, value)));
    write(&btt, 1, 3);
    write(&btt, 1, 4);
    other.join().unwrap();
    assert_eq!(words.recovered(), [2, 4]);
}

/// The same in one lane.
pub fn two_writers_one_lane() {
    let (words, btt) = device(2, 1);
    let other = with(&btt, |btt| write(btt, 0, 1));
    write(&btt, 1, 2);
    other.join().unwrap();
    assert_eq!(words.recovered(), [1, 2]);
}

/// One writes, one makes zero, one reads.
pub fn writer_zeroer_reader() {
    let (words, btt) = device(2, 2);
    write(&btt, 0, 1);
    let writer = with(&btt, |btt| write(btt, 0, 2));
    let zeroer = with(&btt, |btt| btt.write_zeroes(Lba(0), 1, WriteFlags::empty()).unwrap());
    assert!(read(&btt, 0) <= 2);
    writer.join().unwrap();
    zeroer.join().unwrap();
    let end = read(&btt, 0);
    assert!(end == 0 || end == 2, "{end} at the end");
    assert_eq!(words.recovered()[0], end);
}

/// Two write one sector and one reads it, with a lane for each: a block that one writer frees is the other's sector's next.
pub fn two_writers_and_a_reader() {
    let (words, btt) = device(3, 3);
    let first = with(&btt, |btt| write(btt, 0, 1));
    let second = with(&btt, |btt| (2..=3).for_each(|value| write(btt, 0, value)));
    assert!(read(&btt, 0) <= 3);
    first.join().unwrap();
    second.join().unwrap();
    let end = read(&btt, 0);
    assert!(end == 1 || end == 3, "{end} at the end");
    assert_eq!(words.recovered()[0], end);
}

/// Three write three sectors in two lanes.
pub fn three_writers_two_lanes() {
    let (words, btt) = device(3, 2);
    let first = with(&btt, |btt| write(btt, 0, 1));
    let second = with(&btt, |btt| write(btt, 1, 2));
    write(&btt, 2, 3);
    first.join().unwrap();
    second.join().unwrap();
    assert_eq!(words.recovered(), [1, 2, 3]);
}
