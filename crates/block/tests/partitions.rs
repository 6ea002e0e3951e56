// SPDX-License-Identifier: MIT OR Apache-2.0
//! Partitions of any device: tables as others write them and as an enemy would, and the devices that come of them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use common::{read, write};
use nvstack_block::{
    BlockDevice, ByteFlags, Bytes, Direction, Extent, Gate, Geometry, Kind, Lba, Linear, Page, PageAccess,
    PageState, Partition, PartitionInfo, PartitionKind, Result, WriteFlags, partitions, sectors_of,
};
use nvstack_media::{Anon, Media, MediaOffset};
use proptest::prelude::*;
use uuid::{Uuid, uuid};

const LINUX: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");

/// The checksum of GPT, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn get(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

/// An entry of a master boot record: type, first sector, sectors.
fn put_mbr_entry(image: &mut [u8], record: usize, slot: usize, kind: u8, first: u32, sectors: u32) {
    let at = record + 446 + slot * 16;
    put(image, at, &[0, 0, 2, 0, kind, 0, 0, 0]);
    put(image, at + 8, &first.to_le_bytes());
    put(image, at + 12, &sectors.to_le_bytes());
    put(image, record + 510, &[0x55, 0xaa]);
}

/// Puts right the checksums of the header at `at`, whatever else it says.
fn sign(image: &mut [u8], at: usize, sector: usize) {
    let len = |at: usize, image: &[u8]| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let start = (get(image, at + 72) as usize).saturating_mul(sector);
    let bytes = len(at + 80, image).saturating_mul(len(at + 84, image));
    if let Some(entries) = start.checked_add(bytes).and_then(|end| image.get(start..end)) {
        let crc = crc32(entries);
        put(image, at + 88, &crc.to_le_bytes());
    }
    put(image, at + 16, &[0; 4]);
    let size = len(at + 12, image);
    if let Some(header) = image.get(at..at.saturating_add(size)) {
        let crc = crc32(header);
        put(image, at + 16, &crc.to_le_bytes());
    }
}

