// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver from outside: a header with a magic word and a uuid in the first page, the rest is one run of bytes. It knows of
//! the model what is public, no more.

use std::sync::Arc;

use nvstack_block::{BlockDevice, Linear};
use nvstack_format::guid::ClaimClass;
use nvstack_format::{MediaOffset, label};
use nvstack_media::{Error, Kind, Media, Part, Result};
use nvstack_stack::{
    Attached, Attribute, DeviceNode, Disk, DriverIdentity, OpenOptions, Personality, Probed, Settings,
    Subject,
};
use uuid::Uuid;

pub const MAGIC: &[u8; 16] = b"TEST_CRC_HEADER\0";
pub const CLASS: Uuid = Uuid::from_u128(0x6372_6363_7263_6372_6372_6372_6372_6372);
const HEADER: u64 = 4096;

/// What it does beside its work, when it is asked to look, to attach, to open.
#[derive(Clone)]
pub struct Moments {
    pub probe: Arc<dyn Fn(&Subject) + Send + Sync>,
    pub attach: Arc<dyn Fn(&Subject) + Send + Sync>,
    pub open: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for Moments {
    fn default() -> Moments {
        Moments { probe: Arc::new(|_| ()), attach: Arc::new(|_| ()), open: Arc::new(|_| ()) }
    }
}

#[derive(Default)]
pub struct Crc {
    pub moments: Moments,
}

impl Personality for Crc {
    fn identity(&self) -> DriverIdentity {
        DriverIdentity {
            prefix: "crc",
            devtype: "nd_crc",
            driver: "nd_crc",
            number: None,
            mode: "checked",
            min_size: 1 << 20,
            has_resource: false,
            node: DeviceNode::Disk("c"),
            in_place: false,
        }
    }

    fn accepts(&self, class: ClaimClass) -> bool {
        class == ClaimClass::None || class == ClaimClass::from_guid(CLASS)
    }

    fn class(&self, _: Option<label::Version>) -> ClaimClass {
        ClaimClass::from_guid(CLASS)
    }

    fn attributes(&self) -> &'static [Attribute] {
        &[Attribute { name: "polynomial", mode: 0o644, format: "<n>" }]
    }

    fn defaults(&self) -> Settings {
        Settings::default().with("polynomial", 7)
    }

    fn show(&self, settings: &Settings, _: Option<&dyn Attached>, attribute: &str) -> Result<String> {
        assert_eq!(attribute, "polynomial");
        Ok(settings.get("polynomial").unwrap().to_string())
    }

    fn store(&self, settings: &mut Settings, _: &str, text: &str) -> Result<()> {
        let value = text.parse().map_err(|_| {
            Error::new(Kind::Invalid, "set polynomial").found(text.to_owned()).accepted("a number")
        })?;
        settings.set("polynomial", value);
        Ok(())
    }

    fn probe(&self, subject: &Subject) -> Result<Probed> {
        (self.moments.probe)(subject);
        let mut header = [0; 40];
        subject.media()?.read(MediaOffset(0), &mut header)?;
        if header[..16] != *MAGIC {
            return Ok(Probed::Absent(None));
        }
        let uuid = Uuid::from_slice(&header[16..32]).unwrap();
        let polynomial = u64::from_le_bytes(header[32..].try_into().unwrap());
        Ok(Probed::Found(Settings::of(uuid).with("polynomial", polynomial)))
    }

    fn attach(&self, subject: &Subject, settings: &mut Settings) -> Result<Box<dyn Attached>> {
        (self.moments.attach)(subject);
        match self.probe(subject)? {
            Probed::Found(found) => *settings = found,
            _ => {
                let uuid = settings.uuid.ok_or_else(|| {
                    Error::new(Kind::Unrecognised, "lay out").path(&subject.name).found("no uuid")
                })?;
                let mut header = MAGIC.to_vec();
                header.extend_from_slice(uuid.as_bytes());
                header.extend_from_slice(&settings.get("polynomial").unwrap().to_le_bytes());
                let media = subject.media()?;
                media.store(MediaOffset(0), &header)?;
                media.persist(MediaOffset(0), HEADER)?;
            }
        }
        Ok(Box::new(Hold { media: subject.media()?, open: self.moments.open.clone() }))
    }
}

struct Hold {
    media: Arc<dyn Media>,
    open: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Attached for Hold {
    fn size(&self) -> u64 {
        self.media.len() - HEADER
    }

    fn data(&self) -> Option<MediaOffset> {
        Some(MediaOffset(HEADER))
    }

    fn sector_size(&self) -> Option<u32> {
        Some(512)
    }

    fn open(&self, name: &str, options: &OpenOptions) -> Result<Disk> {
        (self.open)(name);
        let data = Part::new(Arc::clone(&self.media), MediaOffset(HEADER), self.size())?;
        let device: Arc<dyn BlockDevice> = Arc::new(Linear::new(name, data, 512, options.read_only)?);
        Ok(Disk { device, note: "checked".to_owned(), keep: None })
    }
}
