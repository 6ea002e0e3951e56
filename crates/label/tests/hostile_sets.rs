// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels that say anything, on several DIMMs: no two namespaces share a byte, none lies over a label of another one, and
//! whatever is written is found again beside what stood.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashSet;

use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Cookies, Dpa};
use nvstack_label::{
    Assembled, Finding, LabelArea, LabelSet, Member, NamespaceLabel, SetArea, SetNamespace, Slot, assemble,
};
use nvstack_media::{Anon, Media, MediaOffset};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

const COOKIES: Cookies = Cookies { v1_1: 11, v1_2: 12, alternative: 13 };

/// Labels that mostly could be, in a mapping of bytes 10 to 110.
fn any_label(ways: u16) -> impl Strategy<Value = Label> {
    let edge = select(vec![0, 1, 10, 20, 30, 40, 50, 100, 109, 110, 111, 200, u64::MAX]);
    let near = 1u64..12;
    let place = (
        prop_oneof![4 => near.clone().prop_map(|n| n * 10), 1 => edge.clone()],
        prop_oneof![
            4 => select(vec![10u64, 10, 10, 20, 100]),
            1 => edge
        ],
    );
    let kind = (
        1u8..5,
        prop_oneof![8 => Just(0u32), 4 => Just(8), 1 => Just(2), 1 => any::<u32>()],
        prop_oneof![8 => Just(ways), 1 => 0..4u16],
        prop_oneof![6 => Just(None), 1 => (0..4u16).prop_map(Some)],
        prop_oneof![8 => Just(12u64), 1 => 10..15u64],
        prop_oneof![9 => Just(guid::PERSISTENT_MEMORY), 1 => Just(Uuid::nil())],
    );
    (place, kind).prop_map(move |((dpa, rawsize), (id, flags, nlabel, position, isetcookie, type_guid))| {
        Label {
            uuid: Uuid::from_bytes([id; 16]),
            name: Name::new(&format!("n{id}")).unwrap(),
            flags: Flags::from_bits_retain(flags),
            nlabel,
            position: position.unwrap_or(u16::MAX),
            isetcookie,
            lbasize: 512,
            dpa: Dpa(dpa),
            rawsize,
            slot: 0,
            align: 0,
            type_guid,
            abstraction: Uuid::nil(),
        }
    })
}

fn any_dimms() -> impl Strategy<Value = Vec<Vec<Label>>> {
    (1u16..4).prop_flat_map(|ways| {
        let dimms: Vec<_> = (0..ways).map(|_| vec(any_label(ways), 0..5)).collect();
        // Half of the time all DIMMs start from the same labels, so that whole sets are met.
        (vec(any_label(ways), 0..4), any::<bool>(), dimms).prop_map(|(same, shared, mut dimms)| {
            for (position, labels) in (0..).zip(&mut dimms) {
                if shared {
                    labels.truncate(1);
                    labels.splice(0..0, same.iter().copied());
                }
                for (slot, label) in (0..).zip(labels.iter_mut()) {
                    label.slot = slot;
                    if label.position == u16::MAX {
                        label.position = position;
                    }
                }
            }
            dimms
        })
    })
}

/// What must hold of every outcome.
fn sound(members: &[Member], found: &Assembled) {
    let ways = u64::try_from(members.len()).unwrap();
    let mut end = 0;
    let mut uuids = HashSet::new();
    for namespace in &found.namespaces {
        // One whose replacement was cut has some labels of other uuids, of which no other one has any.
        for label in namespace.labels.iter().filter(|l| l.uuid != namespace.uuid) {
            let others = found.namespaces.iter().filter(|n| n.labels.iter().any(|l| l.uuid == label.uuid));
            assert!(namespace.half_way && others.count() == 1, "{found:?}");
        }
        assert!(namespace.start >= end && namespace.size > 0, "{found:?}");
        end = namespace.start + namespace.size;
        assert!(uuids.insert(namespace.uuid) && namespace.labels.len() == members.len());
        let (from, to) = (namespace.start / ways, end / ways);
        for (member, own) in members.iter().zip(&namespace.labels) {
            for label in member.slots.iter().filter_map(|slot| slot.label.as_ref().ok()) {
                let (start, end) =
                    (label.dpa.0.max(member.start.0), label.end().0.min(member.start.0 + member.size));
                let (start, end) = (start - member.start.0.min(start), end.saturating_sub(member.start.0));
                assert!(
                    label.uuid == namespace.uuid
                        || label.uuid == own.uuid
                        || end <= from
                        || start >= to
                        || start >= end,
                    "{namespace:?} over {label:?}"
                );
            }
        }
        let mut own = found.findings.iter().filter(|f| f.uuid == Some(namespace.uuid));
        let half_way = own.any(|f| f.kind.is_usable());
        assert_eq!(half_way, namespace.half_way);
    }
    assert!(end <= found.size);
    // A namespace is in reserved bytes; whoever is refused is told.
    let free = found.free();
    for namespace in &found.namespaces {
        assert!(free.iter().all(|f| f.end <= namespace.start || f.start >= namespace.start + namespace.size));
    }
    for (dimm, member) in members.iter().enumerate() {
        for label in member.slots.iter().filter_map(|slot| slot.label.as_ref().ok()) {
            let told =
                |f: &Finding| f.uuid == Some(label.uuid) || (f.dimm, f.slot) == (dimm, Some(label.slot));
            let inside = label.dpa >= member.start && label.dpa.0 < member.start.0 + member.size;
            assert!(
                !inside || uuids.contains(&label.uuid) || found.findings.iter().any(told),
                "nothing is told of {label:?}"
            );
        }
    }
}

