// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several media as one, against a plain array, byte by byte, and a set of lost units for each member.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nvstack_media::{
    Access, Anon, Concat, Domain, Error, Extent, Interleave, Kind, Mapping, Media, MediaOffset, Part, Result,
};
use proptest::prelude::*;

const UNIT: u64 = 512;

fn at(offset: u64) -> MediaOffset {
    MediaOffset(offset)
}

/// How a whole is made of members.
#[derive(Clone, Debug)]
enum Shape {
    Stripes { count: u64, granularity: u64, size: u64 },
    Sequence(Vec<u64>),
}

impl Shape {
    /// Sizes of the members.
    fn sizes(&self) -> Vec<u64> {
        match self {
            Shape::Stripes { count, size, .. } => vec![*size; *count as usize],
            Shape::Sequence(sizes) => sizes.clone(),
        }
    }

    /// Member and offset of a byte, by the words of the documentation.
    fn place(&self, byte: u64) -> (usize, u64) {
        match self {
            Shape::Stripes { count: n, granularity: g, .. } => {
                (((byte / g) % n) as usize, (byte / (g * n)) * g + byte % g)
            }
            Shape::Sequence(sizes) => {
                let mut rest = byte;
                for (member, size) in sizes.iter().enumerate() {
                    if rest < *size {
                        return (member, rest);
                    }
                    rest -= size;
                }
                unreachable!("beyond the end")
            }
        }
    }

    fn build(&self, caches: bool) -> (Vec<Arc<Anon>>, Box<dyn Media>) {
        let make = |size: u64| {
            let memory = Anon::new(size).unwrap();
            Arc::new(if caches { memory.assume_cache() } else { memory })
        };
        let members: Vec<_> = self.sizes().into_iter().map(make).collect();
        let whole: Box<dyn Media> = match self {
            Shape::Stripes { granularity, .. } => {
                Box::new(Interleave::new(members.clone(), *granularity).unwrap())
            }
            Shape::Sequence(_) => Box::new(Concat::new(members.clone()).unwrap()),
        };
        (members, whole)
    }
}

/// The same, one byte and one unit at a time.
struct Model {
    shape: Shape,
    bytes: Vec<u8>,
    lost: BTreeSet<(usize, u64)>,
}

impl Model {
    fn new(shape: &Shape) -> Model {
        let len = shape.sizes().iter().sum::<u64>();
        Model { shape: shape.clone(), bytes: vec![0; len as usize], lost: BTreeSet::new() }
    }

    /// The members' units that a range touches, and whether it covers each.
    fn units(&self, from: u64, len: u64) -> Vec<((usize, u64), bool)> {
        let mut covered = std::collections::BTreeMap::new();
        for byte in from..from + len {
            let (member, offset) = self.shape.place(byte);
            *covered.entry((member, offset / UNIT)).or_insert(0) += 1;
        }
        let sizes = self.shape.sizes();
        let whole = |(member, unit): (usize, u64)| ((unit + 1) * UNIT).min(sizes[member]) - unit * UNIT;
        covered.into_iter().map(|(unit, bytes)| (unit, bytes == whole(unit))).collect()
    }

    fn is_lost(&self, from: u64, len: u64) -> bool {
        (from..from + len).any(|byte| {
            let (member, offset) = self.shape.place(byte);
            self.lost.contains(&(member, offset / UNIT))
        })
    }

    fn badblocks(&self, from: u64, len: u64) -> Vec<(u64, u64)> {
        let size = self.bytes.len() as u64;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let stop = from.saturating_add(len).min(size);
        if from >= stop {
            return runs;
        }
        for unit in from / UNIT..stop.div_ceil(UNIT) {
            if self.is_lost(unit * UNIT, ((unit + 1) * UNIT).min(size) - unit * UNIT) {
                match runs.last_mut() {
                    Some((first, count)) if *first + *count == unit => *count += 1,
                    _ => runs.push((unit, 1)),
                }
            }
        }
        runs
    }

