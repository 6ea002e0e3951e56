// SPDX-License-Identifier: MIT OR Apache-2.0
//! From namespaces to block devices.

use std::sync::Arc;

use nvstack_block::{BlockDevice, Linear};
use nvstack_btt::{Btt, Cache, OpenOptions, Ticker};
use nvstack_format::btt::Version;
use nvstack_media::{Error, Kind, Media, MediaOffset, Part, Result};
use uuid::Uuid;

use super::through::WriteThrough;
use crate::args::{self, ServeArgs};
use crate::image::{Namespace, Personality};

/// A namespace as a block device.
pub(super) struct Device {
    /// The namespace's name.
    pub(super) name: String,
    /// What it is, in a few words.
    pub(super) what: String,
    /// Bytes of a sector as the medium has it: 512, 520, 4096 ...
    pub(super) sector_size: u32,
    /// The device.
    pub(super) device: Arc<dyn BlockDevice>,
    /// Commits what has waited for long; stops when dropped.
    pub(super) ticker: Option<Ticker>,
}

/// Opens a namespace of an image as what it is, or, if that was asked for, as its bytes.
pub(super) fn open<M: Media + Clone + 'static>(media: M, n: &Namespace, args: &ServeArgs) -> Result<Device> {
    let uuid = n.label.as_ref().map_or(Uuid::nil(), |l| l.uuid);
    let linear = |media: Part<M>, what| linear(n, media, what, args);
    let all = |media: M| {
        let size = media.len();
        Part::new(media, MediaOffset(0), size)
    };
    match &n.personality {
        _ if args.raw => linear(all(media)?, "raw"),
        Personality::Raw => linear(all(media)?, "raw"),
        Personality::Pages(p) => {
            let data = Part::new(media, MediaOffset(p.start), p.size)?;
            linear(data, if p.devdax { "devdax" } else { "fsdax" })
        }
        Personality::Sector(s) => sector(n, media, options(n, s.version, uuid, args)),
        Personality::Damaged { from_backup: Some(version), .. } if args.read_only => {
            sector(n, media, OpenOptions { from_backup: true, ..options(n, *version, uuid, args) })
        }
        Personality::Damaged { cause, from_backup } => {
            let accepted = match from_backup {
                Some(_) => {
                    "--read-only, which reads it with the help of the backup info block; or --raw, which serves its bytes as they are"
                }
                None => "--raw, which serves its bytes as they are",
            };
            Err(Error::new(cause.kind(), format!("serve {}", n.name())).found(cause).accepted(accepted))
        }
    }
}

/// Opens a BTT over memory.
pub(super) fn sector<M: Media + 'static>(n: &Namespace, media: M, options: OpenOptions) -> Result<Device> {
    let backup = if options.from_backup { ", from the backup info block" } else { "" };
    let device = Arc::new(Btt::open(media, options)?);
    let recovered = match device.recovered() {
        0 => String::new(),
        n => format!(", {n} interrupted writes recovered"),
    };
    let lbasize = device.infos().first().map_or(0, |i| i.layout.lbasize.external());
    let frozen = device.infos().iter().any(nvstack_format::btt::Info::error);
    let frozen = if frozen { ", error flag set: an arena refuses writes" } else { "" };
    Ok(Device {
        name: n.name(),
        sector_size: lbasize,
        what: format!("sector mode, {lbasize}-byte sectors{backup}{recovered}{frozen}"),
        ticker: Some(Ticker::start(&device)?),
        device,
    })
}

pub(super) fn options(n: &Namespace, version: Version, parent: Uuid, args: &ServeArgs) -> OpenOptions {
    OpenOptions {
        read_only: args.read_only,
        cache: match args.cache {
            args::Cache::Writeback => Cache::Writeback,
            args::Cache::Writethrough => Cache::Writethrough,
        },
        zero_entries: args.zero_entries,
        ..OpenOptions::new(n.name(), version, parent)
    }
}

fn linear<M: Media + 'static>(n: &Namespace, media: M, what: &str, args: &ServeArgs) -> Result<Device> {
    let device = Linear::new(n.name(), media, n.raw_sector_size(), args.read_only)?;
    if device.geometry().sectors == 0 {
        return Err(Error::new(Kind::Invalid, format!("serve {}", n.name()))
            .found(format_args!("{} bytes", n.size))
            .accepted("a sector or more"));
    }
    let device: Arc<dyn BlockDevice> = match args.cache {
        args::Cache::Writethrough => Arc::new(WriteThrough(device)),
        args::Cache::Writeback => Arc::new(device),
    };
    let (name, sector_size) = (n.name(), n.raw_sector_size());
    Ok(Device { name, what: format!("{what}, sectors may tear"), sector_size, device, ticker: None })
}
