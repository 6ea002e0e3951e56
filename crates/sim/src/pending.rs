// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores that are not durable yet, and the images that a power cut could make of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::panic::Location;

use crate::image::merge;
use crate::{Image, Model, mix};

/// Units of a 64-byte line.
const LINE: u64 = 8;
/// Units of a page.
const PAGE: u64 = 512;

/// A store of up to eight bytes in one aligned unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store {
    pub(crate) unit: u64,
    pub(crate) value: u64,
    /// Which bytes of the unit it stores.
    pub(crate) mask: u64,
    /// Past the cache.
    pub(crate) streamed: bool,
    /// The tasks whose next drain makes it durable.
    pub(crate) by: u64,
    /// No drain makes it durable any more: one failed that should have.
    pub(crate) given_up: bool,
    /// Who stored it is dead: a drain covers it once somebody else flushed it, or stored to its page.
    pub(crate) orphan: bool,
    pub(crate) site: &'static Location<'static>,
}

/// The stores that are not durable, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending(pub(crate) Vec<Store>);

impl Pending {
    /// Notes a store; `now` is the unit as it was seen before it.
    pub(crate) fn store(&mut self, store: Store, now: u64) {
        if merge(now, store.value, store.mask) != now {
            self.0.push(store);
        } else if store.streamed {
            // Nothing new, but durable once this task drains.
            for other in self.0.iter_mut().filter(|s| s.unit == store.unit) {
                other.by |= store.by;
            }
        }
    }

    /// A task flushes units.
    pub(crate) fn flush(&mut self, first: u64, last: u64, task: u64) {
        let lines = first / LINE..=last / LINE;
        for store in self.0.iter_mut().filter(|s| !s.streamed && lines.contains(&(s.unit / LINE))) {
            store.by |= task;
        }
        let pages = first / PAGE..=last / PAGE;
        for store in self.0.iter_mut().filter(|s| pages.contains(&(s.unit / PAGE))) {
            store.orphan = false;
        }
    }

    /// The process that made the stores is killed: what it flushed and did not drain counts as not flushed. What it stored
    /// past the cache has left its CPU when another process sees it, and the next drain of anybody covers it.
    pub(crate) fn kill(&mut self) {
        for store in &mut self.0 {
            (store.by, store.orphan) = (if store.streamed { u64::MAX } else { 0 }, true);
        }
    }

    /// A drain failed. A page cache forgets what it could not write and answers the next call with success; the stores
    /// may reach the file or not, and nobody will know.
    pub(crate) fn give_up(&mut self, model: Option<Model>) {
        if model == Some(Model::Pages) {
            for store in &mut self.0 {
                store.given_up = true;
            }
        }
    }

    /// A unit is stored to with what it holds. A page cache writes its page again all the same.
    pub(crate) fn touch(&mut self, unit: u64, model: Option<Model>) {
        if model == Some(Model::Pages) {
            for store in self.0.iter_mut().filter(|s| s.unit / PAGE == unit / PAGE) {
                store.given_up = false;
            }
        }
    }

    /// A task drains: what it covers is durable.
    pub(crate) fn drain(&mut self, model: Model, task: u64, sure: &mut Image, now: &Image) {
        if model == Model::Pages {
            // A page that was stored to since is written whole.
            let again: Vec<u64> = self.0.iter().filter(|s| !s.given_up).map(|s| s.unit / PAGE).collect();
            for store in self.0.iter_mut().filter(|s| s.given_up && again.contains(&(s.unit / PAGE))) {
                store.given_up = false;
            }
        }
        if model == Model::Pages && self.0.iter().any(|s| s.orphan) {
            let shared: Vec<u64> = self.0.iter().filter(|s| !s.orphan).map(|s| s.unit / PAGE).collect();
            for store in self.0.iter_mut().filter(|s| shared.contains(&(s.unit / PAGE))) {
                store.orphan = false;
            }
        }
        let covers =
            |s: &Store| !s.given_up && if model == Model::Pages { !s.orphan } else { s.by & task != 0 };
        if self.0.iter().all(covers) {
            if !self.0.is_empty() {
                sure.clone_from(now);
                self.0.clear();
            }
            return;
        }
        let mut left: Vec<Store> = Vec::with_capacity(self.0.len());
        for store in self.0.drain(..) {
            if !covers(&store) {
                left.push(store);
                continue;
            }
            // What the same bytes held before can't come back.
            for earlier in left.iter_mut().filter(|s| s.unit == store.unit) {
                earlier.mask &= !store.mask;
            }
            sure.set_unit(store.unit, merge(sure.unit(store.unit), store.value, store.mask));
        }
        left.retain(|s| s.mask != 0);
        self.0 = left;
    }

