// SPDX-License-Identifier: MIT OR Apache-2.0
//! The BTT stacks on whatever offers byte access (S3): a namespace, a partition of one, a device of another kind. What
//! stands on the BTT finds blocks and pages, and no bytes.
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;

use common::{Sim, pattern, read, write};
use nvstack_block::{
    BlockDevice, BytesMedium, Direction, Gate, Kind, Lba, Linear, Page, PageCache, PageState, Partition,
    WriteFlags, partitions,
};
use nvstack_btt::{Btt, CreateOptions, OpenOptions, create};
use nvstack_format::MediaOffset;
use nvstack_format::btt::{ARENA_MIN, LbaSize, Version};
use nvstack_media::{Anon, Domain, Media};
use uuid::Uuid;

const VERSION: Version = Version::V2_0;
/// The partition begins where a page does.
const FIRST: u64 = 64;

fn lay_out(media: &dyn Media, lbasize: u32) {
    let options = CreateOptions {
        version: VERSION,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(7),
        lbasize: LbaSize::new(lbasize).unwrap(),
        overwrite: false,
    };
    create(&media, &options).unwrap();
}

fn open<M: Media>(media: M) -> nvstack_media::Result<Btt<M>> {
    Btt::open(media, OpenOptions::new("pmem0s", VERSION, Uuid::nil()))
}

/// Writes an MBR with one partition from `FIRST` to the end.
fn partition(device: &dyn BlockDevice, first: u64) {
    let mut record = [0; 512];
    record[446 + 4] = 0x83;
    record[446 + 8..][..4].copy_from_slice(&(first as u32).to_le_bytes());
    let sectors = (device.geometry().sectors - first) as u32;
    record[446 + 12..][..4].copy_from_slice(&sectors.to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut sector = vec![0; device.geometry().sector_size as usize];
    sector[..512].copy_from_slice(&record);
    write(device, 0, &sector).unwrap();
}

fn namespace<M: Media + 'static>(media: M) -> Arc<dyn BlockDevice> {
    Arc::new(Linear::new("pmem0", media, 512, false).unwrap())
}

/// Room for the partition's BTT, and some sectors after it that it does not use.
fn room() -> u64 {
    FIRST * 512 + ARENA_MIN
}

/// What a stacked driver does first: it asks for byte access and takes the medium that comes with it.
fn media_of(device: &dyn BlockDevice) -> Arc<dyn Media> {
    device.bytes().unwrap().media()
}

#[test]
fn on_a_partition_of_a_raw_namespace() {
    let memory = Arc::new(Anon::new(room()).unwrap());
    let raw = namespace(memory.clone());
    memory.store(MediaOffset(512), &[0x5a; FIRST as usize * 512 - 512]).unwrap();
    partition(&*raw, FIRST);
    let part = Partition::open(raw.clone(), 1).unwrap();
    assert_eq!(part.name(), "pmem0p1");
    lay_out(&*media_of(&part), 4096);
    for generation in 1..=3 {
        let disk = open(media_of(&part)).unwrap();
        for lba in [0, 1, disk.geometry().sectors - 1] {
            if generation > 1 {
                assert_eq!(read(&disk, lba).unwrap(), pattern(lba, generation - 1, 4096));
            }
            write(&disk, lba, &pattern(lba, generation, 4096)).unwrap();
        }
    }
    // It stays in its partition, and starts where the partition starts.
    let mut before = vec![0; FIRST as usize * 512 - 512];
    memory.read(MediaOffset(512), &mut before).unwrap();
    assert!(before.iter().all(|b| *b == 0x5a));
    let mut signature = [0; 14];
    memory.read(MediaOffset(FIRST * 512), &mut signature).unwrap();
    assert_eq!(&signature, b"BTT_ARENA_INFO");
    assert_eq!(partitions(&raw).unwrap().len(), 1);
}

#[test]
fn a_sector_on_a_partition_survives_a_cut_at_every_store() {
    let memory = Arc::new(Sim::new(vec![0; room() as usize], Domain::Cache));
    partition(&*namespace(memory.clone()), FIRST);
    let part = |memory: &Arc<Sim>| Partition::open(namespace(memory.clone()), 1).unwrap();
    lay_out(&*media_of(&part(&memory)), 512);
    write(&open(media_of(&part(&memory))).unwrap(), 5, &pattern(5, 1, 512)).unwrap();
    let base = memory.bytes();
    let (mut kept, mut replaced) = (0, 0);
    for fuse in 0.. {
        let memory = Arc::new(Sim::new(base.clone(), Domain::Cache));
        let disk = open(media_of(&part(&memory))).unwrap();
        memory.set_fuse(fuse);
        let acknowledged = write(&disk, 5, &pattern(5, 2, 512)).is_ok();
        for image in memory.cuts(fuse) {
            let after = Arc::new(Sim::new(image, Domain::Cache));
            let found = read(&open(media_of(&part(&after))).unwrap(), 5).unwrap();
            if found == pattern(5, 1, 512) && !acknowledged {
                kept += 1;
            } else {
                assert!(found == pattern(5, 2, 512), "torn or lost after {fuse} steps");
                replaced += 1;
            }
        }
        if acknowledged {
            break;
        }
    }
    assert!(kept > 2 && replaced > 1, "{kept} {replaced}");
}

