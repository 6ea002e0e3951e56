// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label areas, of one DIMM and of several.

use std::collections::BTreeMap;

use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Cookies, Dpa};
use nvstack_label::{LabelArea, LabelSet, NamespaceLabel, SetArea, assemble, find_area};
use nvstack_media::{Kind, Media, MediaOffset, Part};
use uuid::Uuid;

use crate::btt::seal;
use crate::naive::label as naive;
use crate::naive::number;
use crate::{Input, Sparse};

const COOKIES: Cookies = Cookies { v1_1: 11, v1_2: 12, alternative: 13 };
/// Where the mapping begins on each DIMM, and how long it is.
const MAPPING: (u64, u64) = (1 << 20, 64 << 20);
/// Bytes of persistent memory before an area, where it is looked for in an image.
const MEMORY: u64 = 1 << 20;

/// Where an area lies, and what is in it before it is damaged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) at: u64,
    pub(crate) size: u64,
    pub(crate) version: Version,
}

impl Place {
    fn shape(&self) -> naive::Shape {
        naive::shape(self.size, self.version.label_len().into())
    }
}

const INDEX_FIELDS: [(u64, usize); 12] = [
    (0, 4),
    (16, 2),
    (18, 2),
    (20, 4),
    (24, 8),
    (32, 8),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 2),
    (62, 2),
    (64, 8),
];
const LABEL_FIELDS: [(u64, usize); 16] = [
    (0, 8),
    (8, 8),
    (16, 8),
    (72, 8),
    (80, 4),
    (84, 2),
    (86, 2),
    (88, 8),
    (96, 8),
    (104, 8),
    (112, 8),
    (120, 4),
    (124, 1),
    (128, 8),
    (144, 8),
    (248, 8),
];

/// Edits of an area: an index field, a bit of the bitmap, a label field, a label that could be, bytes, a block copied, bytes lost.
pub(crate) fn edit(input: &mut Input<'_>, medium: &Sparse, place: Place, ways: u16, may_lose: bool) {
    let shape = place.shape();
    let operation = input.u8();
    let sealed = operation & 128 == 0;
    let which = u64::from(operation >> 6 & 1);
    let index = place.at + which * shape.index;
    let seal_index = || seal(medium, index, shape.index as usize, 64);
    let slot_at = |slot: u64| place.at + 2 * shape.index + slot * shape.label;
    match operation % 8 {
        0 => {
            let (at, len) = INDEX_FIELDS[usize::from(input.u8()) % 12];
            medium.poke(index + at, &input.number().to_le_bytes()[..len]);
            if sealed && at != 64 {
                seal_index();
            }
        }
        1 => {
            // A bit of both blocks, or of one.
            let slot = input.below(shape.slots.min(64));
            for place in [place.at, place.at + shape.index].into_iter().skip(which as usize) {
                let byte = medium.get::<1>(place + 72 + slot / 8)[0];
                let mask = 1 << (slot % 8);
                medium.poke(place + 72 + slot / 8, &[if sealed { byte & !mask } else { byte ^ mask }]);
                seal(medium, place, shape.index as usize, 64);
            }
        }
        2 => {
            let slot = input.below(shape.slots);
            let (at, len) = LABEL_FIELDS[usize::from(input.u8()) % 16];
            if at + len as u64 <= shape.label {
                medium.poke(slot_at(slot) + at, &input.number().to_le_bytes()[..len]);
            }
            if sealed && at != 248 && shape.label == 256 {
                seal(medium, slot_at(slot), 256, 248);
            }
        }
        3 | 4 => {
            let slot = input.below(shape.slots.min(64));
            let label = any_label(input, slot as u32, ways, place.version);
            medium.poke(slot_at(slot), &label.encode(place.version));
            // And in use, in the block that counts or in both.
            for place in [place.at, place.at + shape.index].into_iter().skip(which as usize) {
                let byte = medium.get::<1>(place + 72 + slot / 8)[0];
                medium.poke(place + 72 + slot / 8, &[byte & !(1 << (slot % 8))]);
                seal(medium, place, shape.index as usize, 64);
            }
        }
        5 => {
            let at = place.at + input.below(place.size);
            let len = usize::from(input.u8() % 64);
            let bytes = input.take(len);
            medium.poke(at, &bytes[..bytes.len().min((place.at + place.size - at) as usize)]);
        }
        6 => {
            let (from, to) = (place.at + (1 - which) * shape.index, index);
            let mut block = vec![0; shape.index as usize];
            medium.peek(from, &mut block);
            medium.poke(to, &block);
            if sealed {
                // As its own successor in the other place would be.
                medium.poke(to + 24, &(which * shape.index).to_le_bytes());
                medium.poke(to + 40, &((1 - which) * shape.index).to_le_bytes());
                seal_index();
            }
        }
        _ => {
            let at = place.at + input.below(place.size);
            if may_lose {
                let _ = medium.inject_poison(MediaOffset(at), 1);
            }
        }
    }
}

