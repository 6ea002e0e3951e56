// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk by itself: against a model, with bytes that change, and with the power cut at each store.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{Dice, Sim, read, write};
use nvstack_block::{BlockDevice, Direction, ExtentFlags, Lba, Page, PageState, WriteFlags};
use nvstack_example_checksum::device::Checked;
use nvstack_example_checksum::layout::{Found, Layout, MIN_SIZE, SUPERBLOCK, Superblock};
use nvstack_media::{Anon, Kind, Media, MediaOffset};
use proptest::prelude::*;
use uuid::Uuid;

fn superblock(block_size: u64) -> Superblock {
    let layout = Layout::compute(MIN_SIZE, block_size).unwrap();
    Superblock { uuid: Uuid::from_u128(1), parent: Uuid::nil(), layout }
}

/// A fresh device on memory that reads as zeros.
fn fresh(media: &Arc<dyn Media>, block_size: u64) -> Checked {
    let superblock = superblock(block_size);
    superblock.write(media).unwrap();
    open(media, &superblock)
}

fn open(media: &Arc<dyn Media>, superblock: &Superblock) -> Checked {
    Checked::open("crc0.0", Arc::clone(media), superblock, false, Arc::default()).unwrap().0
}

fn anon() -> Arc<dyn Media> {
    Arc::new(Anon::new(MIN_SIZE).unwrap())
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let run = || (0u64..200, 1u64..150);
    let op = prop_oneof![
        4 => (run(), any::<u8>()).prop_map(|((at, n), fill)| Op::Write(at, n, fill)),
        1 => (run(), any::<bool>()).prop_map(|((at, n), hole)| Op::Zero(at, n, hole)),
        1 => run().prop_map(|(at, n)| Op::Discard(at, n)),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_is_a_disk_like_any_other(ops in ops(), block_size in prop::sample::select(vec![512u64, 4096])) {
        let media = anon();
        // What was there before the device is nothing to it.
        media.store(superblock(block_size).layout.data, &vec![0x33; 1 << 20]).unwrap();
        let mut device = fresh(&media, block_size);
        let size = block_size as usize;
        let mut model = vec![0u8; 512 * size];
        for op in ops {
            match op {
                Op::Write(at, n, fill) => {
                    let data: Vec<u8> = (0..n as usize * size).map(|i| fill.wrapping_add((i / 100) as u8)).collect();
                    write(&device, at, &data).unwrap();
                    model[at as usize * size..][..data.len()].copy_from_slice(&data);
                }
                Op::Zero(at, n, hole) => {
                    let flags = if hole { WriteFlags::empty() } else { WriteFlags::NO_HOLE };
                    device.write_zeroes(Lba(at), n, flags).unwrap();
                    model[at as usize * size..][..n as usize * size].fill(0);
                }
                Op::Discard(at, n) => {
                    device.discard(Lba(at), n).unwrap();
                    model[at as usize * size..][..n as usize * size].fill(0);
                }
                Op::Reopen => device = open(&media, &superblock(block_size)),
            }
        }
        for (lba, expected) in model.chunks(size).enumerate() {
            prop_assert!(read(&device, lba as u64).unwrap() == expected, "LBA {lba}");
        }
    }

    #[test]
    fn a_byte_that_changes_is_noticed(lba in 0u64..4000, byte in 0u64..4096, bit in 0u8..8) {
        let media = anon();
        let device = fresh(&media, 4096);
        let neighbour = (lba + 1) % 4000;
        write(&device, lba, &[7; 4096]).unwrap();
        write(&device, neighbour, &[8; 4096]).unwrap();
        let at = superblock(4096).layout.block(lba).plus(byte);
        media.store(at, &[7 ^ (1 << bit)]).unwrap();
        let error = read(&device, lba).unwrap_err();
        prop_assert_eq!(error.kind(), Kind::Corrupt);
        let text = error.to_string();
        prop_assert!(text.starts_with(&format!("crc0.0: read of LBA {lba} at offset ")), "{}", text);
        prop_assert_eq!(read(&device, neighbour).unwrap(), vec![8; 4096]);
        // Whole it is again as soon as it is written.
        write(&device, lba, &[9; 4096]).unwrap();
        prop_assert_eq!(read(&device, lba).unwrap(), vec![9; 4096]);
    }
}

#[test]
fn a_block_in_the_place_of_another_is_noticed() {
    let media = anon();
    let device = fresh(&media, 512);
    write(&device, 3, &[3; 512]).unwrap();
    write(&device, 4, &[4; 512]).unwrap();
    let layout = superblock(512).layout;
    // Data and checksum, as one write to the wrong place would leave them.
    let mut bytes = [0; 512];
    media.read(layout.block(3), &mut bytes).unwrap();
    media.store(layout.block(4), &bytes).unwrap();
    media.store_u64(layout.entry(4), media.load_u64(layout.entry(3)).unwrap()).unwrap();
    assert_eq!(read(&device, 4).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(read(&device, 3).unwrap(), [3; 512]);
}

#[test]
fn lost_bytes_are_errors_of_their_blocks_alone() {
    let media = anon();
    let device = fresh(&media, 4096);
    for lba in 0..3 {
        write(&device, lba, &[1; 4096]).unwrap();
    }
    media.inject_poison(superblock(4096).layout.block(1).plus(512), 1).unwrap();
    assert_eq!(read(&device, 1).unwrap_err().kind(), Kind::Poison);
    let mut runs = Vec::new();
    device
        .extents(Lba(0), 5, &mut |e| {
            runs.push((e.sectors, e.flags));
            true
        })
        .unwrap();
    let data = ExtentFlags::empty();
    assert_eq!(runs, [(1, data), (1, ExtentFlags::BAD), (1, data), (2, ExtentFlags::ZERO)]);
    read(&device, 0).unwrap();
    write(&device, 1, &[2; 4096]).unwrap();
    assert_eq!(read(&device, 1).unwrap(), [2; 4096]);
}

#[test]
fn pages_are_checked_and_bytes_are_not_offered() {
    let media = anon();
    let device = fresh(&media, 512);
    assert_eq!(device.bytes().err().unwrap().kind(), Kind::Unsupported);
    let page = Page::new();
    page.bytes().fill(5);
    page.lock();
    device.pages().unwrap().rw_page(2, &page, Direction::Write);
    assert_eq!(read(&device, 23).unwrap(), [5; 512]);
    media.store(superblock(512).layout.block(23), &[6]).unwrap();
    page.lock();
    device.pages().unwrap().rw_page(2, &page, Direction::Read);
    assert_eq!(page.state(), PageState::ERROR);
}

#[test]
fn read_only_changes_no_byte() {
    let media = anon();
    write(&fresh(&media, 512), 1, &[1; 512]).unwrap();
    // As an interrupted write leaves it.
    let entry = superblock(512).layout.entry(1);
    let word = media.load_u64(entry).unwrap() & 0xffff_ffff;
    media.store_u64(entry, word | 0x1234 << 32).unwrap();
    let device = Checked::open("crc", Arc::clone(&media), &superblock(512), true, Arc::default()).unwrap().0;
    assert_eq!(read(&device, 1).unwrap(), [1; 512]);
    assert_eq!(write(&device, 1, &[2; 512]).unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(device.discard(Lba(1), 1).unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(media.load_u64(entry).unwrap(), word | 0x1234 << 32);
    // Opened for writing, it is settled.
    let (_, settled) =
        Checked::open("crc", Arc::clone(&media), &superblock(512), false, Arc::default()).unwrap();
    assert_eq!(settled, 1);
    assert_eq!(media.load_u64(entry).unwrap(), word | word << 32);
}

#[test]
fn a_damaged_superblock_is_found_by_its_copy_and_a_wiped_one_is_not() {
    let media = anon();
    let made = superblock(512);
    made.write(&media).unwrap();
    let find = || Superblock::find(&media, Uuid::nil()).unwrap();
    assert_eq!(find(), Found::Superblock(made, true));
    media.store(SUPERBLOCK.plus(100), &[1]).unwrap();
    assert_eq!(find(), Found::Superblock(made, false));
    media.inject_poison(SUPERBLOCK, 1).unwrap();
    assert_eq!(find(), Found::Superblock(made, false));
    made.write(&media).unwrap();
    assert_eq!(find(), Found::Superblock(made, true));
    media.store(made.layout.backup().plus(100), &[1]).unwrap();
    assert_eq!(find(), Found::Superblock(made, false));
    media.store(SUPERBLOCK.plus(100), &[1]).unwrap();
    assert!(matches!(find(), Found::Damaged(..)));
    made.write(&media).unwrap();
    media.zero(MediaOffset(0), 8192).unwrap();
    assert_eq!(find(), Found::Nothing);
}

/// Whatever is cut: blocks that were not being written are there, and a block that was is old or new, or refused; never refused
/// if it was never written before.
#[test]
fn a_power_cut_leaves_old_blocks_new_blocks_or_errors() {
    let made = superblock(512);
    let mut dice = Dice(1);
    let (mut old, mut new, mut torn) = (0, 0, 0);
    // 2 and 3 are written over; 70 is written for the first time; 4 is written over with zeros; 1 is left alone.
    let workload = |device: &Checked| {
        write(device, 2, &[[0x22; 512], [0x23; 512]].concat())?;
        write(device, 70, &[0x70; 512])?;
        device.write_zeroes(Lba(4), 1, WriteFlags::NO_HOLE)
    };
    let before: &[(u64, u8)] = &[(1, 1), (2, 2), (3, 3), (4, 4), (70, 0)];
    let after = |lba| match lba {
        1 => 1,
        2 => 0x22,
        3 => 0x23,
        4 => 0,
        _ => 0x70,
    };
    let base = {
        let sim = Arc::new(Sim::new(vec![0; MIN_SIZE as usize]));
        let media: Arc<dyn Media> = sim.clone();
        let device = fresh(&media, 512);
        for lba in 1..5 {
            write(&device, lba, &[lba as u8; 512]).unwrap();
        }
        media.drain().unwrap();
        sim.cut(8, &mut || 0)
    };
    let mut fuse = 0;
    loop {
        let sim = Arc::new(Sim::new(base.clone()));
        let media: Arc<dyn Media> = sim.clone();
        let device = open(&media, &made);
        sim.set_fuse(fuse);
        let done = workload(&device).is_ok();
        drop(device);
        for grain in [8, 8, 8, 512, 512, 512, 512, 512, 512] {
            let image = sim.cut(grain, &mut || dice.roll());
            for opened_for_writing in [false, true] {
                let media: Arc<dyn Media> = Arc::new(Sim::new(image.clone()));
                assert_eq!(Superblock::find(&media, Uuid::nil()).unwrap(), Found::Superblock(made, true));
                let device =
                    Checked::open("crc", media, &made, !opened_for_writing, Arc::default()).unwrap().0;
                for (lba, was) in before {
                    match read(&device, *lba) {
                        Ok(block) if block == [after(*lba); 512] => new += 1,
                        Ok(block) if block == [*was; 512] && !done => old += 1,
                        Err(e) if e.kind() == Kind::Corrupt && [2, 3].contains(lba) && !done => {
                            // Only what is neither the old block nor the new one.
                            let at = made.layout.block(*lba).0 as usize;
                            let there = &image[at..at + 512];
                            assert!(there != [*was; 512] && there != [after(*lba); 512], "fuse {fuse}: {e}");
                            torn += 1;
                            if opened_for_writing {
                                write(&device, *lba, &[9; 512]).unwrap();
                                assert_eq!(read(&device, *lba).unwrap(), [9; 512]);
                            }
                        }
                        other => panic!("fuse {fuse}, LBA {lba}: {other:?}"),
                    }
                }
            }
        }
        if done {
            break;
        }
        fuse += 1;
    }
    assert!(old > 0 && new > 0 && torn > 0, "{old} old, {new} new, {torn} torn after {fuse} steps");
}

/// A write that failed half-way leaves the old checksum known, for the one that follows, wherever that is cut.
#[test]
fn a_write_after_one_that_failed_can_be_cut_too() {
    let sim = Arc::new(Sim::new(vec![0; MIN_SIZE as usize]));
    let media: Arc<dyn Media> = sim.clone();
    let device = fresh(&media, 512);
    write(&device, 8, &[1; 512]).unwrap();
    for attempt in 2..5 {
        // The entry and its drain; then the power is off for the data.
        sim.set_fuse(2);
        assert_eq!(write(&device, 8, &[attempt; 512]).unwrap_err().kind(), Kind::Io);
        sim.set_fuse(u64::MAX);
        assert_eq!(read(&device, 8).unwrap(), [1; 512]);
    }
    let after_cut = |image| {
        let media: Arc<dyn Media> = Arc::new(Sim::new(image));
        read(&open(&media, &superblock(512)), 8).unwrap()
    };
    assert_eq!(after_cut(sim.cut(8, &mut || 0)), [1; 512]);
    write(&device, 8, &[5; 512]).unwrap();
    assert_eq!(after_cut(sim.cut(8, &mut || 0)), [5; 512]);
}

#[test]
fn a_block_is_not_written_while_it_is_read() {
    let sim = Arc::new(Sim::new(vec![0; MIN_SIZE as usize]));
    let media: Arc<dyn Media> = sim.clone();
    let device = Arc::new(fresh(&media, 512));
    write(&*device, 1, &[1; 512]).unwrap();
    let (done, written) = mpsc::channel();
    let writer = Arc::clone(&device);
    // When the checksums have been read and the data has not: whoever writes now waits for the reader.
    sim.before_data(Box::new(move || {
        std::thread::spawn(move || {
            write(&*writer, 1, &[2; 512]).unwrap();
            done.send(()).unwrap();
        });
        std::thread::sleep(Duration::from_millis(50));
    }));
    assert_eq!(read(&*device, 1).unwrap(), [1; 512]);
    written.recv().unwrap();
    assert_eq!(read(&*device, 1).unwrap(), [2; 512]);
}

#[test]
fn readers_and_writers_of_the_same_blocks_do_not_disturb_each_other() {
    let media = anon();
    let device = fresh(&media, 4096);
    write(&device, 0, &[0; 4 * 4096]).unwrap();
    std::thread::scope(|scope| {
        let device = &device;
        for fill in 1..4u8 {
            // From different blocks on, so that their locks overlap.
            scope.spawn(move || {
                for _ in 0..400 {
                    write(device, u64::from(fill), &[fill; 70 * 4096]).unwrap();
                }
            });
        }
        scope.spawn(move || {
            for turn in 0..4000 {
                let block = read(device, 1 + turn % 70).unwrap();
                assert!(block.iter().all(|byte| *byte == block[0]));
            }
        });
    });
}
