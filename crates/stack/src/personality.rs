// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stacks on a namespace: the interface of every driver, those of this crate and those from elsewhere.
//!
//! A driver is given the namespace as a block device that offers `rw_bytes`, looks whether something of its own is there
//! ([`Personality::probe`]), and attaches to it or lays it out ([`Personality::attach`]). What it gets to be configured with
//! stands in [`Settings`], as the attributes of its seed show and store them. The device model does the rest: the seed of each
//! region, claims, names, events, teardown.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use nvstack_block::BlockDevice;
use nvstack_btt::Cache;
use nvstack_format::guid::ClaimClass;
use nvstack_format::{Invalid, MediaOffset, label};
use nvstack_media::{Error, Media, Result};
use uuid::Uuid;

/// Names and numbers of a driver and of its devices.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// What the names of its devices begin with: `btt` for `btt0.1`. Also the word of `holder_class`.
    pub prefix: &'static str,
    /// The `devtype` of its devices.
    pub devtype: &'static str,
    /// The driver in `bus/nd/drivers` that its devices bind to.
    pub driver: &'static str,
    /// The number in `modalias`; without one, the region's `nstype`.
    pub number: Option<u8>,
    /// The `mode` of a namespace that it holds.
    pub mode: &'static str,
    /// Bytes that a namespace must have for it.
    pub min_size: u64,
    /// Its devices have a `resource` attribute.
    pub has_resource: bool,
    /// What people get of a device.
    pub node: DeviceNode,
    /// It needs no device of its own: it drives the namespace itself, where no other driver claims it. Such a driver has no
    /// seed, and is asked last.
    pub in_place: bool,
}

/// What a device of a driver is for those who use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceNode {
    /// A disk, `pmemR[.N]` and what its name ends with: `s` for `pmem0s`.
    Disk(&'static str),
    /// Memory to map, `daxR.N`.
    Dax,
}

/// An attribute of a driver's own, beside `uuid`, `namespace`, `size`, `devtype`, `modalias` and what else all have.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// 0o444, or 0o644 where [`Personality::store`] takes it.
    pub mode: u16,
    /// What a text of it looks like, for the list of the ABI.
    pub format: &'static str,
}

/// What a device is configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Its own uuid, not the namespace's.
    pub uuid: Option<Uuid>,
    values: BTreeMap<&'static str, u64>,
}

impl Settings {
    /// With the uuid of what is there, and nothing else yet.
    #[must_use]
    pub fn of(uuid: Uuid) -> Settings {
        Settings { uuid: Some(uuid), values: BTreeMap::new() }
    }

    /// A value of the driver's own, if it is set.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<u64> {
        self.values.get(key).copied()
    }

    /// Sets a value.
    pub fn set(&mut self, key: &'static str, value: u64) {
        self.values.insert(key, value);
    }

    /// With a value set.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: u64) -> Settings {
        self.set(key, value);
        self
    }
}

/// The namespace that a driver is to look at, or to take.
#[derive(Clone)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// The namespace as a block device. It offers `rw_bytes`.
    pub device: Arc<dyn BlockDevice>,
    /// Its uuid; nil without a label.
    pub uuid: Uuid,
    /// What its label lets stack on it.
    pub class: ClaimClass,
    /// Physical address of its first byte.
    pub start: u64,
    /// Sector size in its label; 0 where the driver decides.
    pub lbasize: u64,
    /// No byte of it may be changed.
    pub read_only: bool,
    /// What the drivers that looked before have not found, for one that explains what it finds.
    pub absent: Vec<Absence>,
}

impl Subject {
    /// Its bytes, as media know them.
    pub fn media(&self) -> Result<Arc<dyn Media>> {
        Ok(self.device.bytes()?.media())
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.device.bytes().map_or(0, |bytes| bytes.size())
    }

    /// The BTT version that a namespace of this class holds.
    pub fn btt_version(&self) -> Option<nvstack_format::btt::Version> {
        self.class.btt()
    }
}

