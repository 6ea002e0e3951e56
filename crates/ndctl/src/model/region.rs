// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions.

use std::ops::Deref;

use super::{Claim, ClaimKind, Namespace, Node};

/// A region: `region0`, a set of DIMMs that lie interleaved, or a single one.
#[derive(Clone, Debug)]
pub struct Region<'a>(pub(super) Node<'a>);

/// What one DIMM gives to a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its name.
    pub dimm: String,
    /// From which byte of the DIMM on.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Its place among the others, where the tree tells it.
    pub position: Option<u64>,
}

/// The smallest alignment of a namespace in a region whose tree does not tell one.
const PAGE: u64 = 4096;

impl<'a> Deref for Region<'a> {
    type Target = Node<'a>;
    fn deref(&self) -> &Node<'a> {
        &self.0
    }
}

impl<'a> Region<'a> {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.number("size").unwrap_or(0)
    }

    /// What the sizes of its namespaces must be multiples of, if the tree tells.
    pub fn align(&self) -> Option<u64> {
        self.number("align")
    }

    /// As [`Region::align`], with a page where the tree does not tell.
    pub fn align_or_page(&self) -> u64 {
        self.align().filter(|a| *a > 0).unwrap_or(PAGE)
    }

    /// Bytes that no namespace has. Without labels that is none, though the tree may tell the size of the region: its one
    /// namespace has them.
    pub fn available(&self) -> u64 {
        if !self.labelled() {
            return 0;
        }
        self.number("available_size").unwrap_or(0)
    }

    /// The most of them that lie together. Where the tree does not tell, all.
    pub fn largest_extent(&self) -> u64 {
        if !self.labelled() {
            return 0;
        }
        self.number("max_available_extent").unwrap_or_else(|| self.available())
    }

    /// Whether its namespaces stand in labels (`nstype` 5): only then are they made and destroyed.
    pub fn labelled(&self) -> bool {
        self.number("nstype") == Some(5)
    }

    /// Whether no namespace of it can be written.
    pub fn read_only(&self) -> bool {
        self.number("read_only") == Some(1)
    }

    /// `pmem`; a region that forgets is `volatile`.
    pub fn kind(&self) -> &'static str {
        match self.text("devtype").as_deref() {
            Some("nd_volatile") => "volatile",
            Some("nd_blk") => "blk",
            _ => "pmem",
        }
    }

    /// Physical address of its first byte, where the tree tells.
    pub fn resource(&self) -> Option<u64> {
        self.number("resource")
    }

    /// The cookie of its interleave set, which labels carry.
    pub fn set_cookie(&self) -> Option<u64> {
        if self.labelled() { self.number("set_cookie") } else { None }
    }

    /// What its DIMMs give to it.
    pub fn mappings(&self) -> Vec<Mapping> {
        let count = self.number("mappings").unwrap_or(0);
        let mapping = |i| {
            let text = self.text(&format!("mapping{i}"))?;
            let mut fields = text.split(',');
            let dimm = fields.next()?.to_owned();
            let mut next = || super::number(fields.next()?);
            Some(Mapping { dimm, offset: next()?, length: next()?, position: next() })
        };
        // A region has at most 32; a tree that says more is not asked for them.
        (0..count.min(32)).filter_map(mapping).collect()
    }

    /// Over how many DIMMs each stretch of it is spread.
    pub fn ways(&self) -> u64 {
        self.number("mappings").unwrap_or(1).max(1)
    }

    /// Its namespaces.
    pub fn namespaces(&self) -> Vec<Namespace<'a>> {
        self.children("namespace")
            .iter()
            .map(|n| Namespace::new(Node::new(self.sys(), n), self.clone()))
            .collect()
    }

    /// The namespace that is configured next.
    pub fn seed(&self) -> Option<Namespace<'a>> {
        let name = self.word("namespace_seed")?;
        self.namespaces().into_iter().find(|n| n.name() == name)
    }

    /// The claim that is configured next.
    pub fn claim_seed(&self, kind: ClaimKind) -> Option<Claim<'a>> {
        let name = self.word(kind.seed())?;
        Claim::by_name(self.sys(), &name)
    }

    /// Bytes that its media have lost, as (first, count) in units of 512 bytes.
    pub fn badblocks(&self) -> Vec<(u64, u64)> {
        let run = |line: &str| {
            let (first, count) = line.split_once(' ')?;
            Some((super::number(first)?, super::number(count)?))
        };
        self.text("badblocks").unwrap_or_default().lines().filter_map(run).collect()
    }
}
