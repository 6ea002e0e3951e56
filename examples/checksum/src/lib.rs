// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver from elsewhere: it keeps a checksum of each block and verifies it when the block is read.
//!
//! The device model knows nothing of it but [`Personality`]; [`Stack::register_driver`](nvstack_stack::Stack::register_driver)
//! makes it known. From then on each region has a `crc_seed`, namespaces are probed for it, and its devices (`crc0.0`) stand
//! in the tree and have disks (`pmem0c`). README.md tells how such a driver is written.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]

pub mod device;
pub mod layout;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nvstack_format::guid::ClaimClass;
use nvstack_format::label;
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};
use nvstack_stack::{
    Attached, Attribute, DeviceNode, Disk, DriverIdentity, OpenOptions, Personality, Probed, Settings,
    Subject,
};
use uuid::Uuid;

use device::Checked;
use layout::{BLOCK_SIZES, Found, Layout, MIN_SIZE, SUPERBLOCK, Superblock};

/// The abstraction GUID that a label of version 1.2 carries for a namespace of this driver: who does not know the driver leaves
/// the namespace alone.
pub const GUID: Uuid = Uuid::from_u128(0x4b28_b5f6_0c2d_4f43_9a34_5d3c_7f60_71c3);

const BLOCK_SIZE: &str = "block_size";
const ERRORS: &str = "errors";

/// The driver.
pub struct Checksum;

impl Personality for Checksum {
    fn identity(&self) -> DriverIdentity {
        DriverIdentity {
            prefix: "crc",
            devtype: "nd_crc",
            driver: "nd_crc",
            number: None,
            mode: "crc",
            min_size: MIN_SIZE,
            has_resource: true,
            node: DeviceNode::Disk("c"),
            in_place: false,
        }
    }

    /// Namespaces of a type of their own, and those whose label tells no type.
    fn accepts(&self, class: ClaimClass) -> bool {
        class == ClaimClass::None || class == ClaimClass::Unknown(GUID)
    }

    /// Labels of version 1.1 have no types.
    fn class(&self, labels: Option<label::Version>) -> ClaimClass {
        match labels {
            Some(label::Version::V1_1) => ClaimClass::None,
            _ => ClaimClass::from_guid(GUID),
        }
    }

    fn attributes(&self) -> &'static [Attribute] {
        &[
            Attribute { name: BLOCK_SIZE, mode: 0o644, format: "512 [4096] " },
            Attribute { name: ERRORS, mode: 0o444, format: "<reads refused since it was bound>" },
        ]
    }

    fn defaults(&self) -> Settings {
        Settings::default().with(BLOCK_SIZE, 4096)
    }

    fn show(&self, settings: &Settings, _: Option<&dyn Attached>, attribute: &str) -> Result<String> {
        let chosen = settings.get(BLOCK_SIZE);
        Ok(match attribute {
            BLOCK_SIZE => BLOCK_SIZES
                .iter()
                .map(|size| if Some(*size) == chosen { format!("[{size}] ") } else { format!("{size} ") })
                .collect(),
            // What is attached tells its own.
            _ => "0".to_owned(),
        })
    }

    fn store(&self, settings: &mut Settings, attribute: &str, text: &str) -> Result<()> {
        let size = text.parse().ok().filter(|size| attribute == BLOCK_SIZE && BLOCK_SIZES.contains(size));
        let size = size.ok_or_else(|| {
            Error::new(Kind::Invalid, "set block_size")
                .found(format_args!("{text:?}"))
                .accepted("512 or 4096")
        })?;
        settings.set(BLOCK_SIZE, size);
        Ok(())
    }

    fn probe(&self, subject: &Subject) -> Result<Probed> {
        let media = subject.media()?;
        Ok(match Superblock::find(&media, subject.uuid).map_err(|e| e.path(&subject.name))? {
            Found::Superblock(superblock, _) => Probed::Found(settings_of(&superblock)),
            Found::Nothing => Probed::Absent(None),
            Found::Damaged(found, accepted) => Probed::Refused(damaged(subject, &found, &accepted)),
        })
    }

    fn attach(&self, subject: &Subject, settings: &mut Settings) -> Result<Box<dyn Attached>> {
        let media = subject.media()?;
        let found = Superblock::find(&media, subject.uuid).map_err(|e| e.path(&subject.name))?;
        let superblock = match found {
            Found::Superblock(superblock, _) => {
                agree(subject, settings, &superblock)?;
                superblock
            }
            Found::Nothing => lay_out(subject, &media, settings).map_err(|e| e.path(&subject.name))?,
            Found::Damaged(found, accepted) => return Err(damaged(subject, &found, &accepted)),
        };
        *settings = settings_of(&superblock);
        Ok(Box::new(AttachedChecksum { media, superblock, errors: Arc::default() }))
    }
}

