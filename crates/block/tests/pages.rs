// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page I/O (S2): pages and their states, and a page cache that never comes near byte access.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod common;

use std::collections::BTreeSet;
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use common::{Traced, read, write};
use nvstack_block::{
    BlockDevice, ByteAccess, Direction, Error, Extent, Geometry, Kind, Lba, Linear, Page, PageAccess,
    PageCache, PageState, Result, WriteFlags, not_offered,
};
use nvstack_media::{Media, MediaOffset};
use proptest::prelude::*;

/// A device that panics when it is asked for bytes, counts, and fails where it is told to.
struct Device {
    inner: Linear<Arc<Traced>>,
    offers_pages: bool,
    pages_moved: AtomicUsize,
    requests: AtomicUsize,
    fails: Mutex<BTreeSet<u64>>,
    /// Where page 0 waits to be let go.
    waits: Option<(Barrier, Barrier)>,
}

impl Device {
    fn new(bytes: u64, offers_pages: bool) -> Arc<Device> {
        Device::on(Arc::new(Traced::new(bytes)), offers_pages)
    }

    fn on(memory: Arc<Traced>, offers_pages: bool) -> Arc<Device> {
        Arc::new(Device::plain(memory, offers_pages))
    }

    fn plain(memory: Arc<Traced>, offers_pages: bool) -> Device {
        Device {
            inner: Linear::new("dev", memory, 512, false).unwrap(),
            offers_pages,
            pages_moved: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            fails: Mutex::default(),
            waits: None,
        }
    }

    /// Makes everything that touches a page fail, or no more.
    fn fail(&self, page: u64, fail: bool) {
        let mut fails = self.fails.lock().unwrap();
        if fail {
            fails.insert(page)
        } else {
            fails.remove(&page)
        };
    }

    fn fails(&self, page: u64) -> bool {
        self.fails.lock().unwrap().contains(&page)
    }

    fn request(&self, at: Lba) -> Result<()> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.fails(at.0 / 8) { Err(Error::new(Kind::Io, "told to")) } else { Ok(()) }
    }
}

impl BlockDevice for Device {
    fn name(&self) -> String {
        "dev".into()
    }
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.request(at)?;
        self.inner.read(at, into)
    }
    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.request(at)?;
        assert!(flags.contains(WriteFlags::FUA), "a page is durable when its writeback ends");
        self.inner.write(at, from, flags)
    }
    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
    fn write_zeroes(&self, _: Lba, _: u64, _: WriteFlags) -> Result<()> {
        panic!("not asked for")
    }
    fn discard(&self, _: Lba, _: u64) -> Result<()> {
        panic!("not asked for")
    }
    fn extents(&self, _: Lba, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        panic!("not asked for")
    }
    fn bytes(&self) -> Result<&dyn ByteAccess> {
        panic!("page I/O has nothing to do with rw_bytes")
    }
    fn pages(&self) -> Result<&dyn PageAccess> {
        if self.offers_pages { Ok(self) } else { Err(not_offered("dev", "rw_page")) }
    }
}

impl PageAccess for Device {
    fn rw_page(&self, index: u64, page: &Page, direction: Direction) {
        assert!(page.state().contains(PageState::LOCKED), "a page comes locked");
        self.pages_moved.fetch_add(1, Ordering::Relaxed);
        if let Some((inside, go)) = self.waits.as_ref().filter(|_| index == 0 && direction == Direction::Read)
        {
            inside.wait();
            go.wait();
        }
        if self.fails(index) {
            return match direction {
                Direction::Read => page.end(PageState::LOCKED, PageState::ERROR),
                Direction::Write => {
                    page.end(PageState::LOCKED, PageState::WRITEBACK);
                    page.end(PageState::WRITEBACK, PageState::ERROR);
                }
            };
        }
        self.inner.rw_page(index, page, direction);
    }
}

fn moved(device: &Device) -> (usize, usize) {
    (device.pages_moved.load(Ordering::Relaxed), device.requests.load(Ordering::Relaxed))
}

