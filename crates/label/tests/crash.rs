// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts: at every store, flush and drain of an update, with any of the bytes that were not yet durable lost, the
//! area opens with the old state or with the new one, and can be updated further.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use common::{all, sample};
use nvstack_format::label::{Flags, Label, Version};
use nvstack_label::LabelArea;
use nvstack_media::{Anon, Domain, Media, MediaOffset, Result, check_range};
use uuid::Uuid;

enum Event {
    Store(usize, Vec<u8>),
    Flush(usize, usize),
    Drain,
}

/// A medium that remembers every store, and what was done to make it durable.
struct Recorder {
    bytes: Mutex<Vec<u8>>,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    fn new(bytes: Vec<u8>) -> Recorder {
        Recorder { bytes: Mutex::new(bytes), events: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap()
    }

    fn log(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

fn at(offset: MediaOffset) -> usize {
    usize::try_from(offset.0).unwrap()
}

impl Media for Recorder {
    fn len(&self) -> u64 {
        u64::try_from(self.lock().len()).unwrap()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn domain(&self) -> Domain {
        Domain::Cache
    }

    fn read(&self, offset: MediaOffset, into: &mut [u8]) -> Result<()> {
        check_range(self.len(), "read", offset, u64::try_from(into.len()).unwrap())?;
        into.copy_from_slice(&self.lock()[at(offset)..][..into.len()]);
        Ok(())
    }

    fn store(&self, offset: MediaOffset, from: &[u8]) -> Result<()> {
        check_range(self.len(), "store", offset, u64::try_from(from.len()).unwrap())?;
        self.lock()[at(offset)..][..from.len()].copy_from_slice(from);
        self.log(Event::Store(at(offset), from.to_vec()));
        Ok(())
    }

    fn stream(&self, offset: MediaOffset, from: &[u8]) -> Result<()> {
        self.store(offset, from)?;
        self.flush(offset, u64::try_from(from.len()).unwrap())
    }

    fn zero(&self, offset: MediaOffset, len: u64) -> Result<()> {
        self.stream(offset, &vec![0; usize::try_from(len).unwrap()])
    }

    fn load_u32(&self, offset: MediaOffset) -> Result<u32> {
        let mut word = [0; 4];
        self.read(offset, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn store_u32(&self, offset: MediaOffset, value: u32) -> Result<()> {
        self.store(offset, &value.to_le_bytes())
    }

    fn load_u64(&self, offset: MediaOffset) -> Result<u64> {
        let mut word = [0; 8];
        self.read(offset, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn store_u64(&self, offset: MediaOffset, value: u64) -> Result<()> {
        self.store(offset, &value.to_le_bytes())
    }

    fn flush(&self, offset: MediaOffset, len: u64) -> Result<()> {
        self.log(Event::Flush(at(offset), usize::try_from(len).unwrap()));
        Ok(())
    }

    fn drain(&self) -> Result<()> {
        self.log(Event::Drain);
        Ok(())
    }

    fn badblocks(&self, _: MediaOffset, _: u64) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn name(&self) -> String {
        "recorder".to_owned()
    }
}

/// A word that was stored and is not yet durable.
struct Pending {
    at: usize,
    word: [u8; 8],
    flushed: bool,
}

/// Calls `check` with every image that a cut can leave: after each event, the durable bytes with some of the pending words,
/// each applied in the order of their stores. Up to 10 words all subsets, of more a sample.
fn cuts(start: &[u8], events: &[Event], mut check: impl FnMut(&[u8])) -> usize {
    let mut durable = start.to_vec();
    let mut pending: Vec<Pending> = Vec::new();
    let mut seen = 0;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for event in events {
        match event {
            Event::Store(at, bytes) => {
                assert_eq!((at % 8, bytes.len() % 8), (0, 0), "words are what persists whole");
                let words = bytes.chunks(8).enumerate();
                pending.extend(words.map(|(i, w)| Pending {
                    at: at + i * 8,
                    word: w.try_into().unwrap(),
                    flushed: false,
                }));
            }
            Event::Flush(at, len) => {
                for word in &mut pending {
                    word.flushed |= word.at + 8 > *at && word.at < at + len;
                }
            }
            Event::Drain => {
                for word in pending.iter().filter(|word| word.flushed) {
                    durable[word.at..][..8].copy_from_slice(&word.word);
                }
                pending.retain(|word| !word.flushed);
            }
        }
        // Words that change nothing make no difference whether they are lost.
        let mut last: BTreeMap<usize, &[u8]> = BTreeMap::new();
        let differing: Vec<&Pending> = pending
            .iter()
            .filter(|p| {
                let before = last.insert(p.at, &p.word).unwrap_or(&durable[p.at..][..8]);
                before != p.word
            })
            .collect();
        let count = differing.len();
        assert!(count < 64, "{count}");
        let mut subsets: Vec<u64> = Vec::new();
        if count <= 10 {
            subsets.extend(0..1u64 << count);
        } else {
            let every = (1u64 << count) - 1;
            subsets.extend([0, every]);
            for i in 0..count {
                let (one, below) = (1u64 << i, (1u64 << i) - 1);
                subsets.extend([one, every & !one, below, every & !below]);
            }
            for _ in 0..200 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                subsets.push((random >> 1) & every);
            }
        }
        for subset in subsets {
            let mut image = durable.clone();
            for (_, word) in differing.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1) {
                image[word.at..][..8].copy_from_slice(&word.word);
            }
            check(&image);
            seen += 1;
        }
    }
    assert!(pending.is_empty(), "not durable when the change returned");
    seen
}

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
    let seen = cuts(before, &recorder.events.lock().unwrap(), |image| {
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
            let seen = cuts(&image, &media.events.lock().unwrap(), |image| {
                let found = state(image);
                assert!(found == old || found.is_none() || found == Some(Vec::new()), "{found:?}");
            });
            assert!(seen > 10);
            let area = LabelArea::open(&media).unwrap();
            assert_eq!((area.version(), area.slots().unwrap().len()), (Some(after), 0));
        }
    }
}
