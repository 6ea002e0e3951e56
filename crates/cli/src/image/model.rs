// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is on an image, in the words of the device model: one bus, one DIMM, one region, its namespaces.

use nvstack_format::btt::Version;
use nvstack_media::Error;
use uuid::Uuid;

/// The steps in which Linux gives out a region: its `align` attribute.
pub(crate) const REGION_ALIGN: u64 = 16 << 20;

/// The persistent memory of the DIMM, as `region0`.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// Bytes of persistent memory: the file without its label area.
    pub(crate) size: u64,
    /// What stands in the label area.
    pub(crate) labels: LabelState,
    /// Which nvdimm of a QEMU the labels belong to, counted from 1; 1 where they do not tell.
    pub(crate) dimm: u32,
}

/// What stands in the label area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LabelState {
    /// Nothing: the region is one namespace without a label.
    None,
    /// Labels of the interleave set with this cookie.
    Set(u64),
}

impl Region {
    /// What Linux would align namespaces to: its default, or a page in a region too small for it.
    pub(crate) fn align(&self) -> u64 {
        if self.size < REGION_ALIGN { 4096 } else { REGION_ALIGN }
    }
}

/// One namespace, `namespace0.N`.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// N.
    pub(crate) index: usize,
    /// First byte, in the region.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// What its label says; a label-less region has none.
    pub(crate) label: Option<LabelInfo>,
    /// What stands on it.
    pub(crate) personality: Personality,
}

/// What a label says of its namespace.
#[derive(Clone, Debug)]
pub(crate) struct LabelInfo {
    /// The uuid of the namespace, the parent of its claim's.
    pub(crate) uuid: Uuid,
    /// The name, often empty.
    pub(crate) name: String,
    /// Sector size for raw access, 0 where the claim decides.
    pub(crate) lbasize: u64,
}

/// What stands on a namespace, as the kernel's probe would find it.
#[derive(Debug)]
pub(crate) enum Personality {
    /// Nothing: bytes.
    Raw,
    /// A BTT.
    Sector(Sector),
    /// A page map and a data area for file systems with DAX, or for device-dax.
    Pages(Pages),
    /// Something that is damaged, or stands where it does not belong. It is not served unless its bytes are asked for.
    Damaged {
        /// What is wrong.
        cause: Error,
        /// A BTT of this version that can still be read, with the backups of its info blocks.
        from_backup: Option<Version>,
    },
}

/// The personality of a BTT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sector {
    /// Its version, which tells its place.
    pub(crate) version: Version,
    /// Its uuid.
    pub(crate) uuid: Uuid,
    /// Bytes of a sector with its metadata: 520, 4096 ...
    pub(crate) sector_size: u32,
    /// Bytes of data that it offers.
    pub(crate) size: u64,
}

/// The page-map personalities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    /// Devdax rather than fsdax.
    pub(crate) devdax: bool,
    /// The page map is on the medium rather than in memory.
    pub(crate) map_on_media: bool,
    /// Its uuid.
    pub(crate) uuid: Uuid,
    /// First byte of data, in the namespace.
    pub(crate) start: u64,
    /// Bytes of data.
    pub(crate) size: u64,
    /// Alignment of mappings.
    pub(crate) align: u64,
}

impl Namespace {
    /// `namespace0.N`.
    pub(crate) fn name(&self) -> String {
        format!("namespace0.{}", self.index)
    }

    /// Bytes of a sector where its bytes are served as they are.
    pub(crate) fn raw_sector_size(&self) -> u32 {
        match &self.label {
            Some(label) if label.lbasize == 4096 => 4096,
            _ => 512,
        }
    }

    /// `0` for the first namespace of a region, `0.N` for the others: the number in `pmem0s` and `pmem0.1s`.
    pub(crate) fn disk_number(&self) -> String {
        if self.index == 0 { "0".into() } else { format!("0.{}", self.index) }
    }
}