#[test]
fn the_outcome_of_a_page_is_its_state() {
    let memory = Arc::new(Traced::new(3 * 4096 + 1024));
    let device = Linear::new("d", memory.clone(), 512, false).unwrap();
    write(&device, 8, &[7; 4096]).unwrap();
    let pages = device.pages().unwrap();
    let page = Page::new();
    let go = |index, direction| {
        page.lock();
        pages.rw_page(index, &page, direction);
        page.state()
    };
    assert_eq!(go(1, Direction::Read), PageState::UPTODATE);
    assert!(page.bytes().iter().all(|b| *b == 7));
    page.bytes().fill(9);
    assert_eq!(go(2, Direction::Write), PageState::UPTODATE);
    assert!(memory.is_durable());
    assert_eq!(read(&device, 16, 8).unwrap(), [9; 4096]);
    // The device ends inside its last page.
    assert_eq!(go(3, Direction::Write), PageState::UPTODATE);
    page.bytes().fill(1);
    assert_eq!(go(3, Direction::Read), PageState::UPTODATE);
    assert!(page.bytes()[..1024].iter().all(|b| *b == 9) && page.bytes()[1024..].iter().all(|b| *b == 0));
    // Outside.
    for index in [4, u64::MAX] {
        assert_eq!(go(1, Direction::Read), PageState::UPTODATE);
        assert_eq!(go(index, Direction::Write), PageState::UPTODATE | PageState::ERROR);
        assert_eq!(go(index, Direction::Read), PageState::ERROR);
    }
    // Lost bytes: reading fails, writing heals.
    memory.inject_poison(MediaOffset(4096), 1).unwrap();
    assert_eq!(go(1, Direction::Read), PageState::ERROR);
    assert_eq!(go(1, Direction::Write), PageState::UPTODATE);
    assert_eq!(go(1, Direction::Read), PageState::UPTODATE);
}

#[test]
fn the_cache_moves_pages_by_rw_page_or_block_io_and_never_by_bytes() {
    for offers_pages in [true, false] {
        let device = Device::new(8 * 4096, offers_pages);
        let cache = PageCache::new(device.clone(), 4);
        cache.write(4090, &[1; 12]).unwrap();
        let mut back = [0; 12];
        cache.read(4090, &mut back).unwrap();
        assert_eq!(back, [1; 12]);
        // Two pages were read, none was written yet.
        assert_eq!(moved(&device), if offers_pages { (2, 0) } else { (0, 2) });
        assert_eq!(read(&device.inner, 7, 1).unwrap(), [0; 512]);
        cache.flush().unwrap();
        assert_eq!(moved(&device), if offers_pages { (4, 0) } else { (0, 4) });
        assert_eq!(&read(&device.inner, 7, 1).unwrap()[506..], [1; 6]);
        assert_eq!(&read(&device.inner, 8, 1).unwrap()[..6], [1; 6]);
        // Clean pages are not written again, whole pages are not read first, held ones are not read again.
        cache.flush().unwrap();
        cache.write(3 * 4096, &[2; 4096]).unwrap();
        cache.read(0, &mut back).unwrap();
        assert_eq!(moved(&device), if offers_pages { (4, 0) } else { (0, 4) });
    }
}

#[test]
fn room_is_made_by_writing_the_oldest_back() {
    let device = Device::new(64 * 4096, true);
    let cache = PageCache::new(device.clone(), 3);
    for index in 0..64u64 {
        cache.write(index * 4096 + 5, &[index as u8 + 1; 10]).unwrap();
        assert!(cache.len() <= 3);
    }
    assert!(cache.state(0).is_none() && cache.state(63).is_some());
    for index in 0..64u64 {
        let mut back = [0; 10];
        cache.read(index * 4096 + 5, &mut back).unwrap();
        assert_eq!(back, [index as u8 + 1; 10]);
    }
    // What was asked for last stays.
    cache.read(61 * 4096, &mut [0]).unwrap();
    cache.read(0, &mut [0]).unwrap();
    assert!(cache.state(61).is_some() && cache.state(62).is_none());
}

#[test]
fn what_could_not_be_written_stays_in_its_page_with_the_error() {
    for offers_pages in [true, false] {
        let device = Device::new(8 * 4096, offers_pages);
        let cache = PageCache::new(device.clone(), 2);
        cache.write(0, &[5; 4096]).unwrap();
        cache.write(4096, &[6; 4096]).unwrap();
        device.fail(0, true);
        device.fail(1, true);
        assert_eq!(cache.flush().unwrap_err().kind(), Kind::Io);
        assert_eq!(cache.state(0), Some(PageState::UPTODATE | PageState::ERROR));
        // It can be read, and it is not given up for another page.
        let mut back = [0; 4096];
        cache.read(0, &mut back).unwrap();
        assert_eq!(back, [5; 4096]);
        assert_eq!(cache.read(3 * 4096, &mut back).unwrap_err().kind(), Kind::NoSpace);
        // A flush tries again. One page that still fails does not keep the other from being written.
        device.fail(1, false);
        assert_eq!(cache.flush().unwrap_err().kind(), Kind::Io);
        assert_eq!(read(&device.inner, 8, 8).unwrap(), [6; 4096]);
        device.fail(0, false);
        cache.flush().unwrap();
        assert_eq!(cache.state(0), Some(PageState::UPTODATE));
        assert_eq!(read(&device.inner, 0, 8).unwrap(), [5; 4096]);
    }
}

