// SPDX-License-Identifier: MIT OR Apache-2.0
//! pfn and dax: namespaces with a descriptor for each page, as a disk for file systems (fsdax) or as memory (devdax).

use std::sync::Arc;

use nvstack_block::{BlockDevice, Linear};
use nvstack_btt::Cache;
use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::pfn::{self, Mode, Place};
use nvstack_format::{MediaOffset, label};
use nvstack_media::{Error, Kind, Media, Part, Result};
use nvstack_pfn::{CreateOptions, OpenOptions as PagesOptions, Pages, Probe, create, probe};

use super::through::WriteThrough;
use super::{not_in_list, on};
use crate::personality::{
    Absence, Attached, Attribute, DeviceNode, Disk, Identity, OpenOptions, Personality, Probed, Settings,
    Subject,
};

const MODE: &str = "mode";
const ALIGN: &str = "align";
const ALIGNMENTS: [u64; 3] = [4096, 2 << 20, 1 << 30];

/// The driver of fsdax (Linux `nd_pmem`) or of devdax (`dax_pmem`).
pub struct PagesDriver {
    kind: pfn::Kind,
}

impl PagesDriver {
    /// For fsdax.
    #[must_use]
    pub fn fsdax() -> PagesDriver {
        PagesDriver { kind: pfn::Kind::Fsdax }
    }

    /// For devdax.
    #[must_use]
    pub fn devdax() -> PagesDriver {
        PagesDriver { kind: pfn::Kind::Devdax }
    }
}

const fn number(mode: Mode) -> u64 {
    match mode {
        Mode::Ram => 1,
        Mode::Pmem => 2,
    }
}

fn place(subject: &Subject) -> Place {
    Place { start: Some(subject.start), size: subject.size() }
}

impl Personality for PagesDriver {
    fn identity(&self) -> Identity {
        let fsdax = Identity {
            prefix: "pfn",
            devtype: "nd_pfn",
            driver: "nd_pmem",
            number: None,
            mode: "memory",
            min_size: 16 << 20,
            has_resource: true,
            node: DeviceNode::Disk(""),
            in_place: false,
        };
        match self.kind {
            pfn::Kind::Fsdax => fsdax,
            pfn::Kind::Devdax => Identity {
                prefix: "dax",
                devtype: "nd_dax",
                driver: "dax_pmem",
                number: Some(7),
                node: DeviceNode::Dax,
                mode: "dax",
                ..fsdax
            },
        }
    }

    fn accepts(&self, class: ClaimClass) -> bool {
        class.holds(self.kind)
    }

    fn class(&self, _: Option<label::Version>) -> ClaimClass {
        ClaimClass::from_guid(match self.kind {
            pfn::Kind::Fsdax => guid::PFN,
            pfn::Kind::Devdax => guid::DAX,
        })
    }

    fn attributes(&self) -> &'static [Attribute] {
        &[
            Attribute { name: MODE, mode: 0o644, format: "none, ram or pmem" },
            Attribute { name: ALIGN, mode: 0o644, format: "bytes" },
            Attribute { name: "supported_alignments", mode: 0o444, format: "4096 2097152 1073741824 " },
        ]
    }

    fn defaults(&self) -> Settings {
        Settings::default().with(ALIGN, 2 << 20)
    }

    fn show(&self, settings: &Settings, _: Option<&dyn Attached>, attribute: &str) -> Result<String> {
        Ok(match attribute {
            MODE => match settings.get(MODE) {
                Some(1) => "ram",
                Some(2) => "pmem",
                _ => "none",
            }
            .to_owned(),
            ALIGN => settings.get(ALIGN).unwrap_or(2 << 20).to_string(),
            _ => "4096 2097152 1073741824 ".to_owned(),
        })
    }

    fn store(&self, settings: &mut Settings, attribute: &str, text: &str) -> Result<()> {
        match attribute {
            MODE => settings.set(
                MODE,
                match text {
                    "none" => 0,
                    "ram" => 1,
                    "pmem" => 2,
                    _ => return Err(not_in_list("set mode", "mode", text, "none, ram or pmem")),
                },
            ),
            _ => {
                let align = text.parse().ok().filter(|align| ALIGNMENTS.contains(align));
                let align = align.ok_or_else(|| {
                    not_in_list("set align", "align", text, "one of 4096 2097152 1073741824")
                })?;
                settings.set(ALIGN, align);
            }
        }
        Ok(())
    }

    fn probe(&self, subject: &Subject) -> Result<Probed> {
        let media = subject.media()?;
        let at = MediaOffset(pfn::INFO_OFFSET);
        let refused = |kind, finding| {
            Ok(Probed::Refused(on(subject, Error::invalid(kind, "open page map", at, finding))))
        };
        match probe(&media, self.kind, subject.uuid, place(subject))? {
            Probe::Found(info) => {
                let mut settings = Settings::of(info.uuid);
                settings.set(MODE, number(info.mode));
                settings.set(ALIGN, u64::from(info.geometry.align));
                Ok(Probed::Found(settings))
            }
            Probe::Absent(finding) => Ok(Probed::Absent(Some(Absence {
                at,
                signature: self.kind.signature(),
                finding,
                remains: false,
            }))),
            Probe::Unsupported(finding) => refused(Kind::Unsupported, finding),
            Probe::Corrupt(finding) => refused(Kind::Corrupt, finding),
        }
    }

    fn attach(&self, subject: &Subject, settings: &mut Settings) -> Result<Box<dyn Attached>> {
        self.attach_pages(subject, settings).map_err(|e| on(subject, e))
    }
}

