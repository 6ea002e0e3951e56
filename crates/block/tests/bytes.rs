// SPDX-License-Identifier: MIT OR Apache-2.0
//! Byte access (S1): any offset, any length, over lost bytes too; and devices that do not offer it.
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
use std::sync::Arc;

use common::{Traced, read};
use nvstack_block::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, BytesMedium, Direction, Extent, Geometry, Kind, Lba, Linear,
    MediaOffset, Page, PageState, Result, WriteFlags,
};
use nvstack_media::{Anon, Domain, Media, Part};
use proptest::prelude::*;

/// Ends in a short unit.
const SIZE: u64 = 6 * 512 + 100;
const UNITS: u64 = 7;

/// The same in the plainest way.
struct Model {
    bytes: Vec<u8>,
    bad: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, usize, u8, bool),
    Poison(u64),
}

fn unit(u: u64) -> (u64, u64) {
    (u * 512, ((u + 1) * 512).min(SIZE))
}

impl Model {
    fn new() -> Model {
        Model { bytes: vec![0; SIZE as usize], bad: BTreeSet::new() }
    }

    fn touches(&self, at: u64, len: u64) -> bool {
        self.bad.iter().any(|u| at < unit(*u).1 && at + len > unit(*u).0)
    }

    fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, Kind> {
        match (len, at.checked_add(len as u64)) {
            (0, _) => Ok(Vec::new()),
            (_, Some(end)) if end <= SIZE => {
                if self.touches(at, len as u64) {
                    return Err(Kind::Poison);
                }
                Ok(self.bytes[at as usize..end as usize].to_vec())
            }
            _ => Err(Kind::OutOfRange),
        }
    }

    fn write(&mut self, at: u64, from: &[u8], atomic: bool) -> Result<(), Kind> {
        let len = from.len() as u64;
        match (len, at.checked_add(len)) {
            (0, _) => Ok(()),
            (_, Some(end)) if end <= SIZE => {
                self.bytes[at as usize..end as usize].copy_from_slice(from);
                if !atomic {
                    self.bad.retain(|u| at > unit(*u).0 || end < unit(*u).1);
                }
                if self.touches(at, len) { Err(Kind::Poison) } else { Ok(()) }
            }
            _ => Err(Kind::OutOfRange),
        }
    }
}

/// Places near the edges of units, of words and of the medium, and beyond it.
fn place() -> impl Strategy<Value = u64> {
    let edges = (0..=UNITS).prop_map(|u| unit(u).0.min(SIZE));
    prop_oneof![
        8 => (edges, 0u64..20).prop_map(|(edge, near)| (edge + near).saturating_sub(10)),
        2 => 0..SIZE,
        1 => Just(u64::MAX),
        1 => Just(u64::MAX - 7),
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(0usize),
        Just(1),
        Just(4),
        Just(8),
        (0usize..4, 0usize..20).prop_map(|(units, near)| (units * 512 + near).saturating_sub(10)),
        0..SIZE as usize + 10,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (place(), length()).prop_map(|(at, len)| Step::Read(at, len)),
        4 => (place(), length(), any::<u8>(), any::<bool>()).prop_map(|(a, l, b, f)| Step::Write(a, l, b, f)),
        2 => (0..UNITS).prop_map(Step::Poison),
    ]
}