    /// What a store of a range does to poison; whether some stays.
    fn heal(&mut self, from: u64, len: u64) -> bool {
        for (unit, _) in self.units(from, len).into_iter().filter(|(_, whole)| *whole) {
            self.lost.remove(&unit);
        }
        self.is_lost(from, len)
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Store,
    Stream,
    Zero,
    Read,
    Words,
    Inject,
    Clear,
    Look,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let stripes = (1u64..6, 6u32..13, 1u64..4).prop_map(|(count, shift, lines)| Shape::Stripes {
        count,
        granularity: 1 << shift,
        size: lines * (1u64 << shift).max(4096),
    });
    // Sizes that are no multiple of a unit, but the last may be anything.
    let sequence = (prop::collection::vec((1u64..800).prop_map(|n| n * 8), 0..4), 1u64..3000).prop_map(
        |(mut sizes, last)| {
            sizes.push(last);
            Shape::Sequence(sizes)
        },
    );
    prop_oneof![3 => stripes, 2 => sequence]
}

fn steps() -> impl Strategy<Value = Vec<(Op, u64, u64, bool, u8)>> {
    let op = prop_oneof![
        Just(Op::Store),
        Just(Op::Stream),
        Just(Op::Zero),
        Just(Op::Read),
        Just(Op::Words),
        Just(Op::Inject),
        Just(Op::Clear),
        Just(Op::Look),
    ];
    prop::collection::vec((op, any::<u64>(), 0u64..9000, any::<bool>(), any::<u8>()), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn equals_an_array(shape in shapes(), caches in any::<bool>(), steps in steps()) {
        let (members, whole) = shape.build(caches);
        let mut model = Model::new(&shape);
        let size = model.bytes.len() as u64;
        prop_assert_eq!(whole.len(), size);
        for (op, from, len, aligned, seed) in steps {
            // Half of the ranges begin and end on units, where lost ones are healed.
            let mut from = from % (size + 1);
            let mut len = len.min(size - from);
            if aligned {
                (from, len) = (from / UNIT * UNIT, len.next_multiple_of(UNIT));
                len = len.min(size - from);
            }
            let range = from as usize..(from + len) as usize;
            match op {
                Op::Store | Op::Stream | Op::Zero => {
                    let bytes: Vec<u8> = match op {
                        Op::Zero => vec![0; len as usize],
                        _ => (0..len).map(|n| (n as u8).wrapping_mul(7).wrapping_add(seed)).collect(),
                    };
                    model.bytes[range].copy_from_slice(&bytes);
                    let lost = model.heal(from, len);
                    let done = match op {
                        Op::Store => whole.store(at(from), &bytes),
                        Op::Stream => whole.stream(at(from), &bytes),
                        _ => whole.zero(at(from), len),
                    };
                    prop_assert_eq!(done.map_err(|e| e.kind()), if lost { Err(Kind::Poison) } else { Ok(()) });
                    whole.persist(at(from), len).unwrap();
                }
                Op::Read => {
                    let mut bytes = vec![0xee; len as usize];
                    let done = whole.read(at(from), &mut bytes).map_err(|e| e.kind());
                    if model.is_lost(from, len) {
                        prop_assert_eq!(done, Err(Kind::Poison));
                    } else {
                        prop_assert_eq!(done, Ok(()));
                        prop_assert_eq!(bytes, &model.bytes[range]);
                    }
                }
                Op::Words if size >= 8 => {
                    let word = (from / 8 * 8).min(size / 8 * 8 - 8);
                    let value = u64::from(seed).wrapping_mul(0x0101_0203_0507_0b0d);
                    let half = word + u64::from(seed & 1) * 4;
                    let lost = model.is_lost(word, 8);
                    let kind = if lost { Err(Kind::Poison) } else { Ok(()) };
                    prop_assert_eq!(whole.store_u64(at(word), value).map_err(|e| e.kind()), kind);
                    prop_assert_eq!(whole.store_u32(at(half), 0x9988_7766).map_err(|e| e.kind()), kind);
                    let bytes = &mut model.bytes;
                    bytes[word as usize..][..8].copy_from_slice(&value.to_le_bytes());
                    bytes[half as usize..][..4].copy_from_slice(&0x9988_7766u32.to_le_bytes());
                    let now = u64::from_le_bytes(bytes[word as usize..][..8].try_into().unwrap());
                    let loaded = (whole.load_u64(at(word)), whole.load_u32(at(half)));
                    if lost {
                        prop_assert!(loaded.0.is_err() && loaded.1.is_err());
                    } else {
                        prop_assert_eq!((loaded.0.unwrap(), loaded.1.unwrap()), (now, 0x9988_7766));
                    }
                    prop_assert_eq!(whole.load_u64(at(word + 4)).unwrap_err().kind() == Kind::OutOfRange, word + 12 > size);
                }
                Op::Words => {}
                Op::Inject => {
                    let len = len.min(1 + u64::from(seed) * 8);
                    model.lost.extend(model.units(from, len).into_iter().map(|(unit, _)| unit));
                    whole.inject_poison(at(from), len).unwrap();
                }
                Op::Clear => {
                    model.heal(from, len);
                    whole.clear_poison(at(from), len).unwrap();
                }
                Op::Look => {
                    prop_assert_eq!(whole.badblocks(at(from), len), model.badblocks(from, len));
                    prop_assert_eq!(whole.is_poisoned(at(from), len), model.is_lost(from, len));
                }
            }
            prop_assert_eq!(whole.badblocks(at(0), u64::MAX), model.badblocks(0, u64::MAX));
        }
        // The members hold each byte where the documentation says.
        members.iter().for_each(|m| m.clear_poison(at(0), m.len()).unwrap());
        let bytes: Vec<Vec<u8>> = members.iter().map(|m| read(m, 0, m.len())).collect();
        for byte in 0..size {
            let (member, offset) = shape.place(byte);
            prop_assert_eq!(bytes[member][offset as usize], model.bytes[byte as usize], "byte {}", byte);
        }
    }
}

fn read(medium: &dyn Media, from: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    medium.read(at(from), &mut bytes).unwrap();
    bytes
}

/// Memory whose drain can be made to fail, and which counts.
struct Failing {
    memory: Anon,
    domain: Domain,
    read_only: bool,
    fails: AtomicBool,
    drains: AtomicU32,
    flushed: AtomicU32,
}

impl Failing {
    fn new(domain: Domain) -> Failing {
        let memory = Anon::new(8192).unwrap();
        let (fails, drains, flushed) = Default::default();
        Failing { memory, domain, read_only: false, fails, drains, flushed }
    }
}

impl Media for Failing {
    fn len(&self) -> u64 {
        self.memory.len()
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn domain(&self) -> Domain {
        self.domain
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.memory.read(at, into)
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.memory.store(at, from)
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.memory.stream(at, from)
    }
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.memory.zero(at, len)
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.memory.load_u32(at)
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.memory.store_u32(at, value)
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.memory.load_u64(at)
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.memory.store_u64(at, value)
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.flushed.fetch_add(len as u32, Ordering::Relaxed);
        self.memory.flush(at, len)
    }
    fn drain(&self) -> Result<()> {
        self.drains.fetch_add(1, Ordering::Relaxed);
        match self.fails.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Io, "msync").path("broken.img")),
            false => Ok(()),
        }
    }
    fn badblocks(&self, _: MediaOffset, _: u64) -> Vec<(u64, u64)> {
        Vec::new()
    }
    fn name(&self) -> String {
        "failing".into()
    }
}