impl PagesDriver {
    fn attach_pages(&self, subject: &Subject, settings: &mut Settings) -> Result<Box<dyn Attached>> {
        let media = subject.media()?;
        let at = MediaOffset(pfn::INFO_OFFSET);
        let info = match probe(&media, self.kind, subject.uuid, place(subject))? {
            Probe::Found(info) => {
                self.check(settings, &info)?;
                info
            }
            Probe::Unsupported(finding) => {
                return Err(Error::invalid(Kind::Unsupported, "open page map", at, finding));
            }
            Probe::Corrupt(finding) => {
                return Err(Error::invalid(Kind::Corrupt, "open page map", at, finding));
            }
            Probe::Absent(_) => self.lay_out(subject, &media, settings)?,
        };
        settings.uuid = Some(info.uuid);
        settings.set(MODE, number(info.mode));
        settings.set(ALIGN, u64::from(info.geometry.align));
        let size = info.geometry.data_len(media.len());
        Ok(Box::new(AttachedPages { kind: self.kind, media, info, size, subject: subject.clone() }))
    }

    /// What was configured must be what is there.
    fn check(&self, settings: &Settings, info: &pfn::Info) -> Result<()> {
        let differs = |kind, what: &str, found: String, wanted: String| {
            Err(Error::new(kind, "open page map")
                .found(format_args!("{what} {found} on the medium"))
                .accepted(format_args!("the configured {wanted}")))
        };
        if let Some(uuid) = settings.uuid.filter(|uuid| *uuid != info.uuid) {
            return differs(Kind::Unrecognised, "uuid", info.uuid.to_string(), uuid.to_string());
        }
        if let Some(mode) = settings.get(MODE).filter(|mode| *mode != 0 && *mode != number(info.mode)) {
            return differs(Kind::Unsupported, "mode", number(info.mode).to_string(), mode.to_string());
        }
        let align = u64::from(info.geometry.align);
        if settings.get(MODE).is_some()
            && let Some(wanted) = settings.get(ALIGN).filter(|wanted| *wanted != align)
        {
            return differs(Kind::Unsupported, "align", align.to_string(), wanted.to_string());
        }
        Ok(())
    }

    fn lay_out(&self, subject: &Subject, media: &Arc<dyn Media>, settings: &Settings) -> Result<pfn::Info> {
        let missing = |what: &str, accepted: &str| {
            Error::new(Kind::Unrecognised, "create page map")
                .found(format_args!("no {what}"))
                .accepted(accepted)
        };
        let uuid = settings.uuid.ok_or_else(|| missing("uuid", "a uuid, set first"))?;
        let mode = match settings.get(MODE) {
            Some(1) => Mode::Ram,
            Some(2) => Mode::Pmem,
            _ => return Err(missing("mode", "ram or pmem, set first")),
        };
        if subject.read_only {
            return Err(Error::new(Kind::ReadOnly, "create page map").found("a read-only region"));
        }
        let align = settings.get(ALIGN).and_then(|a| u32::try_from(a).ok()).unwrap_or(2 << 20);
        let place = place(subject);
        let options = CreateOptions {
            kind: self.kind,
            uuid,
            parent: subject.uuid,
            mode,
            align,
            place,
            overwrite: false,
        };
        create(media, &options)
    }
}

/// An fsdax or devdax.
struct AttachedPages {
    kind: pfn::Kind,
    media: Arc<dyn Media>,
    info: pfn::Info,
    size: u64,
    subject: Subject,
}

impl AttachedPages {
    fn sector(&self) -> u32 {
        if self.subject.lbasize == 4096 { 4096 } else { 512 }
    }
}

impl Attached for AttachedPages {
    fn size(&self) -> u64 {
        self.size
    }

    fn data(&self) -> Option<MediaOffset> {
        Some(MediaOffset(self.info.geometry.data_start()))
    }

    fn sector_size(&self) -> Option<u32> {
        (self.kind == pfn::Kind::Fsdax).then(|| self.sector())
    }

    fn open(&self, name: &str, options: &OpenOptions) -> Result<Disk> {
        let words = match self.kind {
            pfn::Kind::Fsdax => "fsdax",
            pfn::Kind::Devdax => "devdax",
        };
        let pages = Pages::open(
            Arc::clone(&self.media),
            PagesOptions {
                read_only: options.read_only,
                sector_size: self.sector(),
                uuid: Some(self.info.uuid),
                ..PagesOptions::new(name, self.kind, self.subject.uuid, place(&self.subject))
            },
        )?;
        let device: Arc<dyn BlockDevice> = match self.kind {
            pfn::Kind::Fsdax => Arc::new(pages.disk()?),
            // It has no disk in the tree; its memory can be served all the same.
            pfn::Kind::Devdax => {
                let start = MediaOffset(self.info.geometry.data_start());
                let data = Part::new(Arc::clone(&self.media), start, self.size)?;
                Arc::new(Linear::new(name, data, self.sector(), options.read_only)?)
            }
        };
        let device: Arc<dyn BlockDevice> = match options.cache {
            Cache::Writethrough => Arc::new(WriteThrough(device)),
            Cache::Writeback => device,
        };
        Ok(Disk { device, note: format!("{words}, sectors may tear"), keep: Some(Box::new(pages)) })
    }
}
