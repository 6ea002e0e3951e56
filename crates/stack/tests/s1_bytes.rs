// SPDX-License-Identifier: MIT OR Apache-2.0
//! S1, R1, R2, R16: `rw_bytes` is an operation of the device that a driver is given, and not of every device.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::{Arc, Mutex};

use common::outside::{Crc, Moments};
use common::{MIB, contents, create, get, image, machine, open, ranges, refused};
use nvstack_block::{BlockDevice, ByteFlags, Bytes};
use nvstack_media::{Anon, Kind, Media, MediaOffset};
use nvstack_stack::{Stack, Subject};
use proptest::prelude::*;

/// The namespace as a driver gets it, and the bytes under it.
fn given() -> (Stack, Subject, Arc<dyn Media>) {
    let stack = Stack::new();
    let seen = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&seen);
    let probe = Arc::new(move |subject: &Subject| *keep.lock().unwrap() = Some(subject.clone()));
    stack.register_driver(Arc::new(Crc { moments: Moments { probe, ..Moments::default() } }));
    let media: Arc<dyn Media> = Arc::new(Anon::new(2 * MIB).unwrap());
    stack.register(ranges([Arc::clone(&media)]));
    stack.settle();
    let subject = seen.lock().unwrap().clone().unwrap();
    (stack, subject, media)
}

#[test]
fn s1_r2_a_driver_gets_a_block_device_that_offers_rw_bytes() {
    let (_stack, subject, media) = given();
    assert_eq!(subject.device.name(), "namespace0.0");
    assert_eq!(subject.device.geometry().sector_size, 512);
    let bytes = subject.device.bytes().unwrap();
    assert_eq!(bytes.size(), 2 * MIB);
    bytes.rw_bytes(MediaOffset(4095), Bytes::Write(b"odd"), ByteFlags::empty()).unwrap();
    assert_eq!(&contents(&*media)[4094..4099], b"\0odd\0");
    // The same device by sectors, and the same bytes as media know them.
    let sector = common::read(&*subject.device, 7).unwrap();
    assert_eq!(sector[511], b'o');
    let mut read = [0; 3];
    subject.media().unwrap().read(MediaOffset(4095), &mut read).unwrap();
    assert_eq!(&read, b"odd");
}

proptest! {
    #[test]
    fn s1_r1_any_offset_and_length_or_nothing(
        at in prop_oneof![0..5000u64, 2 * MIB - 1300..2 * MIB + 600, u64::MAX - 600..],
        len in 0usize..1200,
        byte in 1u8..,
    ) {
        let (_stack, subject, media) = given();
        let bytes = subject.device.bytes().unwrap();
        let data = vec![byte; len];
        let inside = at.checked_add(len as u64).is_some_and(|end| end <= 2 * MIB);
        let written = bytes.rw_bytes(MediaOffset(at), Bytes::Write(&data), ByteFlags::empty());
        let mut back = vec![0xee; len];
        let read = bytes.rw_bytes(MediaOffset(at), Bytes::Read(&mut back), ByteFlags::empty());
        let now = contents(&*media);
        if inside || len == 0 {
            written.unwrap();
            read.unwrap();
            prop_assert_eq!(&back, &data);
            prop_assert_eq!(now.iter().filter(|b| **b != 0).count(), len);
        } else {
            refused(written, Kind::OutOfRange, &["rw_bytes", "2097152"]);
            refused(read, Kind::OutOfRange, &["rw_bytes", "2097152"]);
            // Never a part of it: neither here nor there.
            prop_assert!(back.iter().all(|b| *b == 0xee));
            prop_assert!(now.iter().all(|b| *b == 0));
        }
    }
}

#[test]
fn s1_a_raw_disk_offers_it_and_a_btt_refuses_it_by_name() {
    let (stack, tree) = machine(256 * MIB);
    let (raw, _) = create(&tree, "region0", "raw", 1, 16 * MIB);
    let (_, btt) = create(&tree, "region0", "sector", 2, 32 * MIB);
    let btt = btt.unwrap();
    let disk = open(&stack, &raw);
    disk.bytes().unwrap().rw_bytes(MediaOffset(3), Bytes::Write(b"x"), ByteFlags::empty()).unwrap();
    assert_eq!(common::read(&*disk, 0).unwrap()[..5], *b"\0\0\0x\0");
    let disk = open(&stack, &btt);
    refused(disk.bytes().map(|_| ()), Kind::Unsupported, &[&btt, "rw_bytes"]);
    assert!(get(&tree, &format!("{btt}/size")).parse::<u64>().unwrap() > 0);
}

#[test]
fn s1_r16_who_may_not_sleep_says_so_and_leaves_lost_bytes_lost() {
    let (_stack, subject, media) = given();
    let bytes = subject.device.bytes().unwrap();
    media.inject_poison(MediaOffset(1024), 512).unwrap();
    let data = [7; 512];
    let mut back = [0; 8];
    refused(
        bytes.rw_bytes(MediaOffset(1020), Bytes::Read(&mut back), ByteFlags::empty()),
        Kind::Poison,
        &["namespace0.0"],
    );
    refused(
        bytes.rw_bytes(MediaOffset(1024), Bytes::Write(&data), ByteFlags::ATOMIC),
        Kind::Poison,
        &["namespace0.0"],
    );
    assert!(media.is_poisoned(MediaOffset(1024), 512));
    bytes.rw_bytes(MediaOffset(1024), Bytes::Write(&data), ByteFlags::empty()).unwrap();
    assert!(!media.is_poisoned(MediaOffset(0), media.len()));
    bytes.rw_bytes(MediaOffset(1024), Bytes::Read(&mut back), ByteFlags::ATOMIC).unwrap();
    assert_eq!(back, [7; 8]);
}

#[test]
fn r14_no_byte_of_a_read_only_namespace_changes_through_a_driver() {
    let stack = Stack::new();
    let outcome = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&outcome);
    let probe = Arc::new(move |subject: &Subject| {
        let bytes = subject.device.bytes().unwrap();
        let media = subject.media().unwrap();
        let mut told = keep.lock().unwrap();
        told.push(bytes.rw_bytes(MediaOffset(0), Bytes::Write(b"x"), ByteFlags::empty()));
        told.push(media.store(MediaOffset(0), b"x"));
        told.push(media.zero(MediaOffset(0), 512));
        told.push(common::write(&*subject.device, 0, 1));
    });
    stack.register_driver(Arc::new(Crc { moments: Moments { probe, ..Moments::default() } }));
    let media = image(32 * MIB);
    let before = contents(&*media);
    let mut spec = ranges([Arc::clone(&media)]);
    spec.regions[0].read_only = true;
    stack.register(spec);
    stack.settle();
    let outcome = std::mem::take(&mut *outcome.lock().unwrap());
    assert_eq!(outcome.len(), 4);
    for told in outcome {
        refused(told, Kind::ReadOnly, &[]);
    }
    assert!(contents(&*media) == before);
}
