// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects of a tree, each read from its attributes when asked.
//!
//! An attribute that cannot be read counts as unset, as `ndctl` takes it: the tree answers ENXIO for what has no meaning
//! yet, and hides what does not apply.

mod bus;
mod claim;
mod dimm;
mod namespace;
mod region;

use std::fmt;

use nvstack_media::{Error, Kind, Result};
use uuid::Uuid;

use crate::sys::Sys;

pub use bus::{Bus, buses, settle};
pub use claim::{Claim, ClaimKind, DaxDevice, MapLocation};
pub use dimm::Dimm;
pub use namespace::{Namespace, Personality};
pub use region::{Mapping, Region};

/// Where the tree shows every device of the stack by its name.
pub(crate) const DEVICES: &str = "bus/nd/devices";

/// A device of the tree: its name, and the way to its attributes.
#[derive(Clone)]
pub struct Node<'a> {
    sys: &'a dyn Sys,
    name: String,
    path: String,
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl<'a> Node<'a> {
    /// The device of that name, there or not.
    pub(crate) fn new(sys: &'a dyn Sys, name: &str) -> Node<'a> {
        Node { sys, name: name.to_owned(), path: format!("{DEVICES}/{name}") }
    }

    /// A node that is not on the bus, by its place below another.
    pub(crate) fn below(&self, name: &str) -> Node<'a> {
        Node { sys: self.sys, name: name.to_owned(), path: format!("{}/{name}", self.path) }
    }

    /// The tree.
    pub fn sys(&self) -> &'a dyn Sys {
        self.sys
    }

    /// Its name: `region0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of one of its attributes, or of something else below it.
    pub fn path(&self, attribute: &str) -> String {
        format!("{}/{attribute}", self.path)
    }

    /// The number that ends its name: 0 of `region0`, 1 of `namespace0.1`.
    pub fn id(&self) -> Option<u64> {
        let digits = self.name.rsplit(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    }

    /// Whether the tree has it.
    pub fn exists(&self) -> bool {
        self.sys.list(&self.path).is_ok()
    }

    /// An attribute's text without its last newline; none if it cannot be read.
    pub fn text(&self, attribute: &str) -> Option<String> {
        let text = self.sys.read(&self.path(attribute)).ok()?;
        Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// An attribute's text, if it has any.
    pub fn word(&self, attribute: &str) -> Option<String> {
        self.text(attribute).filter(|t| !t.is_empty())
    }

    /// An attribute's number, decimal or hexadecimal.
    pub fn number(&self, attribute: &str) -> Option<u64> {
        number(&self.text(attribute)?)
    }

    /// The node of an attribute such as `numa_node`, which is -1 where there is none.
    pub fn node_number(&self, attribute: &str) -> Option<u64> {
        self.number(attribute)
    }

    /// An attribute's uuid; nil if it has none yet.
    pub fn uuid(&self) -> Option<Uuid> {
        let text = self.text("uuid")?;
        Some(Uuid::parse_str(&text).unwrap_or_default())
    }

    /// A list in which one may be chosen: `512 [4096] `.
    pub fn choice(&self, attribute: &str) -> Option<Choice> {
        Some(Choice::parse(&self.text(attribute)?))
    }

    /// Whether a driver is bound to it: the only proof that the tree gives.
    pub fn bound(&self) -> bool {
        self.sys.link(&self.path("driver")).is_ok()
    }

    /// Stores into one of its attributes.
    pub fn store(&self, attribute: &str, text: &str) -> Result<()> {
        self.sys.write(&self.path(attribute), text)
    }

    /// The names below it that are `prefix` and a number, in rising order.
    pub(crate) fn children(&self, prefix: &str) -> Vec<String> {
        let mut names = self.sys.list(&self.path).unwrap_or_default();
        names.retain(|n| is_device(n, prefix));
        names.sort_by_key(|n| order(n));
        names
    }
}

/// A list of numbers in which one may be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// All that may be chosen.
    pub supported: Vec<u64>,
    /// The one that is, if any.
    pub chosen: Option<u64>,
}

impl Choice {
    fn parse(text: &str) -> Choice {
        let mut choice = Choice::default();
        for word in text.split_whitespace() {
            let inner = word.strip_prefix('[').and_then(|w| w.strip_suffix(']'));
            let Some(value) = number(inner.unwrap_or(word)) else { continue };
            choice.supported.push(value);
            if inner.is_some() {
                choice.chosen = Some(value);
            }
        }
        choice
    }
}

/// A number as the tree writes it.
pub(crate) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Whether a name is `prefix` and numbers: `namespace0.1`, and not `namespace_seed`.
fn is_device(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix).unwrap_or_default();
    rest.starts_with(|c: char| c.is_ascii_digit()) && rest.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// The order of names that people expect: by number, and so `region2` before `region10`.
fn order(name: &str) -> (String, Vec<u64>) {
    let digits = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
    let (word, numbers) = name.split_at_checked(digits).unwrap_or((name, ""));
    (word.to_owned(), numbers.split('.').filter_map(|n| n.parse().ok()).collect())
}

/// The error for a name that means nothing here.
pub(crate) fn unknown(what: &'static str, name: &str, have: &[String]) -> Error {
    let accepted = if have.is_empty() { format!("none: there is no {what}") } else { have.join(" ") };
    Error::new(Kind::Gone, format!("look for {what}")).found(name).accepted(accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_one_stands_in_brackets() {
        assert_eq!(Choice::parse("512 [4096] "), Choice { supported: vec![512, 4096], chosen: Some(4096) });
        assert_eq!(Choice::parse("512 4096 ").chosen, None);
    }

    #[test]
    fn names_are_told_from_attributes_and_ordered_by_number() {
        assert!(is_device("namespace0.10", "namespace") && !is_device("namespace_seed", "namespace"));
        assert!(!is_device("dax_region", "dax"));
        let mut names = ["region10", "region2", "namespace0.10", "namespace0.9"];
        names.sort_by_key(|n| order(n));
        assert_eq!(names, ["namespace0.9", "namespace0.10", "region2", "region10"]);
    }
}