    /// A hash of everything that decides which images there are, now and later.
    pub(crate) fn hash(&self, model: Model) -> u64 {
        let group = |s: &Store| if model == Model::Pages { s.unit / PAGE } else { s.unit / LINE };
        let mut sum = 0u64;
        for (i, s) in self.0.iter().enumerate() {
            let rank = self.0[..i].iter().filter(|o| group(o) == group(s)).count() as u64;
            let words = [
                s.unit,
                s.value,
                s.mask,
                s.by << 1 | u64::from(s.streamed),
                rank << 2 | u64::from(s.orphan) << 1 | u64::from(s.given_up),
            ];
            sum = sum.wrapping_add(words.into_iter().fold(1, |h, w| mix(h ^ w)));
        }
        sum
    }

    /// The stores by what they persist together with, in order.
    fn cells(&self, model: Model) -> Vec<Vec<Store>> {
        let stores = &self.0;
        // Of each unit with more than one store: whether all are past the cache, and whether they overlap in part.
        let mut units: Vec<&Store> = stores.iter().collect();
        units.sort_by_key(|s| s.unit);
        let shared: BTreeMap<u64, (bool, bool)> = (units.chunk_by(|a, b| a.unit == b.unit))
            .filter(|run| run.len() > 1)
            .filter_map(|run| {
                let streamed = run.iter().all(|s| s.streamed);
                let apart = |a: &Store, b: &Store| a.mask == b.mask || a.mask & b.mask == 0;
                let overlap = !run.iter().all(|a| run.iter().all(|b| apart(a, b)));
                Some((run.first()?.unit, (streamed, overlap)))
            })
            .collect();
        let of = |s: &Store| shared.get(&s.unit).copied().unwrap_or((s.streamed, false));
        let key = |s: &Store| match model {
            Model::Pages => (s.unit / PAGE, 0),
            Model::Adversarial => (s.unit, 0),
            // Where both kinds meet in one unit they are taken in the order of the program.
            Model::X86 if s.streamed && of(s).0 => (s.unit, u64::MAX),
            Model::X86 => (s.unit / LINE, 0),
            Model::Arm => (s.unit, if of(s).1 { 0 } else { s.mask }),
        };
        let mut keyed: Vec<((u64, u64), Store)> = stores.iter().map(|s| (key(s), *s)).collect();
        keyed.sort_by_key(|(key, _)| *key);
        keyed.chunk_by(|(a, _), (b, _)| a == b).map(|run| run.iter().map(|(_, s)| *s).collect()).collect()
    }

    /// Every image that a cut could make of `sure`.
    pub(crate) fn cuts(&self, model: Model, sure: &Image) -> Cuts {
        let cells: Vec<Cell> =
            self.cells(model).into_iter().map(|stores| Cell::new(model, stores, sure)).collect();
        Cuts { cells, sure: sure.clone() }
    }
}

/// One of the ways in which a cell can persist.
#[derive(Debug)]
struct Choice {
    /// Bits that change, by unit.
    flips: Vec<(u64, u64)>,
    /// Which of the cell's stores are in it.
    stores: u64,
}

/// Stores that persist in some order among themselves, and independently of all others.
#[derive(Debug)]
struct Cell {
    stores: Vec<Store>,
    choices: Vec<Choice>,
}

impl Cell {
    fn new(model: Model, stores: Vec<Store>, sure: &Image) -> Cell {
        let all = stores.len();
        // Of many stores to one unit no more subsets than fit a word are told apart; nothing here makes so many.
        let wanted: Vec<u64> = match model {
            Model::Adversarial if all <= 12 => (0..1u64 << all).collect(),
            _ => (0..=all.min(63)).map(|n| (1u64 << n) - 1).collect(),
        };
        let mut seen = BTreeSet::new();
        let mut choices = Vec::new();
        for subset in wanted {
            let mut values: Vec<(u64, u64)> = Vec::new();
            for (_, s) in stores.iter().enumerate().filter(|(i, _)| subset >> (i & 63) & 1 == 1) {
                match values.iter_mut().find(|(unit, _)| *unit == s.unit) {
                    Some((_, value)) => *value = merge(*value, s.value, s.mask),
                    None => values.push((s.unit, merge(sure.unit(s.unit), s.value, s.mask))),
                }
            }
            let mut flips: Vec<(u64, u64)> = values.into_iter().map(|(u, v)| (u, v ^ sure.unit(u))).collect();
            flips.retain(|(_, flip)| *flip != 0);
            flips.sort_unstable();
            if seen.insert(flips.clone()) {
                choices.push(Choice { flips, stores: subset });
            }
        }
        Cell { stores, choices }
    }
}

