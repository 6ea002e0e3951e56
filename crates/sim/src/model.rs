// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may persist, and in which order.

use std::fmt;
use std::str::FromStr;

use nvstack_media::{Domain, Error, Kind};

/// A model of persistence. In all of them a store of eight aligned bytes, or of four, is whole or absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// Each 64-byte line persists a prefix of its stores, lines in any order. Non-temporal stores (stream, zero) are
    /// unordered, 8 bytes each. Durable: what the draining task streamed, and the lines that it flushed as they were
    /// then.
    X86,
    /// As x86, but the order within a line is free too, save for stores to the same bytes.
    Arm,
    /// Any subset of the 8-byte stores that are not drained, whatever they overlap.
    Adversarial,
    /// A plain file behind a page cache: each 4 KiB page reaches the file as it was at some moment, pages in any order;
    /// durable is what anybody stored before a drain, which is an msync.
    Pages,
}

impl Model {
    /// All of them.
    pub const ALL: [Model; 4] = [Model::X86, Model::Arm, Model::Adversarial, Model::Pages];

    /// The name that a person types.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Model::X86 => "x86",
            Model::Arm => "arm",
            Model::Adversarial => "adversarial",
            Model::Pages => "pages",
        }
    }

    /// The persistence domain that a medium of this model says it has.
    #[must_use]
    pub const fn domain(self) -> Domain {
        match self {
            Model::Pages => Domain::PageCache,
            _ => Domain::Cache,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Model {
    type Err = Error;

    fn from_str(name: &str) -> Result<Model, Error> {
        Model::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            Error::new(Kind::Invalid, "choose persistence model")
                .found(name)
                .accepted("x86, arm, adversarial or pages")
        })
    }
}
