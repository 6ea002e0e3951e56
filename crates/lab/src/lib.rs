// SPDX-License-Identifier: MIT OR Apache-2.0
//! LAB.toml: several DIMMs, interleave sets and buses over files, as one machine.
//!
//! [`Lab::load`] reads the description and refuses what makes no sense, with line, column, what was found and what is
//! accepted. [`Lab::open`] opens and locks its files and gives plain data: for every bus its DIMMs and its regions, each
//! with the media that hold its bytes. A DIMM whose file is missing, in use or of another size is absent, and so are the
//! regions on it; all others are there.
//!
//! `README.md` beside this crate documents every key, `lab.schema.json` is the same for editors.
//!
//! ```
//! use nvstack_lab::Lab;
//! use nvstack_media::Access;
//!
//! let lab = Lab::parse(
//!     r#"
//!     [[bus]]
//!     dimm = [{ memory = "16M", label-size = "128K" }, { memory = "16M", label-size = "128K" }]
//!     region = [{ members = [0, 1], interleave = 256 }]
//!     "#,
//!     "lab.toml",
//! )?;
//! let open = lab.open(Access::ReadWrite)?;
//! let region = open.buses[0].regions[0].body.as_ref().unwrap();
//! assert_eq!((region.size, region.mappings.len()), ((32 << 20) - (256 << 10), 2));
//!
//! let e = Lab::parse("[[bus]]\ndimm = [{ flie = \"a\" }]", "lab.toml").unwrap_err();
//! assert_eq!(
//!     e.to_string(),
//!     "lab.toml:2:11: read [[bus.dimm]]: found the key \"flie\", accepted \"file\""
//! );
//! # Ok::<(), nvstack_media::Error>(())
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]

mod build;
mod identity;
mod keys;
mod model;
mod open;
mod plan;
mod read;
mod template;
mod text;

pub use identity::{Identity, Manufacturing};
pub use keys::KEYS;
pub use model::{
    Backing, Bus, Dimm, FLAGS, Interleaving, Lab, Member, Options, Persistence, Region, RegionKind, Source,
};
pub use open::{OpenBus, OpenDimm, OpenLab, OpenRegion, Parts, RegionBody};
pub use plan::Mapping;
pub use template::{Template, TemplateDimm, TemplateSet};
pub use text::Position;
