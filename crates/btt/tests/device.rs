// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device as its users see it: sectors, errors, zero entries, bad blocks, several writers.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Dice, Sim, describe, pattern, read, write};
use nvstack_block::{BlockDevice, Extent, ExtentFlags, Lba, WriteFlags};
use nvstack_btt::{Btt, Cache, CreateOptions, OpenOptions, Ticker, create};
use nvstack_format::btt::{ARENA_MIN, LbaSize, MapEntry, Version};
use nvstack_format::{Block, MediaOffset};
use nvstack_media::{Domain, Kind, Media};
use uuid::Uuid;

const VERSION: Version = Version::V2_0;

fn made(domain: Domain, lbasize: u32) -> Sim {
    let media = Sim::new(vec![0; usize::try_from(ARENA_MIN).unwrap()], domain);
    let options = CreateOptions {
        version: VERSION,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(7),
        lbasize: LbaSize::new(lbasize).unwrap(),
        overwrite: false,
    };
    create(&media, &options).unwrap();
    media
}

fn options() -> OpenOptions {
    OpenOptions::new("pmem0s", VERSION, Uuid::nil())
}

fn device(domain: Domain, lbasize: u32) -> Btt<Sim> {
    Btt::open(made(domain, lbasize), options()).unwrap()
}

/// Sets the map entry of a sector of the first arena.
fn set_entry(device: &Btt<Sim>, lba: u64, entry: MapEntry) {
    let at = device.infos()[0].layout.mapoff + 4 * lba;
    device.media().store_u32(MediaOffset(at), entry.0).unwrap();
}

fn entry(device: &Btt<Sim>, lba: u64) -> u32 {
    device.media().load_u32(MediaOffset(device.infos()[0].layout.mapoff + 4 * lba)).unwrap()
}

fn data_unit(device: &Btt<Sim>, block: u32) -> u64 {
    device.infos()[0].layout.data(Block(block)).unwrap() / 512
}

const BOTH: [Domain; 2] = [Domain::Memory, Domain::PageCache];

#[test]
fn all_seven_sector_sizes_keep_what_is_written() {
    for lbasize in LbaSize::ALL {
        for domain in BOTH {
            let device = device(domain, lbasize.external());
            let g = device.geometry();
            assert_eq!(g.sector_size, lbasize.data());
            let size = g.sector_size as usize;
            let mut dice = Dice(u64::from(lbasize.external()));
            let mut model = std::collections::HashMap::new();
            for generation in 1..600 {
                let lba = if generation % 3 == 0 { dice.roll() % 8 } else { dice.roll() % g.sectors };
                write(&device, lba, &pattern(lba, generation, size)).unwrap();
                model.insert(lba, generation);
                if generation % 100 == 0 {
                    device.flush().unwrap();
                }
            }
            write(&device, g.sectors - 1, &pattern(g.sectors - 1, 9, size)).unwrap();
            model.insert(g.sectors - 1, 9);
            device.flush().unwrap();
            // The next opening also proves that each block has one owner.
            let device = Btt::open(Sim::memory(device.media().bytes()), options()).unwrap();
            assert_eq!(device.recovered(), 0);
            for (lba, generation) in model {
                assert_eq!(read(&device, lba).unwrap(), pattern(lba, generation, size), "{domain} LBA {lba}");
            }
        }
    }
}

#[test]
fn metadata_bytes_behind_a_sector_are_zeros() {
    let device = device(Domain::Memory, 520);
    write(&device, 3, &[0xff; 512]).unwrap();
    let block = entry(&device, 3) & 0x3fff_ffff;
    let at = usize::try_from(data_unit(&device, 0) * 512).unwrap() + block as usize * 576;
    let bytes = device.media().bytes();
    assert!(
        bytes[at..at + 512].iter().all(|b| *b == 0xff) && bytes[at + 512..at + 576].iter().all(|b| *b == 0)
    );
}

