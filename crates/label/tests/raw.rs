// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas as bytes, areas of older kernels, and areas that see many changes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;

use common::cut::{Recorder, cuts};
use common::{all, bytes, image, label, list, number, sample, tail};
use nvstack_format::fletcher64_without;
use nvstack_format::label::{Label, Name, Version, next_seq};
use nvstack_label::LabelArea;
use nvstack_media::{Anon, Kind, Media, MediaOffset};
use uuid::Uuid;

fn area(size: u64, version: Version, labels: &[Label]) -> LabelArea<Anon> {
    let mut area = LabelArea::init(Anon::new(size).unwrap(), version).unwrap();
    for label in labels {
        area.write_namespace(label).unwrap();
    }
    area
}

fn reopen(bytes: &[u8]) -> LabelArea<Anon> {
    let media = Anon::new(u64::try_from(bytes.len()).unwrap()).unwrap();
    media.store(MediaOffset(0), bytes).unwrap();
    LabelArea::open(media).unwrap()
}

fn names<M: Media>(area: &LabelArea<M>) -> Vec<String> {
    area.namespaces(1 << 40).unwrap().iter().map(|l| l.name.to_string()).collect()
}

#[test]
fn checking_tells_what_ndctl_refuses() {
    for version in Version::ALL {
        let good = area(4096, version, &[sample(0, "a"), sample(1, "b")]);
        let check = good.check().unwrap();
        assert_eq!((check.current, check.other, check.slots.len()), (0, None, 0));
        assert_eq!(check.slot_count, if version == Version::V1_1 { 28 } else { 14 });

        let mut one_bad = all(good.media());
        one_bad[100] ^= 1;
        let check = reopen(&one_bad).check().unwrap();
        assert_eq!((check.current, check.other.unwrap().field), (1, "checksum"));

        let mut both_bad = one_bad;
        both_bad[256 + 24] ^= 1;
        let error = reopen(&both_bad).check().unwrap_err();
        assert_eq!(error.kind(), Kind::Unrecognised);
        let text = error.to_string();
        assert!(
            text.contains("label index block 0: checksum") && text.contains("label index block 1: "),
            "{text}"
        );

        // The label of "a" is in slot 1: its slot number is off.
        let mut bad_slot = all(good.media());
        let place = good.slot_offset(1).unwrap().0;
        bad_slot[usize::try_from(place).unwrap() + 120] ^= 1;
        let check = reopen(&bad_slot).check().unwrap();
        assert_eq!(check.slots.iter().map(|(n, f)| (*n, f.field)).collect::<Vec<_>>(), [(1, "slot")]);
    }
    assert_eq!(reopen(&[0; 1024]).check().unwrap_err().kind(), Kind::Unrecognised);
}

#[test]
fn zeroing_all_or_a_part() {
    for version in Version::ALL {
        let mut area = area(4096, version, &[sample(0, "a"), sample(1, "b")]);
        assert_eq!(area.zero(MediaOffset(4000), 97).unwrap_err().kind(), Kind::OutOfRange);
        area.zero(MediaOffset(0), 0).unwrap();
        assert_eq!(names(&area), ["a", "b"]);
        // The first index block, which is current: the state before the last change comes back.
        let before = all(area.media());
        area.zero(MediaOffset(0), 256).unwrap();
        assert_eq!(area.index().unwrap().number(), 1);
        assert_eq!(all(area.media())[256..], before[256..]);
        area.zero(MediaOffset(0), 4096).unwrap();
        assert!(area.index().is_none() && area.is_blank().unwrap());
        assert_eq!(all(area.media()), vec![0; 4096]);
    }
}