/// Something that was looked for and is not there.
#[derive(Clone, Debug)]
pub struct Absence {
    /// Where it would be, in bytes from the start of the namespace.
    pub at: MediaOffset,
    /// How it would begin.
    pub signature: [u8; 16],
    /// What is there.
    pub finding: Invalid,
    /// Something of it remains, such as a backup: the namespace must not be taken for a raw one.
    pub remains: bool,
}

/// What a driver found on a namespace.
pub enum Probed {
    /// Its own, whole: it is attached with these settings.
    Found(Settings),
    /// Nothing of its own: the next driver looks.
    Absent(Option<Absence>),
    /// Its own, and it cannot be used: the namespace stays without a driver, and nobody else looks.
    Refused(Error),
}

/// How a disk is to be opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Change no byte.
    pub read_only: bool,
    /// When a write is durable on a plain file.
    pub cache: Cache,
    /// Discard and write-zeroes set zero entries in a BTT's map.
    pub zero_entries: bool,
}

/// An open disk.
pub struct Disk {
    /// The device.
    pub device: Arc<dyn BlockDevice>,
    /// What people should know of it: sector size, recovery ...
    pub note: String,
    /// Whatever lives as long as the disk is open.
    pub keep: Option<Box<dyn Any + Send + Sync>>,
}

/// A driver's hold on a namespace. Dropped, it holds nothing any more: no byte of the namespace, no thread, no file.
pub trait Attached: Send + Sync {
    /// Bytes that the device offers.
    fn size(&self) -> u64;

    /// Where its data begins in the namespace, if it is one run of bytes there.
    fn data(&self) -> Option<MediaOffset>;

    /// Bytes of a sector, with its metadata, that its disk has; none if it has no disk ([`DeviceNode::Dax`]).
    fn sector_size(&self) -> Option<u32>;

    /// Bytes of a logical block of its disk.
    fn logical_block(&self) -> u32 {
        self.sector_size().unwrap_or(512)
    }

    /// The text of an attribute of the driver's own that depends on what is attached, without its newline.
    fn show(&self, attribute: &str) -> Option<String> {
        let _ = attribute;
        None
    }

    /// Opens the disk. Called once for any number of handles.
    ///
    /// Until then nothing of the namespace may have been changed, except by laying out a new one.
    fn open(&self, name: &str, options: &OpenOptions) -> Result<Disk>;
}

/// A driver.
pub trait Personality: Send + Sync {
    /// Its names.
    fn identity(&self) -> Identity;

    /// Whether it may stack on a namespace of this class.
    fn accepts(&self, class: ClaimClass) -> bool;

    /// The class that `holder_class` gets when the driver's prefix is written to it, on DIMMs with labels of this version
    /// (none where labels are not initialised).
    fn class(&self, labels: Option<label::Version>) -> ClaimClass;

    /// Its attributes.
    fn attributes(&self) -> &'static [Attribute];

    /// What a seed starts with.
    fn defaults(&self) -> Settings;

    /// The text of an attribute, without its newline.
    fn show(&self, settings: &Settings, attached: Option<&dyn Attached>, attribute: &str) -> Result<String>;

    /// Takes a text written to an attribute. Values that can't be give [`Kind::Invalid`](crate::Kind::Invalid) with
    /// what is accepted.
    fn store(&self, settings: &mut Settings, attribute: &str, text: &str) -> Result<()>;

    /// Looks for its own on a namespace. Changes nothing, and reads nothing but this namespace. An error is one of reading.
    fn probe(&self, subject: &Subject) -> Result<Probed>;

    /// Attaches to what is there, if it is what the settings say; else, where nothing of its own is there, lays it out.
    /// `settings` tells afterwards what it became. An error leaves nothing half-way.
    fn attach(&self, subject: &Subject, settings: &mut Settings) -> Result<Box<dyn Attached>>;
}