/// A label that mostly could be.
fn any_label(input: &mut Input<'_>, slot: u32, ways: u16, version: Version) -> Label {
    let how = input.u8();
    let id = input.u8();
    let unit = |n: u8| u64::from(n) << 20;
    let (dpa, rawsize) = if how & 1 == 0 {
        (unit(input.u8() % 66), unit(1 + input.u8() % 8))
    } else {
        (input.number(), input.number())
    };
    let mut rare = |bit: u8, usual: u64| if how & bit == 0 { usual } else { input.number() };
    let cookie = if version == Version::V1_1 { 11 } else { 12 };
    Label {
        uuid: Uuid::from_bytes([id % 6; 16]),
        name: Name::new(["", "a", "disk", "0123456789"][usize::from(id >> 6)]).expect("a name"),
        flags: Flags::from_bits_retain(rare(2, u64::from(id >> 3 & 1) * 8) as u32),
        nlabel: rare(4, ways.into()) as u16,
        position: rare(8, u64::from(id >> 4) % u64::from(ways.max(1))) as u16,
        isetcookie: rare(16, cookie),
        lbasize: rare(32, 512),
        dpa: Dpa(dpa),
        rawsize,
        slot: rare(64, slot.into()) as u32,
        align: 0,
        type_guid: if how & 128 == 0 { guid::PERSISTENT_MEMORY } else { Uuid::nil() },
        abstraction: [Uuid::nil(), guid::BTT2, guid::BTT, guid::PFN, guid::DAX][usize::from(id % 5)],
    }
}

/// A medium with an area at `at`, damaged as the input says. Some areas were never initialised.
fn damaged(input: &mut Input<'_>, at: u64, ways: u16, may_lose: bool) -> (Sparse, Place) {
    let kind = input.u8();
    let size = [1024, 2048, 4096, 16384, 128 << 10, 256 << 10, 3000, 1056][usize::from(kind % 8)];
    let version = if kind & 8 == 0 { Version::V1_2 } else { Version::V1_1 };
    let place = Place { at, size, version };
    let medium = Sparse::new(at + size);
    if kind & 48 != 48 {
        let area = Part::new(&medium, MediaOffset(at), size).expect("a part");
        LabelArea::init(area, version).expect("an area");
    }
    for _ in 0..usize::from(kind >> 6) * 12 + 12 {
        if input.is_empty() {
            break;
        }
        if ways > 1 && input.clone().u8() == 0xff {
            // The next DIMM's edits.
            input.u8();
            break;
        }
        edit(input, &medium, place, ways, may_lose);
    }
    (medium, place)
}

fn area_of(medium: &Sparse, place: Place) -> nvstack_media::Result<LabelArea<Part<Sparse>>> {
    LabelArea::open(Part::new(medium.clone(), MediaOffset(place.at), place.size).expect("a part"))
}

