// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label areas of DIMMs: found in an image, read, initialised, and updated so that a cut leaves the old or the new
//! state.
//!
//! [`assemble()`] puts the namespaces of a region together from the areas of its DIMMs, and [`LabelSet`] changes them there.
//!
//! Works on any medium that is the area: offset 0 is index block 0. Layouts and the rules for single structures are
//! those of [`nvstack_format::label`]; what is added here is their reading, their order on the medium, and what labels
//! may not say beside each other.
//!
//! ```
//! use nvstack_format::label::{Flags, Label, Name, Version};
//! use nvstack_format::{Dpa, SetMember, cookies, guid};
//! use nvstack_label::LabelArea;
//! use nvstack_media::Anon;
//!
//! let mut area = LabelArea::init(Anon::new(128 << 10)?, Version::V1_2)?;
//! let label = Label {
//!     uuid: uuid::Uuid::from_u128(1),
//!     name: Name::new("disk")?,
//!     flags: Flags::empty(),
//!     nlabel: 1,
//!     position: 0,
//!     isetcookie: cookies(&[SetMember::qemu(0)]).v1_2,
//!     lbasize: 4096,
//!     dpa: Dpa(0),
//!     rawsize: 256 << 20,
//!     slot: 0,
//!     align: 0,
//!     type_guid: guid::PERSISTENT_MEMORY,
//!     abstraction: guid::BTT2,
//! };
//! area.write_namespace(&label)?;
//! assert_eq!(area.namespaces(256 << 20)?[0].name, label.name);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]

mod area;
mod assemble;
mod contest;
mod find;
mod finding;
mod mutants;
mod raw;
mod replace;
mod set;
mod update;

/// What the power-cut explorer reaches, and nobody else: what can be left out of the protocol.
#[cfg(feature = "mutants")]
#[doc(hidden)]
pub mod sim {
    pub use crate::mutants::{Mutant, leave_out};
}

pub use area::{LabelArea, Slot};
pub use assemble::{Assembled, Member, SetNamespace, assemble};
pub use find::{WINDOW, find_area};
pub use finding::{Finding, FindingKind};
pub use raw::AreaCheck;
pub use set::{LabelSet, NamespaceLabel, SetArea};
