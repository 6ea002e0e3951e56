// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an attached namespace offers: ranges of the data, and the disk of an fsdax with its three ways in.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;

use common::{Sim, attach, made, read, write};
use nvstack_block::{BlockDevice, ByteFlags, Bytes, Direction, Page, PageState, WriteFlags};
use nvstack_media::{Domain, Kind as ErrorKind, Media, MediaOffset};
use nvstack_pfn::{Info, Kind, Mode, OpenOptions, Pages, Place};
use uuid::Uuid;

const MIB: u64 = 1 << 20;

fn fsdax(domain: Domain) -> (Arc<Sim>, Pages<Arc<Sim>>) {
    let media = Arc::new(Sim::new(made(Kind::Fsdax, Mode::Pmem, 4096, 4 << 20), domain));
    let pages = attach(Arc::clone(&media), Kind::Fsdax, false).unwrap();
    (media, pages)
}

#[test]
fn a_devdax_is_mapped_in_units_of_its_alignment() {
    let media = Sim::memory(made(Kind::Devdax, Mode::Pmem, 2 << 20, 8 << 20));
    let pages = attach(&media, Kind::Devdax, false).unwrap();
    assert_eq!((pages.data_range(), pages.npfns(), pages.map_unit()), (2 * MIB..8 * MIB, 1536, 2 * MIB));
    for (at, len) in [(0, 4096), (4096, 2 * MIB), (2 * MIB, MIB), (0, 0), (1, 2 * MIB)] {
        let e = pages.map(at, len).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
        assert!(e.to_string().contains("multiples of 2097152"), "{e}");
    }
    for (at, len) in [(6 * MIB, 2 * MIB), (0, 8 * MIB), (2 * MIB, !(2 * MIB - 1))] {
        let e = pages.map(at, len).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfRange, "{e}");
        assert!(e.to_string().contains("accepted bytes 0 to 6291456"), "{e}");
    }
    let mapped = pages.map(2 * MIB, 2 * MIB).unwrap();
    assert_eq!((mapped.base(), mapped.pages(), mapped.len()), (MediaOffset(4 * MIB), 512..1024, 2 * MIB));
    mapped.store(MediaOffset(5), b"here").unwrap();
    assert_eq!(&media.bytes()[4 << 20..][5..9], b"here");
    let e = mapped.store(MediaOffset(2 * MIB - 1), b"xy").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutOfRange);
    let e = pages.disk().err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("accepted an fsdax"), "{e}");
}

#[test]
fn pages_are_held_while_they_are_mapped() {
    let (_, pages) = fsdax(Domain::Memory);
    assert!(!pages.is_pinned());
    let first = pages.map(0, 8192).unwrap();
    let second = pages.map(4096, 8192).unwrap();
    let again = second.clone();
    let held = |pages: &Pages<_>| (0..5).map(|page| pages.pins(page)).collect::<Vec<_>>();
    assert_eq!(held(&pages), [1, 2, 1, 0, 0]);
    drop((first, second));
    assert_eq!(held(&pages), [0, 1, 1, 0, 0]);
    assert!(pages.is_pinned());
    drop(again);
    let pin = pages.pin(4..5).unwrap();
    assert_eq!(held(&pages), [0, 0, 0, 0, 1]);
    drop(pin);
    assert!(!pages.is_pinned());
    for range in [0..0, 511..513, u64::MAX..u64::MAX] {
        assert_eq!(pages.pin(range).unwrap_err().kind(), ErrorKind::OutOfRange);
    }
    assert!(pages.map(4096, 4096 + 512).unwrap_err().to_string().contains("multiples of 4096"));
}

#[test]
fn the_disk_is_the_data() {
    for (sector, sectors) in [(512, 4096), (4096, 512)] {
        let media = Arc::new(Sim::new(made(Kind::Fsdax, Mode::Pmem, 4096, 4 << 20), Domain::Cache));
        let place = Place { start: Some(0), size: 4 << 20 };
        let mut options = OpenOptions::new("pmem0", Kind::Fsdax, Uuid::nil(), place);
        options.sector_size = sector;
        let pages = Pages::open(Arc::clone(&media), options).unwrap();
        let disk = pages.disk().unwrap();
        let geometry = disk.geometry();
        assert_eq!((disk.name(), geometry.sectors, geometry.sector_size), ("pmem0".into(), sectors, sector));
        assert!(!geometry.read_only && !geometry.atomic && !geometry.volatile_cache);
        let data = vec![7; sector as usize];
        write(&disk, 1, &data).unwrap();
        let at = (2 << 20) + sector as usize;
        assert!(media.bytes()[at..at + data.len()] == data);
        // Durable when it completed.
        assert!(media.cut(&mut || 0)[at..at + data.len()] == data);
        assert!(read(&disk, 1).unwrap() == data);
        disk.write_zeroes(nvstack_block::Lba(1), 1, WriteFlags::empty()).unwrap();
        assert!(read(&disk, 1).unwrap().iter().all(|b| *b == 0));
        assert_eq!(write(&disk, sectors, &data).unwrap_err().kind(), ErrorKind::OutOfRange);
    }
    let (media, _) = fsdax(Domain::Memory);
    let mut options =
        OpenOptions::new("pmem0", Kind::Fsdax, Uuid::nil(), Place { start: Some(0), size: 4 << 20 });
    options.sector_size = 520;
    let e = Pages::open(media, options).unwrap().disk().err().unwrap();
    assert!(e.to_string().contains("520, accepted sector size 512 or 4096"), "{e}");
}

