// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is refused, what is left alone, and where areas are looked for.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{all, bytes, sample};
use nvstack_format::label::{Flags, Label, Version};
use nvstack_format::{Dpa, fletcher64_without, guid};
use nvstack_label::{LabelArea, WINDOW, find_area};
use nvstack_media::{Anon, Error, Kind, Media, MediaOffset};
use proptest::collection::vec;
use proptest::prelude::*;

fn medium(bytes: &[u8]) -> Anon {
    let media = Anon::new(u64::try_from(bytes.len()).unwrap()).unwrap();
    media.store(MediaOffset(0), bytes).unwrap();
    media
}

fn area(size: u64, version: Version, labels: &[Label]) -> LabelArea<Anon> {
    let mut area = LabelArea::init(Anon::new(size).unwrap(), version).unwrap();
    for label in labels {
        area.write_namespace(label).unwrap();
    }
    area
}

/// The error of something that must not write.
fn refused<T: std::fmt::Debug>(media: &Anon, what: impl FnOnce() -> Result<T, Error>) -> Error {
    let before = all(media);
    let error = what().unwrap_err();
    assert_eq!(all(media), before, "written all the same: {error}");
    error
}

#[test]
fn sizes_that_are_no_area() {
    for size in [1, 512, 1023] {
        let media = Anon::new(size).unwrap();
        for error in [
            refused(&media, || LabelArea::open(&media)),
            refused(&media, || LabelArea::init(&media, Version::V1_1)),
            refused(&media, || LabelArea::init_over(&media, Version::V1_2)),
        ] {
            assert_eq!(error.kind(), Kind::Invalid);
            let text = error.to_string();
            assert!(text.contains(&format!("found {size}, accepted 1024 to 4294967295 bytes")), "{text}");
        }
    }
}

#[test]
fn blank_and_unusable_areas_have_no_labels_and_take_none() {
    let blank = Anon::new(4096).unwrap();
    let mut garbage = vec![0xa5; 4096];
    garbage[..16].copy_from_slice(b"NAMESPACE_INDEX\0");
    for (media, is_blank) in [(blank, true), (medium(&garbage), false), (medium(&[0xff; 4096]), false)] {
        let mut area = LabelArea::open(&media).unwrap();
        assert_eq!((area.index(), area.version(), area.is_blank().unwrap()), (None, None, is_blank));
        assert_eq!((area.slots().unwrap().len(), area.namespaces(1 << 40).unwrap().len()), (0, 0));
        let error = refused(&media, || area.write_namespace(&sample(0, "x")));
        assert_eq!(error.kind(), Kind::Unrecognised);
        assert!(error.to_string().contains("label index block 0: "), "{error}");
        assert_eq!(refused(&media, || area.delete(sample(0, "").uuid)).kind(), Kind::Unrecognised);
    }
}

#[test]
fn initialising_overwrites_only_when_told() {
    let used = area(4096, Version::V1_2, &[sample(0, "x")]).into_media();
    let error = refused(&used, || LabelArea::init(&used, Version::V1_1));
    assert_eq!(error.kind(), Kind::Exists);
    assert!(error.to_string().contains("labels of version 1.2 there, accepted a blank"), "{error}");
    let garbage = medium(&[7; 4096]);
    assert_eq!(refused(&garbage, || LabelArea::init(&garbage, Version::V1_1)).kind(), Kind::Exists);
    for media in [used, garbage] {
        for version in [Version::V1_1, Version::V1_2, Version::V1_1] {
            let fresh = LabelArea::init_over(&media, version).unwrap();
            assert_eq!((fresh.index().unwrap().seq(), fresh.slots().unwrap().len()), (3, 0));
            assert_eq!(LabelArea::open(&media).unwrap().version(), Some(version));
        }
    }
}

