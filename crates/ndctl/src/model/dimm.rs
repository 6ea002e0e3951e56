// SPDX-License-Identifier: MIT OR Apache-2.0
//! DIMMs.

use std::ops::Deref;

use super::Node;

/// A DIMM: `nmem0`.
#[derive(Clone, Debug)]
pub struct Dimm<'a>(pub(super) Node<'a>);

impl<'a> Deref for Dimm<'a> {
    type Target = Node<'a>;
    fn deref(&self) -> &Node<'a> {
        &self.0
    }
}

impl Dimm<'_> {
    /// Whether an enabled region uses it.
    pub fn active(&self) -> bool {
        self.text("state").is_some_and(|s| s == "active")
    }

    /// Whether its label area holds an index block.
    pub fn labelled(&self) -> bool {
        self.text("flags").is_some_and(|f| f.split_whitespace().any(|w| w == "label"))
    }

    /// Whether its label area can be read and written.
    pub fn has_label_area(&self) -> bool {
        let commands = self.text("commands").unwrap_or_default();
        ["get_size", "get_data", "set_data"].iter().all(|c| commands.split_whitespace().any(|w| w == *c))
    }

    /// The words of its health: `save_fail`, `not_armed`.
    pub fn health(&self) -> Vec<String> {
        self.text("nfit/flags").unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }
}