/// A disk of 256 sectors with partitions: number, first sector, last sector, label.
fn gpt(sector: usize, parts: &[(usize, u64, u64, &str)]) -> Vec<u8> {
    let sectors = 256u64;
    let mut image = vec![0; sectors as usize * sector];
    put_mbr_entry(&mut image, 0, 0, 0xee, 1, sectors as u32 - 1);
    let array = (128 * 128 / sector) as u64;
    for (mine, other, entries) in [(1, sectors - 1, 2), (sectors - 1, 1, sectors - 1 - array)] {
        for (number, first, last, label) in parts {
            let at = entries as usize * sector + (number - 1) * 128;
            put(&mut image, at, &LINUX.to_bytes_le());
            put(&mut image, at + 16, &Uuid::from_u128(*number as u128).to_bytes_le());
            put(&mut image, at + 32, &first.to_le_bytes());
            put(&mut image, at + 40, &last.to_le_bytes());
            let label: Vec<u8> = label.encode_utf16().flat_map(u16::to_le_bytes).collect();
            put(&mut image, at + 56, &label);
        }
        let at = mine as usize * sector;
        put(&mut image, at, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        for (offset, value) in
            [(24, mine), (32, other), (40, 2 + array), (48, sectors - 2 - array), (72, entries)]
        {
            put(&mut image, at + offset, &value.to_le_bytes());
        }
        put(&mut image, at + 80, &[128, 0, 0, 0, 128, 0, 0, 0]);
        sign(&mut image, at, sector);
    }
    image
}

fn memory(image: &[u8]) -> Arc<Anon> {
    let memory = Arc::new(Anon::new(image.len() as u64).unwrap());
    memory.store(MediaOffset(0), image).unwrap();
    memory
}

fn device(image: &[u8], sector: usize) -> Arc<dyn BlockDevice> {
    Arc::new(Linear::new("pmem0s", memory(image), sector as u32, false).unwrap())
}

fn numbers(found: &[PartitionInfo]) -> Vec<(u32, u64, u64)> {
    found.iter().map(|p| (p.number, p.first.0, p.sectors)).collect()
}

#[test]
fn a_gpt_with_both_sector_sizes() {
    for sector in [512, 4096] {
        let image = gpt(sector, &[(1, 40, 99, "boot"), (7, 100, 100, "ä\u{1f980}")]);
        let found = partitions(&device(&image, sector)).unwrap();
        assert_eq!(numbers(&found), [(1, 40, 60), (7, 100, 1)]);
        assert_eq!(found[0].kind, PartitionKind::Gpt(LINUX));
        assert_eq!(found[1].id, Some(Uuid::from_u128(7)));
        assert_eq!((&*found[0].label, &*found[1].label), ("boot", "ä\u{1f980}"));
    }
}

#[test]
fn the_backup_of_a_gpt_serves_if_the_primary_is_damaged() {
    for sector in [512, 4096] {
        let whole = gpt(sector, &[(2, 40, 99, "x")]);
        let last = whole.len() - sector;
        // Signature, header bytes, own LBA with a good checksum, an entry.
        for (damaged, signed) in
            [(sector, false), (sector + 60, false), (sector + 24, true), (2 * sector + 128, false)]
        {
            let mut image = whole.clone();
            image[damaged] ^= 0x40;
            if signed {
                sign(&mut image, sector, sector);
            }
            assert_eq!(numbers(&partitions(&device(&image, sector)).unwrap()), [(2, 40, 60)], "{damaged}");
            image[last] ^= 1;
            let e = partitions(&device(&image, sector)).unwrap_err();
            assert_eq!(e.kind(), Kind::Corrupt);
            let text = e.to_string();
            assert!(
                text.contains("pmem0s") && text.contains("LBA 1:") && text.contains("LBA 255:"),
                "{text}"
            );
        }
        // The device has grown: the backup is where the primary header says, not at the end.
        let mut image = whole.clone();
        image[2 * sector + 128] ^= 1;
        image.resize(whole.len() + 16 * sector, 0);
        assert_eq!(numbers(&partitions(&device(&image, sector)).unwrap()), [(2, 40, 60)]);
    }
}

/// Primary, extended with two logical ones, primary.
fn mbr(sector: usize) -> Vec<u8> {
    let mut image = vec![0; 256 * sector];
    put_mbr_entry(&mut image, 0, 0, 0x83, 8, 24);
    put_mbr_entry(&mut image, 0, 1, 0x0f, 100, 100);
    put_mbr_entry(&mut image, 0, 3, 0x07, 200, 56);
    put_mbr_entry(&mut image, 100 * sector, 0, 0x82, 4, 20);
    put_mbr_entry(&mut image, 100 * sector, 1, 0x05, 50, 30);
    put_mbr_entry(&mut image, 150 * sector, 0, 0x83, 2, 28);
    image
}

#[test]
fn an_mbr_with_logical_partitions_and_both_sector_sizes() {
    for sector in [512, 4096] {
        let found = partitions(&device(&mbr(sector), sector)).unwrap();
        assert_eq!(numbers(&found), [(1, 8, 24), (4, 200, 56), (5, 104, 20), (6, 152, 28)]);
        assert_eq!(found[2].kind, PartitionKind::Mbr(0x82));
    }
}

#[test]
fn a_chain_that_is_damaged_or_comes_back_ends() {
    let mut image = mbr(512);
    image[150 * 512 + 511] = 0;
    assert_eq!(numbers(&partitions(&device(&image, 512)).unwrap()), [(1, 8, 24), (4, 200, 56), (5, 104, 20)]);
    // Back to the first, and back to itself.
    for back in [0, 50] {
        let mut image = mbr(512);
        put_mbr_entry(&mut image, 150 * 512, 1, 0x05, back, 100);
        assert_eq!(partitions(&device(&image, 512)).unwrap().len(), 4);
    }
    // Out of the extended partition.
    let mut image = mbr(512);
    put_mbr_entry(&mut image, 100 * 512, 1, 0x05, 110, 30);
    put_mbr_entry(&mut image, 210 * 512, 0, 0x83, 1, 1);
    assert_eq!(partitions(&device(&image, 512)).unwrap().len(), 3);
}

#[test]
fn what_has_no_table_has_no_partitions() {
    assert!(partitions(&device(&[0; 8192], 512)).unwrap().is_empty());
    assert!(partitions(&device(&[0xff; 8192], 512)).unwrap().is_empty());
    // A FAT boot sector: the signature, and code in place of a table.
    let mut image = vec![0; 8192];
    put(&mut image, 0, b"\xeb\x3c\x90MSDOS5.0");
    put(&mut image, 440, &b"Press any key to restart. ".repeat(3)[..70]);
    put(&mut image, 510, &[0x55, 0xaa]);
    assert!(partitions(&device(&image, 512)).unwrap().is_empty());
    let e = Partition::open(device(&image, 512), 1).err().unwrap();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.to_string().contains("pmem0s: open partition 1: found no partitions"), "{e}");
}

