// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which call fails.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitflags::bitflags;
use nvstack_media::Kind;

bitflags! {
    /// Kinds of calls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Calls: u32 {
        /// A medium copies bytes out.
        const READ = 1;
        /// A medium gives a word.
        const LOAD = 1 << 1;
        /// A medium takes bytes through the cache.
        const STORE = 1 << 2;
        /// A medium takes bytes past the cache.
        const STREAM = 1 << 3;
        /// A medium zeroes a range.
        const ZERO = 1 << 4;
        /// A medium takes a word.
        const WORD = 1 << 5;
        /// A medium writes back lines.
        const FLUSH = 1 << 6;
        /// A medium waits for what was written back.
        const DRAIN = 1 << 7;
        /// A medium marks bytes as lost.
        const POISON = 1 << 8;
        /// A medium heals lost bytes.
        const HEAL = 1 << 9;
        /// A medium looks for holes.
        const EXTENT = 1 << 10;

        /// A file is looked up or opened.
        const OPEN = 1 << 16;
        /// A file is made.
        const CREATE = 1 << 17;
        /// Bytes of a file are read.
        const FILE_READ = 1 << 18;
        /// Bytes of a file are written; for a mapping that is the writing back of its pages.
        const FILE_WRITE = 1 << 19;
        /// A file is synced.
        const FSYNC = 1 << 20;
        /// A file gets another size.
        const TRUNCATE = 1 << 21;
        /// Room of a file is taken, or given up.
        const ALLOCATE = 1 << 22;
        /// A file is removed or gets another name.
        const NAME = 1 << 23;

        /// What reads a medium.
        const READS = Self::READ.bits() | Self::LOAD.bits();
        /// What changes bytes of a medium.
        const STORES = Self::STORE.bits() | Self::STREAM.bits() | Self::ZERO.bits() | Self::WORD.bits();
        /// What changes a medium, or makes it durable.
        const WRITES = Self::STORES.bits() | Self::FLUSH.bits() | Self::DRAIN.bits() | Self::POISON.bits() | Self::HEAL.bits();
        /// Every call of a medium that can fail.
        const MEDIUM = Self::READS.bits() | Self::WRITES.bits() | Self::EXTENT.bits();
        /// Every call of a file system.
        const FILES = 0xff << 16;
    }
}

/// Which of the calls that a rule is about, counted from 1 since the rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum When {
    /// This one alone.
    Nth(u64),
    /// Each one whose number is a multiple of this.
    Every(u64),
    /// This one and all that follow.
    From(u64),
}

impl When {
    const fn meets(self, number: u64) -> bool {
        match self {
            When::Nth(n) => number == n,
            When::Every(n) => n > 0 && number.is_multiple_of(n),
            When::From(n) => number >= n,
        }
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It fails with an error of this kind.
    Error(Kind),
    /// It fails with this error number: of a system call, or of the one that a medium stands for.
    Errno(i32),
    /// It takes so long, and then does what it should.
    Delay(Duration),
}

/// How far a call went that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Moved {
    /// Nothing was done.
    #[default]
    Nothing,
    /// The first half of the bytes, in whole units of eight, was stored.
    Half,
    /// All was done, and the caller is told that it was not.
    All,
}

/// One entry of the schedule.
#[derive(Clone, Debug)]
pub struct Rule {
    calls: Calls,
    when: When,
    fault: Fault,
    moved: Moved,
    within: Option<Range<u64>>,
    seen: u64,
}

impl Rule {
    /// Calls of these kinds fail with [`Kind::Io`], having done nothing.
    #[must_use]
    pub const fn new(calls: Calls, when: When) -> Rule {
        Rule { calls, when, fault: Fault::Error(Kind::Io), moved: Moved::Nothing, within: None, seen: 0 }
    }

    /// With this fault.
    #[must_use]
    pub const fn with(mut self, fault: Fault) -> Rule {
        self.fault = fault;
        self
    }

    /// Having gone so far.
    #[must_use]
    pub const fn moved(mut self, moved: Moved) -> Rule {
        self.moved = moved;
        self
    }

    /// Only of calls that touch these bytes. Calls without a place, such as drains, are none of them.
    #[must_use]
    pub const fn within(mut self, bytes: Range<u64>) -> Rule {
        self.within = Some(bytes);
        self
    }

    fn concerns(&self, call: Calls, at: u64, len: u64) -> bool {
        let touches = |w: &Range<u64>| at < w.end && w.start < at.saturating_add(len);
        self.calls.contains(call) && self.within.as_ref().is_none_or(touches)
    }
}

/// A call that was met by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its kind.
    pub call: Calls,
    /// First byte; 0 where there is none.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// What happens to it.
    pub fault: Fault,
    /// How far it goes all the same.
    pub moved: Moved,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:#x}+{}: {:?}, moved {:?}", self.call, self.at, self.len, self.fault, self.moved)
    }
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    counts: [u64; 32],
    hits: u64,
    last: Option<Hit>,
}

/// A schedule of faults, shared by all its copies.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Faults").field("rules", &state.rules).field("last", &state.last).finish()
    }
}

