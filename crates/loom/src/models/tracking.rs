// SPDX-License-Identifier: MIT OR Apache-2.0
//! The read table alone, without the locks of lanes and map, which order more than it may rely on.

use std::sync::Arc;

use loom::thread;
use nvstack_format::{Block, MediaOffset};
use nvstack_media::{Domain, Media};

use super::medium::{SECTOR, Words};
use crate::tracking::Tracking;

struct Shared {
    media: Words,
    tracking: Tracking,
}

fn block_at(block: Block) -> MediaOffset {
    MediaOffset(u64::from(block.0) * 512)
}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared { media: Words::new(2, 2, Domain::Memory), tracking: Tracking::new(1) })
    }

    fn entry(&self) -> Block {
        Block(self.media.load_u32(MediaOffset(4 * 512)).unwrap())
    }

    /// A read, as in `device`: publish, look again, copy.
    fn read(&self) {
        let mut block = self.entry();
        loop {
            self.tracking.publish(0, 0, block);
            let again = self.entry();
            if again == block {
                break;
            }
            block = again;
        }
        self.media.read(block_at(block), &mut [0; SECTOR]).unwrap();
        self.tracking.clear(0);
    }

    /// A write to a block that the map does not name, as in `device`.
    fn write(&self, block: Block) {
        self.tracking.wait(0, block);
        self.media.stream(block_at(block), &[1; SECTOR]).unwrap();
        self.media.store_u32(MediaOffset(4 * 512), block.0).unwrap();
    }
}

fn blocks(written: &'static [u32], reads: usize) {
    let shared = Shared::new();
    let writer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || written.iter().for_each(|block| shared.write(Block(*block))))
    };
    (0..reads).for_each(|_| shared.read());
    writer.join().unwrap();
}

/// The block of a sector is replaced and written to while somebody may read it.
pub fn a_block_that_leaves() {
    blocks(&[1, 0], 1);
}

/// It leaves, returns to the same sector, and leaves again, all during one read.
pub fn a_block_that_returns() {
    blocks(&[1, 0, 1, 0], 1);
}

/// The same, with one read after the other in the same lane.
pub fn two_reads() {
    blocks(&[1, 0, 1], 2);
}