/// A store that an image does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// First byte of its unit.
    pub at: u64,
    /// The unit's value, had it persisted (bytes that were not stored are 0).
    pub value: u64,
    /// Where in the source it was stored.
    pub site: &'static Location<'static>,
}

/// The images that a power cut could leave at one moment.
#[derive(Debug)]
pub struct Cuts {
    cells: Vec<Cell>,
    sure: Image,
}

impl Cuts {
    /// How many different ones there are; saturates.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.cells.iter().fold(1u128, |n, cell| n.saturating_mul(cell.choices.len() as u128))
    }

    /// Gives images to `each`, with the choice that makes each, until it breaks: all of them, or, if there are more than
    /// `limit`, the two extremes, those in which one cell alone differs from an extreme, and others at random up to
    /// the limit. Returns how many it gave. All that it gives are different.
    pub fn each<B>(
        &self,
        limit: u64,
        seed: u64,
        mut each: impl FnMut(&[u16], &Image) -> ControlFlow<B>,
    ) -> (u64, Option<B>) {
        let mut image = self.sure.clone();
        let mut digits = vec![0u16; self.cells.len()];
        let mut given = 0;
        if self.count() <= u128::from(limit) {
            loop {
                given += 1;
                if let ControlFlow::Break(b) = each(&digits, &image) {
                    return (given, Some(b));
                }
                // Counts up; a cell that is at its last choice goes back to its first.
                let next =
                    self.cells.iter().zip(&digits).position(|(c, d)| usize::from(*d) + 1 < c.choices.len());
                let Some(next) = next else { return (given, None) };
                for cell in 0..next {
                    self.turn(cell, 0, &mut digits, &mut image);
                }
                let up = digits[next] + 1;
                self.turn(next, up, &mut digits, &mut image);
            }
        }
        let last: Vec<u16> = self.cells.iter().map(|c| (c.choices.len() - 1) as u16).collect();
        let mut seen = BTreeSet::new();
        let mut random = seed;
        let cells = self.cells.len() as u64;
        let mut number = 0u64;
        while given < limit && number < limit.saturating_mul(4) {
            let new = number.is_multiple_of(2);
            for (cell, last) in last.iter().enumerate() {
                let (extreme, odd) = if new { (*last, 0) } else { (0, *last) };
                let digit = if number < 2 {
                    extreme
                } else if number < 2 + 2 * cells {
                    if (number - 2) / 2 == cell as u64 { odd } else { extreme }
                } else {
                    random = mix(random);
                    ((random >> 16) % (u64::from(*last) + 1)) as u16
                };
                self.turn(cell, digit, &mut digits, &mut image);
            }
            number += 1;
            if seen.insert(image.hash()) {
                given += 1;
                if let ControlFlow::Break(b) = each(&digits, &image) {
                    return (given, Some(b));
                }
            }
        }
        (given, None)
    }

    /// Moves one cell to another choice.
    fn turn(&self, cell: usize, to: u16, digits: &mut [u16], image: &mut Image) {
        let from = std::mem::replace(&mut digits[cell], to);
        if from == to {
            return;
        }
        for choice in [from, to] {
            for (unit, flip) in &self.cells[cell].choices[usize::from(choice)].flips {
                image.set_unit(*unit, image.unit(*unit) ^ flip);
            }
        }
    }

    /// One image, by its choice. A choice that there is not counts as the first.
    #[must_use]
    pub fn image(&self, choice: &[u16]) -> Image {
        let mut image = self.sure.clone();
        let mut digits = vec![0; self.cells.len()];
        for (cell, digit) in choice.iter().enumerate().take(self.cells.len()) {
            if usize::from(*digit) < self.cells[cell].choices.len() {
                self.turn(cell, *digit, &mut digits, &mut image);
            }
        }
        image
    }

    /// The stores that an image does not have, though they were made.
    #[must_use]
    pub fn lost(&self, choice: &[u16]) -> Vec<Lost> {
        let mut lost = Vec::new();
        for (cell, digit) in self.cells.iter().zip(choice) {
            let kept = cell.choices.get(usize::from(*digit)).map_or(0, |c| c.stores);
            for (_, s) in cell.stores.iter().enumerate().filter(|(i, _)| kept >> (i & 63) & 1 == 0) {
                lost.push(Lost { at: s.unit * 8, value: s.value, site: s.site });
            }
        }
        lost
    }
}