#[test]
fn labels_that_would_spoil_the_area() {
    let good = sample(0, "x");
    for version in Version::ALL {
        let media = area(4096, version, &[sample(1, "one")]).into_media();
        let mut area = LabelArea::open(&media).unwrap();
        for (label, text) in [
            (Label { position: 1, ..good }, "position"),
            (Label { nlabel: 0, ..good }, "nlabel"),
            (Label { rawsize: 0, ..good }, "rawsize"),
            (Label { uuid: uuid::Uuid::nil(), ..good }, "uuid"),
            (Label { rawsize: (1 << 24) + 1, ..good }, "bytes outside 0x1000000 to 0x2000000"),
            (Label { dpa: Dpa((2 << 24) - 1), ..good }, "bytes outside 0x1000000 to 0x2000000"),
        ] {
            let error = refused(&media, || area.write_namespace(&label));
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(text), "{error}");
        }
        // Its own old range is no obstacle to a namespace that moves or grows.
        area.write_namespace(&Label { rawsize: 3 << 24, ..sample(1, "one") }).unwrap();
        assert_eq!(refused(&media, || area.delete(good.uuid)).kind(), Kind::NotFound);
    }
    let media = area(4096, Version::V1_1, &[]).into_media();
    let error = refused(&media, || {
        LabelArea::open(&media).unwrap().write_namespace(&Label { abstraction: guid::BTT2, ..good })
    });
    assert!(error.to_string().contains("found abstraction 18633bfc-1735-4217-8ac9-17239282d3f8"), "{error}");
    let media = area(4096, Version::V1_2, &[]).into_media();
    let error = refused(&media, || {
        LabelArea::open(&media).unwrap().write_namespace(&Label { type_guid: guid::BTT2, ..good })
    });
    assert!(error.to_string().contains("type_guid"), "{error}");
}

#[test]
fn a_full_area_is_told_before_anything_is_written() {
    // Four slots: of three namespaces the third needs two slots for a moment, so the fourth never fits.
    let mut three = area(1024, Version::V1_1, &[sample(0, "a"), sample(1, "b"), sample(2, "c")]);
    assert_eq!(three.slots().unwrap().len(), 3);
    three.write_namespace(&sample(1, "renamed")).unwrap();
    let media = three.into_media();
    let mut three = LabelArea::open(&media).unwrap();
    let error = refused(&media, || three.write_namespace(&sample(3, "d")));
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(error.to_string().contains("found 1 free slots of 4, accepted 2 or more"), "{error}");
    three.delete(sample(0, "").uuid).unwrap();
    three.write_namespace(&sample(3, "d")).unwrap();
    let names: Vec<String> = three.namespaces(1 << 30).unwrap().iter().map(|l| l.name.to_string()).collect();
    assert_eq!(names, ["renamed", "c", "d"]);
}

#[test]
fn flags_are_kept_and_stale_labels_replaced() {
    for version in Version::ALL {
        let flags = Flags::READ_ONLY | Flags::UPDATING;
        let mut area = area(4096, version, &[Label { flags, slot: 77, ..sample(0, "x") }]);
        let found = area.namespaces(1 << 24).unwrap()[0];
        assert_eq!((found.flags, found.slot), (Flags::READ_ONLY, 1));
        assert_eq!(area.namespaces((1 << 24) - 1).unwrap(), [], "outside the DIMM");
        // What was written is what is read from the medium anew.
        area.write_namespace(&sample(1, "y")).unwrap();
        let again = LabelArea::open(area.media()).unwrap();
        assert_eq!(again.slots().unwrap(), area.slots().unwrap());
        assert_eq!(again.index(), area.index());
    }
}

#[test]
fn poison_ends_in_its_own_error() {
    let media = area(4096, Version::V1_2, &[sample(0, "x")]).into_media();
    media.inject_poison(MediaOffset(1024), 1).unwrap();
    let area = LabelArea::open(&media).unwrap();
    assert_eq!(area.all_labels().unwrap_err().kind(), Kind::Poison);
    media.inject_poison(MediaOffset(0), 1).unwrap();
    assert_eq!(LabelArea::open(&media).unwrap_err().kind(), Kind::Poison);
}

#[test]
fn one_lost_label_does_not_hide_the_others() {
    // Slots of 256 bytes from 512 on: "b" is in slot 2, which shares its unit of 512 bytes with slot 3.
    let mut area = area(4096, Version::V1_2, &[sample(0, "a"), sample(1, "b")]);
    assert_eq!(area.slots().unwrap().iter().map(|slot| slot.number).collect::<Vec<_>>(), [1, 2]);
    let place = area.slot_offset(2).unwrap();
    area.media().inject_poison(place, 1).unwrap();
    let names = |area: &LabelArea<Anon>| {
        area.namespaces(1 << 40).unwrap().iter().map(|l| l.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&area), ["a"]);
    let slots = area.slots().unwrap();
    assert_eq!(slots[1].label.as_ref().unwrap_err().accepted, "bytes that can be read");
    assert_eq!(area.check().unwrap().slots.len(), 1);
    // What stays in its place may change; a new place might be that of the lost one.
    area.write_namespace(&Label { name: sample(0, "renamed").name, ..sample(0, "") }).unwrap();
    for label in [sample(2, "c"), Label { rawsize: 3 << 24, ..sample(0, "") }] {
        let before = all_but_lost(&area);
        let error = area.write_namespace(&label).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (Kind::Poison, Some(place)), "{error}");
        assert_eq!(all_but_lost(&area), before);
    }
    area.delete(sample(0, "").uuid).unwrap();
    assert_eq!(names(&area), [""; 0]);
}

