// SPDX-License-Identifier: MIT OR Apache-2.0
//! Namespaces from the labels of several DIMMs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{image, list, number, tail};
use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Cookies, Dpa, SetMember, cookies};
use nvstack_label::{Assembled, FindingKind, LabelArea, Member, Slot, assemble};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const COOKIES: Cookies = Cookies { v1_1: 11, v1_2: 12, alternative: 13 };

fn names(outcome: &Assembled) -> Vec<String> {
    outcome.namespaces.iter().map(|n| n.name.to_string()).collect()
}

fn told(outcome: &Assembled) -> Vec<(usize, Option<u32>, FindingKind)> {
    outcome.findings.iter().map(|f| (f.dimm, f.slot, f.kind)).collect()
}

#[test]
fn a_set_that_linux_made() {
    let golden = list("golden.json");
    let areas: Vec<LabelArea<_>> = ["il0", "il1"]
        .map(|name| {
            let entry = &golden[name];
            LabelArea::open(tail(&image("golden", entry), number(&entry["label_size"]))).unwrap()
        })
        .into();
    let members: Vec<Member> = areas.iter().map(|a| a.member(Dpa(0), 32 * MIB).unwrap()).collect();
    let of = |i| SetMember { region_offset: u64::from(i) * 256, ..SetMember::qemu(i) };
    let cookies = cookies(&[of(0), of(1)]);
    assert_eq!(cookies.v1_2, 0x0255_a67e_0025_6ab9);
    let found = assemble(&members, &cookies);
    assert_eq!((&found.findings[..], found.size, found.free()), (&[][..], 64 * MIB, vec![]));
    let shown: Vec<_> = found
        .namespaces
        .iter()
        .map(|n| (n.name.to_string(), n.class, n.lbasize, n.start, n.size, n.half_way, n.labels.len()))
        .collect();
    assert_eq!(
        shown,
        [
            ("ilsec".into(), ClaimClass::Btt2, 4096, 0, 32 * MIB, false, 2),
            ("ilfs".into(), ClaimClass::Pfn, 512, 32 * MIB, 32 * MIB, false, 2),
        ]
    );
    for (namespace, json) in found.namespaces.iter().zip(golden["il0"]["labels"].as_array().unwrap()) {
        assert_eq!(namespace.uuid.to_string(), json["uuid"].as_str().unwrap());
    }
    // The DIMMs the other way round, which the cookie tells: then the labels are not in the order of the set, and
    // Linux takes them all the same.
    let swapped = assemble(&[members[1].clone(), members[0].clone()], &cookies);
    assert_eq!(names(&swapped), ["ilsec", "ilfs"]);
    // One DIMM alone is no set.
    let alone = assemble(&members[..1], &cookies);
    assert_eq!(names(&alone), [""; 0]);
    assert_eq!(told(&alone), [(0, Some(1), FindingKind::BadLabel), (0, Some(2), FindingKind::BadLabel)]);
    assert!(alone.findings[0].to_string().contains("nlabel at byte 84: found 2, accepted 1 DIMMs"));
}

/// The labels of one namespace, of `mib` MiB on each DIMM, from `at`.
#[derive(Clone, Copy)]
struct Of {
    name: &'static str,
    at: u64,
    mib: u64,
}

/// Labels of version 1.2 on `ways` DIMMs, mapped from 1 MiB on for 64 MiB.
fn set(ways: u16, namespaces: &[Of]) -> Vec<Member> {
    (0..ways)
        .map(|position| Member {
            version: Some(Version::V1_2),
            start: Dpa(MIB),
            size: 64 * MIB,
            slots: namespaces
                .iter()
                .zip(0..)
                .map(|(of, slot)| self::slot(of, slot, position, ways))
                .collect(),
        })
        .collect()
}

fn slot(of: &Of, number: u32, position: u16, ways: u16) -> Slot {
    let label = Label {
        uuid: uuid_of(of.name),
        name: Name::new(of.name).unwrap(),
        flags: Flags::empty(),
        nlabel: ways,
        position,
        isetcookie: COOKIES.v1_2,
        lbasize: 512,
        dpa: Dpa(MIB + of.at * MIB),
        rawsize: of.mib * MIB,
        slot: number,
        align: 0,
        type_guid: guid::PERSISTENT_MEMORY,
        abstraction: Uuid::nil(),
    };
    Slot { number, label: Ok(label) }
}

