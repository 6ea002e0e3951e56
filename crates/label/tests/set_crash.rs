// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts while the labels of a set are changed: at every store, flush and drain on any DIMM, with any of the bytes
//! that were not yet durable lost, the region opens with the old namespaces or with the new ones; and settling ends what was
//! begun, whatever cut that meets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::HashSet;

use common::all;
use common::cut::{Recorder, cuts};
use common::shape::{MIB, Shape, Stand, shapes, stand, state};
use nvstack_format::guid::ClaimClass;
use nvstack_format::label::{Flags, Name, Version};
use nvstack_label::LabelSet;
use nvstack_media::Part;
use uuid::Uuid;

/// Cuts a change of namespace `id` everywhere, and what settles it everywhere again.
fn old_or_new(
    shape: Shape,
    before: &[u8],
    id: u8,
    change: impl FnOnce(&mut LabelSet<'_, Part<&Recorder>>),
) -> usize {
    let read = |bytes: &[u8]| {
        let media = Recorder::new(bytes.to_vec());
        shape.run(&media, |set| set.assemble().unwrap())
    };
    let recorder = Recorder::new(before.to_vec());
    shape.run(&recorder, change);
    let (old, new) = (state(&read(before)), state(&read(&all(&recorder))));
    assert_ne!(old, new);
    let uuid = Uuid::from_bytes([id; 16]);
    let mut met = [0, 0];
    let mut settled: HashSet<Stand> = HashSet::new();
    let seen = cuts(before, &recorder.events(), |image| {
        let outcome = read(image);
        let found = state(&outcome);
        assert!(found == old || found == new, "neither: {found:?}\nold: {old:?}\nnew: {new:?}");
        met[usize::from(found == new)] += 1;
        let half_way: Vec<_> = outcome.findings.iter().filter(|f| f.uuid == Some(uuid)).collect();
        assert_eq!(outcome.findings.len(), half_way.len(), "{:?}", outcome.findings);
        let namespace = outcome.namespaces.iter().find(|n| n.uuid == uuid);
        assert_eq!(namespace.is_some_and(|n| n.half_way), namespace.is_some() && !half_way.is_empty());
        // Linux begins at the first DIMM, and gives up the region for a label there without its partners.
        let missing: Vec<usize> = half_way.iter().filter(|f| !f.kind.is_usable()).map(|f| f.dimm).collect();
        assert!(missing.is_empty() || missing.contains(&0), "{missing:?}");

        // Settling makes what is there whole; what is there in part comes back, or came into being.
        let media = Recorder::new(image.to_vec());
        let outcome = shape.run(&media, |set| {
            if half_way.is_empty() {
                assert!(!set.settle(uuid).unwrap_or(false));
            } else {
                assert!(set.settle(uuid).unwrap());
            }
            set.assemble().unwrap()
        });
        assert_eq!(outcome.findings, []);
        assert!(state(&outcome) == old || state(&outcome) == new);
        if namespace.is_some() {
            assert_eq!(state(&outcome), found, "settling changed what was read");
        }
        let whole = state(&outcome);
        assert!(outcome.namespaces.iter().all(|n| n.labels.iter().all(|l| l.flags == Flags::empty())));

        // A cut meanwhile: as before, or whole. Once for each way the slots can stand.
        let fresh = Recorder::new(image.to_vec());
        if !half_way.is_empty() && settled.insert(stand(shape, &fresh)) {
            cuts(image, &media.events(), |again| {
                let outcome = read(again);
                assert!(state(&outcome) == found || state(&outcome) == whole);
                let media = Recorder::new(again.to_vec());
                shape.run(&media, |set| {
                    let _ = set.settle(uuid);
                    assert_eq!(set.assemble().unwrap().findings, []);
                });
            });
        }

        // Who does not want it back deletes it.
        let media = Recorder::new(image.to_vec());
        shape.run(&media, |set| {
            let there = namespace.is_some() || !half_way.is_empty();
            assert_eq!(set.delete(uuid).is_ok(), there);
            let outcome = set.assemble().unwrap();
            assert_eq!(outcome.findings, []);
            assert!(outcome.namespaces.iter().all(|n| n.uuid != uuid));
        });
    });
    assert!(met[0] > 0 && met[1] > 0, "{met:?}");
    assert!(shape.ways == 1 || !settled.is_empty(), "no cut between the DIMMs");
    seen
}

#[test]
fn creating() {
    let mut seen = 0;
    for shape in shapes() {
        let other = shape.namespace(2, "other", 0, 16);
        for others in [&[][..], &[other]] {
            // Two slots hold one namespace, and no second one besides.
            if others.len() == 1 && shape.area == 1024 && shape.version == Version::V1_2 {
                continue;
            }
            seen += old_or_new(shape, &shape.fresh(others), 1, |set| {
                set.write(&shape.namespace(1, "new", 16, 16)).unwrap();
            });
        }
    }
    println!("{seen} images");
    assert!(seen > 5000, "{seen}");
}

#[test]
fn renaming_again_and_again() {
    for shape in shapes() {
        let mut image = shape.fresh(&[shape.namespace(1, "old", 16, 16)]);
        // Every parity of the sequence numbers, and slots that hold stale labels of all kinds.
        for name in ["a", "b", "c", "d", "e"] {
            let rename = |set: &mut LabelSet<'_, Part<&Recorder>>| {
                set.rename(Uuid::from_bytes([1; 16]), Name::new(name).unwrap()).unwrap();
            };
            old_or_new(shape, &image, 1, rename);
            let media = Recorder::new(image);
            shape.run(&media, rename);
            image = all(&media);
        }
    }
}

