// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects of a bus, and how they are named. Data alone: what happens to them stands in the modules that are named after it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use nvstack_format::Cookies;
use nvstack_format::guid::ClaimClass;
use nvstack_format::label::Version;
use nvstack_label::{LabelArea, Slot};
use nvstack_media::{Error, Kind, Media, Result};
use uuid::Uuid;

use crate::disk::OpenDisk;
use crate::personality::{Attached, Settings};
use crate::spec::{Identity, Provider};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Gate, Mutex};

/// The steps in which a region is given out by default.
pub(crate) const REGION_ALIGN: u64 = 16 << 20;
/// Linux maps memory by pages.
pub(crate) const PAGE: u64 = 4096;

/// Marks one life of an object. Names are given again, these never, so that who holds one of an object that is gone gets an
/// error and not its successor.
pub(crate) type Generation = u64;

/// A device of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Dev {
    /// `ndbusN`.
    Bus(u32),
    /// `ndctlN`, its control device.
    Control(u32),
    /// `nmemN`.
    Dimm(u32),
    /// `regionN`.
    Region(u32),
    /// `namespaceR.N`.
    Namespace(u32, u32),
    /// `bttR.N` and the like: region, driver, number.
    Claim(u32, usize, u32),
}

/// What changes on a bus.
#[derive(Default)]
pub(crate) struct BusState {
    /// It is being removed, or is.
    pub(crate) dead: bool,
    /// Probes that have been asked for and have not ended: what they probe.
    pub(crate) pending: BTreeMap<Generation, String>,
    pub(crate) dimms: BTreeMap<u32, Dimm>,
    pub(crate) regions: BTreeMap<u32, Region>,
}

/// A DIMM.
pub(crate) struct Dimm {
    pub(crate) generation: Generation,
    pub(crate) identity: Option<Identity>,
    pub(crate) media: Option<Arc<dyn Media>>,
    pub(crate) fault: Option<Error>,
    pub(crate) minor: u32,
    /// Its driver has it; without labels there may be nothing in it.
    pub(crate) bound: bool,
    /// Probed at least once, or not to be probed.
    pub(crate) probed: bool,
    /// Somebody is reading its labels, for its driver.
    pub(crate) changing: bool,
    /// The gate of those who were given its label area to read.
    pub(crate) readers: Option<Arc<Gate>>,
    /// The same of those who may write it, which nobody may while an enabled region uses it.
    pub(crate) writers: Option<Arc<Gate>>,
    /// Index blocks that are there and can't be used: nobody knows what is whose on it.
    pub(crate) damage: Option<String>,
    /// Its label area.
    pub(crate) area: Option<LabelArea<Arc<dyn Media>>>,
    /// The slots in use, as last read or written.
    pub(crate) slots: Vec<Slot>,
    /// Bytes that its labels call their own: whose, from where, how many.
    pub(crate) reserved: Vec<(Uuid, u64, u64)>,
    /// Enabled regions that use it.
    pub(crate) busy: u32,
    /// Why its driver let it go.
    pub(crate) error: Option<String>,
}

impl Dimm {
    /// Whether it has labels (the LABELING flag).
    pub(crate) fn labelled(&self) -> bool {
        self.area.as_ref().is_some_and(|area| area.index().is_some())
    }

    /// The version of its labels.
    pub(crate) fn version(&self) -> Option<Version> {
        self.area.as_ref().and_then(LabelArea::version)
    }
}

/// A DIMM's part in a region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// The number of the DIMM.
    pub(crate) dimm: u32,
    pub(crate) dpa: u64,
    pub(crate) size: u64,
    pub(crate) position: u16,
}

/// A region.
pub(crate) struct Region {
    pub(crate) generation: Generation,
    pub(crate) media: Result<Arc<dyn Media>>,
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) cookies: Option<Cookies>,
    pub(crate) range_index: Option<u32>,
    pub(crate) volatile: bool,
    pub(crate) persistence_domain: Option<String>,
    pub(crate) numa_node: i32,
    pub(crate) target_node: Option<i32>,
    pub(crate) align: u64,
    /// Its provider says so, or its medium was opened so.
    pub(crate) born_read_only: bool,
    pub(crate) read_only: Arc<AtomicBool>,
    /// Its driver has it: its namespaces exist.
    pub(crate) bound: bool,
    /// Somebody is taking it apart or putting it together.
    pub(crate) changing: bool,
    /// `init_namespaces`: found, and usable.
    pub(crate) initial: (usize, usize),
    pub(crate) namespaces: BTreeMap<u32, Namespace>,
    pub(crate) claims: BTreeMap<(usize, u32), Claim>,
    pub(crate) namespace_seed: Option<u32>,
    /// The seed of each driver.
    pub(crate) seeds: BTreeMap<usize, u32>,
    /// What is wrong with its labels.
    pub(crate) findings: Vec<String>,
    /// Why its driver let it go.
    pub(crate) error: Option<String>,
}

impl Region {
    /// 5 where labels cut it into namespaces, 4 where it is one by itself; told by the DIMMs when the region is registered or
    /// enabled.
    pub(crate) fn nstype(&self, dimms: &BTreeMap<u32, Dimm>) -> u8 {
        let labelled = |m: &Mapping| dimms.get(&m.dimm).is_some_and(Dimm::labelled);
        if self.mappings.iter().any(labelled) { 5 } else { 4 }
    }