#[test]
fn requests_span_buffers_and_sectors() {
    for domain in BOTH {
        let device = device(domain, 512);
        let (a, b) = (vec![1u8; 1024], vec![2u8; 512]);
        device.write(Lba(10), &[IoSlice::new(&a), IoSlice::new(&b)], WriteFlags::empty()).unwrap();
        let (mut x, mut y) = (vec![9u8; 512], vec![9u8; 1536]);
        device.read(Lba(10), &mut [IoSliceMut::new(&mut x), IoSliceMut::new(&mut y)]).unwrap();
        assert_eq!(
            (x, &y[..512], &y[512..1024], &y[1024..]),
            (vec![1; 512], &[1; 512][..], &[2; 512][..], &[0; 512][..])
        );
    }
}

#[test]
fn what_is_not_whole_sectors_or_not_inside_moves_nothing() {
    let device = device(Domain::Memory, 4096);
    let before = device.media().bytes();
    let last = device.geometry().sectors;
    let zeros = vec![1u8; 8192];
    assert_eq!(write(&device, 0, &zeros[..512]).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(write(&device, last - 1, &zeros).unwrap_err().kind(), Kind::OutOfRange);
    assert_eq!(write(&device, u64::MAX, &zeros).unwrap_err().kind(), Kind::OutOfRange);
    assert_eq!(device.write_zeroes(Lba(last), 1, WriteFlags::empty()).unwrap_err().kind(), Kind::OutOfRange);
    assert!(device.media().bytes() == before);
}

#[test]
fn zero_entries_read_as_zeros_in_any_mix_of_sectors() {
    // Linux fills the first such sector of a segment, and nothing behind it.
    let device = device(Domain::Memory, 512);
    for lba in 8..16 {
        write(&device, lba, &pattern(lba, 1, 512)).unwrap();
    }
    for lba in [8, 10, 11, 15] {
        set_entry(&device, lba, MapEntry::zero(Block(entry(&device, lba) & 0x3fff_ffff)));
    }
    let mut page = vec![0xa5; 4096];
    device.read(Lba(8), &mut [IoSliceMut::new(&mut page)]).unwrap();
    for (lba, sector) in (8..).zip(page.chunks(512)) {
        let want = if [8, 10, 11, 15].contains(&lba) { vec![0; 512] } else { pattern(lba, 1, 512) };
        assert!(sector == want, "LBA {lba}: {}", describe(sector));
    }
}

#[test]
fn an_error_entry_fails_to_read_and_a_write_heals_it() {
    for domain in BOTH {
        let device = device(domain, 4096);
        write(&device, 5, &pattern(5, 1, 4096)).unwrap();
        device.flush().unwrap();
        let block = entry(&device, 5) & 0x3fff_ffff;
        set_entry(&device, 5, MapEntry::error(Block(block)));
        let e = read(&device, 5).unwrap_err();
        assert_eq!(e.kind(), Kind::Poison);
        assert!(e.to_string().contains("LBA 5") && e.to_string().contains("offset"), "{e}");
        write(&device, 5, &pattern(5, 2, 4096)).unwrap();
        device.flush().unwrap();
        assert_eq!(read(&device, 5).unwrap(), pattern(5, 2, 4096));
        // The flog's record keeps the error bit of what was replaced, as Linux writes it.
        let layout = device.infos()[0].layout;
        let flog = usize::try_from(layout.logoff).unwrap();
        let bytes = device.media().bytes();
        let old_maps: Vec<u32> = bytes[flog..flog + 256 * 64]
            .chunks(16)
            .map(|r| u32::from_le_bytes(r[4..8].try_into().unwrap()))
            .collect();
        assert!(old_maps.contains(&(block | 0x4000_0000)));
    }
}

#[test]
fn lost_bytes_under_a_sector_mark_its_entry_and_leave_the_others() {
    for domain in BOTH {
        let device = device(domain, 4096);
        for lba in 0..3 {
            write(&device, lba, &pattern(lba, 1, 4096)).unwrap();
        }
        device.flush().unwrap();
        let block = entry(&device, 1) & 0x3fff_ffff;
        device.media().poison(data_unit(&device, block) + 3);
        assert_eq!(read(&device, 1).unwrap_err().kind(), Kind::Poison);
        assert_eq!(entry(&device, 1), 0x4000_0000 | block);
        assert_eq!(read(&device, 0).unwrap(), pattern(0, 1, 4096));
        assert_eq!(read(&device, 2).unwrap(), pattern(2, 1, 4096));
        let mut runs = Vec::new();
        device
            .extents(Lba(0), 3, &mut |e: Extent| {
                runs.push((e.sectors, e.flags));
                true
            })
            .unwrap();
        let none = ExtentFlags::empty();
        assert_eq!(runs, [(1, none), (1, ExtentFlags::BAD), (1, none)]);

        // The write goes elsewhere; the freed block is healed before it is used again.
        write(&device, 1, &pattern(1, 2, 4096)).unwrap();
        assert_eq!(read(&device, 1).unwrap(), pattern(1, 2, 4096));
        for generation in 0..600 {
            write(&device, 1, &pattern(1, generation, 4096)).unwrap();
        }
        device.flush().unwrap();
        assert_eq!(read(&device, 1).unwrap(), pattern(1, 599, 4096));
    }
}

#[test]
fn sectors_whose_map_entries_are_lost_are_told_as_bad_beside_the_others() {
    for domain in [Domain::Memory, Domain::PageCache] {
        let device = Btt::open(made(domain, 4096), options()).unwrap();
        let map = options().version.start() + device.infos()[0].layout.mapoff;
        device.media().poison(map / 512 + 1);
        let mut runs = Vec::new();
        let told = device.extents(Lba(0), 300, &mut |e: Extent| {
            runs.push((e.sectors, e.flags.contains(ExtentFlags::BAD)));
            true
        });
        told.unwrap();
        // 128 entries of four bytes in a unit.
        let bad: Vec<u64> = runs.iter().filter(|(_, bad)| *bad).map(|(n, _)| *n).collect();
        assert_eq!((runs[0], bad), ((128, false), vec![128]), "{runs:?}");
        assert_eq!(read(&device, 128).unwrap_err().kind(), Kind::Poison);
        read(&device, 127).unwrap();
    }
}

#[test]
fn a_read_only_device_marks_and_writes_nothing() {
    let mut media = made(Domain::Memory, 4096);
    media.poison(8 + 3);
    media.read_only = true;
    let before = media.bytes();
    let mut o = options();
    o.read_only = true;
    let device = Btt::open(media, o).unwrap();
    assert_eq!(read(&device, 0).unwrap_err().kind(), Kind::Poison);
    assert_eq!(write(&device, 0, &[0; 4096]).unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(device.write_zeroes(Lba(0), 1, WriteFlags::empty()).unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(device.discard(Lba(0), 1).unwrap_err().kind(), Kind::ReadOnly);
    device.flush().unwrap();
    assert!(device.geometry().read_only && device.media().bytes() == before);
}

#[test]
fn a_lane_whose_free_block_stays_bad_is_left_out() {
    for domain in BOTH {
        let media = made(domain, 520);
        // Stride 576: the unit that holds the start of most blocks also holds the end of the block before.
        let layout = Btt::open(&media, options()).unwrap().infos()[0].layout;
        for lane in 0..200 {
            let at = layout.data(Block(layout.external_nlba + lane)).unwrap();
            if !at.is_multiple_of(512) {
                media.poison(at / 512);
            }
        }
        let device = Btt::open(media, options()).unwrap();
        for generation in 0..700 {
            write(&device, generation % 50, &pattern(generation % 50, generation, 512)).unwrap();
        }
        device.flush().unwrap();
        for lba in 0..50 {
            assert_eq!(read(&device, lba).unwrap(), pattern(lba, 650 + lba, 512), "{domain} LBA {lba}");
        }
    }
}

#[test]
fn with_no_usable_free_block_a_write_fails_and_reads_go_on() {
    for domain in BOTH {
        let media = made(domain, 520);
        let layout = Btt::open(&media, options()).unwrap().infos()[0].layout;
        for lane in 0..256 {
            let at = layout.data(Block(layout.external_nlba + lane)).unwrap();
            // The first unit is shared with the block before unless the block starts a unit; the last one then is.
            media.poison(if at.is_multiple_of(512) { (at + 575) / 512 } else { at / 512 });
        }
        let device = Btt::open(media, options()).unwrap();
        let e = write(&device, 0, &[1; 512]).unwrap_err();
        assert_eq!(e.kind(), Kind::Poison, "{e}");
        assert_eq!(read(&device, 0).unwrap(), vec![0; 512]);
    }
}

#[test]
fn trim_leaves_the_medium_alone_and_write_zeroes_writes_unless_zero_entries_are_asked_for() {
    for domain in BOTH {
        let device = device(domain, 4096);
        write(&device, 1, &pattern(1, 1, 4096)).unwrap();
        device.flush().unwrap();
        let before = device.media().bytes();
        device.discard(Lba(0), 4).unwrap();
        device.flush().unwrap();
        assert!(device.media().bytes() == before);
        assert_eq!(device.write_zeroes(Lba(1), 1, WriteFlags::FAST).unwrap_err().kind(), Kind::Unsupported);
        device.write_zeroes(Lba(1), 2, WriteFlags::empty()).unwrap();
        device.flush().unwrap();
        assert_eq!(read(&device, 1).unwrap(), vec![0; 4096]);
        assert_eq!(entry(&device, 1) >> 30, 3);

        let mut o = options();
        o.zero_entries = true;
        let device = Btt::open(Sim::new(device.media().bytes(), domain), o).unwrap();
        write(&device, 1, &pattern(1, 2, 4096)).unwrap();
        device.write_zeroes(Lba(1), 1, WriteFlags::FAST).unwrap();
        device.discard(Lba(2), 1).unwrap();
        assert_eq!((read(&device, 1).unwrap(), entry(&device, 1) >> 30), (vec![0; 4096], 2));
        assert_eq!((read(&device, 2).unwrap(), entry(&device, 2) >> 30), (vec![0; 4096], 2));
        device.write_zeroes(Lba(3), 1, WriteFlags::NO_HOLE).unwrap();
        write(&device, 2, &pattern(2, 3, 4096)).unwrap();
        device.flush().unwrap();
        assert_eq!((entry(&device, 2) >> 30, entry(&device, 3) >> 30), (3, 3));
        let again = Btt::open(Sim::memory(device.media().bytes()), options()).unwrap();
        assert_eq!(read(&again, 2).unwrap(), pattern(2, 3, 4096));
    }
}

#[test]
fn allocation_is_told_from_the_map_and_from_holes() {
    for domain in BOTH {
        let mut o = options();
        o.zero_entries = true;
        let device = Btt::open(made(domain, 4096), o).unwrap();
        write(&device, 2, &pattern(2, 1, 4096)).unwrap();
        write(&device, 3, &pattern(3, 1, 4096)).unwrap();
        device.discard(Lba(3), 1).unwrap();
        let told = |from: u64, n: u64| {
            let mut runs = Vec::new();
            device
                .extents(Lba(from), n, &mut |e: Extent| {
                    runs.push((e.sectors, e.flags.contains(ExtentFlags::ZERO)));
                    true
                })
                .unwrap();
            runs
        };
        let all = device.geometry().sectors;
        let zero: u64 = told(0, all).iter().filter(|r| r.1).map(|r| r.0).sum();
        let data: u64 = told(0, all).iter().filter(|r| !r.1).map(|r| r.0).sum();
        assert_eq!((zero, data), (all - 1, 1), "{domain}: {:?}", told(0, all));
        assert_eq!(told(2, 1), [(1, false)]);
        device.flush().unwrap();
        assert_eq!(told(2, 2), [(1, false), (1, true)]);
    }
}

#[test]
fn a_configured_size_or_uuid_that_differs_is_refused() {
    let media = made(Domain::Memory, 512);
    let mut o = options();
    o.lbasize = Some(LbaSize::new(4096).unwrap());
    let e = Btt::open(&media, o).err().unwrap();
    assert!(e.to_string().contains("sector size 512 on the medium, accepted the configured 4096"), "{e}");
    let mut o = options();
    o.uuid = Some(Uuid::from_u128(8));
    assert_eq!(Btt::open(&media, o).err().unwrap().kind(), Kind::Invalid);
}

#[test]
fn laying_out_over_a_btt_needs_to_be_asked_for() {
    let media = made(Domain::Memory, 512);
    let options = CreateOptions {
        version: VERSION,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(9),
        lbasize: LbaSize::new(4096).unwrap(),
        overwrite: false,
    };
    assert_eq!(create(&media, &options).unwrap_err().kind(), Kind::Exists);
    create(&media, &CreateOptions { overwrite: true, ..options }).unwrap();
    let small = Sim::memory(vec![0; 15 << 20]);
    assert_eq!(create(&small, &options).unwrap_err().kind(), Kind::NoSpace);
}

#[test]
fn readers_never_see_a_torn_or_stale_sector_while_writers_are_at_work() {
    for domain in BOTH {
        let device = Arc::new(device(domain, 512));
        let _ticker = Ticker::start(&device).unwrap();
        let stop = AtomicBool::new(false);
        // One writer a sector, so that generations only grow; all sectors in two map lines.
        let floor: Vec<_> = (0..4).map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
        std::thread::scope(|s| {
            for lba in 0..4u64 {
                let (device, floor, stop) = (&device, &floor, &stop);
                s.spawn(move || {
                    for generation in 1..1500 {
                        write(&**device, lba * 7, &pattern(lba * 7, generation, 512)).unwrap();
                        floor[lba as usize].store(generation, Ordering::SeqCst);
                        if generation % 211 == 0 {
                            device.flush().unwrap();
                        }
                    }
                    stop.store(true, Ordering::SeqCst);
                });
                s.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        for lba in 0..4u64 {
                            let least = floor[lba as usize].load(Ordering::SeqCst);
                            let data = read(&**device, lba * 7).unwrap();
                            let text = String::from_utf8_lossy(&data[..22]).into_owned();
                            let generation =
                                u64::from_str_radix(text.get(17..21).unwrap_or("0"), 16).unwrap_or(0);
                            let want = if generation == 0 {
                                vec![0; 512]
                            } else {
                                pattern(lba * 7, generation, 512)
                            };
                            assert!(data == want, "{domain}: torn {text}");
                            assert!(generation >= least, "{domain}: stale {generation} < {least}");
                        }
                    }
                });
            }
        });
        device.flush().unwrap();
        Btt::open(Sim::memory(device.media().bytes()), options()).unwrap();
    }
}

