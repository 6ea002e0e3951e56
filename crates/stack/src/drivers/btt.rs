// SPDX-License-Identifier: MIT OR Apache-2.0
//! btt: sector-atomic disks.

use std::sync::Arc;

use nvstack_block::BlockDevice;
use nvstack_btt::{Btt, Cache, CreateOptions, OpenOptions as BttOptions, Probe, Ticker, create, probe};
use nvstack_format::MediaOffset;
use nvstack_format::btt::{self, INFO_LEN, Info, LbaSize, Version};
use nvstack_format::guid::ClaimClass;
use nvstack_format::label;
use nvstack_media::{Error, Kind, Media, Result};
use uuid::Uuid;

use super::{FROM_BACKUP, not_in_list, on, select};
use crate::personality::{
    Absence, Attached, Attribute, DeviceNode, Disk, Identity, OpenOptions, Personality, Probed, Settings,
    Subject,
};

const SECTOR_SIZE: &str = "sector_size";
const SIZES: [u64; 7] = [512, 520, 528, 4096, 4104, 4160, 4224];

/// The driver of BTTs (Linux `nd_btt`).
pub struct BttDriver;

impl Personality for BttDriver {
    fn identity(&self) -> Identity {
        Identity {
            prefix: "btt",
            devtype: "nd_btt",
            driver: "nd_pmem",
            number: None,
            mode: "safe",
            min_size: btt::ARENA_MIN,
            has_resource: false,
            node: DeviceNode::Disk("s"),
            in_place: false,
        }
    }

    fn accepts(&self, class: ClaimClass) -> bool {
        class.btt().is_some()
    }

    /// BTT 2.0 where labels can tell it, or are yet to be made; 1.1 under labels that can't.
    fn class(&self, labels: Option<label::Version>) -> ClaimClass {
        match labels {
            Some(label::Version::V1_1) => ClaimClass::Btt,
            _ => ClaimClass::Btt2,
        }
    }

    fn attributes(&self) -> &'static [Attribute] {
        &[
            Attribute { name: SECTOR_SIZE, mode: 0o644, format: "512 520 528 [4096] 4104 4160 4224 " },
            Attribute { name: "log_zero_flags", mode: 0o444, format: "Y" },
        ]
    }

    fn defaults(&self) -> Settings {
        Settings::default()
    }

    fn show(&self, settings: &Settings, _: Option<&dyn Attached>, attribute: &str) -> Result<String> {
        match attribute {
            SECTOR_SIZE => Ok(select(&SIZES, settings.get(SECTOR_SIZE))),
            _ => Ok("Y".to_owned()),
        }
    }

    fn store(&self, settings: &mut Settings, attribute: &str, text: &str) -> Result<()> {
        let size = text.parse().ok().filter(|size| attribute == SECTOR_SIZE && SIZES.contains(size));
        let size = size.ok_or_else(|| {
            not_in_list("set sector_size", "sector size", text, "one of 512 520 528 4096 4104 4160 4224")
        })?;
        settings.set(SECTOR_SIZE, size);
        Ok(())
    }

    fn probe(&self, subject: &Subject) -> Result<Probed> {
        let Some(version) = subject.btt_version() else { return Ok(Probed::Absent(None)) };
        let media = subject.media()?;
        let at = MediaOffset(version.start());
        Ok(match probe(&media, version, subject.uuid)? {
            Probe::Found(info) => Probed::Found(settings_of(&info)),
            Probe::Corrupt(finding) => {
                Probed::Refused(on(subject, Error::invalid(Kind::Corrupt, "open BTT", at, finding)))
            }
            // Linux serves this one raw, each block in the wrong place. Others may look, but raw it must not be.
            Probe::Damaged { finding, .. } => {
                Probed::Absent(Some(Absence { at, signature: btt::SIGNATURE, finding, remains: true }))
            }
            Probe::Absent(finding) => {
                Probed::Absent(Some(Absence { at, signature: btt::SIGNATURE, finding, remains: false }))
            }
        })
    }

    fn attach(&self, subject: &Subject, settings: &mut Settings) -> Result<Box<dyn Attached>> {
        attach(subject, settings).map_err(|e| on(subject, e))
    }
}

fn settings_of(info: &Info) -> Settings {
    let mut settings = Settings::of(info.uuid);
    settings.set(SECTOR_SIZE, u64::from(info.layout.lbasize.external()));
    settings
}