#[test]
fn a_page_that_could_not_be_read_is_tried_again() {
    let device = Device::new(8 * 4096, true);
    let cache = PageCache::new(device.clone(), 2);
    device.fail(1, true);
    let e = cache.read(4096, &mut [0]).unwrap_err();
    assert_eq!(e.kind(), Kind::Io);
    assert!(e.to_string().contains("dev") && e.to_string().contains("read page 1"), "{e}");
    assert_eq!(cache.state(1), Some(PageState::ERROR));
    assert_eq!(cache.write(4096, &[1]).unwrap_err().kind(), Kind::Io);
    device.fail(1, false);
    cache.read(4096, &mut [0]).unwrap();
    assert_eq!(cache.state(1), Some(PageState::UPTODATE));
    // Or it is overwritten whole.
    device.fail(2, true);
    cache.read(2 * 4096, &mut [0]).unwrap_err();
    cache.write(2 * 4096, &[3; 4096]).unwrap();
    assert_eq!(cache.state(2), Some(PageState::UPTODATE));
}

proptest! {
    #[test]
    fn the_cache_is_the_device(
        steps in prop::collection::vec((0u8..6, 0u64..5 * 4096 + 1536, 0usize..9000), 1..40),
        offers_pages: bool,
    ) {
        const SIZE: usize = 5 * 4096 + 1024;
        let memory = Arc::new(Traced::new(SIZE as u64));
        let device = Device::on(memory.clone(), offers_pages);
        let cache = PageCache::new(device, 2);
        let mut model = vec![0u8; SIZE];
        for (n, (what, at, len)) in steps.into_iter().enumerate() {
            let (start, inside) = (at as usize, at as usize + len <= SIZE);
            match what {
                0 => {
                    cache.flush().unwrap();
                    prop_assert!(memory.is_durable());
                    prop_assert_eq!(memory.all(), &model[..]);
                }
                1 | 2 => {
                    let mut into = vec![0; len];
                    prop_assert_eq!(cache.read(at, &mut into).is_ok(), inside);
                    if inside {
                        prop_assert_eq!(&into, &model[start..start + len]);
                    }
                }
                _ => {
                    let from: Vec<u8> = (0..len).map(|i| (i + n) as u8).collect();
                    prop_assert_eq!(cache.write(at, &from).is_ok(), inside);
                    if inside {
                        model[start..start + len].copy_from_slice(&from);
                    }
                }
            }
        }
        cache.flush().unwrap();
        prop_assert_eq!(memory.all(), model);
    }
}

#[test]
fn several_threads_with_fewer_pages_than_threads() {
    let device = Device::new(16 * 4096, true);
    let cache = PageCache::new(device.clone(), 2);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..300u64 {
                    // Each has eight bytes of its own in every page.
                    let at = (round * 7 + thread) % 16 * 4096 + thread * 8;
                    let mut before = [0; 8];
                    cache.read(at, &mut before).unwrap();
                    let next = u64::from_le_bytes(before) + 1;
                    cache.write(at, &next.to_le_bytes()).unwrap();
                    if round % 32 == 0 {
                        cache.flush().unwrap();
                    }
                }
            });
        }
    });
    cache.flush().unwrap();
    for thread in 0..4u64 {
        let sum: u64 = (0..16u64)
            .map(|page| {
                let sector = read(&device.inner, page * 8, 1).unwrap();
                let at = thread as usize * 8;
                u64::from_le_bytes(sector[at..at + 8].try_into().unwrap())
            })
            .sum();
        assert_eq!(sum, 300, "an update of thread {thread} was lost");
    }
}

#[test]
fn a_page_in_use_makes_no_room() {
    let waits = Some((Barrier::new(2), Barrier::new(2)));
    let device = Arc::new(Device { waits, ..Device::plain(Arc::new(Traced::new(4 * 4096)), true) });
    let cache = PageCache::new(device.clone(), 1);
    std::thread::scope(|scope| {
        // The page is read before a part of it is written, and that takes long.
        scope.spawn(|| cache.write(5, b"kept").unwrap());
        let (inside, go) = device.waits.as_ref().unwrap();
        inside.wait();
        scope.spawn(|| cache.read(4096, &mut [0]).unwrap());
        // The other can only wait. A cache that gives the page away has done so after some of these.
        for _ in 0..10_000 {
            std::thread::yield_now();
        }
        let meanwhile = moved(&device).0;
        go.wait();
        assert_eq!(meanwhile, 1);
    });
    cache.flush().unwrap();
    assert_eq!(&read(&device.inner, 0, 1).unwrap()[5..9], b"kept");
}

#[test]
fn a_read_only_device_takes_no_pages() {
    let memory = Arc::new(Traced::new(8192));
    let device: Arc<dyn BlockDevice> = Arc::new(Linear::new("ro", memory, 512, true).unwrap());
    let cache = PageCache::new(device, 2);
    assert_eq!(cache.write(0, &[1]).unwrap_err().kind(), Kind::ReadOnly);
    cache.read(0, &mut [0]).unwrap();
    cache.flush().unwrap();
}
