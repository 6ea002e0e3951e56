// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole BTT engine under [shuttle]: threads that read, write, zero and flush by random schedules, a device that is taken
//! away under them, and a judge that knows what each of them was told.
//!
//! This is the code of production and not a copy: the modules below are the files of the engine, compiled with [`sync`] in the
//! place of the module of that name there. [`sync::Break`] leaves out what they rely on, one thing at a time.
// With their tests, the included files would not build here.
#![cfg(not(test))]
// The lints of the included files are told where they belong; some of what they offer is not used here.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::large_enum_variant
)]

pub(crate) use shuttle as checker;

/// Locks of an arena's map: sectors 0 to 15 share one, sectors from 16 on the other.
pub(crate) const STRIPES: u32 = 2;
/// Groups of the threads at a gate.
pub(crate) const SHARDS: usize = 2;

mod history;
mod medium;
#[path = "../../loom/src/step.rs"]
mod step;
#[path = "../../loom/src/sync.rs"]
pub mod sync;
mod threads;

pub use threads::{Kind, check, notices};

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

#[path = "../../block/src/gate.rs"]
mod gate;

pub(crate) use nvstack_block::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, Direction, Extent, Geometry, Lba, Page, PageAccess,
    WriteFlags, not_offered,
};

/// What a gate does with a page when the device is gone. Nobody asks for pages here.
mod page {
    use nvstack_block::{Direction, Page};

    pub(crate) fn fail_page(_: &Page, _: Direction) {
        unreachable!("a page");
    }
}