/// One label area: found at the end of an image, read, and changed without harm to what was healthy.
///
/// Input: which area, how much, then `edit`s; its last bytes say what is written.
pub fn label_area(data: &[u8]) {
    let (data, last) = data.split_at(data.len().saturating_sub(6));
    let mut input = Input::new(data);
    let (medium, place) = damaged(&mut input, MEMORY, 1, true);
    let before = medium.clone();
    if let Ok(Some(size)) = find_area(&medium) {
        assert!(size < Media::len(&medium));
    }
    let Ok(mut area) =
        LabelArea::open(Part::new(&medium, MediaOffset(place.at), place.size).expect("a part"))
    else {
        return;
    };
    let _ = (area.check(), area.headers(), area.is_blank(), area.all_labels(), area.namespaces(64 << 20));
    let _ = (area.available_slots(), area.slot_count(), area.version());
    let healthy = labels(&area);
    if let Ok(member) = area.member(Dpa(MAPPING.0), MAPPING.1) {
        let _ = assemble(&[member], &COOKIES);
    }
    assert!(medium.same_bytes(&before), "who looked changed something");

    // A new namespace, or one in the place of another; then one goes.
    let mut input = Input::new(last);
    let label = any_label(&mut input, 0, 1, area.version().unwrap_or(Version::V1_2));
    match area.write_namespace(&label) {
        Ok(()) => {
            let mut wanted = healthy.clone();
            wanted.retain(|_, other| other.uuid != label.uuid);
            let now = labels(&area);
            let own: Vec<&Label> = now.values().filter(|other| other.uuid == label.uuid).collect();
            let [own] = own[..] else { panic!("{} labels of what was written", own.len()) };
            let flags = label.flags.difference(Flags::UPDATING);
            let (align, type_guid, abstraction) = match area.version() {
                Some(Version::V1_1) => (0, Uuid::nil(), Uuid::nil()),
                _ => (label.align, label.type_guid, label.abstraction),
            };
            assert_eq!(*own, Label { slot: own.slot, flags, align, type_guid, abstraction, ..label });
            wanted.insert(own.slot, *own);
            assert_eq!(now, wanted, "others' labels");
            let again = area_of(&medium, place).expect("an area");
            assert_eq!(labels(&again), wanted, "read again");
        }
        // What is refused is refused before anything is written.
        Err(e) if matches!(e.kind(), Kind::Invalid | Kind::NoSpace | Kind::Unrecognised) => {
            assert!(medium.same_bytes(&before), "refused, and yet something is changed: {e}");
        }
        Err(_) => return,
    }
    let here = labels(&area);
    let uuid = here.values().next().map_or(label.uuid, |label| label.uuid);
    if area.delete(uuid).is_ok() {
        let mut wanted = here;
        wanted.retain(|_, label| label.uuid != uuid);
        let again = area_of(&medium, place).expect("an area");
        assert_eq!(labels(&again), wanted, "after a deletion");
    }
    if let Ok(area) = LabelArea::init_over(area.into_media(), place.version) {
        assert!(labels(&area).is_empty());
        let again = area_of(&medium, place).expect("an area");
        assert!(again.version() == Some(place.version) && labels(&again).is_empty());
    }
}

/// The valid labels in use, by slot.
fn labels<M: Media>(area: &LabelArea<M>) -> BTreeMap<u32, Label> {
    let slots = area.slots().unwrap_or_default();
    slots.into_iter().filter_map(|slot| Some((slot.number, slot.label.ok()?))).collect()
}

/// The areas of one to three DIMMs as one set: no two namespaces share a byte, and a change of one leaves the others as they are.
///
/// Input: how many, then for each what [`label_area`] has, ended by ff.
pub fn label_set(data: &[u8]) {
    let (data, last) = data.split_at(data.len().saturating_sub(6));
    let mut input = Input::new(data);
    let ways = u16::from(input.u8() % 3) + 1;
    let media: Vec<(Sparse, Place)> = (0..ways).map(|_| damaged(&mut input, 0, ways, true)).collect();
    let opened: Result<Vec<_>, _> = media.iter().map(|(medium, _)| LabelArea::open(medium)).collect();
    let Ok(mut areas) = opened else { return };
    let members =
        areas.iter_mut().map(|area| SetArea { area, start: Dpa(MAPPING.0), size: MAPPING.1 }).collect();
    let Ok(mut set) = LabelSet::new(members, COOKIES) else { return };
    let Ok(found) = set.assemble() else { return };
    let mut end = 0;
    for namespace in &found.namespaces {
        assert!(namespace.start >= end && namespace.size > 0, "{found:?}");
        end = namespace.start + namespace.size;
        assert_eq!(namespace.labels.len(), usize::from(ways));
    }
    assert!(end <= found.size && found.size == MAPPING.1 * u64::from(ways));
    let free = found.free();
    let outside = |n: &nvstack_label::SetNamespace| {
        free.iter().all(|free| free.end <= n.start || free.start >= n.start + n.size)
    };
    assert!(found.namespaces.iter().all(outside), "{found:?}");

    let mut input = Input::new(last);
    let unit = u64::from(ways) << 20;
    let namespace = NamespaceLabel {
        uuid: Uuid::from_bytes([input.u8() % 6; 16]),
        name: Name::new("written").expect("a name"),
        class: [ClaimClass::None, ClaimClass::Btt2][usize::from(input.u8() % 2)],
        lbasize: 512,
        start: u64::from(input.u8() % 64) * unit,
        size: u64::from(1 + input.u8() % 8) * unit,
    };
    let what = input.u8() % 4;
    let old = Uuid::from_bytes([input.u8() % 6; 16]);
    let outcome = match what {
        0 => set.write(&namespace),
        1 => set.write_as(Some(old), &namespace),
        2 => set.delete(namespace.uuid),
        _ => set.settle(namespace.uuid).map(drop),
    };
    let Ok(now) = set.assemble() else { return };
    let concerned = |n: &&nvstack_label::SetNamespace| {
        n.labels.iter().any(|l| l.uuid == namespace.uuid || l.uuid == old)
            || n.uuid == namespace.uuid
            || n.uuid == old
    };
    // Slots may change where labels are replaced, but only theirs are.
    for other in found.namespaces.iter().filter(|n| !concerned(n)) {
        assert!(now.namespaces.contains(other), "{other:?} is lost or changed: {now:?}");
    }
    if outcome.is_ok() && what < 2 {
        let written = now.namespaces.iter().find(|n| n.uuid == namespace.uuid);
        let written = written.unwrap_or_else(|| panic!("{namespace:?} is not there: {now:?}"));
        assert_eq!((written.start, written.size, written.half_way), (namespace.start, namespace.size, false));
    }
}

