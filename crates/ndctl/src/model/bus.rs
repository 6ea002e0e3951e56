// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buses.

use std::ops::Deref;

use super::{DEVICES, Dimm, Node, Region, is_device, order};
use crate::sys::Sys;

/// A bus: `ndbus0`.
#[derive(Clone, Debug)]
pub struct Bus<'a>(Node<'a>);

impl<'a> Deref for Bus<'a> {
    type Target = Node<'a>;
    fn deref(&self) -> &Node<'a> {
        &self.0
    }
}

/// All buses of a tree, by number.
pub fn buses<'a>(sys: &'a dyn Sys) -> Vec<Bus<'a>> {
    let mut names = sys.list(DEVICES).unwrap_or_default();
    names.retain(|n| is_device(n, "ndbus"));
    names.sort_by_key(|n| order(n));
    names.iter().map(|n| Bus(Node::new(sys, n))).collect()
}

/// Waits until every bus has probed what is on it: what is read before is not yet the state.
pub fn settle(sys: &dyn Sys) {
    for bus in buses(sys) {
        // A tree without the attribute has nothing to wait for.
        let _ = bus.text("wait_probe");
    }
}

impl<'a> Bus<'a> {
    /// Who provides it: `ACPI.NFIT`, `e820`.
    pub fn provider(&self) -> String {
        self.word("provider").unwrap_or_else(|| "unknown".to_owned())
    }

    /// Whether its media are being scrubbed for errors; none where they cannot be.
    pub fn scrubbing(&self) -> Option<bool> {
        Some(self.word("nfit/scrub")?.ends_with('+'))
    }

    /// Its DIMMs.
    pub fn dimms(&self) -> Vec<Dimm<'a>> {
        self.children("nmem").iter().map(|n| Dimm(Node::new(self.sys(), n))).collect()
    }

    /// Its regions.
    pub fn regions(&self) -> Vec<Region<'a>> {
        self.children("region").iter().map(|n| Region(Node::new(self.sys(), n))).collect()
    }
}