/// A uuid that is the same for the same name.
fn uuid_of(name: &str) -> Uuid {
    let mut bytes = [1; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Uuid::from_bytes(bytes)
}

fn edit(members: &mut [Member], dimm: usize, slot: usize, edit: impl FnOnce(&mut Label)) {
    edit_label(&mut members[dimm].slots[slot], edit);
}

fn edit_label(slot: &mut Slot, edit: impl FnOnce(&mut Label)) {
    edit(slot.label.as_mut().unwrap());
}

const A: Of = Of { name: "a", at: 16, mib: 16 };
const B: Of = Of { name: "b", at: 0, mib: 8 };
const C: Of = Of { name: "c", at: 32, mib: 32 };

#[test]
fn namespaces_come_in_the_order_of_their_start() {
    for ways in [1, 2, 4] {
        let found = assemble(&set(ways, &[A, B, C]), &COOKIES);
        let w = u64::from(ways);
        let places: Vec<_> = found.namespaces.iter().map(|n| (n.start / MIB, n.size / MIB)).collect();
        assert_eq!(names(&found), ["b", "a", "c"]);
        assert_eq!(places, [(0, 8 * w), (16 * w, 16 * w), (32 * w, 32 * w)]);
        assert_eq!(found.findings, []);
        assert_eq!(found.free(), vec![8 * w * MIB..16 * w * MIB; 1]);
    }
}

#[test]
fn a_bad_label_costs_its_own_namespace_and_no_other() {
    type Edit = fn(&mut Label);
    let cases: [(Edit, FindingKind, &str); 9] = [
        (|l| l.nlabel = 0, FindingKind::BadLabel, "nlabel"),
        (|l| l.nlabel = 3, FindingKind::BadLabel, "nlabel"),
        (|l| l.position = 0, FindingKind::BadLabel, "position"),
        (|l| l.position = 2, FindingKind::BadLabel, "position"),
        (|l| l.type_guid = guid::BTT, FindingKind::BadLabel, "type_guid"),
        (|l| l.isetcookie = 11, FindingKind::Foreign, "isetcookie"),
        (|l| l.rawsize = 50 * MIB, FindingKind::BadLabel, "rawsize"),
        (|l| l.rawsize = 0, FindingKind::BadLabel, "rawsize"),
        (|l| l.rawsize = 15 * MIB, FindingKind::Disagree, "dpa"),
    ];
    for (spoil, kind, field) in cases {
        let mut members = set(2, &[B, A]);
        edit(&mut members, 1, 1, spoil);
        let found = assemble(&members, &COOKIES);
        assert_eq!(names(&found), ["b"], "{field}");
        assert!(
            found
                .findings
                .iter()
                .any(|f| (f.dimm, f.slot, f.kind, f.detail.field) == (1, Some(1), kind, field)),
            "{field}: {:?}",
            found.findings
        );
        assert!(found.findings.iter().all(|f| f.uuid != Some(found.namespaces[0].uuid)), "{field}");
        // What it claims, or its partner, is nobody else's.
        let free = found.free();
        assert!(free.iter().all(|free| free.end <= 32 * MIB || free.start >= 64 * MIB), "{field}: {free:?}");
    }
    // The cookie 0 is none, whatever the set's.
    let mut members = set(2, &[B, A]);
    edit(&mut members, 1, 1, |l| l.isetcookie = 0);
    let zero = Cookies { alternative: 0, ..COOKIES };
    assert_eq!(names(&assemble(&members, &zero)), ["b"]);
    // A slot that holds no label.
    let mut members = set(2, &[B, A]);
    members[1].slots[1].label = Err(nvstack_format::Invalid::new("label", "checksum", 248, 0, 1));
    let found = assemble(&members, &COOKIES);
    assert_eq!(names(&found), ["b"]);
    assert_eq!(told(&found), [(1, None, FindingKind::Missing), (1, Some(1), FindingKind::BadSlot)]);
}

#[test]
fn cookies_go_by_the_version_of_the_area() {
    let mut members = set(2, &[A]);
    // An area of each version: Linux wrote each label with the cookie of its own.
    members[1].version = Some(Version::V1_1);
    assert_eq!(names(&assemble(&members, &COOKIES)), [""; 0]);
    edit(&mut members, 1, 0, |l| (l.isetcookie, l.type_guid) = (11, Uuid::nil()));
    assert_eq!(names(&assemble(&members, &COOKIES)), ["a"]);
    edit(&mut members, 0, 0, |l| l.isetcookie = 13);
    assert_eq!(names(&assemble(&members, &COOKIES)), ["a"]);
    edit(&mut members, 0, 0, |l| l.isetcookie = 11);
    assert_eq!(names(&assemble(&members, &COOKIES)), [""; 0]);
}

#[test]
fn what_two_labels_claim_is_nobodys_and_their_neighbours_stay() {
    // One wide label on one DIMM, over two others but not over the third.
    let mut members = set(2, &[A, B, C]);
    let wide = slot(&Of { name: "w", at: 4, mib: 20 }, 3, 1, 2);
    members[1].slots.push(wide);
    let found = assemble(&members, &COOKIES);
    assert_eq!(names(&found), ["c"]);
    let on_one = [(1, Some(0)), (1, Some(1)), (1, Some(3))];
    for place in on_one {
        assert!(told(&found).contains(&(place.0, place.1, FindingKind::Overlap)), "{place:?}");
    }
    // The same uuid twice on a DIMM.
    let mut members = set(2, &[A, B, C]);
    edit(&mut members, 0, 1, |l| l.uuid = uuid_of("a"));
    let found = assemble(&members, &COOKIES);
    assert_eq!(names(&found), ["c"]);
    assert!(told(&found).contains(&(0, Some(0), FindingKind::Duplicate)));
    assert!(told(&found).contains(&(0, Some(1), FindingKind::Duplicate)));
}

#[test]
fn labels_of_the_dimm_alone_and_of_other_regions() {
    let mut members = set(2, &[A, B, C]);
    edit(&mut members, 0, 2, |l| l.isetcookie = 99);
    // The mapping begins at 1 MiB: a label below it is another region's, whatever it says.
    let below = Of { name: "z", at: 0, mib: 1 };
    members[1].slots.push(slot(&below, 7, 9, 9));
    edit_label(&mut members[1].slots[3], |l| l.dpa = Dpa(0));
    // And one past its end.
    members[1].slots.push(slot(&Of { name: "y", at: 64, mib: 1 }, 8, 0, 1));
    let found = assemble(&members, &COOKIES);
    assert_eq!(names(&found), ["b", "a"]);
    assert_eq!(told(&found), [(0, None, FindingKind::Missing), (0, Some(2), FindingKind::Foreign)]);
    assert_eq!(found.free(), vec![16 * MIB..32 * MIB; 1], "the bytes of another set's label are reserved");
    // Reaching over the edge it is nobody's, and reserves what it reaches.
    edit_label(&mut members[1].slots[3], |l| l.rawsize = 2 * MIB);
    let found = assemble(&members, &COOKIES);
    assert_eq!(names(&found), ["a"]);
    assert!(told(&found).contains(&(1, Some(1), FindingKind::Overlap)));
}

#[test]
fn a_missing_label_is_told() {
    let mut members = set(4, &[A, B]);
    members[2].slots.remove(1);
    let found = assemble(&members, &COOKIES);
    assert_eq!((names(&found), told(&found)), (vec!["a".into()], vec![(2, None, FindingKind::Missing)]));
    let text = found.findings[0].to_string();
    assert!(
        text.starts_with("DIMM 2, namespace 62")
            && text.contains("as on DIMM 0 in slot 1 and DIMM 1 in slot 1"),
        "{text}"
    );
    for dimm in [0, 1, 3] {
        edit(&mut members, dimm, 1, |l| l.flags = Flags::UPDATING);
    }
    assert_eq!(told(&assemble(&members, &COOKIES)), [(2, None, FindingKind::HalfCreated)]);
    // An area without an index block has no labels at all.
    let blank = Member { version: None, slots: Vec::new(), ..members[0] };
    members[3] = blank;
    assert_eq!(names(&assemble(&members, &COOKIES)), [""; 0]);
}

#[test]
fn the_label_at_position_0_decides_half_way() {
    let grown = |l: &mut Label| l.rawsize = 24 * MIB;
    let updating = |l: &mut Label| l.flags = Flags::UPDATING;
    // Cut here: position 0 comes last.
    let mut members = set(2, &[B, A]);
    edit(&mut members, 1, 1, |l| (grown(l), updating(l), l.name = Name::new("new").unwrap()).0);
    let found = assemble(&members, &COOKIES);
    assert_eq!((names(&found), found.namespaces[1].size), (vec!["b".into(), "a".into()], 32 * MIB));
    assert_eq!(told(&found), [(1, Some(1), FindingKind::HalfWay)]);
    assert!(found.namespaces[1].half_way && !found.namespaces[0].half_way);
    // Where it may still go is nobody else's.
    assert_eq!(found.free().last(), Some(&(80 * MIB..128 * MIB)));
    // Cut under Linux: position 0 came first.
    let mut members = set(2, &[B, A]);
    edit(&mut members, 0, 1, |l| (grown(l), updating(l)).0);
    let found = assemble(&members, &COOKIES);
    assert_eq!((names(&found), found.namespaces[1].size), (vec!["b".into(), "a".into()], 48 * MIB));
    // Not over somebody else's bytes, on any DIMM, even those of a label that is no good.
    let stray = slot(&Of { name: "s", at: 36, mib: 1 }, 5, 0, 9);
    members[1].slots.push(stray);
    let found = assemble(&members, &COOKIES);
    assert_eq!(names(&found), ["b"]);
    assert!(told(&found).contains(&(1, Some(1), FindingKind::Overlap)));
    // Nothing says that an update was under way.
    let mut members = set(2, &[B, A]);
    edit(&mut members, 0, 1, grown);
    let found = assemble(&members, &COOKIES);
    assert_eq!((names(&found), told(&found)), (vec!["b".into()], vec![(1, Some(1), FindingKind::Disagree)]));
}

#[test]
fn the_name_is_that_of_position_0() {
    let mut members = set(2, &[A]);
    edit(&mut members, 1, 0, |l| {
        (l.name, l.abstraction, l.lbasize) = (Name::new("x").unwrap(), guid::DAX, 4096);
    });
    let found = assemble(&members, &COOKIES);
    let namespace = &found.namespaces[0];
    assert_eq!((namespace.class, namespace.lbasize, namespace.half_way), (ClaimClass::None, 512, true));
    assert_eq!((names(&found), told(&found)), (vec!["a".into()], vec![(1, Some(0), FindingKind::HalfWay)]));
}
