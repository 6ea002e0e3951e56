// SPDX-License-Identifier: MIT OR Apache-2.0
//! S2, R15: `rw_page` is another operation, which tells its outcome through the page alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use common::{MIB, create, machine, open, read, refused, write};
use nvstack_block::{
    BlockDevice, ByteFlags, Bytes, Direction, PAGE_SIZE, Page, PageAccess, PageCache, PageState,
};
use nvstack_media::{Kind, MediaOffset};

fn page(disk: &dyn BlockDevice, index: u64, direction: Direction, byte: u8) -> (PageState, Vec<u8>) {
    let page = Page::new();
    page.lock();
    page.bytes().fill(byte);
    disk.pages().unwrap().rw_page(index, &page, direction);
    (page.state(), page.bytes().to_vec())
}

#[test]
fn s2_r15_the_outcome_stands_in_the_page() {
    let (stack, tree) = machine(256 * MIB);
    let (raw, _) = create(&tree, "region0", "raw", 1, 16 * MIB);
    let (_, btt) = create(&tree, "region0", "sector", 2, 32 * MIB);
    let (_, pfn) = create(&tree, "region0", "fsdax", 3, 32 * MIB);
    for name in [raw, btt.unwrap(), pfn.unwrap()] {
        let disk = open(&stack, &name);
        let last = disk.geometry().bytes() / PAGE_SIZE as u64 - 1;
        let written = page(&*disk, last, Direction::Write, 0x5a).0;
        assert!(written.difference(PageState::UPTODATE).is_empty(), "{name}: {written:?}");
        assert_eq!(
            page(&*disk, last, Direction::Read, 0),
            (PageState::UPTODATE, vec![0x5a; PAGE_SIZE]),
            "{name}"
        );
        // Outside: an error in the page, and nowhere else.
        assert_eq!(page(&*disk, last + 1, Direction::Write, 1).0, PageState::ERROR, "{name}");
        assert_eq!(page(&*disk, last + 1, Direction::Read, 1).0, PageState::ERROR, "{name}");
        // While the region is read-only, and after its end.
        tree.write("region0/read_only", "1").unwrap();
        assert_eq!(page(&*disk, 0, Direction::Write, 0x77).0, PageState::ERROR, "{name}");
        assert_eq!(page(&*disk, last, Direction::Read, 0).0, PageState::UPTODATE, "{name}");
        tree.write("region0/read_only", "0").unwrap();
        assert!(page(&*disk, 0, Direction::Read, 1).1.iter().all(|b| *b == 0), "{name}");
    }
}

#[test]
fn s2_pages_of_a_device_that_is_gone_say_so() {
    let (stack, tree) = machine(64 * MIB);
    let (raw, _) = create(&tree, "region0", "raw", 1, 16 * MIB);
    let disk = open(&stack, &raw);
    let pages: &dyn PageAccess = disk.pages().unwrap();
    common::unbind(&tree, &raw).unwrap();
    let page = Page::new();
    page.lock();
    pages.rw_page(0, &page, Direction::Write);
    assert_eq!(page.state(), PageState::ERROR);
    refused(disk.pages().map(|_| ()), Kind::Gone, &[&raw]);
}

#[test]
fn s2_r15_rw_bytes_never_touches_a_page() {
    let (stack, tree) = machine(64 * MIB);
    let (raw, _) = create(&tree, "region0", "raw", 1, 16 * MIB);
    let disk = open(&stack, &raw);
    let cache = PageCache::new(disk.clone(), 4);
    let mut one = [0];
    cache.read(10, &mut one).unwrap();
    let before = cache.state(0).unwrap();
    disk.bytes().unwrap().rw_bytes(MediaOffset(10), Bytes::Write(b"!"), ByteFlags::empty()).unwrap();
    // Neither its state nor its bytes: two operations that know nothing of each other.
    assert_eq!(cache.state(0).unwrap(), before);
    cache.read(10, &mut one).unwrap();
    assert_eq!(one, [0]);
    assert_eq!(read(&*disk, 0).unwrap()[10], b'!');
}

#[test]
fn s2_a_page_cache_stands_on_a_btt() {
    let (stack, tree) = machine(64 * MIB);
    let (_, btt) = create(&tree, "region0", "sector", 1, 32 * MIB);
    let disk = open(&stack, &btt.unwrap());
    let cache = PageCache::new(disk.clone(), 2);
    for n in 0..9u64 {
        cache.write(n * 4096 + 4090, &[n as u8 + 1; 12]).unwrap();
    }
    cache.flush().unwrap();
    let second = read(&*disk, 1).unwrap();
    assert_eq!((&second[..6], &second[4090..]), (&[1u8; 6][..], &[2u8; 6][..]));
    write(&*disk, 3, 9).unwrap();
    let mut back = [0; 4];
    PageCache::new(disk, 1).read(3 * 4096, &mut back).unwrap();
    assert_eq!(back, [9; 4]);
}