fn member(labels: &[Label]) -> Member {
    let slots = labels.iter().map(|label| Slot { number: label.slot, label: Ok(*label) }).collect();
    Member { version: Some(Version::V1_2), slots, start: Dpa(10), size: 100 }
}

/// An area with just these labels in use, whatever they say.
fn area(labels: &[Label]) -> LabelArea<Anon> {
    let mut area = LabelArea::init(Anon::new(4096).unwrap(), Version::V1_2).unwrap();
    // Good labels take the slots; then what is in those is replaced.
    for i in 0..u8::try_from(labels.len()).unwrap() {
        let uuid = Uuid::from_bytes([i + 100; 16]);
        let label = Label { uuid, dpa: Dpa(u64::from(i)), rawsize: 1, nlabel: 1, position: 0, ..labels[0] };
        let label = Label { type_guid: guid::PERSISTENT_MEMORY, flags: Flags::empty(), ..label };
        area.write_namespace(&label).unwrap();
    }
    let slots: Vec<u32> = area.slots().unwrap().iter().map(|slot| slot.number).collect();
    for (label, slot) in labels.iter().zip(slots) {
        let at = area.slot_offset(slot).unwrap();
        area.media().store(at, &Label { slot, ..*label }.encode(Version::V1_2)).unwrap();
    }
    area
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_served_twice(dimms in any_dimms()) {
        let members: Vec<Member> = dimms.iter().map(|labels| member(labels)).collect();
        sound(&members, &assemble(&members, &COOKIES));
    }

    #[test]
    fn changes_are_found_again_or_refused(
        dimms in any_dimms(),
        changes in vec((0u8..4, 1u8..6, 0u64..10, 1u64..4, 1u8..6), 1..6),
    ) {
        let ways = u64::try_from(dimms.len()).unwrap();
        let mut areas: Vec<LabelArea<Anon>> = dimms.iter().map(|labels| area(labels)).collect();
        for (what, id, at, len, replaced) in changes {
            let uuid = Uuid::from_bytes([id; 16]);
            let bytes = |areas: &[LabelArea<Anon>]| -> Vec<Vec<u8>> {
                areas.iter().map(|area| {
                    let mut bytes = vec![0; 4096];
                    area.media().read(MediaOffset(0), &mut bytes).unwrap();
                    bytes
                }).collect()
            };
            let before = bytes(&areas);
            let members = areas.iter_mut().map(|area| SetArea { area, start: Dpa(10), size: 100 }).collect();
            let mut set = LabelSet::new(members, COOKIES).unwrap();
            let old = set.assemble().unwrap();
            let written = NamespaceLabel {
                uuid,
                name: Name::new("written").unwrap(),
                class: ClaimClass::Btt2,
                lbasize: 0,
                start: at * 10 * ways,
                size: len * 10 * ways,
            };
            let replaced = Uuid::from_bytes([replaced; 16]);
            let outcome = match what {
                0 => set.write(&written),
                3 => set.write_as(Some(replaced), &written),
                1 => set.delete(uuid),
                _ => set.settle(uuid).map(drop),
            };
            let new = set.assemble().unwrap();
            let own = |found: &Assembled| found.namespaces.iter().find(|n| n.uuid == uuid).cloned();
            match (&outcome, what) {
                (Ok(()), 0 | 3) => {
                    let own = own(&new).unwrap();
                    prop_assert!(what == 0 || replaced == uuid || new.namespaces.iter().all(|n| n.uuid != replaced));
                    prop_assert_eq!((own.start, own.size), (at * 10 * ways, len * 10 * ways));
                    prop_assert!(own.class == ClaimClass::Btt2 && !own.half_way);
                }
                (Ok(()), 1) => prop_assert!(own(&new).is_none()),
                (Ok(()), _) => {
                    let stood_in = old.namespaces.iter().find(|n| n.labels.iter().any(|l| l.uuid == uuid));
                    let uuid = stood_in.map_or(uuid, |n| n.uuid);
                    prop_assert!(new.namespaces.iter().any(|n| n.uuid == uuid && !n.half_way));
                }
                (Err(e), _) => {
                    prop_assert!(before == bytes(&areas), "written all the same: {}", e);
                    continue;
                }
            }
            // The others are as they were, but for those that the deleted one stood in the way of.
            for namespace in old.namespaces.iter().filter(|n| n.uuid != uuid) {
                if what == 3 && namespace.uuid == replaced {
                    continue;
                }
                let settled = namespace.labels.iter().any(|label| label.uuid == uuid);
                let same = |n: &&SetNamespace| {
                    (n.uuid, n.name, n.class, n.start, n.size)
                        == (namespace.uuid, namespace.name, namespace.class, namespace.start, namespace.size)
                };
                prop_assert!(
                    new.namespaces.contains(namespace) || settled && new.namespaces.iter().any(|n| same(&n)),
                    "{:?} is gone", namespace
                );
            }
            let members: Vec<Member> = areas
                .iter()
                .map(|area| LabelArea::open(area.media()).unwrap().member(Dpa(10), 100).unwrap())
                .collect();
            prop_assert_eq!(&assemble(&members, &COOKIES), &new);
            sound(&members, &new);
        }
    }
}
