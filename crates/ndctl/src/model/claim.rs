// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands on a namespace: BTT, fsdax, devdax.

use std::ops::Deref;

use super::{Choice, Node};
use crate::sys::Sys;

/// The kinds of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimKind {
    /// A Block Translation Table.
    Btt,
    /// fsdax.
    Pfn,
    /// devdax.
    Dax,
}

impl ClaimKind {
    /// All of them.
    pub const ALL: [ClaimKind; 3] = [ClaimKind::Btt, ClaimKind::Pfn, ClaimKind::Dax];

    /// How their names begin; also the `holder_class` of a namespace for them.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            ClaimKind::Btt => "btt",
            ClaimKind::Pfn => "pfn",
            ClaimKind::Dax => "dax",
        }
    }

    /// The attribute of a region that names the next one.
    #[must_use]
    pub const fn seed(self) -> &'static str {
        match self {
            ClaimKind::Btt => "btt_seed",
            ClaimKind::Pfn => "pfn_seed",
            ClaimKind::Dax => "dax_seed",
        }
    }
}

/// Where the page map of an fsdax or devdax namespace lies (`mode` of the claim).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapLocation {
    /// In ordinary memory (`ram`).
    Memory,
    /// In the namespace (`pmem`).
    Device,
}

impl MapLocation {
    /// As the tree writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            MapLocation::Memory => "ram",
            MapLocation::Device => "pmem",
        }
    }

    /// As `ndctl` writes it.
    #[must_use]
    pub const fn map(self) -> &'static str {
        match self {
            MapLocation::Memory => "mem",
            MapLocation::Device => "dev",
        }
    }
}

/// A claim: `btt0.0`.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    node: Node<'a>,
    kind: ClaimKind,
}

/// The character device of a devdax namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaxDevice {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The memory node that it would make.
    pub target_node: Option<u64>,
    /// Alignment of a mapping of it.
    pub align: Option<u64>,
    /// Whether it is lent out as ordinary memory.
    pub system_ram: bool,
}

impl<'a> Deref for Claim<'a> {
    type Target = Node<'a>;
    fn deref(&self) -> &Node<'a> {
        &self.node
    }
}

impl<'a> Claim<'a> {
    /// The claim of that name, if it is one.
    pub fn by_name(sys: &'a dyn Sys, name: &str) -> Option<Claim<'a>> {
        let kind = ClaimKind::ALL.into_iter().find(|k| name.starts_with(k.word()))?;
        Some(Claim { node: Node::new(sys, name), kind })
    }

    /// Its kind.
    pub fn kind(&self) -> ClaimKind {
        self.kind
    }

    /// Bytes of its device, once there is one.
    pub fn size(&self) -> Option<u64> {
        self.number("size")
    }

    /// Sector sizes of a BTT.
    pub fn sector_sizes(&self) -> Choice {
        self.choice("sector_size").unwrap_or_default()
    }

    /// Alignment of fsdax and devdax.
    pub fn align(&self) -> Option<u64> {
        self.number("align")
    }

    /// The alignments that it may have.
    pub fn alignments(&self) -> Vec<u64> {
        self.choice("supported_alignments").unwrap_or_default().supported
    }

    /// Where its page map lies.
    pub fn map_location(&self) -> Option<MapLocation> {
        match self.text("mode")?.as_str() {
            "ram" => Some(MapLocation::Memory),
            "pmem" => Some(MapLocation::Device),
            _ => None,
        }
    }

    /// Physical address of its data.
    pub fn resource(&self) -> Option<u64> {
        self.number("resource")
    }

    /// Number and size of the region of character devices of a devdax claim, and how much of it is free.
    pub fn dax_region(&self) -> Option<(u64, u64, Option<u64>)> {
        let region = self.below("dax_region");
        Some((region.number("id")?, region.number("size")?, region.number("available_size")))
    }

    /// The character devices of a devdax claim.
    pub fn dax_devices(&self) -> Vec<DaxDevice> {
        let device = |name: &String| {
            let node = self.below(name);
            let driver = self.sys().link(&node.path("driver")).unwrap_or_default();
            Some(DaxDevice {
                name: name.clone(),
                size: node.number("size")?,
                target_node: node.node_number("target_node"),
                align: node.number("align"),
                system_ram: driver.ends_with("/kmem"),
            })
        };
        self.children("dax").iter().filter_map(device).collect()
    }
}
