// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device model of Linux libnvdimm, in process: buses, DIMMs, regions and namespaces, the drivers that stack on them, and the
//! tree of attributes through which all of it is seen and changed.
//!
//! * A provider describes a bus ([`BusSpec`]); [`Stack::register`] brings it up, asynchronously; [`Stack::settle`] waits.
//! * [`Stack::tree`] is the tree, with Linux's names, texts and errors. There is no other way to change a state.
//! * [`Stack::open`] gives a disk. [`Stack::unregister`], and unbinding at any level, takes it away under whoever holds it.
//! * [`Personality`] is a driver: btt, pfn, dax and raw are such, and one from elsewhere is registered in the same way.
//! * [`Stack::subscribe`] tells what happens.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions))]

mod abi;
mod bind;
mod configure;
mod disk;
pub mod drivers;
mod events;
mod labels;
mod model;
mod personality;
mod poison;
mod pool;
mod probe;
pub mod provider;
mod space;
mod spec;
mod stack;
mod switch;
mod sync;
mod tree;

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
    Absence, Attached, Attribute, DeviceNode, Disk, Identity as DriverIdentity, OpenOptions, Personality,
    Probed, Settings, Subject,
};
pub use spec::{BusSpec, DimmSpec, Identity, Idle, MappingSpec, NamespaceKey, Provider, RegionSpec};
pub use stack::{BusId, Opened, Stack};
pub use tree::{Entry, Tree};
