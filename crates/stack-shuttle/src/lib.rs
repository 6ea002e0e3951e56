// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device model under [shuttle]: threads that bind, unbind, open, read, write and remove by random schedules.
//!
//! This is the code of production and not a copy: the modules below are the files of the device model and of the gate,
//! compiled with [`sync`] in the place of the module of that name there.
// With their tests, the included files would not build here.
#![cfg(not(test))]
// The lints of the included files are told where they belong; some of what they offer is not used here.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::wrong_self_convention
)]

mod narrow;
pub mod sync;
mod threads;

pub use threads::{Scene, check};

#[path = "../../stack/src/abi.rs"]
mod abi;
#[path = "../../stack/src/bind.rs"]
mod bind;
#[path = "../../stack/src/configure.rs"]
mod configure;
#[path = "../../stack/src/disk.rs"]
mod disk;
#[path = "../../stack/src/drivers/mod.rs"]
mod drivers;
#[path = "../../stack/src/events.rs"]
mod events;
#[path = "../../stack/src/labels.rs"]
mod labels;
#[path = "../../stack/src/model.rs"]
mod model;
#[path = "../../stack/src/personality.rs"]
mod personality;
#[path = "../../stack/src/poison.rs"]
mod poison;
#[path = "../../stack/src/pool.rs"]
mod pool;
#[path = "../../stack/src/probe.rs"]
mod probe;
#[path = "../../stack/src/provider/mod.rs"]
mod provider;
#[path = "../../stack/src/space.rs"]
mod space;
#[path = "../../stack/src/spec.rs"]
mod spec;
#[path = "../../stack/src/stack.rs"]
mod stack;
#[path = "../../stack/src/switch.rs"]
mod switch;
#[path = "../../stack/src/tree/mod.rs"]
mod tree;

#[path = "../../block/src/gate.rs"]
mod gate;

pub use abi::AbiEntry;
pub use events::{Action, Event};
// With these a driver from outside needs no other crate of ours.
pub use nvstack_block as block;
pub use nvstack_btt::Cache;
pub use nvstack_format::guid::ClaimClass;
pub use nvstack_format::label::Version as LabelVersion;
pub use nvstack_media as media;
pub use nvstack_media::{Error, Kind, Result};
pub use personality::{
    Absence, Attached, Attribute, Disk, Identity as DriverIdentity, OpenOptions, Personality, Probed,
    Settings, Subject,
};
pub use spec::{BusSpec, DimmSpec, Identity, Idle, MappingSpec, NamespaceKey, Provider, RegionSpec};
pub use stack::{BusId, Opened, Stack};
pub use tree::{Entry, Tree};

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
