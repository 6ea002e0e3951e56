// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts while a namespace gets another uuid: at every store, flush and drain on any DIMM the region opens with exactly the
//! old namespace or exactly the new one, no bytes of a DIMM have two labels, and what was begun can be ended, taken
//! back, done otherwise or deleted, whatever cut that meets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::HashSet;

use common::all;
use common::cut::{Recorder, cuts};
use common::shape::{MIB, Shape, Stand, State, shapes, stand, state};
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_label::{Assembled, FindingKind, LabelSet, NamespaceLabel};
use nvstack_media::{Anon, Kind, Media, MediaOffset, Part};
use uuid::Uuid;

type Set<'a, 'm> = LabelSet<'a, Part<&'m Recorder>>;

fn id(id: u8) -> Uuid {
    Uuid::from_bytes([id; 16])
}

/// What an image says, and that Linux would take no DIMM of it as one without labels.
fn read(shape: Shape, image: &[u8]) -> Assembled {
    let media = Recorder::new(image.to_vec());
    for area in shape.parts(&media) {
        area.namespaces(1 << 40).expect("labels that do not overlap");
    }
    shape.run(&media, |set| set.assemble().unwrap())
}

/// Changes a copy of an image. Everything that it does is also cut, and must then be one of `allowed` besides the outcome.
fn then(
    shape: Shape,
    image: &[u8],
    cut: bool,
    allowed: &[State],
    change: impl FnOnce(&mut Set<'_, '_>),
) -> State {
    let media = Recorder::new(image.to_vec());
    shape.run(&media, change);
    let outcome = read(shape, &all(&media));
    assert_eq!(outcome.findings, []);
    for label in outcome.namespaces.iter().flat_map(|n| &n.labels) {
        assert_eq!(label.flags, Flags::empty());
    }
    let after = state(&outcome);
    if cut {
        cuts(image, &media.events(), |again| {
            let found = state(&read(shape, again));
            assert!(found == after || allowed.contains(&found), "{found:?}");
        });
    }
    after
}

/// Cuts the change of namespace 1 to `new` everywhere, and whatever may be done then.
fn old_or_new(shape: Shape, before: &[u8], new: NamespaceLabel) -> usize {
    let recorder = Recorder::new(before.to_vec());
    shape.run(&recorder, |set| set.write_as(Some(id(1)), &new).unwrap());
    let (was, will) = (state(&read(shape, before)), state(&read(shape, &all(&recorder))));
    let without: State = was.iter().filter(|n| n.0 != id(1)).cloned().collect();
    assert!(will.iter().any(|n| n.0 == new.uuid) && will.iter().all(|n| n.0 != id(1)));
    let (mut met, mut between) = ([0, 0], 0);
    let mut stands: HashSet<Stand> = HashSet::new();
    let seen = cuts(before, &recorder.events(), |image| {
        let outcome = read(shape, image);
        let found = state(&outcome);
        assert!(found == was || found == will, "neither: {found:?}\nold: {was:?}\nnew: {will:?}");
        met[usize::from(found == will)] += 1;
        let (uuid, other) = if found == was { (id(1), new.uuid) } else { (new.uuid, id(1)) };
        for finding in &outcome.findings {
            assert_eq!((finding.kind, finding.uuid), (FindingKind::HalfWay, Some(uuid)), "{finding}");
        }
        let namespace = outcome.namespaces.iter().find(|n| n.uuid == uuid).unwrap();
        assert_eq!(namespace.half_way, !outcome.findings.is_empty());
        let mixed = namespace.labels.iter().any(|label| label.uuid == other);
        assert!(!mixed || (shape.ways > 1 && found == was), "the old labels outlive the switch");
        between += usize::from(mixed);

        let fresh = Recorder::new(image.to_vec());
        let cut = stands.insert(stand(shape, &fresh));
        if !cut {
            return;
        }
        // Settling keeps what was read, under whichever uuid it is asked for.
        let settled = then(shape, image, cut, &[], |set| {
            assert_eq!(set.settle(uuid).unwrap(), namespace.half_way);
            assert!(!set.settle(uuid).unwrap());
        });
        assert_eq!(settled, found);
        let settled = then(shape, image, cut, &[], |set| match set.settle(other) {
            Ok(done) => assert!(done && mixed),
            Err(e) => {
                assert!(e.kind() == Kind::NotFound && !mixed, "{e}");
                set.settle(uuid).unwrap();
            }
        });
        assert_eq!(settled, found);
        // The same again completes it.
        let done = then(shape, image, cut, std::slice::from_ref(&found), |set| {
            set.write_as(Some(id(1)), &new).unwrap();
        });
        assert_eq!(done, will);
        // Something else instead.
        let third = NamespaceLabel { uuid: id(7), ..new };
        let done = then(shape, image, cut, std::slice::from_ref(&found), |set| {
            set.write_as(Some(uuid), &third).unwrap();
        });
        assert!(done.iter().any(|n| n.0 == id(7)) && done.len() == was.len());
        let done = then(shape, image, cut, std::slice::from_ref(&found), |set| {
            set.rename(uuid, Name::new("renamed").unwrap()).unwrap();
        });
        assert!(done.iter().any(|n| n.0 == uuid && n.1 == "renamed") && done.len() == was.len());
        // Neither.
        let done = then(shape, image, cut, std::slice::from_ref(&found), |set| set.delete(uuid).unwrap());
        assert_eq!(done, without);
        let done = then(shape, image, cut, &[], |set| match set.delete(other) {
            Ok(()) => assert!(mixed),
            Err(e) => {
                assert!(e.kind() == Kind::NotFound && !mixed, "{e}");
                set.settle(uuid).unwrap();
            }
        });
        assert_eq!(done, found);
        // The one that does not exist cannot be made beside the other.
        if mixed {
            shape.run(&fresh, |set| {
                for at in [new.start, 48 * MIB * shape.ways] {
                    let error = set.write(&NamespaceLabel { start: at, size: shape.ways * MIB, ..new });
                    assert_eq!(error.unwrap_err().kind(), Kind::Exists);
                }
            });
            assert_eq!(all(&fresh), image);
        }
    });
    assert!(met[0] > 0 && met[1] > 0, "{met:?}");
    assert_eq!(between > 0, shape.ways > 1, "no cut between the DIMMs");
    seen
}