#[test]
fn a_drain_that_fails_on_one_member_fails_and_so_does_what_comes_after() {
    let members: Vec<Failing> = (0..3).map(|_| Failing::new(Domain::PageCache)).collect();
    let whole = Interleave::new(members, 256).unwrap();
    whole.persist(at(0), 768).unwrap();
    whole.members()[1].fails.store(true, Ordering::Relaxed);
    let e = whole.drain().unwrap_err();
    assert_eq!(e.to_string(), "broken.img: msync");
    // Every member was tried all the same.
    assert!(whole.members().iter().all(|m| m.drains.load(Ordering::Relaxed) == 2));
    // Byte 0 lies on another member.
    assert_eq!(whole.store(at(0), b"x").unwrap_err().kind(), Kind::Io);
    assert_eq!(whole.stream(at(0), b"x").unwrap_err().kind(), Kind::Io);
    assert_eq!(whole.zero(at(0), 1).unwrap_err().kind(), Kind::Io);
    assert_eq!(whole.store_u32(at(0), 1).unwrap_err().kind(), Kind::Io);
    assert_eq!(whole.store_u64(at(0), 1).unwrap_err().kind(), Kind::Io);
    assert_eq!(read(&whole, 0, 1), [0], "nothing is moved");
    assert_eq!(whole.drain().unwrap_err().kind(), Kind::Io);
}

