// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are held, and how often.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds of pages: the part of a page's state that ends with the process, wherever descriptors are kept. Its cost is by
/// the number of holds; how many pages one covers does not count.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// By page: how many holds begin there, less how many end there.
    edges: Mutex<BTreeMap<u64, i64>>,
}

impl Pins {
    /// Holds pages until the guard is dropped.
    pub(crate) fn pin(self: &Arc<Pins>, pages: Range<u64>) -> Pinned {
        self.change(&pages, 1);
        Pinned { pins: Arc::clone(self), pages }
    }

    /// How many holds a page is under.
    pub(crate) fn of(&self, page: u64) -> u64 {
        let held = self.lock().range(..=page).fold(0i64, |held, (_, edge)| held.saturating_add(*edge));
        u64::try_from(held).unwrap_or(0)
    }

    /// Whether no page is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn change(&self, pages: &Range<u64>, by: i64) {
        let mut edges = self.lock();
        for (page, by) in [(pages.start, by), (pages.end, by.saturating_neg())] {
            let edge = edges.entry(page).or_default();
            *edge = edge.saturating_add(by);
        }
        edges.retain(|_, edge| *edge != 0);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, i64>> {
        // Nothing panics under this lock, so what it guards is sound.
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pages that are held. Dropping it lets them go.
#[derive(Debug)]
pub struct Pinned {
    pins: Arc<Pins>,
    pages: Range<u64>,
}

impl Pinned {
    /// Which, counted from the start of the data.
    #[must_use]
    pub fn pages(&self) -> Range<u64> {
        self.pages.clone()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pins.change(&self.pages, -1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_counter_for_each_page(steps in prop::collection::vec((0u64..20, 1u64..20, any::<bool>()), 1..40)) {
            let pins = Arc::new(Pins::default());
            let mut held: Vec<Pinned> = Vec::new();
            for (from, len, release) in steps {
                if release && !held.is_empty() {
                    held.remove(usize::try_from(from).unwrap() % held.len());
                } else {
                    held.push(pins.pin(from..from + len));
                }
                for page in 0..45 {
                    let model = held.iter().filter(|h| h.pages.contains(&page)).count() as u64;
                    prop_assert_eq!(pins.of(page), model);
                }
                prop_assert_eq!(pins.is_empty(), held.is_empty());
            }
            drop(held);
            prop_assert!(pins.is_empty());
        }
    }
}