proptest! {
    #[test]
    fn bytes_anywhere_in_any_number_with_and_without_poison(steps in prop::collection::vec(step(), 1..60)) {
        let media = Arc::new(Traced::new(SIZE));
        let device = Linear::new("namespace0.0", media.clone(), 512, false).unwrap();
        let mut model = Model::new();
        for step in steps {
            let bytes = device.bytes().unwrap();
            match step {
                Step::Read(at, len) => {
                    let mut into = vec![0xa5; len];
                    let got = bytes.rw_bytes(MediaOffset(at), Bytes::Read(&mut into), ByteFlags::empty());
                    let outside = got.as_ref().is_err_and(|e| e.kind() == Kind::OutOfRange);
                    prop_assert!(!outside || into.iter().all(|b| *b == 0xa5));
                    prop_assert_eq!(got.map(|()| into).map_err(|e| e.kind()), model.read(at, len));
                }
                Step::Write(at, len, fill, atomic) => {
                    let from: Vec<u8> = (0..len).map(|i| fill.wrapping_add(i as u8)).collect();
                    let flags = if atomic { ByteFlags::ATOMIC } else { ByteFlags::empty() };
                    let got = bytes.rw_bytes(MediaOffset(at), Bytes::Write(&from), flags);
                    prop_assert_eq!(got.map_err(|e| e.kind()), model.write(at, &from, atomic));
                    prop_assert!(media.is_durable(), "a write returned before it was durable");
                }
                Step::Poison(u) => {
                    media.inject_poison(MediaOffset(unit(u).0), 1).unwrap();
                    model.bad.insert(u);
                }
            }
            let bad: BTreeSet<u64> = media
                .badblocks(MediaOffset(0), SIZE)
                .into_iter()
                .flat_map(|(first, count)| first..first + count)
                .collect();
            prop_assert_eq!(&bad, &model.bad);
            prop_assert_eq!(media.all(), &model.bytes[..]);
        }
    }
}

#[test]
fn every_place_near_an_edge_with_every_unit_lost_in_turn() {
    let edges: BTreeSet<u64> =
        (0..=UNITS).flat_map(|u| unit(u).0.min(SIZE).saturating_sub(2)..=unit(u).0.min(SIZE) + 2).collect();
    let media = Arc::new(Traced::new(SIZE));
    let device = Linear::new("namespace0.0", media.clone(), 512, false).unwrap();
    let lost = |mask: Option<u64>| (0..UNITS).filter(move |u| mask.is_none_or(|m| m == *u));
    // One unit, all of them, or a number that is no unit's: none.
    for mask in (0..=UNITS).map(Some).chain([None]) {
        for (&at, &end) in edges.iter().flat_map(|at| edges.range(at..).map(move |end| (at, end))) {
            for flags in [ByteFlags::empty(), ByteFlags::ATOMIC] {
                media.clear_poison(MediaOffset(0), SIZE).unwrap();
                media.zero(MediaOffset(0), SIZE).unwrap();
                media.drain().unwrap();
                let mut model = Model::new();
                for u in lost(mask) {
                    media.inject_poison(MediaOffset(unit(u).0), 1).unwrap();
                    model.bad.insert(u);
                }
                let what = format!("{at}..{end} {mask:?} {flags:?}");
                let mut into = vec![0xa5; (end - at) as usize];
                let got = device.rw_bytes(MediaOffset(at), Bytes::Read(&mut into), flags);
                assert_eq!(
                    got.map(|()| into).map_err(|e| e.kind()),
                    model.read(at, (end - at) as usize),
                    "{what}"
                );
                let from = vec![0x5a; (end - at) as usize];
                let got = device.rw_bytes(MediaOffset(at), Bytes::Write(&from), flags);
                let wanted = model.write(at, &from, flags == ByteFlags::ATOMIC);
                assert_eq!(got.map_err(|e| e.kind()), wanted, "{what}");
                let bad: BTreeSet<u64> = media
                    .badblocks(MediaOffset(0), SIZE)
                    .into_iter()
                    .flat_map(|(first, count)| first..first + count)
                    .collect();
                assert_eq!(bad, model.bad, "{what}");
                assert!(media.is_durable(), "{what}");
                assert_eq!(media.all(), model.bytes, "{what}");
            }
        }
    }
}

#[test]
fn aligned_words_move_in_one_piece_and_others_do_not_fail() {
    // A part that begins at an odd place has no aligned words at all.
    for base in [0u64, 3] {
        let memory = Arc::new(Traced::new(8192));
        let media = Part::new(memory.clone(), MediaOffset(base), 4096).unwrap();
        let device = Linear::new("d", media, 512, false).unwrap();
        for len in [4usize, 8] {
            for at in [0u64, 1, 4, 8, 12, 511, 4088] {
                let before = memory.words();
                let from: Vec<u8> = (0..len as u8).map(|i| i ^ at as u8).collect();
                device.rw_bytes(MediaOffset(at), Bytes::Write(&from), ByteFlags::empty()).unwrap();
                let mut into = vec![0; len];
                device.rw_bytes(MediaOffset(at), Bytes::Read(&mut into), ByteFlags::empty()).unwrap();
                assert_eq!(into, from);
                let aligned = base == 0 && at % len as u64 == 0;
                assert_eq!(memory.words() - before, if aligned { 2 } else { 0 }, "{base} {at} {len}");
            }
        }
    }
}