fn all_but_lost(area: &LabelArea<Anon>) -> Vec<u8> {
    let mut found = bytes(area.media(), 0, 1024);
    found.extend(bytes(area.media(), 1536, 4096 - 1536));
    found
}

#[test]
fn lost_free_slots_are_passed_over() {
    let mut area = area(4096, Version::V1_2, &[]);
    area.media().inject_poison(MediaOffset(512), 1).unwrap();
    area.write_namespace(&sample(0, "x")).unwrap();
    assert_eq!(area.namespaces(1 << 40).unwrap()[0].slot, 3);
    // Too few that are whole.
    let mut area = self::area(1024, Version::V1_1, &[]);
    area.media().inject_poison(MediaOffset(512), 1).unwrap();
    let error = area.write_namespace(&sample(0, "x")).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(error.to_string().contains("found 0 free slots of 4"), "{error}");
}

/// An image: persistent memory, and an area at its end.
fn with_area(memory: u64, area: &[u8]) -> Anon {
    let image = Anon::new(memory + u64::try_from(area.len()).unwrap()).unwrap();
    image.store(MediaOffset(memory), area).unwrap();
    image
}

#[test]
fn areas_of_any_size_are_found() {
    let sizes =
        [1024, 1025, 2048, 2049, 4096, 5000, 65536, 100_000, 131_072, 135_168, 262_144, 1 << 20, WINDOW];
    for version in Version::ALL {
        for size in sizes {
            let mut fresh = area(size, version, &[]);
            let image = with_area(1 << 20, &all(fresh.media()));
            assert_eq!(find_area(&image).unwrap(), Some(size));
            // After an update, and with either index block gone, it is still there; with both it is not.
            if size > 2048 {
                fresh.write_namespace(&sample(0, "x")).unwrap();
            }
            let index_len = fresh.index().unwrap().layout().index_len;
            let image = with_area(1 << 20, &all(fresh.media()));
            image.store(MediaOffset(1 << 20), &[0; 16]).unwrap();
            assert_eq!(find_area(&image).unwrap(), Some(size), "index block 1 alone");
            let image = with_area(1 << 20, &all(fresh.media()));
            image.store_u64(MediaOffset((1 << 20) + index_len), 1).unwrap();
            assert_eq!(find_area(&image).unwrap(), Some(size), "index block 0 alone");
            image.store_u64(MediaOffset(1 << 20), 1).unwrap();
            assert_eq!(find_area(&image).unwrap(), None);
        }
        let too_far = with_area(1 << 20, &all(area(WINDOW + 4096, version, &[]).media()));
        assert_eq!(find_area(&too_far).unwrap(), None);
    }
    for size in [1, 255, 512, 4096, 1 << 20] {
        assert_eq!(find_area(&Anon::new(size).unwrap()).unwrap(), None);
    }
    // The image may be the area alone.
    assert_eq!(find_area(area(4096, Version::V1_1, &[]).media()).unwrap(), Some(4096));
}

