// SPDX-License-Identifier: MIT OR Apache-2.0
//! The places where threads meet in the engines, under [loom]: every interleaving (up to a number of preemptions, or all), and
//! every value that the memory model lets a load see.
//!
//! This is the code of production and not a copy: the modules below are the files of the other crates, compiled with
//! [`sync`] in the place of the module of that name there. A change of theirs that this crate does not follow does not build.
//! [`sync::Break`] leaves out what the files rely on, one thing at a time, and the tests show that each is missed.
// With their tests, the included files would not build here.
#![cfg(not(test))]
// The lints of the included files are told where they belong; most of what they offer is not used here.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]

pub(crate) use loom as checker;

/// Locks of an arena's map: one, so that the sectors of a model meet.
pub(crate) const STRIPES: u32 = 1;
/// Groups of the threads at a gate: two, so that some meet and some do not.
pub(crate) const SHARDS: usize = 2;

pub mod models;
mod step;
pub mod sync;

// The BTT engine.
#[path = "../../btt/src/arena.rs"]
mod arena;
#[path = "../../btt/src/audit.rs"]
mod audit;
#[path = "../../btt/src/device.rs"]
mod device;
#[path = "../../btt/src/group.rs"]
mod group;
#[path = "../../btt/src/lanes.rs"]
mod lanes;
#[path = "../../btt/src/mutants.rs"]
mod mutants;
#[path = "../../btt/src/open.rs"]
mod open;
#[path = "../../btt/src/order.rs"]
mod order;
#[path = "../../btt/src/recover.rs"]
mod recover;
#[path = "../../btt/src/ticker.rs"]
mod ticker;
#[path = "../../btt/src/tracking.rs"]
mod tracking;

pub(crate) use open::Btt;

// The gate of a device.
#[path = "../../block/src/gate.rs"]
mod gate;

pub(crate) use nvstack_block::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, Direction, Extent, Geometry, Lba, Page, PageAccess,
    WriteFlags, not_offered,
};

/// What a gate does with a page when the device is gone. No model has pages.
mod page {
    use nvstack_block::{Direction, Page};

    pub(crate) fn fail_page(_: &Page, _: Direction) {
        unreachable!("a model with pages");
    }
}

// The drains of a mapping.
#[path = "../../media/src/dirty.rs"]
mod dirty;

/// The pages of a mapping.
mod window {
    pub(crate) const PAGE: u64 = 4096;
}

// The table of NBD exports.
#[path = "../../nbd/src/exports.rs"]
mod exports;

pub(crate) use nvstack_nbd::{MAX_REQUEST, PIECE, proto};

pub(crate) fn usize_of(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// A connection, of which the table only wants that it ends.
mod stream {
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    pub(crate) struct Stream(AtomicBool);

    impl Stream {
        pub(crate) fn stop_receiving(&self) {
            self.0.store(true, Ordering::SeqCst);
        }

        pub(crate) fn has_stopped(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }
}