#[test]
fn a_table_does_not_say_how_much_is_read() {
    // Signed as it should be, and all of it in the device.
    let mut image = gpt(512, &[(1, 40, 99, "x")]);
    image.resize(8 << 20, 0);
    put(&mut image, 512 + 80, &16384u32.to_le_bytes());
    put(&mut image, 512 + 32, &1u64.to_le_bytes());
    sign(&mut image, 512, 512);
    let e = partitions(&device(&image, 512)).unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt);
    assert!(e.to_string().contains("found 2097152, accepted at most 1048576 bytes"), "{e}");
}

#[test]
fn a_partition_that_leaves_the_device_does_not_become_one() {
    let mut image = mbr(512);
    put_mbr_entry(&mut image, 0, 0, 0x83, 8, 249);
    put_mbr_entry(&mut image, 0, 3, 0x83, 0xffff_ffff, 0xffff_ffff);
    let whole = device(&image, 512);
    assert_eq!(numbers(&partitions(&whole).unwrap()), [(5, 104, 20), (6, 152, 28)]);
    let e = Partition::open(whole.clone(), 1).err().unwrap();
    assert_eq!(e.kind(), Kind::Corrupt);
    for part in ["pmem0s", "249 sectors from LBA 8", "LBA 0 to 256"] {
        assert!(e.to_string().contains(part), "{e}");
    }
    let e = Partition::open(whole, 3).err().unwrap();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.to_string().contains("open partition 3: found 1, 4, 5, 6"), "{e}");
}

#[test]
fn a_partition_is_a_window_on_its_parent() {
    for sector in [512usize, 4096] {
        let whole = device(&mbr(sector), sector);
        let part = Partition::open(whole.clone(), 1).unwrap();
        assert_eq!(part.name(), "pmem0s1");
        assert_eq!(part.geometry(), Geometry { sectors: 24, ..whole.geometry() });
        write(&*whole, 7, &vec![1; sector]).unwrap();
        write(&*whole, 32, &vec![2; sector]).unwrap();
        write(&part, 0, &vec![3; 24 * sector]).unwrap();
        assert_eq!(read(&*whole, 7, 1).unwrap(), vec![1; sector]);
        assert_eq!(read(&*whole, 8, 24).unwrap(), vec![3; 24 * sector]);
        assert_eq!(read(&*whole, 32, 1).unwrap(), vec![2; sector]);
        part.write_zeroes(Lba(1), 1, WriteFlags::empty()).unwrap();
        part.discard(Lba(2), 1).unwrap();
        assert_eq!(read(&part, 0, 4).unwrap(), read(&*whole, 8, 4).unwrap());
        assert_eq!(read(&*whole, 9, 1).unwrap(), vec![0; sector]);
        let mut told = 0;
        part.extents(Lba(0), 24, &mut |e| {
            told += e.sectors;
            true
        })
        .unwrap();
        assert_eq!(told, 24);
        for refused in [
            write(&part, 24, &vec![9; sector]).err(),
            write(&part, 23, &vec![9; 2 * sector]).err(),
            read(&part, 24, 1).err(),
            part.write_zeroes(Lba(23), 2, WriteFlags::empty()).err(),
            part.discard(Lba(u64::MAX), 1).err(),
            part.extents(Lba(24), 1, &mut |_| true).err(),
        ] {
            let e = refused.unwrap();
            assert_eq!(e.kind(), Kind::OutOfRange);
            assert!(e.to_string().contains("pmem0s1") && e.to_string().contains("LBA 0 to 24"), "{e}");
        }
        assert_eq!(read(&*whole, 32, 1).unwrap(), vec![2; sector]);
    }
}

