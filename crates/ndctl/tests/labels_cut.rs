// SPDX-License-Identifier: MIT OR Apache-2.0
//! The power is cut while label areas are written: what comes back is what was there, nothing, or what was to come; never the state
//! of one change before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;

use common::dump;
use common::fake::Fake;
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Dpa, guid};
use nvstack_label::LabelArea;
use nvstack_media::{Anon, Media, MediaOffset, Result};
use nvstack_ndctl::{
    EnableOptions, InitLabels, LabelOptions, Lines, Sys, disable_regions, init_labels, write_labels,
    zero_labels,
};
use uuid::Uuid;

/// In the larger one the index blocks of the two versions have different sizes.
const SIZES: [u64; 2] = [4 << 10, 256 << 10];

/// A tree that keeps the states that each write of labels could leave behind.
struct Cut<'a> {
    fake: &'a Fake,
    left: RefCell<BTreeSet<State>>,
}

impl Sys for Cut<'_> {
    fn read(&self, path: &str) -> Result<String> {
        self.fake.read(path)
    }
    fn write(&self, path: &str, text: &str) -> Result<()> {
        self.fake.write(path, text)
    }
    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.fake.list(path)
    }
    fn link(&self, path: &str) -> Result<String> {
        self.fake.link(path)
    }
    fn read_dev(&self, dev: &str, at: u64, into: &mut [u8]) -> Result<()> {
        self.fake.read_dev(dev, at, into)
    }
    fn write_dev(&self, dev: &str, at: u64, from: &[u8]) -> Result<()> {
        self.fake.write_dev(dev, at, from)
    }
    fn label_size(&self, dimm: &str) -> Result<u64> {
        self.fake.label_size(dimm)
    }
    fn label_read(&self, dimm: &str, at: u64, into: &mut [u8]) -> Result<()> {
        self.fake.label_read(dimm, at, into)
    }
    fn label_write(&self, dimm: &str, at: u64, from: &[u8]) -> Result<()> {
        let before = self.fake.labels(dimm);
        let start = usize::try_from(at).unwrap();
        // Words are what persists whole: the first so many of them, or the last. Of long writes those at the area's beginning.
        let words = from.len().div_ceil(8);
        let cuts: Vec<usize> = (0..=words.min(70)).chain([words / 2, words - 1, words]).collect();
        for cut in cuts {
            let cut = (cut * 8).min(from.len());
            for part in [0..cut, cut..from.len()] {
                let mut left = before.clone();
                left[start + part.start..start + part.end].copy_from_slice(&from[part]);
                self.left.borrow_mut().insert(state(&left));
            }
        }
        self.fake.label_write(dimm, at, from)
    }
    fn inject_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        self.fake.inject_error(region, at, len)
    }
    fn clear_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        self.fake.clear_error(region, at, len)
    }
    fn idle_dev(&self, dev: &str) -> Result<()> {
        self.fake.idle_dev(dev)
    }
}

/// The version of an area, and the names in it; none where there is no area.
type State = Option<(Version, Vec<String>)>;

fn state(bytes: &[u8]) -> State {
    let media = Anon::new(bytes.len() as u64).unwrap();
    media.store(MediaOffset(0), bytes).unwrap();
    let area = LabelArea::open(media).unwrap();
    let names = area.namespaces(1 << 40).unwrap().iter().map(|l| l.name.to_string()).collect();
    Some((area.version()?, names))
}

fn label(name: &str) -> Label {
    Label {
        uuid: Uuid::from_u128(1),
        name: Name::new(name).unwrap(),
        flags: Flags::empty(),
        nlabel: 1,
        position: 0,
        isetcookie: 7,
        lbasize: 512,
        dpa: Dpa(0),
        rawsize: 1 << 24,
        slot: 0,
        align: 0,
        type_guid: guid::PERSISTENT_MEMORY,
        abstraction: Uuid::nil(),
    }
}