#[test]
fn another_uuid_in_place() {
    let mut seen = 0;
    for shape in shapes() {
        let mut namespaces = vec![shape.namespace(1, "old", 16, 16)];
        if shape.area > 1024 {
            namespaces.extend([shape.namespace(2, "before", 0, 16), shape.namespace(3, "after", 32, 8)]);
        }
        let mut image = shape.fresh(&namespaces);
        // Both parities of the sequence numbers, with slots that hold stale labels of both.
        for _ in 0..2 {
            seen += old_or_new(shape, &image, shape.namespace(9, "new", 16, 16));
            let media = Recorder::new(image);
            shape.run(&media, |set| {
                set.write_as(Some(id(1)), &shape.namespace(9, "new", 16, 16)).unwrap();
                set.rename(id(9), Name::new("x").unwrap()).unwrap();
                set.write_as(Some(id(9)), &shape.namespace(1, "old", 16, 16)).unwrap();
                set.delete(id(1)).unwrap();
                set.write(&shape.namespace(1, "old", 16, 16)).unwrap();
            });
            image = all(&media);
        }
    }
    assert!(seen > 3000, "{seen}");
}

#[test]
fn another_uuid_and_another_place() {
    for shape in shapes() {
        let mut namespaces = vec![shape.namespace(1, "old", 16, 16)];
        if shape.area > 1024 {
            namespaces.push(shape.namespace(2, "other", 40, 8));
        }
        let image = shape.fresh(&namespaces);
        for (at, mib) in [(16, 24), (16, 8), (8, 16), (24, 16), (20, 4), (0, 40)] {
            old_or_new(shape, &image, shape.namespace(9, "new", at, mib));
        }
    }
    let single = Shape { ways: 1, area: 2048, version: Version::V1_2 };
    let image = single.fresh(&[single.namespace(1, "old", 16, 16)]);
    old_or_new(single, &image, single.namespace(9, "new", 48, 8));
}

/// The order of the positions is not that of the DIMMs.
#[test]
fn the_dimm_that_decides_may_be_any() {
    for home in 0..4u16 {
        let shape = Shape { ways: 4, area: 2048, version: Version::V1_2 };
        let media = Recorder::new(shape.fresh(&[shape.namespace(1, "old", 16, 16)]));
        for (dimm, mut area) in (0..4).zip(shape.parts(&media)) {
            let label = area.namespaces(1 << 40).unwrap()[0];
            area.write_namespace(&Label { position: (dimm + 4 - home) % 4, ..label }).unwrap();
        }
        old_or_new(shape, &all(&media), shape.namespace(9, "new", 16, 16));
    }
}

/// Linux begins at the first DIMM: there the new uuid is the one that counts.
#[test]
fn what_linux_left_between_two_dimms() {
    let shape = Shape { ways: 4, area: 2048, version: Version::V1_2 };
    let old = shape.fresh(&[shape.namespace(1, "old", 16, 16), shape.namespace(2, "other", 0, 16)]);
    for switched in 1..4 {
        let media = Recorder::new(old.clone());
        for mut area in shape.parts(&media).into_iter().take(switched) {
            let label = area.namespaces(1 << 40).unwrap()[1];
            assert_eq!(label.uuid, id(1));
            area.delete(id(1)).unwrap();
            let name = Name::new("new").unwrap();
            area.write_namespace(&Label { uuid: id(9), name, ..label }).unwrap();
        }
        // Both updates done, which no cut leaves: nothing is guessed.
        let outcome = shape.run(&media, |set| set.assemble().unwrap());
        assert_eq!(outcome.namespaces.len(), 1);
        assert!(outcome.findings.iter().all(|f| f.kind == FindingKind::Missing), "{:?}", outcome.findings);

        for dimm in 0..u64::try_from(switched).unwrap() {
            mark_updating(&media, shape, dimm);
        }
        let outcome = shape.run(&media, |set| set.assemble().unwrap());
        let names: Vec<_> = outcome.namespaces.iter().map(|n| n.name.to_string()).collect();
        assert_eq!(names, ["other", "new"], "{:?}", outcome.findings);
        assert!(outcome.findings.iter().all(|f| (f.kind, f.uuid) == (FindingKind::HalfWay, Some(id(9)))));
        let found = state(&outcome);
        assert_eq!(then(shape, &all(&media), true, &[], |set| assert!(set.settle(id(9)).unwrap())), found);
    }
}