fn attach(subject: &Subject, settings: &mut Settings) -> Result<Box<dyn Attached>> {
    let Some(version) = subject.btt_version() else {
        return Err(Error::new(Kind::Busy, "attach BTT")
            .found(format_args!("holder_class {:?}", subject.class.to_string()))
            .accepted("none or btt"));
    };
    let from_backup = settings.get(FROM_BACKUP) == Some(1);
    let media = subject.media()?;
    if !from_backup {
        match probe(&media, version, subject.uuid)? {
            Probe::Found(_) => {}
            Probe::Corrupt(finding) => {
                return Err(Error::invalid(
                    Kind::Corrupt,
                    "attach BTT",
                    MediaOffset(version.start()),
                    finding,
                ));
            }
            Probe::Absent(_) => lay_out(subject, &media, version, settings, false)?,
            Probe::Damaged { finding, .. } => {
                // Somebody zeroed the first info block on purpose, as destroying a namespace does, and now configures a
                // new one. Any other damage is not written over.
                let mut block = [0u8; INFO_LEN];
                media.read(MediaOffset(version.start()), &mut block)?;
                if block != [0; INFO_LEN] {
                    return Err(Error::invalid(
                        Kind::Exists,
                        "attach BTT",
                        MediaOffset(version.start()),
                        finding,
                    ));
                }
                lay_out(subject, &media, version, settings, true)?;
            }
        }
    }
    // As a reader: it proves that the rest is there, and changes nothing. Writers open it when somebody opens the disk.
    let options = BttOptions {
        read_only: true,
        from_backup,
        lbasize: settings.get(SECTOR_SIZE).filter(|_| !from_backup).and_then(lba_size),
        uuid: settings.uuid.filter(|_| !from_backup),
        ..BttOptions::new(subject.name.clone(), version, subject.uuid)
    };
    let device = Btt::open(Arc::clone(&media), options)?;
    let Some(info) = device.infos().first() else {
        return Err(Error::new(Kind::Corrupt, "attach BTT").found("no arena"));
    };
    *settings = settings_of(info);
    let error_flag = device.infos().iter().any(Info::error);
    Ok(Box::new(AttachedBtt {
        size: device.geometry().bytes(),
        lbasize: info.layout.lbasize,
        media,
        version,
        parent: subject.uuid,
        from_backup,
        error_flag,
    }))
}

fn lba_size(size: u64) -> Option<LbaSize> {
    u32::try_from(size).ok().and_then(|size| LbaSize::new(size).ok())
}

fn lay_out(
    subject: &Subject,
    media: &Arc<dyn Media>,
    version: Version,
    settings: &Settings,
    overwrite: bool,
) -> Result<()> {
    let missing = |what: &str, accepted: &str| {
        Err(Error::new(Kind::Unrecognised, "create BTT").found(format_args!("no {what}")).accepted(accepted))
    };
    let Some(uuid) = settings.uuid else { return missing("uuid", "a uuid, set first") };
    let Some(lbasize) = settings.get(SECTOR_SIZE).and_then(lba_size) else {
        return missing("sector_size", "one of 512 520 528 4096 4104 4160 4224, set first");
    };
    if subject.read_only {
        return Err(Error::new(Kind::ReadOnly, "create BTT").found("a read-only region"));
    }
    create(media, &CreateOptions { version, parent: subject.uuid, uuid, lbasize, overwrite })
}

/// A BTT that is there and whole.
struct AttachedBtt {
    size: u64,
    lbasize: LbaSize,
    media: Arc<dyn Media>,
    version: Version,
    parent: Uuid,
    from_backup: bool,
    error_flag: bool,
}

impl Attached for AttachedBtt {
    fn size(&self) -> u64 {
        self.size
    }

    fn data(&self) -> Option<MediaOffset> {
        None
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.lbasize.external())
    }

    fn logical_block(&self) -> u32 {
        self.lbasize.data()
    }

    fn open(&self, name: &str, options: &OpenOptions) -> Result<Disk> {
        if self.from_backup && !options.read_only {
            return Err(Error::new(Kind::ReadOnly, "open BTT")
                .path(name)
                .found("a BTT that is read with its backup info blocks")
                .accepted("read-only"));
        }
        let device = Btt::open(
            Arc::clone(&self.media),
            BttOptions {
                read_only: options.read_only,
                from_backup: self.from_backup,
                cache: match options.cache {
                    Cache::Writeback => Cache::Writeback,
                    Cache::Writethrough => Cache::Writethrough,
                },
                zero_entries: options.zero_entries,
                ..BttOptions::new(name, self.version, self.parent)
            },
        )?;
        let lbasize = self.lbasize.external();
        let mut note = format!("sector mode, {lbasize}-byte sectors");
        if self.from_backup {
            note.push_str(", from the backup info block");
        }
        match device.recovered() {
            0 => {}
            n => note.push_str(&format!(", {n} interrupted writes recovered")),
        }
        if self.error_flag {
            note.push_str(", error flag set: an arena refuses writes");
        }
        let device = Arc::new(device);
        let ticker = Ticker::start(&device)?;
        Ok(Disk { device, note, keep: Some(Box::new(ticker)) })
    }
}