#[test]
fn what_may_stack_and_the_sector_size() {
    for shape in shapes() {
        let image = shape.fresh(&[shape.namespace(1, "x", 16, 16)]);
        let uuid = Uuid::from_bytes([1; 16]);
        old_or_new(shape, &image, 1, |set| set.set_lbasize(uuid, 4096).unwrap());
        if shape.version == Version::V1_2 {
            old_or_new(shape, &image, 1, |set| set.set_class(uuid, ClaimClass::Btt2).unwrap());
        }
    }
}

#[test]
fn growing_shrinking_and_moving() {
    for shape in shapes() {
        let mut namespaces = vec![shape.namespace(1, "x", 16, 16)];
        if shape.area > 1024 {
            namespaces.push(shape.namespace(2, "other", 40, 8));
        }
        let image = shape.fresh(&namespaces);
        let uuid = Uuid::from_bytes([1; 16]);
        for mib in [24, 8, 1] {
            old_or_new(shape, &image, 1, |set| set.resize(uuid, mib * MIB * shape.ways).unwrap());
        }
        for (at, mib) in [(0, 16), (8, 16), (20, 16), (0, 40)] {
            let moved = shape.namespace(1, "moved", at, mib);
            old_or_new(shape, &image, 1, |set| set.write(&moved).unwrap());
        }
    }
}

#[test]
fn deleting() {
    for shape in shapes() {
        let mut namespaces = vec![shape.namespace(1, "gone", 16, 16)];
        if shape.area > 1024 {
            namespaces.push(shape.namespace(2, "stays", 0, 16));
        }
        let image = shape.fresh(&namespaces);
        old_or_new(shape, &image, 1, |set| set.delete(Uuid::from_bytes([1; 16])).unwrap());
    }
}

/// A second update that begins before the first one was settled: three generations of labels at once.
#[test]
fn changing_what_is_half_way() {
    let shape = Shape { ways: 4, area: 2048, version: Version::V1_2 };
    let image = shape.fresh(&[shape.namespace(1, "old", 16, 8)]);
    let media = Recorder::new(image.clone());
    shape.run(&media, |set| set.resize(Uuid::from_bytes([1; 16]), 16 * MIB * 4).unwrap());
    let mut halves: Vec<Vec<u8>> = Vec::new();
    cuts(&image, &media.events(), |half| {
        let media = Recorder::new(half.to_vec());
        let outcome = shape.run(&media, |set| set.assemble().unwrap());
        if outcome.namespaces[0].half_way && halves.len() < 2000 {
            halves.push(half.to_vec());
        }
    });
    assert!(halves.len() > 50);
    for half in halves.iter().step_by(halves.len() / 30) {
        old_or_new(shape, half, 1, |set| set.resize(Uuid::from_bytes([1; 16]), 32 * MIB * 4).unwrap());
    }
}
