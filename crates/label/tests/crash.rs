// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts: at every store, flush and drain of an update, with any of the bytes that were not yet durable lost, the
//! area opens with the old state or with the new one, and can be updated further.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::cut::{Recorder, cuts, cuts_of};
use common::{all, sample};
use nvstack_format::label::{Flags, Label, Version};
use nvstack_label::LabelArea;
use nvstack_media::Anon;
use uuid::Uuid;

/// The namespaces of an area, as far as they must not differ. None where there is no area.
fn state(bytes: &[u8]) -> Option<Vec<(Uuid, String, u64, u64)>> {
    let area = LabelArea::open(medium(bytes)).unwrap();
    area.index()?;
    let labels = area.namespaces(1 << 40).expect("labels that do not conflict");
    Some(labels.iter().map(|l| (l.uuid, l.name.to_string(), l.dpa.0, l.rawsize)).collect())
}

/// Cuts a change everywhere. Gives how many images were looked at.
fn old_or_new(before: &[u8], change: impl FnOnce(&Recorder)) -> usize {
    let recorder = Recorder::new(before.to_vec());
    change(&recorder);
    let after = all(&recorder);
    let (old, new) = (state(before), state(&after));
    assert_ne!(old, new);
    let mut met = [0, 0];
    let seen = cuts(before, &recorder.events(), |image| {
        let found = state(image);
        assert!(found == old || found == new, "neither: {found:?}\nold: {old:?}\nnew: {new:?}");
        met[usize::from(found == new)] += 1;
        // Whatever the cut left goes on to work.
        if found.is_some() {
            let mut area = LabelArea::open(medium(image)).unwrap();
            area.write_namespace(&sample(3, "after")).unwrap();
            let labels = area.namespaces(1 << 40).unwrap();
            let last = labels.iter().find(|label| label.dpa == sample(3, "").dpa).unwrap();
            assert_eq!((last.name.to_string().as_str(), last.flags), ("after", Flags::empty()));
        }
    });
    assert!(met[0] > 0 && met[1] > 0, "{met:?}");
    seen
}

/// The bytes of a new area with some namespaces in it.
fn area(size: u64, version: Version, labels: &[Label]) -> Vec<u8> {
    let mut area = LabelArea::init(Anon::new(size).unwrap(), version).unwrap();
    for label in labels {
        area.write_namespace(label).unwrap();
    }
    all(area.media())
}

fn medium(bytes: &[u8]) -> Recorder {
    Recorder::new(bytes.to_vec())
}

const SIZES: [u64; 3] = [2048, 4096, 128 << 10];

#[test]
fn creating_a_namespace() {
    let mut seen = 0;
    for (size, version) in SIZES.into_iter().flat_map(|size| Version::ALL.map(|version| (size, version))) {
        for others in [&[][..], &[sample(1, "one")], &[sample(1, "one"), sample(2, "two")]] {
            seen += old_or_new(&area(size, version, others), |media| {
                LabelArea::open(media).unwrap().write_namespace(&sample(0, "new")).unwrap();
            });
        }
    }
    println!("{seen} images");
    assert!(seen > 1000);
}

#[test]
fn renaming_a_namespace_again_and_again() {
    for version in Version::ALL {
        let mut image = area(2048, version, &[sample(0, "old"), sample(1, "one")]);
        // Every parity of the sequence numbers, and slots that hold stale labels of all kinds.
        for name in ["a", "b", "c", "d", "e", "f", "g"] {
            let change = |media: &Recorder| {
                LabelArea::open(media).unwrap().write_namespace(&sample(0, name)).unwrap();
            };
            old_or_new(&image, change);
            let media = Recorder::new(image);
            change(&media);
            image = all(&media);
        }
    }
}

#[test]
fn the_last_free_slot() {
    // Two slots: one for the namespace, one for its next label.
    let image = area(1024, Version::V1_2, &[sample(3, "old")]);
    old_or_new(&image, |media| {
        LabelArea::open(media).unwrap().write_namespace(&sample(3, "new")).unwrap();
    });
}

