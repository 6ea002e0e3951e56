// SPDX-License-Identifier: MIT OR Apache-2.0
//! Removal under open handles (S7): a named error, and nothing kept alive.
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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Weak};

use common::{Traced, read, write};
use nvstack_block::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, Direction, Extent, Gate, Geometry, Kind, Lba, Linear, Page,
    PageAccess, PageState, Result, WriteFlags, not_offered,
};
use nvstack_media::{Domain, Error, Media, MediaOffset};

fn gated() -> (Arc<Gate>, Weak<Traced>) {
    let memory = Arc::new(Traced::new(64 * 1024));
    let weak = Arc::downgrade(&memory);
    let device = Arc::new(Linear::new("namespace0.0", memory, 512, false).unwrap());
    (Arc::new(Gate::new(device, "pmem0")), weak)
}

fn is_gone<T>(outcome: Result<T>) {
    let e = outcome.err().expect("an operation on a removed device succeeded");
    assert_eq!(e.kind(), Kind::Gone, "{e}");
    let text = e.to_string();
    assert!(text.contains("pmem0") && text.contains("a device that was removed"), "{text}");
}

#[test]
fn an_open_gate_is_the_device_under_its_name() {
    let (gate, memory) = gated();
    assert_eq!(gate.name(), "pmem0");
    assert_eq!(BlockDevice::name(&*gate), "pmem0");
    write(&*gate, 3, &[9; 512]).unwrap();
    assert_eq!(read(&*gate, 3, 1).unwrap(), [9; 512]);
    let bytes = gate.bytes().unwrap();
    let mut two = [0; 2];
    bytes.rw_bytes(MediaOffset(3 * 512), Bytes::Read(&mut two), ByteFlags::empty()).unwrap();
    assert_eq!((two, bytes.size()), ([9; 2], 64 * 1024));
    let media = bytes.media();
    media.store_u64(MediaOffset(8), 77).unwrap();
    assert_eq!(memory.upgrade().unwrap().load_u64(MediaOffset(8)).unwrap(), 77);
    let page = Page::new();
    page.lock();
    gate.pages().unwrap().rw_page(0, &page, Direction::Read);
    assert_eq!((page.state(), page.bytes()[8]), (PageState::UPTODATE, 77));
}

#[test]
fn after_removal_every_operation_names_the_device_and_nothing_is_kept() {
    let (gate, memory) = gated();
    let device: Arc<dyn BlockDevice> = gate.clone();
    // Whoever holds these got them while the device was there.
    let bytes = device.bytes().unwrap();
    let pages = device.pages().unwrap();
    let media = bytes.media();
    let (geometry, size) = (device.geometry(), media.len());
    let read_page = Page::new();
    read_page.lock();
    pages.rw_page(0, &read_page, Direction::Read);

    assert!(memory.upgrade().is_some() && !gate.is_closed());
    gate.close().unwrap();
    gate.close().unwrap();
    assert!(gate.is_closed());
    assert!(memory.upgrade().is_none(), "a stale handle keeps the memory");

    let mut buffer = [0; 512];
    is_gone(device.read(Lba(0), &mut [IoSliceMut::new(&mut buffer)]));
    is_gone(device.write(Lba(0), &[IoSlice::new(&[0; 512])], WriteFlags::empty()));
    is_gone(device.flush());
    is_gone(device.write_zeroes(Lba(0), 1, WriteFlags::empty()));
    is_gone(device.discard(Lba(0), 1));
    is_gone(device.extents(Lba(0), 1, &mut |_| true));
    is_gone(device.bytes());
    is_gone(device.pages());
    is_gone(bytes.rw_bytes(MediaOffset(0), Bytes::Read(&mut [0]), ByteFlags::empty()));
    is_gone(bytes.rw_bytes(MediaOffset(0), Bytes::Write(&[0]), ByteFlags::ATOMIC));
    for media in [media, bytes.media()] {
        is_gone(media.read(MediaOffset(0), &mut [0]));
        is_gone(media.store(MediaOffset(0), &[0]));
        is_gone(media.stream(MediaOffset(0), &[0]));
        is_gone(media.zero(MediaOffset(0), 1));
        is_gone(media.load_u32(MediaOffset(0)));
        is_gone(media.store_u32(MediaOffset(0), 0));
        is_gone(media.load_u64(MediaOffset(0)));
        is_gone(media.store_u64(MediaOffset(0), 0));
        is_gone(media.flush(MediaOffset(0), 1));
        is_gone(media.drain());
        is_gone(media.persist(MediaOffset(0), 1));
        is_gone(media.extent(MediaOffset(0), 1));
        is_gone(media.inject_poison(MediaOffset(0), 1));
        is_gone(media.clear_poison(MediaOffset(0), 1));
        assert_eq!((media.len(), media.domain(), media.name()), (size, Domain::Cache, "pmem0".into()));
        assert!(media.badblocks(MediaOffset(0), 1).is_empty());
    }
    // A page tells it by its state; what was in it stays.
    for (direction, state) in
        [(Direction::Write, PageState::UPTODATE | PageState::ERROR), (Direction::Read, PageState::ERROR)]
    {
        read_page.lock();
        pages.rw_page(0, &read_page, direction);
        assert_eq!(read_page.state(), state);
    }
    assert_eq!(device.geometry(), geometry);
}