/// An area that was changed so many times; the last change is of the name, in two steps.
fn area(size: u64, version: Version, changes: usize) -> Vec<u8> {
    let mut area = LabelArea::init(Anon::new(size).unwrap(), version).unwrap();
    for n in 0..changes {
        if n % 2 == 1 {
            area.delete(label("").uuid).unwrap();
        } else {
            area.write_namespace(&label(&format!("name {n}"))).unwrap();
        }
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    area.media().read(MediaOffset(0), &mut bytes).unwrap();
    bytes
}

fn one() -> LabelOptions {
    LabelOptions { dimms: vec!["nmem0".into()], ..LabelOptions::default() }
}

/// Cuts `verb` on an area with these bytes. Gives the states that a cut leaves.
fn left(bytes: &[u8], verb: impl FnOnce(&dyn Sys)) -> BTreeSet<State> {
    let fake = Fake::new(dump("sysfs-seed"));
    disable_regions(&fake, &EnableOptions::named("all"), &mut Lines::default()).unwrap();
    fake.resize_labels("nmem0", bytes.len());
    fake.label_write("nmem0", 0, bytes).unwrap();
    let cut = Cut { fake: &fake, left: RefCell::default() };
    verb(&cut);
    let mut left = cut.left.into_inner();
    left.insert(state(&fake.labels("nmem0")));
    left
}

#[test]
fn initialising_zeroing_and_restoring_bring_no_older_labels_back() {
    for (size, version) in SIZES.into_iter().flat_map(|size| Version::ALL.map(|version| (size, version))) {
        // Both index blocks take their turns as the current one.
        for changes in if size < 100_000 { 1..8 } else { 3..5 } {
            let bytes = area(size, version, changes);
            let old = state(&bytes);
            for fresh in Version::ALL {
                let verb = |sys: &dyn Sys| {
                    let how = InitLabels { version: fresh, force: true };
                    assert_eq!(init_labels(sys, &one(), how, &mut Lines::default()).unwrap().count, 1);
                };
                let states = [old.clone(), None, Some((fresh, vec![]))].into();
                assert_eq!(left(&bytes, verb), states, "init {version} to {fresh}, {changes} changes");
            }
            let verb = |sys: &dyn Sys| {
                assert_eq!(zero_labels(sys, &one(), &mut Lines::default()).unwrap().count, 1);
            };
            assert_eq!(left(&bytes, verb), [old.clone(), None].into(), "zero {version}, {changes} changes");
            for (kept, changes) in [(version, changes + 2), (Version::V1_1, 5), (Version::V1_2, 6)] {
                let kept = area(size, kept, changes);
                let verb = |sys: &dyn Sys| {
                    assert_eq!(write_labels(sys, &one(), &kept, &mut Lines::default()).unwrap().count, 1);
                };
                let states = left(&bytes, verb);
                let known: BTreeSet<State> = [old.clone(), None, state(&kept)].into();
                assert!(
                    states.is_subset(&known) && states.contains(&state(&kept)),
                    "write {version}: {states:?}"
                );
            }
        }
    }
}

#[test]
fn a_range_is_written_as_it_is() {
    let bytes = area(SIZES[0], Version::V1_2, 3);
    let part = LabelOptions { offset: 256, size: Some(256), ..one() };
    let verb = |sys: &dyn Sys| {
        assert_eq!(zero_labels(sys, &part, &mut Lines::default()).unwrap().count, 1);
        let mut found = vec![0; 1024];
        sys.label_read("nmem0", 0, &mut found).unwrap();
        assert_eq!((&found[..256], &found[512..]), (&bytes[..256], &bytes[512..1024]));
        assert!(found[256..512].iter().all(|b| *b == 0));
        write_labels(sys, &part, &bytes[256..512], &mut Lines::default()).unwrap();
        sys.label_read("nmem0", 0, &mut found).unwrap();
        assert_eq!(found, bytes[..1024]);
    };
    left(&bytes, verb);
}
