// SPDX-License-Identifier: MIT OR Apache-2.0
//! raw: the namespace's bytes as a disk. It drives the namespace itself, where nothing else claims it.
//!
//! Where Linux falls back to raw although something is there (a damaged info block, one in the wrong place, a label that
//! announces what is missing), it shows bytes that mean something else, and the first write to them destroys it. Here such
//! a namespace stays without a driver, until `force_raw` asks for its bytes.

use std::sync::Arc;

use nvstack_block::BlockDevice;
use nvstack_btt::Cache;
use nvstack_format::guid::ClaimClass;
use nvstack_format::{MediaOffset, btt, label, pfn};
use nvstack_media::{Error, Kind, Result};

use super::on;
use super::through::WriteThrough;
use crate::personality::{
    Absence, Attached, Attribute, DeviceNode, Disk, Identity, OpenOptions, Personality, Probed, Settings,
    Subject,
};

/// The driver of raw namespaces (Linux `nd_pmem`).
pub struct RawDriver;

impl Personality for RawDriver {
    fn identity(&self) -> Identity {
        Identity {
            prefix: "namespace",
            devtype: "nd_namespace_pmem",
            driver: "nd_pmem",
            number: None,
            mode: "raw",
            min_size: 4096,
            has_resource: true,
            node: DeviceNode::Disk(""),
            in_place: true,
        }
    }

    fn accepts(&self, _: ClaimClass) -> bool {
        true
    }

    fn class(&self, _: Option<label::Version>) -> ClaimClass {
        ClaimClass::None
    }

    fn attributes(&self) -> &'static [Attribute] {
        &[]
    }

    fn defaults(&self) -> Settings {
        Settings::default()
    }

    fn show(&self, _: &Settings, _: Option<&dyn Attached>, attribute: &str) -> Result<String> {
        Err(Error::new(Kind::NotFound, "read attribute").found(attribute))
    }

    fn store(&self, _: &mut Settings, attribute: &str, _: &str) -> Result<()> {
        Err(Error::new(Kind::NotFound, "write attribute").found(attribute))
    }

    fn probe(&self, subject: &Subject) -> Result<Probed> {
        Ok(match unclaimed(subject)? {
            None => Probed::Found(Settings::default()),
            Some(cause) => Probed::Refused(on(subject, cause)),
        })
    }

    fn attach(&self, subject: &Subject, _: &mut Settings) -> Result<Box<dyn Attached>> {
        let geometry = subject.device.geometry();
        if geometry.sectors == 0 {
            return Err(Error::new(Kind::Unrecognised, "attach raw")
                .path(&subject.name)
                .found(format_args!("{} bytes", subject.size()))
                .accepted("a sector or more"));
        }
        Ok(Box::new(AttachedRaw {
            device: Arc::clone(&subject.device),
            size: subject.size(),
            sector: geometry.sector_size,
        }))
    }
}

/// Why a namespace that nobody claims must not be raw, if it must not.
fn unclaimed(subject: &Subject) -> Result<Option<Error>> {
    const OPERATION: &str = "probe namespace";
    let invalid = |operation: &'static str, a: &Absence| {
        Error::invalid(Kind::Corrupt, operation, a.at, a.finding.clone())
    };
    if let Some(absence) = subject.absent.iter().find(|a| a.remains) {
        return Ok(Some(invalid("open BTT", absence).found("a backup info block that is whole")));
    }
    let media = subject.media()?;
    for (at, signature, what) in [
        (0, btt::SIGNATURE, "a BTT info block"),
        (4096, btt::SIGNATURE, "a BTT info block"),
        (pfn::INFO_OFFSET, pfn::Kind::Fsdax.signature(), "an fsdax info block"),
        (pfn::INFO_OFFSET, pfn::Kind::Devdax.signature(), "a devdax info block"),
    ] {
        let mut found = [0u8; 16];
        if media.len() < at + 4096 {
            continue;
        }
        media.read(MediaOffset(at), &mut found)?;
        if found != signature {
            continue;
        }
        let reason = subject.absent.iter().find(|a| a.at.0 == at && a.signature == signature);
        return Ok(Some(match reason {
            Some(absence) => invalid(OPERATION, absence),
            None => Error::new(Kind::Corrupt, OPERATION).at(MediaOffset(at)).found(what).accepted(match subject.class {
                ClaimClass::None => "BTT 1.1, fsdax or devdax at 4096: what a namespace without a type in its label can hold",
                ClaimClass::Btt => "BTT 1.1 at 4096, which the label tells",
                ClaimClass::Btt2 => "BTT 2.0 at 0, which the label tells",
                ClaimClass::Pfn => "fsdax at 4096, which the label tells",
                ClaimClass::Dax => "devdax at 4096, which the label tells",
                ClaimClass::Unknown(_) => "nothing of this kind: the label names a type unknown here",
            }),
        }));
    }
    let announced = match subject.class {
        ClaimClass::None => return Ok(None),
        ClaimClass::Unknown(guid) => {
            return Ok(Some(
                Error::new(Kind::Unsupported, OPERATION)
                    .found(format_args!("abstraction guid {guid} in the label"))
                    .accepted("none, BTT, fsdax or devdax"),
            ));
        }
        ClaimClass::Btt | ClaimClass::Btt2 => "probe namespace that the label calls sector mode",
        ClaimClass::Pfn => "probe namespace that the label calls fsdax",
        ClaimClass::Dax => "probe namespace that the label calls devdax",
    };
    Ok(Some(match subject.absent.first() {
        Some(absence) => invalid(announced, absence),
        None => Error::new(Kind::Corrupt, announced)
            .found(format_args!("{} bytes", media.len()))
            .accepted(format_args!("{} or more", btt::ARENA_MIN)),
    }))
}

/// A raw namespace.
struct AttachedRaw {
    device: Arc<dyn BlockDevice>,
    size: u64,
    sector: u32,
}

impl Attached for AttachedRaw {
    fn size(&self) -> u64 {
        self.size
    }

    fn data(&self) -> Option<MediaOffset> {
        Some(MediaOffset(0))
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.sector)
    }

    fn open(&self, _: &str, options: &OpenOptions) -> Result<Disk> {
        let device: Arc<dyn BlockDevice> = match options.cache {
            Cache::Writethrough => Arc::new(WriteThrough(Arc::clone(&self.device))),
            Cache::Writeback => Arc::clone(&self.device),
        };
        Ok(Disk { device, note: "raw, sectors may tear".to_owned(), keep: None })
    }
}