#[test]
fn what_was_read_can_be_put_back() {
    for (version, other) in [(Version::V1_1, Version::V1_2), (Version::V1_2, Version::V1_1)] {
        let backup = all(area(4096, version, &[sample(0, "a"), sample(1, "b")]).media());
        let mut area = area(4096, other, &[sample(2, "c")]);
        assert_eq!(area.write_bytes(MediaOffset(1), &backup).unwrap_err().kind(), Kind::OutOfRange);
        area.write_bytes(MediaOffset(0), &backup).unwrap();
        assert_eq!((names(&area), all(area.media())), (vec!["a".into(), "b".into()], backup.clone()));
        // A part is written as it is; what it does is read again.
        area.write_bytes(MediaOffset(0), &[0; 16]).unwrap();
        assert!(area.blocks()[0].is_err());
        area.write_bytes(MediaOffset(0), &backup[..16]).unwrap();
        assert_eq!(all(area.media()), backup);
        assert!(area.blocks()[0].is_ok());
        // Junk is no error here.
        area.write_bytes(MediaOffset(0), &[7; 4096]).unwrap();
        assert_eq!((area.version(), all(area.media())), (None, vec![7; 4096]));
    }
}

#[test]
fn a_cut_leaves_the_old_labels_none_or_the_new_ones() {
    for (before, after) in
        [(Version::V1_1, Version::V1_1), (Version::V1_1, Version::V1_2), (Version::V1_2, Version::V1_1)]
    {
        for parity in [0, 1] {
            let mut old = area(2048, before, &[sample(0, "old"), sample(2, "older")]);
            let mut new = area(2048, after, &[sample(1, "new"), sample(2, "older")]);
            // Both blocks get to be the current one; the other one counts a slot that must not come back.
            if parity == 1 {
                old.delete(sample(2, "").uuid).unwrap();
                new.delete(sample(2, "").uuid).unwrap();
            }
            let image = all(old.media());
            for zero in [true, false] {
                let media = Recorder::new(image.clone());
                let mut area = LabelArea::open(&media).unwrap();
                if zero {
                    area.zero(MediaOffset(0), 2048).unwrap();
                } else {
                    area.write_bytes(MediaOffset(0), &all(new.media())).unwrap();
                }
                let (was, is) = (state(&image), state(&all(&media)));
                assert_eq!(is.is_none(), zero);
                let mut met = [0; 3];
                cuts(&image, &media.events(), |image| {
                    let found = state(image);
                    assert!(found == was || found.is_none() || found == is, "{found:?}");
                    met[if found == was {
                        0
                    } else if found.is_none() {
                        1
                    } else {
                        2
                    }] += 1;
                });
                assert!(met[0] > 0 && met[1] > 0 && (met[2] > 0 || zero), "{met:?}");
            }
        }
    }
}

/// Version and names; none where there is no area.
fn state(bytes: &[u8]) -> Option<(Version, Vec<String>)> {
    let area = LabelArea::open(Recorder::new(bytes.to_vec())).unwrap();
    Some((area.version()?, names(&area)))
}

#[test]
fn lost_bytes_are_healed_by_what_overwrites_all() {
    // Lost in one index block, and in the other one: they are of 512 bytes each, the unit in which bytes are lost.
    for at in [0, 512] {
        let spoiled = || {
            let media = area(256 << 10, Version::V1_1, &[sample(0, "x")]).into_media();
            media.inject_poison(MediaOffset(at), 1).unwrap();
            media
        };
        let mut zeroed = LabelArea::open(spoiled()).unwrap();
        zeroed.zero(MediaOffset(0), 256 << 10).unwrap();
        assert!(zeroed.is_blank().unwrap());
        assert_eq!(zeroed.media().badblocks(MediaOffset(0), 256 << 10), []);
        let fresh = LabelArea::init_over(spoiled(), Version::V1_2).unwrap();
        assert_eq!(fresh.check().unwrap().other, None);
        assert_eq!(fresh.media().badblocks(MediaOffset(0), 256 << 10), []);
    }
    let backup = all(area(4096, Version::V1_2, &[sample(1, "back")]).media());
    let mut area = area(4096, Version::V1_2, &[sample(0, "x")]);
    area.media().inject_poison(MediaOffset(600), 1000).unwrap();
    area.write_bytes(MediaOffset(0), &backup).unwrap();
    assert_eq!((area.media().badblocks(MediaOffset(0), 4096), names(&area)), (vec![], vec!["back".into()]));
}

