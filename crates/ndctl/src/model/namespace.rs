// SPDX-License-Identifier: MIT OR Apache-2.0
//! Namespaces.

use std::ops::Deref;

use super::{Choice, Claim, ClaimKind, Node, Region};

/// A namespace: `namespace0.0`.
#[derive(Clone, Debug)]
pub struct Namespace<'a> {
    node: Node<'a>,
    region: Region<'a>,
}

/// What a namespace is used as.
#[derive(Clone, Debug)]
pub enum Personality<'a> {
    /// Plain persistent memory, or nothing that is known: a disabled namespace is not looked into.
    Raw,
    /// Plain persistent memory whose pages ordinary memory describes (`mode` is `memory` without a claim).
    Paged,
    /// A claim stands on it.
    Claimed(Claim<'a>),
}

impl<'a> Deref for Namespace<'a> {
    type Target = Node<'a>;
    fn deref(&self) -> &Node<'a> {
        &self.node
    }
}

impl<'a> Namespace<'a> {
    pub(super) fn new(node: Node<'a>, region: Region<'a>) -> Namespace<'a> {
        Namespace { node, region }
    }

    /// Its region.
    pub fn region(&self) -> &Region<'a> {
        &self.region
    }

    /// Bytes; 0 of one that is not configured.
    pub fn size(&self) -> u64 {
        self.number("size").unwrap_or(0)
    }

    /// Whether a label describes it, so that it has a uuid and a name of its own (devtype `nd_namespace_pmem`).
    pub fn labelled(&self) -> bool {
        self.number("nstype") == Some(5)
    }

    /// Physical address of its first byte, once it has any.
    pub fn resource(&self) -> Option<u64> {
        self.number("resource")
    }

    /// Sector sizes of the raw device.
    pub fn sector_sizes(&self) -> Choice {
        self.choice("sector_size").unwrap_or_default()
    }

    /// The claim that stands on it.
    pub fn holder(&self) -> Option<Claim<'a>> {
        Claim::by_name(self.sys(), &self.word("holder")?)
    }

    /// What it is used as.
    pub fn personality(&self) -> Personality<'a> {
        match self.holder() {
            Some(claim) => Personality::Claimed(claim),
            None if self.text("mode").as_deref() == Some("memory") => Personality::Paged,
            None => Personality::Raw,
        }
    }

    /// The name of its mode: `raw`, `sector`, `fsdax`, `devdax`.
    pub fn mode(&self) -> &'static str {
        match self.personality() {
            Personality::Raw => "raw",
            Personality::Paged => "fsdax",
            Personality::Claimed(claim) => match claim.kind() {
                ClaimKind::Btt => "sector",
                ClaimKind::Pfn => "fsdax",
                ClaimKind::Dax => "devdax",
            },
        }
    }

    /// Whether a driver serves it, by itself or through its claim.
    pub fn active(&self) -> bool {
        self.bound() || self.holder().is_some_and(|claim| claim.bound())
    }

    /// The node whose driver serves it, or would.
    pub fn served_by(&self) -> Node<'a> {
        match self.holder() {
            Some(claim) => (*claim).clone(),
            None => self.node.clone(),
        }
    }

    /// The block device that it is served as: `pmem0`.
    pub fn block_device(&self) -> Option<String> {
        let node = self.served_by();
        if !node.bound() {
            return None;
        }
        node.sys().list(&node.path("block")).ok()?.into_iter().next()
    }

    /// Bytes lost in it, as (first, count) in units of 512 bytes from where the data of its device begins. Those of a
    /// BTT are places in the namespace: its sectors do not lie in order.
    pub fn badblocks(&self) -> Vec<(u64, u64)> {
        let data = match self.personality() {
            Personality::Claimed(claim) if claim.kind() != ClaimKind::Btt => {
                claim.resource().zip(claim.size())
            }
            _ => self.resource().zip(Some(self.size())),
        };
        let (Some((start, len)), Some(region)) = (data, self.region.resource()) else { return Vec::new() };
        let first = start.saturating_sub(region) >> 9;
        let end = first.saturating_add(len >> 9);
        let clip = |(at, count): (u64, u64)| {
            let (from, to) = (at.max(first), at.saturating_add(count).min(end));
            (from < to).then(|| (from.saturating_sub(first), to.saturating_sub(from)))
        };
        self.region.badblocks().into_iter().filter_map(clip).collect()
    }
}