/// Sets UPDATING in the label of namespace 9 on a DIMM, in place.
fn mark_updating(media: &Recorder, shape: Shape, dimm: u64) {
    let mut parts = shape.parts(media);
    let area = parts.remove(usize::try_from(dimm).unwrap());
    let slot =
        area.slots().unwrap().into_iter().filter_map(|s| s.label.ok()).find(|l| l.uuid == id(9)).unwrap();
    let bytes = Label { flags: Flags::UPDATING, ..slot }.encode(shape.version);
    area.media().store(area.slot_offset(slot.slot).unwrap(), &bytes).unwrap();
}

/// What looks like a replacement, but for one thing, is none: nothing of it is used.
#[test]
fn look_alikes_are_not_served() {
    let shape = Shape { ways: 2, area: 4096, version: Version::V1_2 };
    let half_way = |change: &dyn Fn(u64, Label) -> Vec<Label>| {
        let media = Anon::new(2 * 4096).unwrap();
        media.store(MediaOffset(0), &shape.fresh(&[shape.namespace(1, "old", 16, 16)])).unwrap();
        for (dimm, mut area) in (0..).zip(shape.parts(&media)) {
            let label = area.namespaces(1 << 40).unwrap()[0];
            area.delete(label.uuid).unwrap();
            for label in change(dimm, label) {
                area.write_namespace(&label).unwrap();
                // As after the first of the two updates.
                let slot = area.slots().unwrap().into_iter().filter_map(|s| s.label.ok());
                let slot = slot.filter(|l| l.uuid == label.uuid).map(|l| l.slot).next().unwrap();
                let at = area.slot_offset(slot).unwrap();
                area.media().store(at, &Label { slot, ..label }.encode(Version::V1_2)).unwrap();
            }
        }
        let outcome = shape.run(&media, |set| set.assemble().unwrap());
        (outcome.namespaces.len(), outcome.findings.len())
    };
    let other = |l: Label| Label { uuid: id(9), flags: Flags::UPDATING, ..l };
    let as_cut = |dimm, l: Label| vec![if dimm == 1 { other(l) } else { l }];
    assert_eq!(half_way(&as_cut), (1, 1));
    let but = |how: &dyn Fn(Label) -> Label| {
        half_way(&|dimm, l| if dimm == 1 { vec![how(other(l))] } else { vec![l] })
    };
    // Not UPDATING, of another set, of another number of DIMMs, elsewhere, of a position that is taken.
    assert_eq!(but(&|l| Label { flags: Flags::empty(), ..l }).0, 0);
    assert_eq!(but(&|l| Label { isetcookie: 99, ..l }).0, 0);
    assert_eq!(but(&|l| Label { nlabel: 3, ..l }).0, 0);
    assert_eq!(but(&|l| Label { dpa: l.end(), ..l }).0, 0);
    assert_eq!(but(&|l| Label { position: 0, ..l }).0, 0);
    // Two labels in the place, or one that also has a label elsewhere.
    let half = |l: Label| Label { rawsize: l.rawsize / 2, ..l };
    let two = |dimm, l: Label| {
        if dimm == 0 {
            return vec![l];
        }
        let first = half(other(l));
        vec![first, Label { uuid: id(8), dpa: first.end(), ..first }]
    };
    assert_eq!(half_way(&two).0, 0);
    let elsewhere = |dimm, l: Label| {
        let theirs = Label { dpa: l.end(), ..other(l) };
        if dimm == 0 { vec![l, Label { position: 1, ..theirs }] } else { vec![other(l)] }
    };
    assert_eq!(half_way(&elsewhere).0, 0);
    // One that could stand in for two.
    let spanning = |dimm, l: Label| {
        if dimm == 0 {
            let first = half(l);
            vec![first, Label { uuid: id(8), dpa: first.end(), ..first }]
        } else {
            vec![other(l)]
        }
    };
    assert_eq!(half_way(&spanning).0, 0);
    // One whose bytes somebody has on another DIMM, even if that is of no use itself.
    let beside = |dimm, l: Label| {
        let long = Label { rawsize: 2 * l.rawsize, ..other(l) };
        let third = Label { uuid: id(8), isetcookie: 99, dpa: l.end(), ..l };
        if dimm == 0 { vec![l, third] } else { vec![long] }
    };
    assert_eq!(half_way(&beside).0, 0);
}
