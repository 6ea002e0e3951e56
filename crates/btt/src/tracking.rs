// SPDX-License-Identifier: MIT OR Apache-2.0
//! Read tracking: a writer never overwrites a block that somebody is still reading.
//!
//! A block that was just replaced is free, and a lane may take it for its next write, while a reader who looked
//! at the map a moment ago is still copying it. So a reader publishes the block that it is about to read and
//! looks at the map again; a writer, whose map change came long before, looks at what is published before it
//! touches its free block. Between the reader's publication and its second look stands a full fence, and so between
//! the writer's map change and its look: one of the two sees the other. (Linux has a compiler barrier there only.)

use nvstack_format::Block;

use crate::mutants::{Mutant, keeps};
use crate::step;
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::spin_loop;

/// Nothing is being read.
const IDLE: u64 = 0;

/// What each lane is reading.
pub(crate) struct Tracking {
    slots: Box<[AtomicU64]>,
}

fn mark(arena: usize, block: Block) -> u64 {
    // Arena numbers are small: an arena takes 16 MiB at least, and a medium has 2^63 bytes at most.
    let arena = u64::try_from(arena).unwrap_or(u64::MAX).saturating_add(1);
    arena.wrapping_shl(32) | u64::from(block.0)
}

impl Tracking {
    pub(crate) fn new(lanes: usize) -> Tracking {
        Tracking { slots: (0..lanes).map(|_| AtomicU64::new(IDLE)).collect() }
    }

    /// Says that the lane's holder is about to read a block. The map must be read again after this.
    pub(crate) fn publish(&self, lane: usize, arena: usize, block: Block) {
        if !keeps(Mutant::RttPublish) || !keeps(Mutant::RttFence) {
            return;
        }
        self.mark(lane, arena, block);
    }

    /// Without the fence the publication may reach other CPUs after the second look: this is then.
    pub(crate) fn publish_late(&self, lane: usize, arena: usize, block: Block) {
        if !keeps(Mutant::RttFence) {
            self.mark(lane, arena, block);
        }
    }

    fn mark(&self, lane: usize, arena: usize, block: Block) {
        step::point();
        if let Some(slot) = self.slots.get(lane) {
            // Release: who sees this and no longer what stood here before knows that the copy before is over, too.
            slot.store(mark(arena, block), Ordering::Release);
        }
        fence(Ordering::SeqCst);
    }

    /// Says that the lane's holder has read what it wanted.
    pub(crate) fn clear(&self, lane: usize) {
        if let Some(slot) = self.slots.get(lane) {
            slot.store(IDLE, Ordering::Release);
        }
    }

    /// Waits until nobody reads a block, which the map no longer names.
    pub(crate) fn wait(&self, arena: usize, block: Block) {
        fence(Ordering::SeqCst);
        if !keeps(Mutant::RttWait) {
            return;
        }
        let wanted = mark(arena, block);
        for slot in &self.slots {
            let mut spins = 0u32;
            // Acquire: the reader's copy is over before our store may begin.
            while slot.load(Ordering::Acquire) == wanted {
                // A reader may lose its CPU in the middle of a copy; so must we, to let it finish.
                if spins < 64 && !step::simulated() {
                    spin_loop();
                    spins = spins.saturating_add(1);
                } else {
                    step::wait();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_for_the_reader_of_its_block_and_for_no_other() {
        let t = Tracking::new(8);
        t.publish(3, 0, Block(7));
        t.wait(0, Block(8));
        t.wait(1, Block(7));
        std::thread::scope(|s| {
            let writer = s.spawn(|| t.wait(0, Block(7)));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!writer.is_finished());
            t.clear(3);
            writer.join().unwrap();
        });
    }

    #[test]
    fn block_zero_of_arena_zero_is_not_idle() {
        assert_ne!(mark(0, Block(0)), IDLE);
    }
}