#[test]
fn one_slot_is_kept_free() {
    for (size, version, slots) in
        [(1024, Version::V1_1, 4), (1024, Version::V1_2, 2), (128 << 10, Version::V1_2, 510)]
    {
        let mut area = area(size, version, &[]);
        assert_eq!((area.slot_count(), area.available_slots()), (slots, slots - 1));
        area.write_namespace(&sample(0, "x")).unwrap();
        assert_eq!(area.available_slots(), slots - 2);
    }
    // As Linux counts in a blank area: one of version 1.2 would be made there.
    let blank = reopen(&vec![0; 128 << 10]);
    assert_eq!((blank.slot_count(), blank.available_slots()), (510, 509));
}

#[test]
fn a_name_of_64_bytes_is_shown_and_not_written() {
    let entry = &list("probes.json")["p4c-v12-name-64-nonul"];
    let mut area = LabelArea::open(tail(&image("probes", entry), number(&entry["label_size"]))).unwrap();
    let found = area.namespaces(1 << 40).unwrap()[0];
    assert_eq!(found.name.as_bytes().len(), 64);
    let before = all(area.media());
    let error = area.write_namespace(&found).unwrap_err();
    assert!(error.to_string().contains("accepted at most 63"), "{error}");
    assert_eq!(all(area.media()), before);
    area.write_namespace(&Label { name: Name::new("short").unwrap(), ..found }).unwrap();
    assert_eq!(names(&area), ["short"]);
}

/// The index blocks of an area say another number of slots, as kernels before 4.16 counted.
fn recounted(size: u64, version: Version, nslot: u32) -> Option<Vec<u8>> {
    let fresh = area(size, version, &[]);
    let len = usize::try_from(fresh.index().unwrap().layout().index_len).unwrap();
    (nslot <= fresh.slot_count()).then(|| {
        let mut image = all(fresh.media());
        for block in [0, len] {
            image[block + 56..block + 60].copy_from_slice(&nslot.to_le_bytes());
            image[block + 72..block + len].fill(0);
            for slot in 0..usize::try_from(nslot).unwrap() {
                image[block + 72 + slot / 8] |= 1 << (slot % 8);
            }
            let sum = fletcher64_without(&image[block..block + len], 64);
            image[block + 64..block + 72].copy_from_slice(&sum.to_le_bytes());
        }
        image
    })
}

#[test]
fn areas_of_older_kernels_stay_in_use() {
    let mut seen = 0;
    for version in Version::ALL {
        for size in [65536u64, 128 << 10, 256 << 10, 1 << 20] {
            for divisor in [129, u64::from(version.label_len()) + 1] {
                let nslot = u32::try_from(size / divisor).unwrap();
                // Where those index blocks were larger than today's, Linux finds no area any more either.
                let Some(image) = recounted(size, version, nslot) else { continue };
                let mut area = reopen(&image);
                assert_eq!((area.slot_count(), area.available_slots()), (nslot, nslot - 1));
                for (i, name) in (0..3).zip(["a", "b", "c"]) {
                    area.write_namespace(&sample(i, name)).unwrap();
                }
                area.delete(sample(1, "").uuid).unwrap();
                let again = reopen(&all(area.media()));
                assert_eq!((again.slot_count(), names(&again)), (nslot, vec!["a".into(), "c".into()]));
                assert_eq!(again.available_slots(), nslot - 3);
                // The slots past those that are counted stay as they are.
                let end = again.slot_offset(nslot - 1).unwrap().0 + u64::from(version.label_len());
                assert!(bytes(again.media(), end, size - end).iter().all(|byte| *byte == 0));
                seen += 1;
            }
        }
    }
    assert!(seen >= 6, "{seen}");
}