fn settings_of(superblock: &Superblock) -> Settings {
    Settings::of(superblock.uuid).with(BLOCK_SIZE, u64::from(superblock.layout.block_size))
}

fn damaged(subject: &Subject, found: &str, accepted: &str) -> Error {
    Error::new(Kind::Corrupt, "read superblock of checksums")
        .path(&subject.name)
        .at(SUPERBLOCK)
        .found(found)
        .accepted(accepted)
}

/// What was configured must be what is there.
fn agree(subject: &Subject, settings: &Settings, superblock: &Superblock) -> Result<()> {
    let there = settings_of(superblock);
    let differs = settings.uuid.is_some_and(|uuid| Some(uuid) != there.uuid)
        || settings.get(BLOCK_SIZE) != there.get(BLOCK_SIZE);
    if !differs {
        return Ok(());
    }
    let words = |s: &Settings| {
        let uuid = s.uuid.map_or("any".to_owned(), |uuid| uuid.to_string());
        format!("uuid {uuid} with blocks of {}", s.get(BLOCK_SIZE).unwrap_or(0))
    };
    Err(Error::new(Kind::Unrecognised, "attach checksums")
        .path(&subject.name)
        .found(format_args!("{} on the medium", words(&there)))
        .accepted(format_args!("the configured {}", words(settings))))
}

/// Makes a new device. The superblock comes last: a cut leaves no device or a whole one.
fn lay_out(subject: &Subject, media: &Arc<dyn Media>, settings: &Settings) -> Result<Superblock> {
    let refuse = |kind, found: &str, accepted: &str| {
        Error::new(kind, "create checksums").found(found).accepted(accepted)
    };
    let uuid = settings.uuid.ok_or_else(|| refuse(Kind::Unrecognised, "no uuid", "a uuid, set first"))?;
    if subject.read_only {
        return Err(refuse(Kind::ReadOnly, "a read-only region", "one that is written"));
    }
    let layout = Layout::compute(media.len(), settings.get(BLOCK_SIZE).unwrap_or(0)).ok_or_else(|| {
        refuse(Kind::NoSpace, "a small namespace, or no block_size", "16 MiB and 512 or 4096")
    })?;
    // No block was written yet, and blocks are zeros until they are: the data need not be touched.
    let entries = layout.entry(0);
    media.zero(entries, layout.data.0.saturating_sub(entries.0))?;
    media.drain()?;
    let superblock = Superblock { uuid, parent: subject.uuid, layout };
    superblock.write(media)?;
    Ok(superblock)
}

/// The driver's hold on a namespace.
struct AttachedChecksum {
    media: Arc<dyn Media>,
    superblock: Superblock,
    errors: Arc<AtomicU64>,
}

impl Attached for AttachedChecksum {
    fn size(&self) -> u64 {
        self.superblock.layout.blocks.saturating_mul(u64::from(self.superblock.layout.block_size))
    }

    fn data(&self) -> Option<MediaOffset> {
        Some(self.superblock.layout.data)
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.superblock.layout.block_size)
    }

    fn show(&self, attribute: &str) -> Option<String> {
        (attribute == ERRORS).then(|| self.errors.load(Ordering::Relaxed).to_string())
    }

    fn open(&self, name: &str, options: &OpenOptions) -> Result<Disk> {
        let mut note = format!("{}-byte blocks with checksums", self.superblock.layout.block_size);
        if !options.read_only {
            let found = Superblock::find(&self.media, self.superblock.parent)?;
            if found == Found::Superblock(self.superblock, false) {
                self.superblock.write(&self.media)?;
                note.push_str(", a damaged copy of the superblock rewritten");
            }
        }
        let (device, settled) = Checked::open(
            name,
            Arc::clone(&self.media),
            &self.superblock,
            options.read_only,
            Arc::clone(&self.errors),
        )?;
        if settled > 0 {
            note.push_str(&format!(", {settled} interrupted writes settled"));
        }
        Ok(Disk { device: Arc::new(device), note, keep: None })
    }
}
