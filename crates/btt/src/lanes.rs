// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lanes: the right to use one flog group and one free block, in every arena.
//!
//! A lane is a real lock, always taken and never shared on the ground of "same CPU" or "same thread" (sharing is the
//! defect that let two tasks of one CPU write to one free block, Linux 6.6 to 2026). Whoever needs a lane takes any
//! free one, so a lane whose holder sleeps holds up nobody.

use std::sync::TryLockError;

use nvstack_format::Block;
use nvstack_media::{Error, Kind, Result};

use crate::sync::{Mutex, MutexGuard, thread_number};

/// What a lane owns in one arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// The block that the next write goes to.
    pub(crate) free: Block,
    /// The flog record (0 or 1) that the next write replaces: the older one.
    pub(crate) next: usize,
    /// The sequence number that it gets.
    pub(crate) seq: u32,
    /// The free block lies on lost bytes that can't be healed without touching a neighbour.
    pub(crate) bad: bool,
}

impl Slot {
    /// After a commit: the replaced block is the free one, and the other record is the older one.
    pub(crate) fn advance(&mut self, freed: Block) {
        self.free = freed;
        self.next ^= 1;
        self.seq = nvstack_format::btt::next_seq(self.seq);
    }
}

// Two cache lines, since CPUs fetch lines in pairs: lanes of different threads never share one.
#[repr(align(128))]
struct Lane(Mutex<Vec<Slot>>);

/// All lanes of a device.
pub(crate) struct Lanes {
    lanes: Box<[Lane]>,
}

/// What a holder of a lane works with.
enum Slots<'a> {
    Locked(MutexGuard<'a, Vec<Slot>>),
    /// A lane without a lock: what it owned when it was taken, put back when it is given up.
    #[cfg(feature = "mutants")]
    Raced(Vec<Slot>, &'a Mutex<Vec<Slot>>),
}

#[cfg(feature = "mutants")]
impl Drop for Slots<'_> {
    fn drop(&mut self) {
        if let Slots::Raced(slots, lane) = self {
            *lane.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = std::mem::take(slots);
        }
    }
}

/// A held lane.
pub(crate) struct Held<'a> {
    /// Its number, 0 to 255.
    pub(crate) lane: usize,
    slots: Slots<'a>,
}

impl Held<'_> {
    /// What it owns in an arena.
    pub(crate) fn slot(&mut self, arena: usize) -> Result<&mut Slot> {
        let lane = self.lane;
        let slots = match &mut self.slots {
            Slots::Locked(slots) => &mut **slots,
            #[cfg(feature = "mutants")]
            Slots::Raced(slots, _) => slots,
        };
        slots.get_mut(arena).ok_or_else(|| {
            Error::new(Kind::OutOfRange, "use lane").found(format_args!("lane {lane}, arena {arena}"))
        })
    }

    /// Its number as the flog counts.
    pub(crate) fn number(&self) -> u32 {
        u32::try_from(self.lane).unwrap_or(u32::MAX)
    }
}

impl Lanes {
    /// `slots` holds, for each lane, what it owns in each arena.
    pub(crate) fn new(slots: Vec<Vec<Slot>>) -> Lanes {
        Lanes { lanes: slots.into_iter().map(|s| Lane(Mutex::new(s))).collect() }
    }

    /// Takes a lane that is free and that `fits`; waits for one if there is none. A lane whose holder panicked is
    /// never taken again: nobody knows what it left half done.
    pub(crate) fn acquire(&self, fits: impl Fn(&[Slot]) -> bool) -> Result<Held<'_>> {
        let start = home();
        let mut waited_for = None;
        for lane in self.from(start) {
            let Some(Lane(lock)) = self.lanes.get(lane) else { continue };
            match lock.try_lock() {
                #[cfg(feature = "mutants")]
                Ok(slots) if !crate::mutants::keeps(crate::mutants::Mutant::LaneRace) => {
                    return Ok(Held { lane, slots: Slots::Raced(slots.clone(), lock) });
                }
                Ok(slots) if fits(&slots) => return Ok(Held { lane, slots: Slots::Locked(slots) }),
                Ok(_) | Err(TryLockError::Poisoned(_)) => {}
                Err(TryLockError::WouldBlock) => {
                    waited_for.get_or_insert(lane);
                }
            }
        }
        // All are held. Wait for one after the other; any of them is good.
        let Some(start) = waited_for else { return Err(exhausted()) };
        for lane in self.from(start) {
            let Some(Lane(lock)) = self.lanes.get(lane) else { continue };
            if let Some(slots) = wait_for(lock)
                && fits(&slots)
            {
                return Ok(Held { lane, slots: Slots::Locked(slots) });
            }
        }
        Err(exhausted())
    }

    /// Every lane once, from `start` on.
    fn from(&self, start: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.lanes.len().max(1);
        (0..count).map(move |i| start.wrapping_add(i).checked_rem(count).unwrap_or(0))
    }
}

/// Waits for one lane; none if its holder panicked.
fn wait_for(lock: &Mutex<Vec<Slot>>) -> Option<MutexGuard<'_, Vec<Slot>>> {
    if crate::step::simulated() { Some(crate::step::turn(lock)) } else { lock.lock().ok() }
}

fn exhausted() -> Error {
    Error::new(Kind::Poison, "take a lane").found("no lane with a usable free block").accepted("at least one")
}

/// Where a thread begins to look: eight lanes apart, so that the first 32 threads share no line of the read table.
fn home() -> usize {
    // Which lane a simulated task takes may not hang on how many threads there were before.
    if crate::step::simulated() {
        return 0;
    }
    let home = thread_number().wrapping_mul(8);
    home.wrapping_add(home.checked_div(256).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(n: u32) -> Lanes {
        let slot = |i: u32| Slot { free: Block(i), next: 0, seq: 1, bad: false };
        Lanes::new((0..n).map(|i| vec![slot(i)]).collect())
    }

    #[test]
    fn a_held_lane_is_never_given_twice() {
        let lanes = lanes(4);
        let held: Vec<_> = (0..4).map(|_| lanes.acquire(|_| true).unwrap()).collect();
        let mut numbers: Vec<_> = held.iter().map(|h| h.lane).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3]);
    }

    #[test]
    fn a_fifth_taker_waits_for_any_of_four() {
        let lanes = lanes(4);
        let mut held: Vec<_> = (0..4).map(|_| lanes.acquire(|_| true).unwrap()).collect();
        std::thread::scope(|s| {
            let waiter = s.spawn(|| lanes.acquire(|_| true).map(|h| h.lane));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waiter.is_finished());
            held.clear();
            assert!(waiter.join().unwrap().is_ok());
        });
    }

    #[test]
    fn no_fitting_lane_is_an_error_and_not_a_wait() {
        assert_eq!(lanes(4).acquire(|_| false).err().unwrap().kind(), Kind::Poison);
    }

    #[test]
    fn the_lane_of_a_panicked_holder_is_retired() {
        let lanes = lanes(2);
        let crash = std::thread::scope(|s| {
            s.spawn(|| {
                let _held = lanes.acquire(|_| true);
                panic!("die with a lane held");
            })
            .join()
        });
        assert!(crash.is_err());
        let left = lanes.acquire(|_| true).unwrap();
        std::thread::scope(|s| {
            let other = s.spawn(|| lanes.acquire(|slots| !slots.is_empty()).map(|h| h.lane));
            std::thread::sleep(std::time::Duration::from_millis(20));
            let number = left.lane;
            drop(left);
            assert_eq!(other.join().unwrap().unwrap(), number);
        });
    }
}
