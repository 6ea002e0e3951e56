// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs of `ndctl`, over an attribute tree.
//!
//! Everything is read from, and changed through, the tree that a [`Sys`] is: attributes in the names and formats of
//! Linux's sysfs, stores in the order in which `ndctl` 76.1 makes them, block devices, label areas. There is no second
//! way to change state, so what works here works with the stock command on the same tree, and the reverse.
//!
//! Every verb is a function of a tree, its options as plain data, and a [`Reporter`] for its words. What goes to stdout
//! and the exit status come back as an [`Outcome`]; an error that comes back instead refused the whole of it, and
//! [`status`] is its exit status.
//!
//! ```
//! use nvstack_ndctl::dump::Dump;
//! use nvstack_ndctl::list::{ListOptions, list};
//!
//! let tree = Dump::parse(
//!     "/sys/bus/nd/devices/ndbus0|l|777|../../../devices/ndbus0\n\
//!      /sys/devices/ndbus0/provider|f|444|e820\\n\n",
//! )?;
//! let buses = ListOptions { buses: true, ..ListOptions::default() };
//! assert_eq!(list(&tree, &buses)?.text(), "[\n  {\n    \"provider\":\"e820\",\n    \"dev\":\"ndbus0\"\n  }\n]\n");
//! # Ok::<(), nvstack_media::Error>(())
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]

mod control;
mod create;
mod destroy;
pub mod dump;
mod enable;
mod errors;
mod filter;
mod infoblock;
pub mod json;
mod labels;
pub mod list;
pub mod model;
mod plan;
mod report;
mod sys;

pub use create::{CreateOptions, create};
pub use destroy::{DestroyOptions, destroy};
pub use enable::{
    EnableOptions, disable_dimms, disable_namespaces, disable_regions, enable_dimms, enable_namespaces,
    enable_regions,
};
pub use errors::{InjectError, clear_errors, inject_error};
pub use filter::Filter;
pub use infoblock::{
    ReadInfoblock, WriteInfoblock, infoblock_template, read_infoblock_of, read_infoblocks, write_infoblock,
};
pub use labels::{
    InitLabels, LabelOptions, ReadLabels, check_labels, init_labels, read_labels, write_labels, zero_labels,
};
pub use nvstack_format::size;
pub use plan::{Mode, Plan, Space};
pub use report::{Lines, Outcome, Reporter, status};
pub use sys::{Sys, no_entry};