#[test]
fn bytes_of_the_disk() {
    let (media, pages) = fsdax(Domain::Cache);
    let disk = pages.disk().unwrap();
    let bytes = disk.bytes().unwrap();
    assert_eq!(bytes.size(), 2 * MIB);
    bytes.rw_bytes(MediaOffset(1001), Bytes::Write(b"anywhere"), ByteFlags::empty()).unwrap();
    assert_eq!(&media.cut(&mut || 0)[(2 << 20) + 1001..][..8], b"anywhere", "durable when it returned");
    let mut back = [0; 8];
    bytes.rw_bytes(MediaOffset(1001), Bytes::Read(&mut back), ByteFlags::empty()).unwrap();
    assert_eq!(&back, b"anywhere");
    assert_eq!(bytes.media().len(), 2 * MIB);
    bytes.media().read(MediaOffset(1001), &mut back).unwrap();
    assert_eq!(&back, b"anywhere");
    for at in [2 * MIB - 7, u64::MAX] {
        let before = media.bytes();
        let e = bytes.rw_bytes(MediaOffset(at), Bytes::Write(b"anywhere"), ByteFlags::empty()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfRange, "{e}");
        assert!(media.bytes() == before);
    }

    // A lost unit: reads fail, a whole write heals, a part of one or one that may not sleep stores and says so.
    let lost = |at: u64| media.is_poisoned(MediaOffset(2 * MIB + at), 512);
    media.inject_poison(MediaOffset(2 * MIB + 4096), 1024).unwrap();
    let unit = [5; 512];
    let read = |at: u64| bytes.rw_bytes(MediaOffset(at), Bytes::Read(&mut [0; 8]), ByteFlags::empty());
    assert_eq!(read(4096).unwrap_err().kind(), ErrorKind::Poison);
    for (from, flags) in [(&unit[..511], ByteFlags::empty()), (&unit[..], ByteFlags::ATOMIC)] {
        let e = bytes.rw_bytes(MediaOffset(4096), Bytes::Write(from), flags).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Poison, "{e}");
        assert!(lost(4096) && lost(4608));
        assert!(media.cut(&mut || 0)[(2 << 20) + 4096..][..from.len()] == *from, "stored and durable");
    }
    bytes.rw_bytes(MediaOffset(4096), Bytes::Write(&unit), ByteFlags::empty()).unwrap();
    assert!(!lost(4096) && lost(4608));
    assert!(read(4096).is_ok());
    bytes.rw_bytes(MediaOffset(8192), Bytes::Write(&unit), ByteFlags::ATOMIC).unwrap();
}

#[test]
fn pages_of_the_disk() {
    let (media, pages) = fsdax(Domain::Cache);
    let disk = pages.disk().unwrap();
    let io = disk.pages().unwrap();
    let page = Page::new();
    let run = |index, direction| {
        page.lock();
        io.rw_page(index, &page, direction);
        page.state()
    };
    page.bytes().fill(9);
    assert_eq!(run(3, Direction::Write), PageState::empty());
    assert!(media.cut(&mut || 0)[(2 << 20) + 3 * 4096..][..4096].iter().all(|b| *b == 9), "durable");
    page.bytes().fill(0);
    assert_eq!(run(3, Direction::Read), PageState::UPTODATE);
    assert!(page.bytes().iter().all(|b| *b == 9));
    for index in [512, u64::MAX] {
        assert_eq!(run(index, Direction::Read), PageState::ERROR);
        assert_eq!(run(index, Direction::Write), PageState::ERROR);
    }
    media.inject_poison(MediaOffset(2 * MIB + 4 * 4096), 1).unwrap();
    assert_eq!(run(4, Direction::Read), PageState::ERROR);
    assert_eq!(run(4, Direction::Write), PageState::empty(), "a whole page heals");
    assert_eq!(run(4, Direction::Read), PageState::UPTODATE);
}

