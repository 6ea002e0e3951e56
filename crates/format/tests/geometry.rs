// SPDX-License-Identifier: MIT OR Apache-2.0
//! Geometry of any size against the formulas as the documents have them, in numbers that cannot overflow; and that what is written
//! is what is read.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use nvstack_format::btt::{
    ARENA_MAX, ARENA_MIN, ArenaLayout, FlogRecord, Info, LbaSize, Padding, Span, Version, detect_padding,
    fresh_flog, judge, split,
};
use nvstack_format::label::{self, AreaLayout, Index};
use nvstack_format::pfn::{self, Descriptor, Geometry, Kind, Mode, PageFlags, PageId, Place, Stored};
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

const GIB: u64 = 1 << 30;

fn up(n: u128, to: u128) -> u128 {
    n.div_ceil(to) * to
}

fn sizes() -> impl Strategy<Value = u64> {
    let near = |n: u64| (n.saturating_sub(9000)..n + 9000).boxed();
    prop_oneof![
        near(ARENA_MIN),
        near(ARENA_MAX),
        near(1 << 32),
        ARENA_MIN..=ARENA_MAX,
        ARENA_MIN..64 * ARENA_MIN
    ]
}

fn lbasizes() -> impl Strategy<Value = LbaSize> {
    select(LbaSize::ALL.to_vec())
}

