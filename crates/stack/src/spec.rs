// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a provider tells of its bus: DIMMs, regions, and which bytes of which DIMM a region is made of.

use std::sync::Arc;

use nvstack_format::Cookies;
use nvstack_media::{Error, Media, Result};
use uuid::Uuid;

/// Where the objects of a bus hang in the tree, and what attributes of its provider's they have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// ACPI's table of NVDIMMs: `nfit` attributes on bus, DIMMs and regions.
    Nfit,
    /// Another one, by its name (`e820`, `ramdax` ...), as a platform device of that name.
    Platform(String),
}

impl Provider {
    /// The `provider` attribute.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Provider::Nfit => "ACPI.NFIT",
            Provider::Platform(name) => name,
        }
    }

    /// Its device, below `/sys/devices`.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Provider::Nfit => "LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00".to_owned(),
            Provider::Platform(name) => match name.as_str() {
                "e820" => "platform/e820_pmem".to_owned(),
                name => format!("platform/{name}"),
            },
        }
    }
}

/// Objects that come up without a driver: what somebody disabled stays so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// DIMMs, by their place in [`BusSpec::dimms`].
    pub dimms: Vec<usize>,
    /// Regions, by their place in [`BusSpec::regions`].
    pub regions: Vec<usize>,
    /// Namespaces.
    pub namespaces: Vec<NamespaceKey>,
}

/// What tells a namespace from all others of a bus, whatever its number is this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceKey {
    /// The uuid in its label.
    Label(Uuid),
    /// That of a region without labels, by the region's physical address.
    Range(u64),
}

/// A bus that is to be registered.
pub struct BusSpec {
    /// Whose it is.
    pub provider: Provider,
    /// Its DIMMs; a region's mappings name them by their place here.
    pub dimms: Vec<DimmSpec>,
    /// Its regions.
    pub regions: Vec<RegionSpec>,
    /// What of it is not to come up.
    pub idle: Idle,
}

/// What identifies a DIMM: the values of the NFIT's memory-device and control-region structures, as numbers in memory (the
/// attributes show them in the order of their bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// NFIT device handle.
    pub handle: u32,
    /// SMBIOS handle.
    pub phys_id: u16,
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u16,
    /// Vendor of the controller.
    pub subsystem_vendor: u16,
    /// Device of the controller.
    pub subsystem_device: u16,
    /// Revision of the controller.
    pub subsystem_revision: u16,
    /// Serial number.
    pub serial: u32,
    /// Manufacturing location and date, where they are valid.
    pub made: Option<(u8, u16)>,
    /// Interface code.
    pub format: u16,
    /// Command family, -1 for none.
    pub family: i32,
    /// State flags, as the `nfit/flags` attribute names them (`not_armed`, `save_fail` ...).
    pub flags: Vec<String>,
}

impl Identity {
    /// What QEMU says of its nvdimm number `n`, counted from 1.
    #[must_use]
    pub fn qemu(n: u32) -> Identity {
        Identity {
            handle: n,
            phys_id: 0,
            vendor: 0x8086,
            device: 1,
            revision: 1,
            subsystem_vendor: 0,
            subsystem_device: 0,
            subsystem_revision: 0,
            serial: 0x0012_3456_u32.wrapping_add(n.saturating_sub(1)),
            made: None,
            format: 0x0301,
            family: 0,
            flags: Vec::new(),
        }
    }

    /// The `nfit/id` attribute: vendor, where known location and date, serial number.
    #[must_use]
    pub fn id(&self) -> String {
        let (vendor, serial) = (self.vendor.swap_bytes(), self.serial.swap_bytes());
        match self.made {
            Some((location, date)) => {
                format!("{vendor:04x}-{location:02x}-{:04x}-{serial:08x}", date.swap_bytes())
            }
            None => format!("{vendor:04x}-{serial:08x}"),
        }
    }
}

/// A DIMM that is to be registered.
pub struct DimmSpec {
    /// Who it is; none for a DIMM that no table describes.
    pub identity: Option<Identity>,
    /// Its label area; none if it has no commands for one.
    pub labels: Option<Arc<dyn Media>>,
    /// Why it cannot be used: its file is missing, for one. It is there all the same, and its neighbours stay up.
    pub fault: Option<Error>,
}

/// A DIMM's part in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingSpec {
    /// Its place in [`BusSpec::dimms`].
    pub dimm: usize,
    /// First byte, in the DIMM's own addresses (DPA).
    pub dpa: u64,
    /// Bytes.
    pub size: u64,
    /// Its place in the interleave set.
    pub position: u16,
}

/// A region that is to be registered.
pub struct RegionSpec {
    /// Its bytes in the order of physical addresses, or why they cannot be had.
    pub media: Result<Arc<dyn Media>>,
    /// Physical address of its first byte. Where fsdax and devdax put their data depends on it.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// The DIMMs that it is made of; none for a range without DIMMs.
    pub mappings: Vec<MappingSpec>,
    /// Cookies of its interleave set; none for a range without one.
    pub cookies: Option<Cookies>,
    /// `nfit/range_index`, where the provider has it.
    pub range_index: Option<u32>,
    /// Stores are refused (a DIMM is not armed).
    pub read_only: bool,
    /// Volatile memory.
    pub volatile: bool,
    /// The steps in which it is given out, where they are not Linux's default.
    pub align: Option<u64>,
    /// `persistence_domain`, where the platform promises one: `cpu_cache` or `memory_controller`.
    pub persistence_domain: Option<String>,
    /// NUMA node.
    pub numa_node: i32,
    /// Node that the memory would have online.
    pub target_node: Option<i32>,
}

impl RegionSpec {
    /// A region of one DIMM, whole, as QEMU has it.
    pub fn of_dimm(dimm: usize, media: Arc<dyn Media>, start: u64, cookies: Cookies) -> RegionSpec {
        let size = media.len();
        RegionSpec {
            media: Ok(media),
            start,
            size,
            mappings: vec![MappingSpec { dimm, dpa: 0, size, position: 0 }],
            cookies: Some(cookies),
            range_index: u32::try_from(dimm).ok().and_then(|n| n.checked_add(2)),
            read_only: false,
            volatile: false,
            align: None,
            persistence_domain: None,
            numa_node: 0,
            target_node: Some(0),
        }
    }

    /// A range of memory without DIMMs or labels, as `memmap=` gives it.
    pub fn of_range(media: Arc<dyn Media>, start: u64) -> RegionSpec {
        let size = media.len();
        RegionSpec {
            mappings: Vec::new(),
            cookies: None,
            range_index: None,
            size,
            ..RegionSpec::of_dimm(0, media, start, Cookies { v1_1: 0, v1_2: 0, alternative: 0 })
        }
    }
}