/// A device that waits inside an operation until it is let go, or closes its own gate there.
struct Slow {
    inside: Barrier,
    go: Barrier,
    ended: AtomicBool,
    gate: std::sync::OnceLock<Weak<Gate>>,
}

impl BlockDevice for Slow {
    fn name(&self) -> String {
        "slow".into()
    }
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: 8,
            sector_size: 512,
            preferred: 4096,
            read_only: false,
            volatile_cache: false,
            atomic: false,
            discard: false,
        }
    }
    fn read(&self, _: Lba, _: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.inside.wait();
        self.go.wait();
        self.ended.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn write(&self, _: Lba, _: &[IoSlice<'_>], _: WriteFlags) -> Result<()> {
        self.gate.get().and_then(Weak::upgrade).unwrap().close()
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, _: Lba, _: u64, _: WriteFlags) -> Result<()> {
        Err(Error::new(Kind::Unsupported, "write zeroes"))
    }
    fn discard(&self, _: Lba, _: u64) -> Result<()> {
        Err(Error::new(Kind::Unsupported, "discard"))
    }
    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        let _ = (at, found(Extent { sectors, flags: nvstack_block::ExtentFlags::empty() }));
        Ok(())
    }
    fn pages(&self) -> Result<&dyn PageAccess> {
        Err(not_offered("slow", "rw_page"))
    }
    fn bytes(&self) -> Result<&dyn ByteAccess> {
        Err(not_offered("slow", "rw_bytes"))
    }
}

fn slow() -> (Arc<Slow>, Arc<Gate>) {
    let device = Arc::new(Slow {
        inside: Barrier::new(2),
        go: Barrier::new(2),
        ended: AtomicBool::new(false),
        gate: std::sync::OnceLock::new(),
    });
    let gate = Arc::new(Gate::new(device.clone(), "pmem0"));
    device.gate.set(Arc::downgrade(&gate)).unwrap();
    (device, gate)
}

#[test]
fn removal_waits_for_what_is_in_flight_and_lets_nothing_new_in() {
    let (device, gate) = slow();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| gate.read(Lba(0), &mut []));
        device.inside.wait();
        let closer = scope.spawn(|| {
            gate.close().unwrap();
            assert!(device.ended.load(Ordering::SeqCst), "removed under an operation");
        });
        while !gate.is_closed() {
            std::thread::yield_now();
        }
        is_gone(gate.flush());
        assert!(!closer.is_finished());
        device.go.wait();
        closer.join().unwrap();
        // It had begun before, and ends as if nothing had happened.
        reader.join().unwrap().unwrap();
    });
    assert_eq!(Arc::strong_count(&device), 1);
}

#[test]
fn an_operation_cannot_remove_its_own_device() {
    let (_device, gate) = slow();
    let e = gate.write(Lba(0), &[], WriteFlags::empty()).unwrap_err();
    assert_eq!(e.kind(), Kind::Busy);
    assert!(e.to_string().contains("pmem0"), "{e}");
    assert!(!gate.is_closed());
    // An operation inside another one of the same device is no trouble.
    let mut asked = None;
    gate.extents(Lba(0), 8, &mut |_| {
        asked = Some(gate.flush().is_ok());
        true
    })
    .unwrap();
    assert_eq!(asked, Some(true));
    gate.close().unwrap();
}

#[test]
fn a_gate_offers_what_its_device_offers() {
    let (_device, gate) = slow();
    for (e, operation) in
        [(gate.bytes().err().unwrap(), "rw_bytes"), (gate.pages().err().unwrap(), "rw_page")]
    {
        assert_eq!(e.kind(), Kind::Unsupported);
        assert!(e.to_string().contains("pmem0") && e.to_string().contains(operation), "{e}");
    }
}

#[test]
fn removal_under_many_writers() {
    for round in 0..30u64 {
        let (gate, memory) = gated();
        let media = gate.bytes().unwrap().media();
        let done = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (gate, media, done) = (&gate, &media, &done);
                scope.spawn(move || {
                    loop {
                        let outcome = if thread % 2 == 0 {
                            write(&**gate, thread, &[1; 512])
                        } else {
                            media.store_u64(MediaOffset(8192 + thread * 8), round)
                        };
                        match outcome {
                            Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                            failed => break is_gone(failed),
                        };
                    }
                });
            }
            while done.load(Ordering::Relaxed) < round * 20 {
                std::thread::yield_now();
            }
            gate.close().unwrap();
            // Not later, when the writers have noticed: now.
            assert!(memory.upgrade().is_none());
        });
    }
}