/// Creates, renames, grows and removes namespaces by the thousand, against a plain table of what should be there.
fn rounds(size: u64, version: Version, count: usize, most: usize) {
    let mut area = area(size, version, &[]);
    let slots = area.slot_count();
    let mut table: BTreeMap<Uuid, Label> = BTreeMap::new();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 40).unwrap()
    };
    for round in 0..count {
        let seq = area.index().unwrap().seq();
        let pick = table.values().nth(next() % table.len().max(1)).copied();
        let updates = match (next() % 3, pick) {
            (0, Some(label)) => {
                area.delete(label.uuid).unwrap();
                table.remove(&label.uuid);
                1
            }
            (1, Some(label)) => {
                let rawsize = u64::try_from(next() % (1 << 24)).unwrap() + 1;
                let label = Label { name: Name::new(&format!("r{round}")).unwrap(), rawsize, ..label };
                area.write_namespace(&label).unwrap();
                table.insert(label.uuid, label);
                2
            }
            _ => {
                let place = (0..200u8).find(|i| !table.contains_key(&sample(*i, "").uuid)).unwrap();
                let label = sample(place, &format!("c{round}"));
                match area.write_namespace(&label) {
                    Ok(()) => {
                        assert!(table.len() < most);
                        table.insert(label.uuid, label);
                        2
                    }
                    Err(e) => {
                        assert_eq!((e.kind(), table.len()), (Kind::NoSpace, most), "{e}");
                        0
                    }
                }
            }
        };
        let wanted = (0..updates).fold(seq, |seq, _| next_seq(seq));
        assert_eq!(area.index().unwrap().seq(), wanted, "round {round}");
        if table.len() == most && most < usize::try_from(slots).unwrap() - 1 {
            for uuid in std::mem::take(&mut table).into_keys() {
                area.delete(uuid).unwrap();
            }
        }
        // As the next reader finds it.
        if round % 97 == 0 || round + 1 == count {
            let media = area.into_media();
            area = LabelArea::open(media).unwrap();
            let check = area.check().unwrap();
            assert_eq!((check.other, check.slots.len(), check.slot_count), (None, 0, slots), "round {round}");
            let [one, other] = area.blocks();
            let (one, other) = (one.as_ref().unwrap().seq(), other.as_ref().unwrap().seq());
            assert!(next_seq(one) == other || next_seq(other) == one, "{one} {other}");
            let left = usize::try_from(slots).unwrap() - table.len();
            assert_eq!(usize::try_from(area.available_slots()).unwrap(), left - 1, "a slot was lost");
            let mut found = area.namespaces(1 << 40).unwrap();
            for label in &mut found {
                label.slot = 0;
            }
            let mut wanted: Vec<Label> = table.values().copied().collect();
            for label in wanted.iter_mut().filter(|_| version == Version::V1_1) {
                label.type_guid = Uuid::nil();
            }
            wanted.sort_by_key(|label| label.dpa);
            assert_eq!(found, wanted, "round {round}");
        }
    }
}

#[test]
fn ten_thousand_rounds_leave_the_area_healthy() {
    rounds(1024, Version::V1_1, 10_000, 3);
    rounds(1024, Version::V1_2, 10_000, 1);
    rounds(128 << 10, Version::V1_1, 10_000, 100);
    rounds(128 << 10, Version::V1_2, 10_000, 100);
    for version in Version::ALL {
        rounds(4 << 20, version, 1000, 100);
    }
}

/// A label of Linux's goes through a change of ours with nothing else altered.
#[test]
fn what_we_do_not_know_is_kept() {
    let entry = &list("golden.json")["multi3-v1.1"];
    let mut area = LabelArea::open(tail(&image("golden", entry), number(&entry["label_size"]))).unwrap();
    let (_, first) = label(&entry["labels"][0]);
    area.write_namespace(&Label { name: Name::new("renamed").unwrap(), ..first }).unwrap();
    let others = entry["labels"].as_array().unwrap().iter().skip(1).map(|json| label(json).1);
    let slots = area.slots().unwrap();
    for other in others {
        assert!(slots.iter().any(|slot| slot.label.as_ref() == Ok(&other)));
    }
}
