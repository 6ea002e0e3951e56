// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which objects are meant.

use nvstack_media::{Error, Kind, Result};

use crate::model::{Bus, Dimm, Namespace, Node, Region, buses};
use crate::sys::Sys;

/// Which objects are meant: each field as the option's text, none for any.
///
/// A text may hold several names, separated by spaces, and `all` means any. A name is that of a device (`region0`) or its
/// number (`0`, for a namespace `0.1`); a bus is also meant by its provider. An object is meant if it fits, and so do the
/// objects that it belongs to and, for a bus, a region or a DIMM, one of those that belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `-b`: buses.
    pub bus: Option<String>,
    /// `-r`: regions.
    pub region: Option<String>,
    /// `-d`: DIMMs.
    pub dimm: Option<String>,
    /// `-n`: namespaces.
    pub namespace: Option<String>,
    /// `-m`: the mode of namespaces.
    pub mode: Option<String>,
    /// `-t`: the kind of regions, `pmem` or `blk`.
    pub kind: Option<String>,
    /// `-U`: the NUMA node of regions and DIMMs.
    pub numa_node: Option<String>,
}

/// Whether one of the names in `text` fits.
fn any(text: Option<&str>, mut fits: impl FnMut(&str) -> bool) -> bool {
    match text {
        None => true,
        Some(text) => text.split(' ').filter(|w| !w.is_empty()).any(|w| w == "all" || fits(w)),
    }
}

/// Whether a name is a device's, or its number.
fn names(node: &Node<'_>, word: &str) -> bool {
    node.name() == word || word.parse().is_ok_and(|id: u64| Some(id) == node.id())
}

/// Whether a name is a namespace's: `namespace0.1` or `0.1`.
fn names_namespace(namespace: &Namespace<'_>, word: &str) -> bool {
    namespace.name() == word || namespace.name().strip_prefix("namespace") == Some(word)
}

impl Filter {
    /// Whether the options themselves make sense.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &'static str, found: &str, accepted: &'static str| {
            Err(Error::new(Kind::Invalid, what).found(format_args!("'{found}'")).accepted(accepted))
        };
        if let Some(mode) = &self.mode
            && mode_name(mode).is_none()
        {
            return refuse("invalid mode", mode, "raw, sector (or safe), fsdax (or memory), devdax (or dax)");
        }
        if let Some(kind) = &self.kind
            && !["pmem", "blk"].contains(&kind.as_str())
        {
            return refuse("unknown type", kind, "pmem or blk");
        }
        if let Some(node) = &self.numa_node
            && node != "all"
            && node.parse::<u32>().is_err()
        {
            return refuse("invalid NUMA node", node, "a number, or all");
        }
        Ok(())
    }

    fn on_node(&self, node: Option<u64>) -> bool {
        match self.numa_node.as_deref() {
            None | Some("all") => true,
            Some(text) => text.parse().ok() == node,
        }
    }

    pub(crate) fn bus(&self, bus: &Bus<'_>) -> bool {
        any(self.bus.as_deref(), |w| names(bus, w) || bus.provider() == w)
            && (self.dimm.is_none() || bus.dimms().iter().any(|d| self.names_dimm(d)))
            && (self.region.is_none() || bus.regions().iter().any(|r| self.names_region(r)))
            && (self.namespace.is_none() || bus.regions().iter().any(|r| self.has_namespace(r)))
    }

    pub(crate) fn names_dimm(&self, dimm: &Dimm<'_>) -> bool {
        any(self.dimm.as_deref(), |w| names(dimm, w))
    }

    pub(crate) fn names_region(&self, region: &Region<'_>) -> bool {
        any(self.region.as_deref(), |w| names(region, w))
    }

    fn has_namespace(&self, region: &Region<'_>) -> bool {
        region.namespaces().iter().any(|n| self.names_namespace(n))
    }

    fn names_namespace(&self, namespace: &Namespace<'_>) -> bool {
        any(self.namespace.as_deref(), |w| names_namespace(namespace, w))
    }

    pub(crate) fn dimm(&self, bus: &Bus<'_>, dimm: &Dimm<'_>) -> bool {
        let regions =
            || bus.regions().into_iter().filter(|r| r.mappings().iter().any(|m| m.dimm == dimm.name()));
        // DIMMs have no node of their own in every tree; that of a region which they are part of says where they are.
        let node =
            || dimm.node_number("numa_node").or_else(|| regions().find_map(|r| r.node_number("numa_node")));
        self.names_dimm(dimm)
            && (self.region.is_none() || regions().any(|r| self.names_region(&r)))
            && (self.namespace.is_none() || regions().any(|r| self.has_namespace(&r)))
            && (self.numa_node.is_none() || self.on_node(node()))
    }

    pub(crate) fn region(&self, bus: &Bus<'_>, region: &Region<'_>) -> bool {
        let dimms = || {
            let mappings = region.mappings();
            bus.dimms().into_iter().filter(move |d| mappings.iter().any(|m| m.dimm == d.name()))
        };
        self.names_region(region)
            && (self.dimm.is_none() || dimms().any(|d| self.names_dimm(&d)))
            && (self.namespace.is_none() || self.has_namespace(region))
            && self.kind.as_deref().is_none_or(|k| k == region.kind())
            && (self.numa_node.is_none() || self.on_node(region.node_number("numa_node")))
    }

    pub(crate) fn namespace(&self, namespace: &Namespace<'_>) -> bool {
        self.names_namespace(namespace)
            && self.mode.as_deref().is_none_or(|m| mode_name(m) == Some(namespace.mode()))
    }

    /// The regions that are meant, each with its bus.
    pub(crate) fn regions<'a>(&self, sys: &'a dyn Sys) -> Vec<(Bus<'a>, Region<'a>)> {
        let mut found = Vec::new();
        for bus in buses(sys).into_iter().filter(|b| self.bus(b)) {
            for region in bus.regions() {
                if self.region(&bus, &region) {
                    found.push((bus.clone(), region));
                }
            }
        }
        found
    }

    /// The namespaces that are meant.
    pub(crate) fn namespaces<'a>(&self, sys: &'a dyn Sys) -> Vec<Namespace<'a>> {
        let regions = self.regions(sys).into_iter().flat_map(|(_, region)| region.namespaces());
        regions.filter(|n| self.namespace(n)).collect()
    }
}

/// The mode that a name means; `ndctl` knows two for most.
pub(crate) fn mode_name(text: &str) -> Option<&'static str> {
    match text {
        "raw" => Some("raw"),
        "sector" | "safe" => Some("sector"),
        "fsdax" | "memory" => Some("fsdax"),
        "devdax" | "dax" => Some("devdax"),
        _ => None,
    }
}
