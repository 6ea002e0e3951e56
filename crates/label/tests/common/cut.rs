// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium whose power can be cut.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use nvstack_media::{Domain, Error, Kind, Media, MediaOffset, Result, check_range};

/// What was done to a medium.
pub(crate) enum Event {
    Store(usize, Vec<u8>),
    Flush(usize, usize),
    Drain,
}

/// A medium that remembers every store, and what was done to make it durable.
pub(crate) struct Recorder {
    bytes: Mutex<Vec<u8>>,
    events: Mutex<Vec<Event>>,
    failing: Mutex<Option<usize>>,
}

impl Recorder {
    pub(crate) fn new(bytes: Vec<u8>) -> Recorder {
        Recorder { bytes: Mutex::new(bytes), events: Mutex::default(), failing: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap()
    }

    pub(crate) fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap()
    }

    /// Lets the event after `count` more of them fail. A store then has reached the medium all the same.
    pub(crate) fn fail_after(&self, count: usize) {
        *self.failing.lock().unwrap() = Some(count);
    }

    fn log(&self, event: Event) -> Result<()> {
        let mut failing = self.failing.lock().unwrap();
        let fails = *failing == Some(0);
        *failing = failing.and_then(|count| count.checked_sub(1));
        if !fails || matches!(event, Event::Store(..)) {
            self.events.lock().unwrap().push(event);
        }
        if fails { Err(Error::new(Kind::Io, "fail as told")) } else { Ok(()) }
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
        self.log(Event::Store(at(offset), from.to_vec()))
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
        self.log(Event::Flush(at(offset), usize::try_from(len).unwrap()))
    }

    fn drain(&self) -> Result<()> {
        self.log(Event::Drain)
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
pub(crate) fn cuts(start: &[u8], events: &[Event], check: impl FnMut(&[u8])) -> usize {
    cuts_of(start, events, false, check)
}

/// The same, where one of the events may have failed.
pub(crate) fn cuts_of(start: &[u8], events: &[Event], failed: bool, mut check: impl FnMut(&[u8])) -> usize {
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
    // A label whose write failed may stay in the cache: nobody reads it.
    assert!(pending.is_empty() || failed, "not durable when the change returned");
    seen
}