#[test]
fn on_any_device_with_byte_access_through_an_adapter() {
    let memory = Arc::new(Anon::new(ARENA_MIN).unwrap());
    let media = BytesMedium::new(namespace(memory.clone())).unwrap();
    lay_out(&media, 512);
    let disk = open(media).unwrap();
    for generation in 1..20 {
        for lba in [3, 4, 900] {
            write(&disk, lba, &pattern(lba, generation, 512)).unwrap();
        }
    }
    disk.discard(Lba(4), 1).unwrap();
    drop(disk);
    // What it wrote is a BTT like any other.
    let disk = open(memory.clone()).unwrap();
    assert_eq!(read(&disk, 3).unwrap(), pattern(3, 19, 512));
    assert_eq!(read(&disk, 900).unwrap(), pattern(900, 19, 512));
    drop(disk);
    // Lost bytes below are lost sectors above, and heal as they are written.
    let at = 4096 + 3 * 512;
    let disk = open(BytesMedium::new(namespace(memory.clone())).unwrap()).unwrap();
    memory.inject_poison(MediaOffset(at), ARENA_MIN / 2).unwrap();
    assert_eq!(read(&disk, 3).unwrap_err().kind(), Kind::Poison);
    write(&disk, 3, &pattern(3, 30, 512)).unwrap();
    assert_eq!(read(&disk, 3).unwrap(), pattern(3, 30, 512));
}

#[test]
fn the_disk_offers_pages_and_no_bytes() {
    for lbasize in [512, 4096] {
        let memory = Arc::new(Anon::new(ARENA_MIN).unwrap());
        lay_out(&*memory, lbasize);
        let disk: Arc<dyn BlockDevice> = Arc::new(open(memory).unwrap());
        let e = disk.bytes().err().unwrap();
        assert_eq!(e.kind(), Kind::Unsupported);
        assert!(e.to_string().contains("pmem0s") && e.to_string().contains("rw_bytes"), "{e}");
        assert!(BytesMedium::new(disk.clone()).is_err());

        let page = Page::new();
        page.bytes().copy_from_slice(&pattern(9, 9, 4096));
        page.lock();
        disk.pages().unwrap().rw_page(2, &page, Direction::Write);
        assert_eq!(page.state(), PageState::UPTODATE);
        let sectors = 4096 / u64::from(lbasize);
        let whole: Vec<u8> = (0..sectors).flat_map(|n| read(&*disk, 2 * sectors + n).unwrap()).collect();
        assert_eq!(whole, pattern(9, 9, 4096));
        page.lock();
        disk.pages().unwrap().rw_page(u64::MAX, &page, Direction::Read);
        assert_eq!(page.state(), PageState::ERROR);

        let cache = PageCache::new(disk.clone(), 2);
        cache.write(2 * 4096 + 100, b"cached").unwrap();
        cache.flush().unwrap();
        let mut back = [0; 6];
        PageCache::new(disk, 1).read(2 * 4096 + 100, &mut back).unwrap();
        assert_eq!(&back, b"cached");
    }
}

#[test]
fn a_page_of_a_disk_with_a_volatile_cache_is_durable_when_it_is_written() {
    let memory = Sim::new(vec![0; ARENA_MIN as usize], Domain::PageCache);
    lay_out(&memory, 4096);
    let disk = open(&memory).unwrap();
    assert!(disk.geometry().volatile_cache);
    let page = Page::new();
    page.bytes().copy_from_slice(&pattern(1, 1, 4096));
    page.lock();
    disk.pages().unwrap().rw_page(1, &page, Direction::Write);
    assert_eq!(page.state(), PageState::UPTODATE);
    let image = memory.durable();
    assert_eq!(read(&open(Sim::memory(image)).unwrap(), 1).unwrap(), pattern(1, 1, 4096));
}

#[test]
fn a_partition_of_the_disk_has_blocks_and_no_bytes() {
    let memory = Arc::new(Anon::new(ARENA_MIN).unwrap());
    lay_out(&*memory, 4096);
    let disk: Arc<dyn BlockDevice> = Arc::new(open(memory).unwrap());
    partition(&*disk, 16);
    let part = Partition::open(disk.clone(), 1).unwrap();
    assert_eq!(part.name(), "pmem0s1");
    assert!(part.geometry().atomic);
    write(&part, 1, &pattern(1, 1, 4096)).unwrap();
    assert_eq!(read(&*disk, 17).unwrap(), pattern(1, 1, 4096));
    let e = part.bytes().err().unwrap();
    assert!(e.to_string().contains("pmem0s1") && e.to_string().contains("rw_bytes"), "{e}");
    assert!(part.pages().is_ok());
}

#[test]
fn a_namespace_that_is_removed_takes_the_disk_with_it() {
    let memory = Arc::new(Anon::new(ARENA_MIN).unwrap());
    let weak = Arc::downgrade(&memory);
    let gate = Arc::new(Gate::new(namespace(memory), "namespace0.0"));
    lay_out(&*media_of(&*gate), 4096);
    let disk = open(media_of(&*gate)).unwrap();
    write(&disk, 1, &pattern(1, 1, 4096)).unwrap();
    gate.close().unwrap();
    assert!(weak.upgrade().is_none());
    for gone in [
        read(&disk, 1).err(),
        write(&disk, 1, &pattern(1, 2, 4096)).err(),
        disk.flush().err(),
        disk.write_zeroes(Lba(1), 1, WriteFlags::empty()).err(),
    ] {
        let e = gone.unwrap();
        assert_eq!(e.kind(), Kind::Gone);
        assert!(e.to_string().contains("namespace0.0"), "{e}");
    }
}