    pub(crate) fn ways(&self) -> u64 {
        u64::try_from(self.mappings.len()).unwrap_or(1).max(1)
    }
}

/// What kind of namespace it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamespaceKind {
    /// All of a region without labels (`nd_namespace_io`).
    Io,
    /// One that labels tell (`nd_namespace_pmem`).
    Pmem,
}

/// A namespace.
pub(crate) struct Namespace {
    pub(crate) generation: Generation,
    pub(crate) kind: NamespaceKind,
    /// First byte, in the region.
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) name: String,
    /// Sector size in the label.
    pub(crate) lbasize: u64,
    pub(crate) class: ClaimClass,
    pub(crate) force_raw: bool,
    /// Who holds it.
    pub(crate) holder: Option<(usize, u32)>,
    /// Its own driver has it (raw).
    pub(crate) bound: Option<Bound>,
    /// Somebody is binding or unbinding it.
    pub(crate) changing: bool,
    /// Why it has no driver.
    pub(crate) error: Option<Error>,
}

/// A btt, pfn or dax device, or one of a driver from elsewhere.
pub(crate) struct Claim {
    pub(crate) generation: Generation,
    pub(crate) settings: Settings,
    /// What it holds.
    pub(crate) namespace: Option<u32>,
    pub(crate) bound: Option<Bound>,
    pub(crate) changing: bool,
}

/// A device with its driver.
pub(crate) struct Bound {
    pub(crate) attached: Arc<dyn Attached>,
    /// The driver that has it.
    pub(crate) driver: usize,
    /// The number of its disk or character device.
    pub(crate) minor: u32,
    /// The disk, once somebody opened it.
    pub(crate) disk: Option<OpenDisk>,
    /// Held by who opens the disk.
    pub(crate) opening: Arc<Mutex<()>>,
}

impl BusState {
    pub(crate) fn dimm(&self, id: u32) -> Result<&Dimm> {
        self.dimms.get(&id).ok_or_else(|| gone(format_args!("nmem{id}")))
    }

    pub(crate) fn dimm_mut(&mut self, id: u32) -> Result<&mut Dimm> {
        self.dimms.get_mut(&id).ok_or_else(|| gone(format_args!("nmem{id}")))
    }

    pub(crate) fn region(&self, id: u32) -> Result<&Region> {
        self.regions.get(&id).ok_or_else(|| gone(format_args!("region{id}")))
    }

    pub(crate) fn region_mut(&mut self, id: u32) -> Result<&mut Region> {
        self.regions.get_mut(&id).ok_or_else(|| gone(format_args!("region{id}")))
    }

    pub(crate) fn namespace(&self, region: u32, id: u32) -> Result<&Namespace> {
        self.region(region)?.namespaces.get(&id).ok_or_else(|| gone(format_args!("namespace{region}.{id}")))
    }

    pub(crate) fn namespace_mut(&mut self, region: u32, id: u32) -> Result<&mut Namespace> {
        self.region_mut(region)?
            .namespaces
            .get_mut(&id)
            .ok_or_else(|| gone(format_args!("namespace{region}.{id}")))
    }

    pub(crate) fn claim(&self, region: u32, driver: usize, id: u32) -> Result<&Claim> {
        self.region(region)?
            .claims
            .get(&(driver, id))
            .ok_or_else(|| gone(format_args!("device {region}.{id}")))
    }

    pub(crate) fn claim_mut(&mut self, region: u32, driver: usize, id: u32) -> Result<&mut Claim> {
        self.region_mut(region)?
            .claims
            .get_mut(&(driver, id))
            .ok_or_else(|| gone(format_args!("device {region}.{id}")))
    }
}

/// The error of whoever comes too late.
pub(crate) fn gone(name: impl fmt::Display) -> Error {
    Error::new(Kind::Gone, "use device").path(name.to_string()).found("a device that was removed")
}

/// The error of whoever asks for a value that is not there yet.
pub(crate) fn unset(name: &str, what: &'static str, accepted: &'static str) -> Error {
    Error::new(Kind::NoDevice, format!("read {what}")).path(name).found("none yet").accepted(accepted)
}

/// The error of whoever configures what is in use.
pub(crate) fn busy(name: &str, operation: &'static str, found: impl fmt::Display) -> Error {
    Error::new(Kind::Busy, operation).path(name).found(found).accepted("a device without driver or claim")
}

/// The lowest number that is free, of those in use in rising order.
pub(crate) fn lowest_free(used: impl Iterator<Item = u32>) -> u32 {
    used.zip(0..).take_while(|(used, n)| used == n).last().map_or(0, |(_, n)| n.saturating_add(1))
}

/// Where a provider's devices stand below `/sys`.
pub(crate) fn bus_path(provider: &Provider, id: u32) -> String {
    format!("devices/{}/ndbus{id}", provider.path())
}

#[cfg(test)]
mod tests {
    use super::lowest_free;

    #[test]
    fn the_lowest_number_that_is_free_is_taken() {
        for (used, free) in [(&[][..], 0), (&[0, 1, 2], 3), (&[1, 2], 0), (&[0, 1, 3, 4], 2), (&[5], 0)] {
            assert_eq!(lowest_free(used.iter().copied()), free, "{used:?}");
        }
    }
}
