// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plain model: a sector is a number, and what was done to it happened in some order in which each thing lies between its
//! beginning and its end.

use std::collections::HashSet;
use std::sync::Mutex;

/// A moment. Only one thread runs at a time, so moments have an order.
pub(crate) type Moment = u64;

/// Something that was done to a sector, from a moment to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    sector: u64,
    what: What,
    from: Moment,
    /// None while it is under way.
    to: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It got this number; whether it may be asked for after a power cut, once this is done.
    Write { value: u64, durable: bool },
    /// This number was seen.
    Read(u64),
}

impl Done {
    fn is_before(&self, other: &Done) -> bool {
        self.to.is_some_and(|to| to < other.from)
    }
}

#[derive(Default)]
struct Told {
    now: Moment,
    done: Vec<Done>,
    /// When each flush began, of those that have ended.
    flushed: Vec<Moment>,
}

/// All that was done. Nobody holds its lock while others run.
#[derive(Default)]
pub(crate) struct History(Mutex<Told>);

impl History {
    pub(crate) fn now(&self) -> Moment {
        let mut told = self.0.lock().unwrap();
        told.now += 1;
        told.now
    }

    /// A write begins; the number is for [`History::ended`].
    pub(crate) fn begins(&self, sector: u64, value: u64, durable: bool) -> usize {
        let from = self.now();
        let mut told = self.0.lock().unwrap();
        told.done.push(Done { sector, what: What::Write { value, durable }, from, to: None });
        told.done.len() - 1
    }

    pub(crate) fn ended(&self, write: usize) {
        let to = self.now();
        self.0.lock().unwrap().done[write].to = Some(to);
    }

    /// A write that was refused before it did anything.
    pub(crate) fn refused(&self, writes: &[usize]) {
        let mut told = self.0.lock().unwrap();
        for write in writes {
            // It stays, as something that begins when all is over.
            told.done[*write].from = Moment::MAX;
        }
    }

    pub(crate) fn seen(&self, sector: u64, value: u64, from: Moment) {
        let to = Some(self.now());
        self.0.lock().unwrap().done.push(Done { sector, what: What::Read(value), from, to });
    }

    pub(crate) fn flushed(&self, from: Moment) {
        self.0.lock().unwrap().flushed.push(from);
    }

    /// Holds what a power cut would leave now against what was acknowledged. `direct`: every write that ended counts.
    pub(crate) fn check_kept(&self, sectors: &[u64], direct: bool) {
        let told = self.0.lock().unwrap();
        for (sector, found) in (0..).zip(sectors) {
            let of_sector =
                || told.done.iter().filter(move |done| done.sector == sector && done.from < Moment::MAX);
            let kept = |done: &Done| match (done.what, done.to) {
                (What::Write { durable, .. }, Some(to)) => {
                    direct || durable || told.flushed.iter().any(|flush| to < *flush)
                }
                _ => false,
            };
            // The number is that of a write that no acknowledged one came after. Or of none, if none was acknowledged.
            let fits = |write: &Done| !of_sector().any(|other| kept(other) && write.is_before(other));
            let writes =
                of_sector().filter(|done| matches!(done.what, What::Write { value, .. } if value == *found));
            let untouched = *found == 0 && !of_sector().any(kept);
            assert!(
                untouched || writes.clone().any(fits),
                "sector {sector}: a power cut leaves {found}, of {:?}, flushes from {:?}",
                of_sector().collect::<Vec<_>>(),
                told.flushed
            );
        }
    }

    /// Whether what was seen can be explained by an order of what was done.
    pub(crate) fn check_order(&self) {
        let told = self.0.lock().unwrap();
        let mut sectors: Vec<u64> = told.done.iter().map(|done| done.sector).collect();
        sectors.sort_unstable();
        sectors.dedup();
        for sector in sectors {
            let done: Vec<Done> = told
                .done
                .iter()
                .copied()
                .filter(|done| done.sector == sector && done.from < Moment::MAX)
                .collect();
            assert!(done.len() <= 64, "too much for the judge");
            let mut tried = HashSet::new();
            assert!(explained(&done, 0, 0, &mut tried), "sector {sector}: no order explains {done:?}");
        }
    }
}

/// Whether the rest can be explained, after those in `set` happened and left `value`.
fn explained(done: &[Done], set: u64, value: u64, tried: &mut HashSet<(u64, u64)>) -> bool {
    let open = |n: usize| set & (1 << n) == 0;
    // What was cut off need not have happened.
    if (0..done.len()).all(|n| !open(n) || done[n].to.is_none()) {
        return true;
    }
    if !tried.insert((set, value)) {
        return false;
    }
    (0..done.len()).filter(|n| open(*n)).any(|n| {
        let next = &done[n];
        if (0..done.len()).any(|other| open(other) && done[other].is_before(next)) {
            return false;
        }
        match next.what {
            What::Write { value, .. } => explained(done, set | 1 << n, value, tried),
            What::Read(seen) => seen == value && explained(done, set | 1 << n, value, tried),
        }
    })
}