impl Faults {
    /// Nothing fails.
    #[must_use]
    pub fn new() -> Faults {
        Faults::default()
    }

    /// Lets calls fail with [`Kind::Io`], having done nothing.
    pub fn fail(&self, calls: Calls, when: When) {
        self.add(Rule::new(calls, when));
    }

    /// One rule more. The first one that meets a call decides, and all of them count it.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// From now on nothing fails. What was counted stays.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// How many calls of these kinds there were.
    #[must_use]
    pub fn count(&self, calls: Calls) -> u64 {
        let state = self.lock();
        (0u32..).zip(state.counts).filter(|(bit, _)| calls.bits() >> bit & 1 == 1).map(|(_, n)| n).sum()
    }

    /// How many calls failed. Delays do not count.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.lock().hits
    }

    /// The last call that failed.
    #[must_use]
    pub fn last(&self) -> Option<Hit> {
        self.lock().last
    }

    /// Asks about a call, counts it, and waits if it is to take long. `call` is one kind.
    #[must_use]
    pub fn ask(&self, call: Calls, at: u64, len: u64) -> Option<Hit> {
        let hit = self.decide(call, at, len)?;
        if let Fault::Delay(time) = hit.fault {
            std::thread::sleep(time);
            return None;
        }
        Some(hit)
    }

    fn decide(&self, call: Calls, at: u64, len: u64) -> Option<Hit> {
        let mut state = self.lock();
        if let Some(count) = state.counts.get_mut(call.bits().trailing_zeros() as usize) {
            *count += 1;
        }
        let mut hit = None;
        for rule in state.rules.iter_mut().filter(|rule| rule.concerns(call, at, len)) {
            rule.seen += 1;
            if hit.is_none() && rule.when.meets(rule.seen) {
                hit = Some(Hit { call, at, len, fault: rule.fault, moved: rule.moved });
            }
        }
        if hit.is_some_and(|hit| !matches!(hit.fault, Fault::Delay(_))) {
            state.hits += 1;
            state.last = hit;
        }
        hit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counters and a list: sound whatever a panic of another thread left out.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a test once for each N: `run` is given N from 1 on, sets up a schedule in which the N-th call fails, and gives it back.
/// Ends after the first run in which nothing failed; tells how many had a fault.
///
/// Panics if there is no end of it: a test that tries again for ever would never find one.
pub fn every(mut run: impl FnMut(u64) -> Faults) -> u64 {
    for n in 1..=100_000 {
        if run(n).hits() == 0 {
            return n - 1;
        }
    }
    #[allow(clippy::panic)]
    {
        panic!("something fails in every run, up to the call 100000")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(when: When) -> Vec<u64> {
        let faults = Faults::new();
        faults.fail(Calls::READ, when);
        (1..=7).filter(|_| faults.ask(Calls::READ, 0, 1).is_some()).collect()
    }

    #[test]
    fn calls_are_counted_from_one() {
        assert_eq!(met(When::Nth(3)), [3]);
        assert_eq!(met(When::Every(3)), [3, 6]);
        assert_eq!(met(When::Every(0)), [0; 0]);
        assert_eq!(met(When::From(5)), [5, 6, 7]);
    }

    #[test]
    fn a_rule_counts_only_what_it_is_about() {
        let faults = Faults::new();
        faults.add(Rule::new(Calls::STORES, When::Nth(2)).within(512..1024).moved(Moved::Half));
        assert_eq!(faults.ask(Calls::STORE, 0, 512), None);
        assert_eq!(faults.ask(Calls::READ, 512, 8), None);
        assert_eq!(faults.ask(Calls::STREAM, 1016, 16), None);
        let hit = faults.ask(Calls::ZERO, 511, 2).expect("the second store there");
        assert_eq!((hit.call, hit.moved, faults.last()), (Calls::ZERO, Moved::Half, Some(hit)));
        assert_eq!((faults.count(Calls::STORES), faults.count(Calls::MEDIUM), faults.hits()), (3, 4, 1));
        faults.clear();
        assert_eq!(faults.ask(Calls::ZERO, 512, 2), None);
    }

    #[test]
    fn a_delay_is_no_failure() {
        let faults = Faults::new();
        faults.add(Rule::new(Calls::DRAIN, When::Every(1)).with(Fault::Delay(Duration::from_millis(2))));
        let start = std::time::Instant::now();
        assert_eq!(faults.ask(Calls::DRAIN, 0, 0), None);
        assert!(start.elapsed() >= Duration::from_millis(2));
        assert_eq!(faults.hits(), 0);
    }

    #[test]
    fn every_call_fails_once() {
        let mut failed = Vec::new();
        let runs = every(|n| {
            let faults = Faults::new();
            faults.fail(Calls::READ, When::Nth(n));
            failed.extend((0..4).filter(|i| faults.ask(Calls::READ, *i, 1).is_some()));
            faults
        });
        assert_eq!((runs, failed), (4, vec![0, 1, 2, 3]));
    }
}