#[test]
fn byte_access_is_passed_on_and_stays_inside() {
    let whole = device(&mbr(512), 512);
    let part = Partition::open(whole.clone(), 5).unwrap();
    let bytes = part.bytes().unwrap();
    assert_eq!(bytes.size(), 20 * 512);
    bytes.rw_bytes(MediaOffset(511), Bytes::Write(b"ab"), ByteFlags::empty()).unwrap();
    let sectors = read(&*whole, 104, 2).unwrap();
    assert_eq!(&sectors[511..513], b"ab");
    bytes.rw_bytes(MediaOffset(u64::MAX), Bytes::Read(&mut []), ByteFlags::empty()).unwrap();
    for (at, len) in [(20 * 512 - 1, 2), (20 * 512, 1), (u64::MAX, 1)] {
        let e = bytes.rw_bytes(MediaOffset(at), Bytes::Write(&vec![9; len]), ByteFlags::empty()).unwrap_err();
        assert_eq!(e.kind(), Kind::OutOfRange);
        assert!(e.to_string().contains("pmem0s5") && e.to_string().contains("bytes 0 to 10240"), "{e}");
    }
    assert_eq!(read(&*whole, 124, 1).unwrap(), [0; 512]);
    // The medium is the parent's, or a part of it.
    let media = bytes.media();
    assert_eq!(media.len(), 20 * 512);
    media.store_u64(MediaOffset(8), 0x1122_3344).unwrap();
    assert_eq!(get(&read(&*whole, 104, 1).unwrap(), 8), 0x1122_3344);
    assert_eq!(media.read(MediaOffset(20 * 512), &mut [0]).unwrap_err().kind(), Kind::OutOfRange);
}

#[test]
fn pages_are_passed_on_where_the_partition_starts_on_one() {
    let whole = device(&mbr(512), 512);
    let part = Partition::open(whole.clone(), 5).unwrap();
    let page = Page::new();
    page.lock();
    part.pages().unwrap().rw_page(0, &page, Direction::Read);
    assert_eq!(page.state(), PageState::UPTODATE);
    page.bytes().fill(8);
    // Twenty sectors: half of the third page is somebody else's.
    for index in 0..3 {
        page.lock();
        part.pages().unwrap().rw_page(index, &page, Direction::Write);
        assert_eq!(page.state(), PageState::UPTODATE);
    }
    assert_eq!(read(&*whole, 104, 20).unwrap(), [8; 20 * 512]);
    assert_eq!(read(&*whole, 124, 4).unwrap(), [0; 4 * 512]);
    page.lock();
    part.rw_page(3, &page, Direction::Read);
    assert_eq!(page.state(), PageState::ERROR);

    let mut image = mbr(512);
    put_mbr_entry(&mut image, 0, 0, 0x83, 9, 20);
    let odd = Partition::open(device(&image, 512), 1).unwrap();
    let e = odd.pages().err().unwrap();
    assert_eq!(e.kind(), Kind::Unsupported);
    assert!(e.to_string().contains("pmem0s1") && e.to_string().contains("rw_page"), "{e}");
    assert!(odd.bytes().is_ok());
}

/// Block I/O alone, and no patience: what does not lie inside is a mistake of the caller.
struct Strict(Arc<dyn BlockDevice>);

impl BlockDevice for Strict {
    fn name(&self) -> String {
        "sdb7".into()
    }
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        let sectors = sectors_of(&self.geometry(), "read", at, into.iter().map(|b| b.len())).unwrap();
        assert!(sectors * 512 <= 1 << 20, "read {sectors} sectors at a table's word");
        self.0.read(at, into)
    }
    fn write(&self, _: Lba, _: &[IoSlice<'_>], _: WriteFlags) -> Result<()> {
        panic!("a table is only read")
    }
    fn flush(&self) -> Result<()> {
        panic!("a table is only read")
    }
    fn write_zeroes(&self, _: Lba, _: u64, _: WriteFlags) -> Result<()> {
        panic!("a table is only read")
    }
    fn discard(&self, _: Lba, _: u64) -> Result<()> {
        panic!("a table is only read")
    }
    fn extents(&self, _: Lba, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        panic!("a table is only read")
    }
}

#[test]
fn what_the_parent_does_not_offer_is_refused_in_the_partitions_name() {
    let parent: Arc<dyn BlockDevice> = Arc::new(Strict(device(&mbr(512), 512)));
    let part = Partition::open(parent, 1).unwrap();
    assert_eq!(part.name(), "sdb7p1");
    for (e, operation) in
        [(part.bytes().err().unwrap(), "rw_bytes"), (part.pages().err().unwrap(), "rw_page")]
    {
        assert_eq!(e.kind(), Kind::Unsupported);
        assert!(e.to_string().contains("sdb7p1") && e.to_string().contains(operation), "{e}");
    }
}