#[test]
fn what_a_guest_stores_is_no_label_area() {
    // A whole image with labels, kept in the persistent memory of another one: without labels, then with.
    let inner =
        all(&with_area(64 << 10, &all(area(128 << 10, Version::V1_2, &[sample(0, "inner")]).media())));
    for behind in [4096, 64 << 10, 1 << 20] {
        let image = with_area(1 << 20, &inner);
        let outer = Anon::new(image.len() + behind).unwrap();
        outer.store(MediaOffset(0), &all(&image)).unwrap();
        assert_eq!(find_area(&outer).unwrap(), None, "{behind} bytes behind it");
    }
    let real = all(area(128 << 10, Version::V1_1, &[]).media());
    assert_eq!(find_area(&with_area(1 << 20, &[&inner[..], &real[..]].concat())).unwrap(), Some(128 << 10));
    // An index block made to reach from the guest's memory to the end of the image: the real area lies nearer.
    let fake = all(area(256 << 10, Version::V1_2, &[sample(0, "fake")]).media());
    let shadow = with_area(1 << 20, &[&fake[..128 << 10], &real[..]].concat());
    assert_eq!(find_area(&shadow).unwrap(), Some(128 << 10));
    let real = all(area(4096, Version::V1_1, &[]).media());
    let fake = all(area(8192, Version::V1_2, &[sample(0, "fake")]).media());
    let close = with_area(64 << 10, &[&fake[..4096], &real[..]].concat());
    assert_eq!(find_area(&close).unwrap(), Some(4096), "both within one stride of the search");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Words of a good area overwritten, index blocks sealed again: whatever is read, an update either is refused or
    /// is found again, and the other labels that stood stay.
    #[test]
    fn hostile_areas(
        size in proptest::sample::select(vec![1024u64, 2048, 4096]),
        new in any::<bool>(),
        words in vec((0u64..512, any::<u64>(), any::<bool>()), 0..6),
        near in vec((prop_oneof![0usize..72, 256usize..328], any::<u8>()), 0..6),
    ) {
        let version = if new { Version::V1_2 } else { Version::V1_1 };
        let labels = if size == 1024 { vec![sample(0, "zero")] } else { vec![sample(0, "zero"), sample(1, "one")] };
        let media = area(size, version, &labels).into_media();
        for (word, value, small) in words {
            let value = if small { value % 16 } else { value };
            media.store_u64(MediaOffset(word * 8 % size), value).unwrap();
        }
        for (at, value) in near {
            media.store(MediaOffset(u64::try_from(at).unwrap()), &[value]).unwrap();
        }
        for block in [0, 256] {
            let index = bytes(&media, block, 256);
            media.store_u64(MediaOffset(block + 64), fletcher64_without(&index, 64)).unwrap();
        }
        let _ = find_area(&media).unwrap();
        let mut area = LabelArea::open(&media).unwrap();
        let _ = (area.headers().unwrap(), area.all_labels().unwrap(), area.is_blank().unwrap(), area.version());
        let before = area.slots().unwrap();
        let stood = all(&media);
        match area.write_namespace(&sample(0, "changed")) {
            Err(error) => {
                prop_assert_eq!(all(&media), stood, "{}", error);
                let kinds = [Kind::Unrecognised, Kind::NoSpace, Kind::Invalid];
                prop_assert!(kinds.contains(&error.kind()), "{}", error);
            }
            Ok(()) => {
                let after = LabelArea::open(&media).unwrap().slots().unwrap();
                let own = sample(0, "").uuid;
                let is_own = |l: &Label| l.uuid == own;
                let changed: Vec<_> = after.iter().filter_map(|s| s.label.as_ref().ok()).filter(|l| is_own(l)).collect();
                prop_assert_eq!(changed.len(), 1);
                prop_assert_eq!(changed[0].name.to_string(), "changed");
                for slot in before.iter().filter(|s| !s.label.as_ref().is_ok_and(is_own)) {
                    prop_assert!(after.contains(slot));
                }
            }
        }
    }

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 1024..5000), signed in any::<bool>()) {
        let mut bytes = bytes;
        if signed {
            for at in [0, 256, 512] {
                bytes[at..at + 16].copy_from_slice(b"NAMESPACE_INDEX\0");
            }
        }
        let media = medium(&bytes);
        prop_assert_eq!(find_area(&media).unwrap(), None);
        let mut area = LabelArea::open(&media).unwrap();
        prop_assert!(area.index().is_none() && area.namespaces(u64::MAX).unwrap().is_empty());
        let _ = area.all_labels().unwrap();
        prop_assert!(area.write_namespace(&sample(0, "x")).is_err());
        prop_assert_eq!(all(&media), bytes);
    }
}

#[test]
fn lost_bytes_in_one_index_block_leave_the_other_in_charge() {
    // Index blocks of 512 bytes, the unit in which bytes are lost.
    let label = sample(1, "x");
    for number in [0u64, 1] {
        let area = area(256 << 10, Version::V1_1, &[Label { abstraction: uuid::Uuid::nil(), ..label }]);
        area.media().inject_poison(MediaOffset(number * 512), 1).unwrap();
        let found = LabelArea::open(area.media()).unwrap();
        assert_eq!(found.index().unwrap().number() as u64, 1 - number);
        assert_eq!(found.slots().unwrap().len(), 1);
    }
}