#[test]
fn many_writers_of_the_same_sectors_leave_each_block_with_one_owner() {
    for domain in BOTH {
        let device = Arc::new(device(domain, 512));
        std::thread::scope(|s| {
            for writer in 0..8u64 {
                let device = &device;
                s.spawn(move || {
                    let mut dice = Dice(writer);
                    for generation in 0..400 {
                        let lba = dice.roll() % 24;
                        write(&**device, lba, &pattern(lba, generation, 512)).unwrap();
                    }
                });
            }
        });
        device.flush().unwrap();
        let device = Btt::open(Sim::memory(device.media().bytes()), options()).unwrap();
        for lba in 0..24 {
            assert!(describe(&read(&device, lba).unwrap()).ends_with("whole"));
        }
    }
}

#[test]
fn after_a_second_a_group_is_committed_though_nobody_asked() {
    let device = Arc::new(device(Domain::PageCache, 4096));
    assert!(device.geometry().volatile_cache);
    let ticker = Ticker::start(&device).unwrap();
    let before = device.media().drains();
    write(&*device, 1, &pattern(1, 1, 4096)).unwrap();
    assert_eq!(device.media().drains(), before);
    let start = std::time::Instant::now();
    while device.media().drains() < before + 3 {
        assert!(start.elapsed().as_secs() < 20, "never committed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(start.elapsed().as_millis() > 500);
    drop(ticker);
}

#[test]
fn a_failed_commit_is_never_followed_by_success() {
    for cache in [Cache::Writeback, Cache::Writethrough] {
        let media = made(Domain::PageCache, 4096);
        let mut o = options();
        o.cache = cache;
        let device = Btt::open(&media, o).unwrap();
        media.set_fuse(1);
        let _ = write(&device, 1, &pattern(1, 1, 4096));
        assert!(device.flush().is_err());
        media.set_fuse(1_000_000);
        let e = device.flush().unwrap_err();
        assert!(e.to_string().contains("power is off"), "{e}");
        assert!(write(&device, 2, &pattern(2, 1, 4096)).is_err());
    }
}