#[test]
fn a_flush_goes_to_the_members_that_are_touched() {
    let whole = Interleave::new((0..3).map(|_| Failing::new(Domain::Cache)).collect(), 256).unwrap();
    // From the middle of the last line of a row over a whole row.
    whole.flush(at(600), 168 + 768 + 10).unwrap();
    let flushed: Vec<u32> = whole.members().iter().map(|m| m.flushed.load(Ordering::Relaxed)).collect();
    assert_eq!(flushed, [266, 256, 424]);
}

#[test]
fn the_weakest_member_decides() {
    let of = |domains: &[Domain]| {
        let members: Vec<Failing> = domains.iter().map(|d| Failing::new(*d)).collect();
        Concat::new(members).unwrap().domain()
    };
    assert_eq!(of(&[Domain::Cache, Domain::Cache]), Domain::Cache);
    assert_eq!(of(&[Domain::Cache, Domain::Memory]), Domain::Memory);
    assert_eq!(of(&[Domain::PageCache, Domain::Memory]), Domain::PageCache);
    assert_eq!(of(&[Domain::Memory, Domain::PageCache, Domain::Cache]), Domain::PageCache);

    let mut members = vec![Failing::new(Domain::Cache), Failing::new(Domain::Cache)];
    members[1].read_only = true;
    let whole = Interleave::new(members, 4096).unwrap();
    assert!(whole.read_only());
    // Byte 0 is on a member that would take it.
    assert_eq!(whole.store(at(0), b"x").unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(read(&whole, 0, 1), [0]);
}

#[test]
fn what_cannot_be_joined_is_refused() {
    let memory = |sizes: &[u64]| sizes.iter().map(|s| Anon::new(*s).unwrap()).collect::<Vec<_>>();
    for (sizes, granularity, words) in [
        (&[][..], 256, "found no member, accepted 1 or more"),
        (&[4096], 0, "found lines of 0 bytes, accepted a power of two, 64 or more"),
        (&[4096], 32, "found lines of 32 bytes"),
        (&[4096], 192, "found lines of 192 bytes"),
        (&[4096, 8192], 256, "found 8192 bytes, accepted members of one size, a multiple of 256"),
        (&[4096 + 64, 4096 + 64], 256, "found 4160 bytes"),
    ] {
        let e = Interleave::new(memory(sizes), granularity).unwrap_err();
        assert!(e.kind() == Kind::Invalid && e.to_string().contains(words), "{e}");
    }
    assert_eq!(Concat::<Anon>::new(Vec::new()).unwrap_err().kind(), Kind::Invalid);
    let e = Concat::new(memory(&[4100, 4096])).unwrap_err();
    assert!(e.to_string().contains("found 4096 bytes after 4100, accepted"), "{e}");
    Concat::new(memory(&[4096, 4100])).unwrap();
}

#[test]
fn out_of_range_moves_nothing_and_names_the_whole() {
    let whole = Interleave::new(vec![Anon::new(4096).unwrap(), Anon::new(4096).unwrap()], 256).unwrap();
    let e = whole.store(at(8190), b"four").unwrap_err();
    assert_eq!(
        e.to_string(),
        "an interleave of 256 bytes over memory of 4096 bytes, memory of 4096 bytes: store at offset 0x1ffe: \
         found 4 bytes, accepted bytes 0 to 8192"
    );
    assert_eq!(read(&whole, 8190, 2), [0, 0]);
    assert_eq!(whole.read(at(u64::MAX), &mut [0; 2]).unwrap_err().kind(), Kind::OutOfRange);
    whole.store(at(8192), b"").unwrap();
    whole.zero(at(8192), 0).unwrap();
    whole.flush(at(8192), 0).unwrap();
    assert_eq!(whole.badblocks(at(8192), 5), []);
}

#[test]
fn a_word_must_be_aligned_even_where_the_member_would_take_it() {
    let memory = Anon::new(8192).unwrap();
    // Offset 4 here is a multiple of 8 there; a word at 252 would run over the line.
    let parts: Vec<_> = [4, 4100].map(|base| Part::new(&memory, at(base), 4096 - 256).unwrap()).into();
    let whole = Interleave::new(parts, 256).unwrap();
    assert_eq!(whole.load_u64(at(252)).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(whole.store_u64(at(252), 0).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn poison_spreads_where_lines_are_shorter_than_a_unit() {
    let members: Vec<Arc<Anon>> = (0..2).map(|_| Arc::new(Anon::new(4096).unwrap())).collect();
    let whole = Interleave::new(members.clone(), 256).unwrap();
    assert_eq!(whole.clear_unit(), 1024);
    // Byte 512 is byte 256 of member 0, whose unit 0 is also bytes 0 to 255 of the whole.
    whole.inject_poison(at(512), 1).unwrap();
    assert_eq!(members[0].badblocks(at(0), 4096), [(0, 1)]);
    assert_eq!(whole.badblocks(at(0), 8192), [(0, 2)]);
    assert!(whole.is_poisoned(at(0), 256) && !whole.is_poisoned(at(256), 256));
    // A unit of the whole heals nothing, as it covers no unit of a member; what `clear_unit` says does.
    let e = whole.store(at(512), &[1; 512]).unwrap_err();
    assert_eq!((e.kind(), e.offset()), (Kind::Poison, Some(at(0))));
    whole.store(at(0), &[1; 1024]).unwrap();
    assert_eq!(whole.badblocks(at(0), 8192), []);
    assert_eq!(Interleave::new(members, 4096).unwrap().clear_unit(), 512);
}

#[test]
fn files_stay_sparse_and_holes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let path = dir.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
        Mapping::open(path, Access::ReadWrite).unwrap()
    };
    let whole = Interleave::new(vec![open("a"), open("b")], 4096).unwrap();
    let hole = |from, len| Extent { at: at(from), len, hole: true };
    let data = |from, len| Extent { at: at(from), len, hole: false };
    assert_eq!(whole.extent(at(100), 1000).unwrap(), hole(100, 1000));
    assert_eq!(whole.extent(at(0), 16 << 20).unwrap(), hole(0, 16 << 20));

    whole.store(at(1 << 20), &[1; 4096]).unwrap();
    whole.drain().unwrap();
    let found = whole.extent(at(0), 16 << 20).unwrap();
    assert!(found.hole && found.len <= 1 << 20 && found.len >= 1 << 19, "{found:?}");
    let found = whole.extent(at(1 << 20), 4096).unwrap();
    assert_eq!(found, data(1 << 20, 4096));
    // The line beside it lies on the other member, which has nothing.
    assert_eq!(whole.extent(at((1 << 20) + 4096), 4096).unwrap(), hole((1 << 20) + 4096, 4096));
    // A range on both is data, as far as any member has some.
    let found = whole.extent(at(1 << 20), 8 << 20).unwrap();
    assert!(!found.hole && (4096..=1 << 20).contains(&found.len), "{found:?}");

    let blocks = || -> u64 {
        ["a", "b"].map(|n| std::fs::metadata(dir.path().join(n)).unwrap().blocks()).iter().sum()
    };
    whole.stream(at(0), &vec![7; 4 << 20]).unwrap();
    whole.drain().unwrap();
    let full = blocks();
    whole.zero(at(4096), (4 << 20) - 8192).unwrap();
    whole.drain().unwrap();
    assert!(blocks() * 8 < full, "{} of {full} blocks are left", blocks());
    assert_eq!(read(&whole, 0, 4097)[4095..], [7, 0]);
}