/// What a power cut can leave in a lane's first two records, and nothing else.
fn pairs() -> impl Strategy<Value = ([FlogRecord; 2], usize)> {
    (any::<[u32; 6]>(), 1u32..4, any::<bool>()).prop_map(|([a, b, c, d, e, f], seq, second)| {
        let next = seq % 3 + 1;
        let old = FlogRecord { lba: a, old_map: b, new_map: c, seq };
        let new = FlogRecord { lba: d, old_map: e, new_map: f, seq: next };
        if second { ([old, new], 1) } else { ([new, old], 0) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// UEFI, "BTT layout": media-layout of an arena of any size.
    #[test]
    fn an_arena_is_what_the_formulas_say(size in sizes(), lbasize in lbasizes()) {
        let found = ArenaLayout::compute(size, lbasize, 0);
        if !(ARENA_MIN..=ARENA_MAX).contains(&size) {
            prop_assert!(found.is_err());
            return Ok(());
        }
        let layout = found.unwrap();
        let external = u128::from(lbasize.external());
        let internal = up(external, 64);
        let whole = u128::from(size) / 4096 * 4096;
        let flog = up(256 * 64, 4096);
        let room = whole - 2 * 4096 - flog;
        let blocks = (room - 4096) / (internal + 4);
        let map = up((blocks - 256) * 4, 4096);
        let wanted = [blocks, blocks - 256, internal, 4096, 4096 + room - map, 4096 + room, 4096 + room + flog];
        let said: [u128; 7] = [
            layout.internal_nlba.into(),
            layout.external_nlba.into(),
            layout.lbasize.internal().into(),
            layout.dataoff.into(),
            layout.mapoff.into(),
            layout.logoff.into(),
            layout.info2off.into(),
        ];
        prop_assert_eq!(said, wanted);
        let info = Info {
            uuid: Uuid::from_u128(1),
            parent: Uuid::nil(),
            flags: 0,
            version: Version::V1_1,
            layout,
        };
        prop_assert_eq!(Info::parse(&info.encode(), Version::V1_1, Uuid::nil(), size), Ok(info));
    }

    #[test]
    fn arenas_follow_one_another_and_leave_no_room_for_another(raw in prop_oneof![sizes(), 0..5000 * GIB]) {
        let mut end = 0;
        let spans: Vec<Span> = split(raw).collect();
        for (number, span) in spans.iter().enumerate() {
            prop_assert_eq!(span.offset, end);
            prop_assert!((ARENA_MIN..=ARENA_MAX).contains(&span.size));
            let last = number + 1 == spans.len();
            prop_assert_eq!(span.nextoff, if last { 0 } else { span.size });
            prop_assert!(last || span.size == ARENA_MAX);
            end += span.size;
        }
        prop_assert!(end <= raw && raw - end < ARENA_MIN);
    }

    #[test]
    fn a_new_flog_and_one_in_use_are_read_as_written((pair, current) in pairs(), old_kind in any::<bool>(), lane in 0u32..256) {
        let layout = ArenaLayout::compute(ARENA_MIN, LbaSize::new(4096).unwrap(), 0).unwrap();
        let fresh = fresh_flog(&layout, lane);
        prop_assert_eq!(detect_padding([fresh]), Ok(Padding::New));
        let state = judge(Padding::New.pick(fresh)).unwrap();
        prop_assert_eq!((state.current, state.record.old().0, state.next_seq), (0, layout.external_nlba + lane, 2));

        let zero = FlogRecord::default();
        let [a, b] = pair.map(|record| FlogRecord::from_halves(record.halves()));
        prop_assert_eq!([a, b], pair);
        let (group, kind) = if old_kind { ([a, zero, b, zero], Padding::Old) } else { ([a, b, zero, zero], Padding::New) };
        prop_assert_eq!(detect_padding([fresh, group, fresh]), Ok(kind));
        let state = judge(kind.pick(group)).unwrap();
        prop_assert_eq!((state.current, state.record), (current, pair[current]));
        prop_assert_eq!(state.next_seq, pair[current].seq % 3 + 1);
    }

    #[test]
    fn a_label_area_is_what_the_formulas_say(size in prop_oneof![1024u64..5000, 1024u64..8 << 20, 0..=u64::from(u32::MAX)]) {
        for version in label::Version::ALL {
            let found = AreaLayout::compute(size, version);
            if size < 1024 {
                prop_assert!(found.is_err());
                continue;
            }
            let layout = found.unwrap();
            let label = u128::from(version.label_len());
            let index = |slots: u128| up(72 + slots.div_ceil(8), 256);
            let slots = (u128::from(size) - 2 * index(u128::from(size) / label)) / label;
            prop_assert_eq!((u128::from(layout.slots), u128::from(layout.index_len)), (slots, index(slots)));
            prop_assert!(layout.slots >= 2 && 2 * index(slots) + slots * label <= size.into());
            prop_assert_eq!(layout.slot(layout.slots), None);
            if size < 1 << 20 {
                for number in [0, 1] {
                    let block = Index::fresh(layout, number, 2);
                    prop_assert_eq!(Index::parse(&block.encode(), &layout, number), Ok(block));
                }
            }
        }
    }

    /// Linux `nd_pfn_init`.
    #[test]
    fn an_fsdax_is_what_the_formulas_say(
        start in prop_oneof![Just(None), (0u64..1 << 20).prop_map(|n| Some(n << 21))],
        size in prop_oneof![8192u64..1 << 24, (1u64..1 << 28).prop_map(|n| n << 12), Just(3 * GIB)],
        mode in select(vec![Mode::Ram, Mode::Pmem]),
        align in select(pfn::ALIGNMENTS.to_vec()),
        kind in select(vec![Kind::Fsdax, Kind::Devdax]),
        ids in any::<[u128; 2]>(),
    ) {
        let place = Place { start, size };
        let (from, wide) = (u128::from(start.unwrap_or(0)), u128::from(size));
        let unit = u128::from(align).max(2 << 20);
        let map = if mode == Mode::Pmem { 64 * ((wide - 8192) / 4096) } else { 0 };
        let dataoff = up(from + 8192 + map, unit) - from;
        let end_trunc = (from + wide) % unit;
        match Geometry::compute(place, mode, align) {
            Ok(found) => {
                let wanted = [dataoff, end_trunc, (wide - end_trunc - dataoff) / 4096, 0];
                let said: [u128; 4] = [found.dataoff.into(), found.end_trunc.into(), found.npfns.into(), found.start_pad.into()];
                prop_assert_eq!(said, wanted);
                let [uuid, parent] = ids.map(Uuid::from_u128);
                let info = pfn::Info::new(kind, uuid, parent, mode, found);
                prop_assert_eq!(pfn::Info::parse(&info.encode(), kind, parent, place), Ok(info));
            }
            Err(_) => prop_assert!(dataoff + end_trunc >= wide),
        }
    }

    /// A change that ends before its word is stored is none; after it, it is what was set, and nobody else's.
    #[test]
    fn a_descriptor_is_the_old_or_the_new_one(
        said in prop::collection::vec(any::<(u32, u32, u64, u64)>(), 1..6),
        cut in 0usize..25,
        namespace in any::<u128>(),
        pfn in any::<u64>(),
    ) {
        let id = PageId { namespace: Uuid::from_u128(namespace), pfn };
        let mut bytes = [0u8; 64];
        let mut stored = Stored::parse(&bytes, id);
        prop_assert_eq!(stored, Stored::Fresh);
        for (flags, references, owner, generation) in said {
            let flags = PageFlags::from_bits_retain(flags);
            let descriptor = Descriptor { flags, references, owner, generation };
            let change = stored.change(descriptor, id);
            let at = usize::try_from(change.at).unwrap();
            let cut = cut.min(change.version.len());
            bytes[at..at + cut].copy_from_slice(&change.version[..cut]);
            prop_assert_eq!(Stored::parse(&bytes, id), stored);
            bytes[at..at + change.version.len()].copy_from_slice(&change.version);
            bytes[..8].copy_from_slice(&change.word.to_le_bytes());
            stored = Stored::parse(&bytes, id);
            let Stored::Set { descriptor: found, .. } = stored else { panic!("{stored:?}") };
            prop_assert_eq!(found, descriptor);
            let other = PageId { pfn: pfn ^ 1, ..id };
            prop_assert_eq!(Stored::parse(&bytes, other), Stored::Unknown);
        }
    }
}