#[test]
fn a_refusal_names_the_device_and_what_lies_inside() {
    let device = Linear::new("namespace0.0", Anon::new(4096).unwrap(), 512, false).unwrap();
    let mut one = [0];
    let e = device.rw_bytes(MediaOffset(4096), Bytes::Read(&mut one), ByteFlags::empty()).unwrap_err();
    assert_eq!(e.kind(), Kind::OutOfRange);
    let text = e.to_string();
    for part in ["rw_bytes", "0x1000", "1 bytes", "bytes 0 to 4096"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_read_only_device_refuses_every_way_to_write() {
    let memory = Arc::new(Anon::new(4096).unwrap());
    let device = Linear::new("ro", memory.clone(), 512, true).unwrap();
    let e = device.rw_bytes(MediaOffset(0), Bytes::Write(&[1]), ByteFlags::empty()).unwrap_err();
    assert_eq!(e.kind(), Kind::ReadOnly);
    // What is stacked on it may not write either, though the memory below could be written.
    let media = device.bytes().unwrap().media();
    assert!(media.read_only());
    for refused in [
        media.store(MediaOffset(0), &[1]),
        media.stream(MediaOffset(0), &[1]),
        media.zero(MediaOffset(0), 512),
        media.store_u32(MediaOffset(0), 1),
        media.store_u64(MediaOffset(0), 1),
        media.clear_poison(MediaOffset(0), 512),
        media.inject_poison(MediaOffset(0), 512),
    ] {
        assert_eq!(refused.unwrap_err().kind(), Kind::ReadOnly);
    }
    let page = Page::new();
    page.lock();
    device.pages().unwrap().rw_page(0, &page, Direction::Write);
    assert_eq!(page.state(), PageState::ERROR);
    let mut all = vec![0xa5; 4096];
    memory.read(MediaOffset(0), &mut all).unwrap();
    assert!(all.iter().all(|b| *b == 0));
}

#[test]
fn a_namespace_gives_its_own_medium_to_stack_on() {
    let memory = Arc::new(Traced::new(8192));
    let device = Linear::new("namespace0.0", memory.clone(), 512, false).unwrap();
    let media = device.bytes().unwrap().media();
    assert_eq!((media.len(), media.domain(), media.name()), (8192, Domain::Cache, "traced memory".into()));
    media.store(MediaOffset(0), &[7]).unwrap();
    // The engine decides when it is durable: the store went straight to the medium.
    assert!(!memory.is_durable());
    media.persist(MediaOffset(0), 1).unwrap();
    assert!(memory.is_durable());
}

/// A device of somebody else's: block I/O, and byte access only if told so.
struct Plain(Linear<Arc<Traced>>, bool);

impl BlockDevice for Plain {
    fn name(&self) -> String {
        "plain7".into()
    }
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, at: Lba, into: &mut [std::io::IoSliceMut<'_>]) -> Result<()> {
        self.0.read(at, into)
    }
    fn write(&self, at: Lba, from: &[std::io::IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.0.write(at, from, flags)
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        self.0.write_zeroes(at, sectors, flags)
    }
    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        self.0.discard(at, sectors)
    }
    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.0.extents(at, sectors, found)
    }
    fn bytes(&self) -> Result<&dyn ByteAccess> {
        if self.1 { Ok(self) } else { Err(nvstack_block::not_offered(&self.name(), "rw_bytes")) }
    }
}

impl ByteAccess for Plain {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn rw_bytes(&self, at: MediaOffset, bytes: Bytes<'_>, flags: ByteFlags) -> Result<()> {
        self.0.rw_bytes(at, bytes, flags)
    }
    fn media(&self) -> Arc<dyn Media> {
        panic!("an adapter needs no medium")
    }
}

#[test]
fn what_a_device_does_not_offer_is_refused_by_device_and_operation() {
    let plain: Arc<dyn BlockDevice> =
        Arc::new(Plain(Linear::new("x", Arc::new(Traced::new(4096)), 512, false).unwrap(), false));
    for (refusal, operation) in [
        (plain.bytes().err().unwrap(), "rw_bytes"),
        (plain.pages().err().unwrap(), "rw_page"),
        (BytesMedium::new(plain.clone()).err().unwrap(), "rw_bytes"),
    ] {
        assert_eq!(refusal.kind(), Kind::Unsupported);
        let text = refusal.to_string();
        assert!(text.contains("plain7") && text.contains(operation), "{text}");
    }
}

#[test]
fn any_device_with_byte_access_is_a_medium() {
    let memory = Arc::new(Traced::new(SIZE));
    let device: Arc<dyn BlockDevice> =
        Arc::new(Plain(Linear::new("x", memory.clone(), 512, false).unwrap(), true));
    let media = BytesMedium::new(device.clone()).unwrap().with_domain(Domain::Memory);
    assert_eq!((media.len(), media.domain(), media.read_only()), (SIZE, Domain::Memory, false));
    assert_eq!(media.name(), "plain7");

    media.store(MediaOffset(SIZE - 3), b"end").unwrap();
    media.stream(MediaOffset(509), b"across").unwrap();
    media.store_u32(MediaOffset(4), 0x0403_0201).unwrap();
    media.store_u64(MediaOffset(1024), 0x0807_0605_0403_0201).unwrap();
    assert!(memory.is_durable());
    let all = memory.all();
    assert_eq!(&all[SIZE as usize - 3..], b"end");
    assert_eq!(&all[509..515], b"across");
    assert_eq!(&all[4..8], [1, 2, 3, 4]);
    assert_eq!(media.load_u32(MediaOffset(4)).unwrap(), 0x0403_0201);
    assert_eq!(media.load_u64(MediaOffset(1024)).unwrap(), 0x0807_0605_0403_0201);
    for refused in [media.load_u32(MediaOffset(2)).err(), media.store_u64(MediaOffset(4), 0).err()] {
        assert_eq!(refused.unwrap().kind(), Kind::Invalid);
    }
    assert_eq!(media.store(MediaOffset(SIZE - 1), &[0, 0]).unwrap_err().kind(), Kind::OutOfRange);
    assert_eq!(&memory.all()[SIZE as usize - 3..], b"end");

    // Lost units are known, and zeroing heals those that it covers whole.
    memory.inject_poison(MediaOffset(600), 1000).unwrap();
    assert_eq!(media.badblocks(MediaOffset(0), SIZE), [(1, 3)]);
    assert_eq!(media.badblocks(MediaOffset(1100), 1), [(2, 1)]);
    assert!(!media.is_poisoned(MediaOffset(0), 512));
    assert_eq!(media.read(MediaOffset(512), &mut [0]).unwrap_err().kind(), Kind::Poison);
    assert_eq!(media.zero(MediaOffset(513), 1535).unwrap_err().kind(), Kind::Poison);
    assert_eq!(media.badblocks(MediaOffset(0), SIZE), [(1, 1)]);
    assert_eq!(read(&*device, 2, 2).unwrap(), [0; 1024]);
}

#[test]
fn zeroing_through_an_adapter_heals_all_that_it_covers() {
    let memory = Arc::new(Traced::new(256 * 1024));
    let device: Arc<dyn BlockDevice> = Arc::new(Linear::new("x", memory.clone(), 512, false).unwrap());
    let media = BytesMedium::new(device).unwrap();
    memory.store(MediaOffset(0), &[7; 256 * 1024]).unwrap();
    memory.inject_poison(MediaOffset(512), 199_000).unwrap();
    media.zero(MediaOffset(100), 200_000).unwrap();
    assert!(memory.badblocks(MediaOffset(0), 256 * 1024).is_empty());
    let all = memory.all();
    assert!(all[..100].iter().chain(&all[200_100..]).all(|b| *b == 7));
    assert!(all[100..200_100].iter().all(|b| *b == 0));
}