#[test]
fn read_only_no_byte_is_changed() {
    let media = Arc::new(Sim::memory(made(Kind::Fsdax, Mode::Pmem, 4096, 4 << 20)));
    media.inject_poison(MediaOffset(8192), 4096).unwrap();
    let before = media.bytes();
    let pages = attach(Arc::clone(&media), Kind::Fsdax, true).unwrap();
    let disk = pages.disk().unwrap();
    assert!(disk.geometry().read_only && pages.read_only());
    let mapped = pages.map(0, 4096).unwrap();
    let page = Page::new();
    page.lock();
    disk.pages().unwrap().rw_page(0, &page, Direction::Write);
    assert_eq!(page.state(), PageState::ERROR);
    for outcome in [
        write(&disk, 0, &[1; 512]),
        disk.discard(nvstack_block::Lba(0), 1),
        mapped.store(MediaOffset(0), &[1]),
        mapped.stream(MediaOffset(0), &[1]),
        mapped.zero(MediaOffset(0), 1),
        mapped.store_u32(MediaOffset(0), 1),
        mapped.store_u64(MediaOffset(0), 1),
        mapped.clear_poison(MediaOffset(0), 512),
        disk.bytes().unwrap().rw_bytes(MediaOffset(0), Bytes::Write(&[1]), ByteFlags::empty()),
        disk.bytes().unwrap().media().store(MediaOffset(0), &[1]),
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    disk.flush().unwrap();
    assert!(media.bytes() == before && media.is_poisoned(MediaOffset(8192), 4096));
}

#[test]
fn what_is_configured_must_be_what_is_there() {
    let media = Sim::memory(made(Kind::Fsdax, Mode::Pmem, 4096, 4 << 20));
    let place = Place { start: Some(0), size: 4 << 20 };
    let open = |change: &dyn Fn(&mut OpenOptions)| {
        let mut options = OpenOptions::new("pmem0", Kind::Fsdax, Uuid::nil(), place);
        change(&mut options);
        Pages::open(&media, options).map(|_| ())
    };
    open(&|o| (o.uuid, o.align, o.mode) = (Some(Uuid::from_u128(7)), Some(4096), Some(Mode::Pmem))).unwrap();
    type Change<'a> = &'a dyn Fn(&mut OpenOptions);
    let refused: [(Change<'_>, ErrorKind, &str); 5] = [
        (&|o| o.uuid = Some(Uuid::from_u128(6)), ErrorKind::Unrecognised, "configured 00000000"),
        (&|o| o.align = Some(2 << 20), ErrorKind::Unsupported, "configured 2097152"),
        (&|o| o.mode = Some(Mode::Ram), ErrorKind::Unsupported, "configured mem"),
        (&|o| o.kind = Kind::Devdax, ErrorKind::Unrecognised, "signature"),
        (&|o| o.parent = Uuid::from_u128(1), ErrorKind::Unrecognised, "parent_uuid"),
    ];
    for (change, kind, word) in refused {
        let e = open(change).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(word) && e.to_string().starts_with("sim: open "), "{e}");
    }
    media.inject_poison(MediaOffset(4096), 1).unwrap();
    let e = open(&|_| {}).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Poison);
    assert!(e.to_string().contains("in the info block"), "{e}");
}

#[test]
fn counts_of_pages_that_cannot_be_are_not_believed() {
    let bytes = made(Kind::Fsdax, Mode::Ram, 4096, 256 << 20);
    let place = Place { start: Some(0), size: 256 << 20 };
    let raw: [u8; 4096] = bytes[4096..8192].try_into().unwrap();
    let info = Info::parse(&raw, Kind::Fsdax, Uuid::nil(), place).unwrap();
    let with = |info: &Info| {
        let media = Sim::memory(bytes.clone());
        media.store(MediaOffset(4096), &info.encode()).unwrap();
        attach(media, Kind::Fsdax, false)
    };
    for mode in [Mode::Ram, Mode::Pmem] {
        let mut info = info.clone();
        info.mode = mode;
        info.geometry.npfns = u64::MAX;
        if mode == Mode::Pmem {
            // Laid out for descriptors in memory, there is no room for so many before the data.
            let e = with(&info).err().unwrap();
            assert_eq!(e.kind(), ErrorKind::Corrupt);
            assert!(e.to_string().contains("dataoff 2097152, accepted 4169728 at least"), "{e}");
            info.geometry.dataoff = 8 << 20;
        }
        let pages = with(&info).unwrap();
        assert_eq!(pages.truncated(), Some(u64::MAX));
        assert_eq!(pages.npfns() * 4096, (256 << 20) - info.geometry.dataoff);
        assert!(pages.descriptor(pages.npfns()).is_err());
    }
}
