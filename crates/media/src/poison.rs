// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lost bytes, with the meaning of Linux `badblocks`: runs of 512-byte units.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::MediaOffset;

/// Bytes of a unit.
const UNIT: u64 = 512;

/// The list of lost units of one medium. A medium without poison pays one relaxed load for an access.
#[derive(Debug)]
pub struct Poison {
    /// Size of the medium in bytes: it ends the last unit, which may be a short one.
    size: u64,
    /// Runs that neither overlap nor touch: first unit, and the unit after the last.
    runs: RwLock<BTreeMap<u64, u64>>,
    /// How many runs there are, so that none can be told without the lock.
    count: AtomicUsize,
}

impl Poison {
    /// An empty list for a medium of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Poison {
        Poison { size, runs: RwLock::default(), count: AtomicUsize::new(0) }
    }

    /// Marks every unit that the range touches as lost. What lies outside the medium is left out.
    pub fn add(&self, at: MediaOffset, len: u64) {
        let Some((mut first, mut end)) = self.touched(at, len) else { return };
        let mut runs = self.write();
        // Everything that overlaps or touches becomes one run. Walking down from the end, the first run that ends
        // before ours begins ends the search: runs are disjoint, so all below it end earlier still.
        while let Some((&start, &stop)) = runs.range(..=end).next_back().filter(|(_, stop)| **stop >= first) {
            runs.remove(&start);
            first = first.min(start);
            end = end.max(stop);
        }
        runs.insert(first, end);
        self.count.store(runs.len(), Ordering::Release);
    }

    /// Heals the units that the range covers whole; those that it only touches stay lost.
    pub fn clear(&self, at: MediaOffset, len: u64) {
        if self.is_empty() || len == 0 {
            return;
        }
        let stop = at.0.saturating_add(len);
        let first = at.0.div_ceil(UNIT);
        // The medium's last unit is whole although it may be short.
        let end = if stop >= self.size { self.size.div_ceil(UNIT) } else { stop / UNIT };
        if first >= end {
            return;
        }
        let mut runs = self.write();
        while let Some((&start, &stop)) = runs.range(..end).next_back().filter(|(_, stop)| **stop > first) {
            runs.remove(&start);
            if start < first {
                runs.insert(start, first);
            }
            if stop > end {
                runs.insert(end, stop);
            }
        }
        self.count.store(runs.len(), Ordering::Release);
    }

    /// The lost units that touch the range, as (unit number, count) runs in rising order.
    #[must_use]
    pub fn list(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        let Some((first, end)) = self.touched(at, len).filter(|_| !self.is_empty()) else {
            return Vec::new();
        };
        let runs = self.read();
        // The run that begins before the range may reach into it.
        let before = runs.range(..first).next_back();
        let inside = runs.range(first..end);
        before
            .into_iter()
            .chain(inside)
            .map(|(&start, &stop)| (start.max(first), stop.min(end)))
            .filter(|(start, stop)| start < stop)
            .map(|(start, stop)| (start, stop.saturating_sub(start)))
            .collect()
    }

    /// The offset of the first lost unit that touches the range.
    #[must_use]
    pub fn first(&self, at: MediaOffset, len: u64) -> Option<MediaOffset> {
        if self.is_empty() {
            return None;
        }
        self.list(at, len).first().map(|(unit, _)| MediaOffset(unit.saturating_mul(UNIT)))
    }

    /// Whether nothing is lost: one relaxed load.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// The units that a range touches, inside the medium.
    fn touched(&self, at: MediaOffset, len: u64) -> Option<(u64, u64)> {
        let stop = at.0.saturating_add(len).min(self.size);
        (at.0 < stop).then(|| (at.0 / UNIT, stop.div_ceil(UNIT)))
    }

    // Nothing panics while the lock is held, so a poisoned lock still guards a sound map.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<u64, u64>> {
        self.runs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<u64, u64>> {
        self.runs.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Not a multiple of the unit: the last one is short.
    const SIZE: u64 = 40 * UNIT + 100;

    /// The same, one unit at a time.
    #[derive(Default)]
    struct Model(BTreeSet<u64>);

    impl Model {
        fn touches(unit: u64, at: u64, len: u64) -> bool {
            let (start, stop) = (unit * UNIT, ((unit + 1) * UNIT).min(SIZE));
            len > 0 && at < stop && at.saturating_add(len) > start
        }
        fn covers(unit: u64, at: u64, len: u64) -> bool {
            let (start, stop) = (unit * UNIT, ((unit + 1) * UNIT).min(SIZE));
            len > 0 && at <= start && at.saturating_add(len) >= stop
        }
        fn runs(&self, at: u64, len: u64) -> Vec<(u64, u64)> {
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for &unit in self.0.iter().filter(|u| Self::touches(**u, at, len)) {
                match runs.last_mut() {
                    Some((first, count)) if *first + *count == unit => *count += 1,
                    _ => runs.push((unit, 1)),
                }
            }
            runs
        }
    }

    proptest! {
        #[test]
        fn equals_a_set_of_units(
            steps in prop::collection::vec((any::<bool>(), 0..SIZE + 600, 0..9 * UNIT), 1..60),
            probes in prop::collection::vec((0..SIZE + 600, 0..9 * UNIT), 1..20),
        ) {
            let (poison, mut model) = (Poison::new(SIZE), Model::default());
            for (add, at, len) in steps {
                // Half of the steps start and end on units, where touching runs merge and split.
                let (at, len) = if at % 2 == 0 { (at / UNIT * UNIT, len / UNIT * UNIT) } else { (at, len) };
                for unit in 0..=40 {
                    if add && Model::touches(unit, at, len) {
                        model.0.insert(unit);
                    } else if !add && Model::covers(unit, at, len) {
                        model.0.remove(&unit);
                    }
                }
                if add { poison.add(MediaOffset(at), len) } else { poison.clear(MediaOffset(at), len) }
                prop_assert_eq!(poison.list(MediaOffset(0), u64::MAX), model.runs(0, u64::MAX));
                prop_assert_eq!(poison.is_empty(), model.0.is_empty());
            }
            for (at, len) in probes {
                let runs = model.runs(at, len);
                prop_assert_eq!(poison.first(MediaOffset(at), len), runs.first().map(|r| MediaOffset(r.0 * UNIT)));
                prop_assert_eq!(poison.list(MediaOffset(at), len), runs);
            }
        }
    }

    #[test]
    fn runs_that_touch_become_one() {
        let poison = Poison::new(SIZE);
        poison.add(MediaOffset(0), 1);
        poison.add(MediaOffset(2 * UNIT), UNIT);
        assert_eq!(poison.runs.read().unwrap().len(), 2);
        poison.add(MediaOffset(UNIT + 5), 1);
        assert_eq!(*poison.runs.read().unwrap(), BTreeMap::from([(0, 3)]));
    }

    #[test]
    fn ranges_beyond_the_medium_are_left_out() {
        let poison = Poison::new(SIZE);
        poison.add(MediaOffset(SIZE), 4096);
        poison.add(MediaOffset(u64::MAX), u64::MAX);
        assert!(poison.is_empty());
        poison.add(MediaOffset(SIZE - 1), u64::MAX);
        assert_eq!(poison.list(MediaOffset(0), u64::MAX), [(40, 1)]);
    }
}