#[test]
fn a_partition_of_a_partition_and_of_a_device_that_is_removed() {
    let mut image = mbr(512);
    put_mbr_entry(&mut image, 8 * 512, 0, 0x83, 4, 8);
    let gate = Arc::new(Gate::new(device(&image, 512), "pmem0"));
    let outer: Arc<dyn BlockDevice> = Arc::new(Partition::open(gate.clone(), 1).unwrap());
    let inner = Partition::open(outer.clone(), 1).unwrap();
    assert_eq!((outer.name(), inner.name()), ("pmem0p1".into(), "pmem0p1p1".into()));
    let bytes = inner.bytes().unwrap();
    bytes.rw_bytes(MediaOffset(0), Bytes::Write(b"deep"), ByteFlags::empty()).unwrap();
    assert_eq!(&read(&*gate, 12, 1).unwrap()[..4], b"deep");
    let media = bytes.media();
    gate.close().unwrap();
    for gone in [
        read(&inner, 0, 1).err(),
        inner.bytes().err(),
        outer.pages().err(),
        bytes.rw_bytes(MediaOffset(0), Bytes::Read(&mut [0]), ByteFlags::empty()).err(),
        media.read(MediaOffset(0), &mut [0]).err(),
        bytes.media().read(MediaOffset(0), &mut [0]).err(),
        partitions(&outer).err(),
    ] {
        assert_eq!(gone.unwrap().kind(), Kind::Gone);
    }
}

/// Fields that decide where a reader goes: of the header from its start, and of the first entry.
const HEADER: [usize; 9] = [8, 12, 24, 32, 40, 48, 72, 80, 84];
const ENTRY: [usize; 2] = [32, 40];

fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        Just(1),
        Just(2),
        Just(127),
        Just(255),
        Just(256),
        Just(u64::from(u32::MAX)),
        Just(u64::MAX),
        Just(u64::MAX / 512),
        0..1000u64,
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn no_table_leads_out_of_the_device(
        with_gpt: bool,
        large: bool,
        sign_again: bool,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        fields in prop::collection::vec((0usize..11, any::<bool>(), extreme()), 0..4),
    ) {
        let sector = if large { 4096 } else { 512 };
        let mut image = if with_gpt { gpt(sector, &[(1, 40, 99, "a"), (3, 100, 200, "b")]) } else { mbr(sector) };
        let last = image.len() - sector;
        // The bytes that matter, of either kind of table.
        let records = [0, 100 * sector, 150 * sector].map(|r| r + 446..r + 512);
        let tables = [sector..sector + 92, last..last + 92, 2 * sector..2 * sector + 384];
        let places: Vec<usize> = records.into_iter().chain(tables).flatten().collect();
        for (index, value) in flips {
            image[*index.get(&places)] = value;
        }
        for (field, backup, value) in fields {
            if let Some(offset) = HEADER.get(field) {
                let at = if backup { last } else { sector } + offset;
                let words = [8, 12, 80, 84].contains(offset);
                let len = if words { 4 } else { 8 };
                put(&mut image, at, &value.to_le_bytes()[..len]);
            } else {
                put(&mut image, 2 * sector + ENTRY[field - HEADER.len()], &value.to_le_bytes());
            }
        }
        if sign_again && with_gpt {
            sign(&mut image, sector, sector);
            sign(&mut image, last, sector);
        }
        let device: Arc<dyn BlockDevice> = Arc::new(Strict(device(&image, sector)));
        if let Ok(found) = partitions(&device) {
            prop_assert!(found.len() <= 8192);
            for info in found {
                prop_assert!(info.sectors > 0 && info.first.0 + info.sectors <= 256, "{info:?}");
                let part = Partition::open(device.clone(), info.number).unwrap();
                read(&part, 0, 1).unwrap();
                read(&part, info.sectors - 1, 1).unwrap();
                prop_assert_eq!(read(&part, info.sectors, 1).unwrap_err().kind(), Kind::OutOfRange);
            }
        }
        for number in [0, 1, 3, 5, 6, 255, u32::MAX] {
            let _ = Partition::open(device.clone(), number);
        }
    }

    #[test]
    fn noise_is_no_table(noise in prop::collection::vec(any::<u8>(), 4096..8192), large: bool) {
        let mut image = noise;
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        for slot in 0..4 {
            image[446 + slot * 16] &= 0x80;
        }
        let device: Arc<dyn BlockDevice> =
            Arc::new(Strict(device(&image, if large { 4096 } else { 512 })));
        let _ = partitions(&device);
    }
}