#[test]
fn deleting_a_namespace() {
    for version in Version::ALL {
        let image = area(4096, version, &[sample(0, "gone"), sample(1, "stays")]);
        old_or_new(&image, |media| LabelArea::open(media).unwrap().delete(sample(0, "").uuid).unwrap());
    }
}

#[test]
fn updating_with_one_bad_index_block() {
    for version in Version::ALL {
        for bad in 0..2 {
            let mut image = area(4096, version, &[sample(0, "old"), sample(0, "older")]);
            image[bad * 256] ^= 1;
            old_or_new(&image, |media| {
                LabelArea::open(media).unwrap().write_namespace(&sample(0, "new")).unwrap();
            });
        }
    }
}

#[test]
fn initialising() {
    for (size, version) in
        [1024, 4096].into_iter().flat_map(|size| Version::ALL.map(|version| (size, version)))
    {
        if (size, version) != (1024, Version::V1_2) {
            let blank = vec![0; usize::try_from(size).unwrap()];
            old_or_new(&blank, |media| drop(LabelArea::init(media, version).unwrap()));
        }
    }
}

#[test]
fn initialising_over_labels_never_shows_an_older_state() {
    for (before, after) in
        [(Version::V1_1, Version::V1_2), (Version::V1_2, Version::V1_1), (Version::V1_2, Version::V1_2)]
    {
        for deleted in 0..4 {
            // After an odd number of deletions block 1 is current; the other one still counts what was deleted last.
            let labels: Vec<Label> = (0..4).map(|i| sample(i, &format!("name {i}"))).collect();
            // Large enough that the index blocks of the two versions lie in different places.
            let mut area = LabelArea::open(medium(&area(256 << 10, before, &labels))).unwrap();
            for label in &labels[..deleted] {
                area.delete(label.uuid).unwrap();
            }
            let image = all(area.media());
            let old = state(&image);
            let media = Recorder::new(image.clone());
            drop(LabelArea::init_over(&media, after).unwrap());
            let seen = cuts(&image, &media.events(), |image| {
                let found = state(image);
                assert!(found == old || found.is_none() || found == Some(Vec::new()), "{found:?}");
            });
            assert!(seen > 10);
            let area = LabelArea::open(&media).unwrap();
            assert_eq!((area.version(), area.slots().unwrap().len()), (Some(after), 0));
        }
    }
}

#[test]
fn a_failed_write_and_another_try() {
    for version in Version::ALL {
        for others in [vec![sample(0, "old")], vec![sample(0, "old"), sample(1, "x")]] {
            let image = area(2048, version, &others);
            let old = state(&image);
            let mut failures = 0;
            for count in 0.. {
                let media = Recorder::new(image.clone());
                let mut area = LabelArea::open(&media).unwrap();
                media.fail_after(count);
                if area.write_namespace(&sample(0, "first")).is_ok() {
                    break;
                }
                failures += 1;
                assert_eq!(
                    LabelArea::open(&media).unwrap().index(),
                    area.index(),
                    "what is read is what counts"
                );
                let first = Recorder::new(image.clone());
                LabelArea::open(&first).unwrap().write_namespace(&sample(0, "first")).unwrap();
                let first = state(&all(&first));
                // The same object goes on.
                area.write_namespace(&sample(0, "second")).unwrap();
                let second = state(&all(&media));
                assert!(second != first && second != old);
                cuts_of(&image, &media.events(), true, |image| {
                    let found = state(image);
                    assert!(found == old || found == first || found == second, "event {count}: {found:?}");
                });
                assert_eq!(LabelArea::open(&media).unwrap().index(), area.index());
            }
            // What was found is flushed and drained; then two updates of a label and an index block each: stored, flushed, drained.
            assert_eq!(failures, 14);
        }
    }
}

#[test]
fn nothing_can_be_left_out_of_what_is_shipped() {
    // The switches of the explorer are a feature of its own package; cargo would give it to this one if anybody asked for it.
    const { assert!(!cfg!(feature = "mutants")) };
}