/// Our reading of a label area against the naive one: both index blocks, the one that counts, every label.
///
/// Input as that of [`label_area`]; no bytes are lost.
pub fn differential_labels(data: &[u8]) {
    let mut input = Input::new(data);
    let (medium, place) = damaged(&mut input, 0, 1, false);
    let mut bytes = vec![0; place.size as usize];
    medium.peek(0, &mut bytes);
    let ours = LabelArea::open(&medium).expect("any bytes are an area, maybe one without labels");
    let Some(theirs) = naive::area(&bytes) else {
        assert!(ours.index().is_none(), "labels where the naive reader sees none");
        assert!(ours.slots().expect("memory").is_empty());
        return;
    };
    let index = ours.index().expect("the naive reader sees labels");
    assert_eq!(index.number(), theirs.current);
    for (ours, theirs) in ours.blocks().iter().zip(&theirs.blocks) {
        match (ours, theirs) {
            (Ok(ours), Some(theirs)) => {
                assert_eq!((u64::from(ours.seq()), u64::from(ours.nslot())), (theirs.seq, theirs.nslot));
                let used: Vec<u64> = ours.used().map(u64::from).collect();
                assert_eq!(used, theirs.used);
            }
            (Err(_), None) => {}
            (ours, theirs) => panic!("index block: {ours:?}, naive: {theirs:?}"),
        }
    }
    let slots = ours.slots().expect("memory");
    assert_eq!(slots.len(), theirs.slots.len());
    for (ours, (number, theirs)) in slots.iter().zip(&theirs.slots) {
        assert_eq!(u64::from(ours.number), *number);
        match (&ours.label, theirs) {
            (Ok(ours), Some(theirs)) => same(ours, theirs),
            (Err(_), None) => {}
            (ours, theirs) => panic!("slot {number}: {ours:?}, naive: {theirs:?}"),
        }
    }
}

/// A label's fields, one by one.
fn same(ours: &Label, theirs: &[u8]) {
    assert_eq!(ours.uuid.as_bytes()[..], theirs[..16]);
    let name: Vec<u8> = theirs[16..80].iter().copied().take_while(|byte| *byte != 0).collect();
    assert_eq!(ours.name.as_bytes(), name);
    let said = [
        u64::from(ours.flags.bits()),
        ours.nlabel.into(),
        ours.position.into(),
        ours.isetcookie,
        ours.lbasize,
        ours.dpa.0,
        ours.rawsize,
        ours.slot.into(),
    ];
    let places = [(80, 4), (84, 2), (86, 2), (88, 8), (96, 8), (104, 8), (112, 8), (120, 4)];
    assert_eq!(said, places.map(|(at, len)| number(theirs, at, len)));
    if theirs.len() == 256 {
        assert_eq!(u64::from(ours.align), number(theirs, 124, 1));
        // A GUID's first three fields are numbers, little-endian; the rest is bytes.
        for (guid, at) in [(ours.type_guid, 128), (ours.abstraction, 144)] {
            let (a, b, c, rest) = guid.as_fields();
            assert_eq!(
                [u64::from(a), b.into(), c.into()],
                [number(theirs, at, 4), number(theirs, at + 4, 2), number(theirs, at + 6, 2)]
            );
            assert_eq!(rest[..], theirs[at + 8..at + 16]);
        }
    }
}
