// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attributes of disks and of device-dax devices, as far as they are told by the device: what Linux's block layer adds for
//! its own use (schedulers, statistics) is not there.

use nvstack_media::{Error, Kind, MediaOffset, Result};

use super::attrs::{Store, View, badblocks};
use super::names::{bound_of, dax_of, disk_of, namespace_of};
use crate::configure::{parse_bool, parse_number};
use crate::model::{Dev, gone};
use crate::stack::At;

/// An attribute of a disk or of a device-dax device.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) mode: u16,
    pub(crate) format: &'static str,
    pub(crate) show: fn(&View<'_>) -> Result<String>,
    pub(crate) store: Option<Store>,
}

const fn row(name: &'static str, format: &'static str, show: fn(&View<'_>) -> Result<String>) -> Row {
    Row { name, mode: 0o444, format, show, store: None }
}

fn logical(v: &View<'_>) -> Result<u32> {
    bound_of(v.state, v.dev).map(|b| b.attached.logical_block()).ok_or_else(|| gone(v.at.name(v.dev)))
}

/// Whether its pages have descriptors, so that file systems may map it.
fn is_page_mapped(v: &View<'_>) -> bool {
    bound_of(v.state, v.dev)
        .and_then(|b| v.at.inner.driver(b.driver))
        .is_some_and(|d| d.identity().has_resource && !d.identity().in_place)
}

/// A switch that can be left where it is.
fn fixed(at: &At, dev: Dev, text: &str, what: &'static str, value: bool) -> Result<()> {
    let name = at.name(dev);
    if parse_bool(&name, what, text)? == value {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, format!("set {what}")).path(name).found(text).accepted(u8::from(value)))
}

fn line(text: impl std::fmt::Display) -> Result<String> {
    Ok(format!("{text}\n"))
}

/// `block/pmemN/...`.
pub(crate) const DISK: [Row; 12] = [
    row("dev", "<major>:<minor>", |v| {
        let disk = disk_of(v.at, v.state, v.dev).ok_or_else(|| gone(v.at.name(v.dev)))?;
        line(format_args!("{}:{}", super::BLOCK_MAJOR, disk.minor))
    }),
    row("hidden", "0", |_| line(0)),
    row("range", "0", |_| line(0)),
    row("removable", "0", |_| line(0)),
    row("ro", "0 or 1", |v| line(u8::from(v.region()?.read_only.load(std::sync::atomic::Ordering::Relaxed)))),
    row("size", "<512-byte units>", |v| {
        let bound = bound_of(v.state, v.dev).ok_or_else(|| gone(v.at.name(v.dev)))?;
        line(bound.attached.size() / 512)
    }),
    row("queue/dax", "0 or 1", |v| line(u8::from(is_page_mapped(v)))),
    row("queue/hw_sector_size", "<bytes>", |v| line(logical(v)?)),
    row("queue/logical_block_size", "<bytes>", |v| line(logical(v)?)),
    row("queue/minimum_io_size", "<bytes>", |_| line(4096)),
    row("queue/physical_block_size", "<bytes>", |_| line(4096)),
    Row {
        mode: 0o644,
        store: Some(|at, dev, text| fixed(at, dev, text, "rotational", false)),
        ..row("queue/rotational", "0", |_| line(0))
    },
];

/// `dax/write_cache`, on disks that are one run of bytes.
pub(crate) const WRITE_CACHE: Row = Row {
    mode: 0o644,
    store: Some(|at, dev, text| fixed(at, dev, text, "write_cache", true)),
    ..row("dax/write_cache", "0 or 1", |_| line(1))
};

/// The bad blocks of a disk, where it has such a file: BTT disks have none.
///
/// A store of `<sector> [<count>]` marks sectors as lost.
pub(crate) const DISK_BADBLOCKS: Row = Row {
    name: "badblocks",
    mode: 0o644,
    store: Some(|at, dev, text| {
        let name = at.name(dev);
        let mut words = text.split_whitespace();
        let sector = parse_number(&name, "badblocks", words.next().unwrap_or(""))?;
        let count = words.next().map_or(Ok(1), |count| parse_number(&name, "badblocks", count))?;
        let (region, at_byte, len) = {
            let state = at.bus.lock();
            let bound = bound_of(&state, dev).ok_or_else(|| gone(&name))?;
            let (r, n) = namespace_of(&state, dev).ok_or_else(|| gone(&name))?;
            let (size, data) = (bound.attached.size(), bound.attached.data().map_or(0, |d| d.0));
            let (at_byte, len) = (sector.saturating_mul(512), count.saturating_mul(512));
            if count == 0 || words.next().is_some() || at_byte.saturating_add(len) > size {
                return Err(Error::new(Kind::Invalid, "set badblocks")
                    .path(name)
                    .found(format_args!("{text:?}"))
                    .accepted(format_args!("<sector> <count> within {} sectors", size / 512)));
            }
            (r, state.namespace(r, n)?.start.saturating_add(data).saturating_add(at_byte), len)
        };
        crate::poison::inject(at, region, at_byte, len)
    }),
    format: "<sector> <count>, a line each",
    show: |v| {
        let bound = bound_of(v.state, v.dev).ok_or_else(|| gone(v.at.name(v.dev)))?;
        let (r, n) = namespace_of(v.state, v.dev).ok_or_else(|| gone(v.at.name(v.dev)))?;
        let start = v.state.namespace(r, n)?.start;
        let data = bound.attached.data().map_or(0, |d| d.0);
        Ok(badblocks(v.region()?, MediaOffset(start.saturating_add(data)), bound.attached.size()))
    },
};

/// Whether a disk has the file of bad blocks.
pub(crate) fn has_badblocks(v: &View<'_>) -> bool {
    bound_of(v.state, v.dev).is_some_and(|b| b.attached.data().is_some())
}

fn dax_start(v: &View<'_>) -> Result<u64> {
    let bound = bound_of(v.state, v.dev).ok_or_else(|| gone(v.at.name(v.dev)))?;
    let (r, n) = namespace_of(v.state, v.dev).ok_or_else(|| gone(v.at.name(v.dev)))?;
    let data = bound.attached.data().map_or(0, |d| d.0);
    Ok(v.region()?.start.saturating_add(v.state.namespace(r, n)?.start).saturating_add(data))
}

fn dax_size(v: &View<'_>) -> Result<u64> {
    Ok(bound_of(v.state, v.dev).ok_or_else(|| gone(v.at.name(v.dev)))?.attached.size())
}

fn dax_align(v: &View<'_>) -> Result<String> {
    line(v.claim()?.settings.get("align").unwrap_or(4096))
}

/// `dax_region/...`, beside the device.
pub(crate) const DAX_REGION: [Row; 3] = [
    Row { mode: 0o400, ..row("dax_region/align", "<bytes>", dax_align) },
    row("dax_region/id", "<n>", |v| match v.dev {
        Dev::Claim(r, ..) => line(r),
        _ => Err(gone(v.at.name(v.dev))),
    }),
    row("dax_region/size", "<bytes>", |v| line(dax_size(v)?)),
];

/// `daxR.N/...`, the device itself.
pub(crate) const DAX: [Row; 10] = [
    row("align", "<bytes>", dax_align),
    row("dev", "<major>:<minor>", |v| {
        let dax = dax_of(v.at, v.state, v.dev).ok_or_else(|| gone(v.at.name(v.dev)))?;
        line(format_args!("{}:{}", super::DAX_MAJOR, dax.minor))
    }),
    Row {
        mode: 0o400,
        ..row("mapping0/end", "0x<address>", |v| {
            line(format_args!("{:#x}", dax_start(v)?.saturating_add(dax_size(v)?).saturating_sub(1)))
        })
    },
    Row { mode: 0o400, ..row("mapping0/page_offset", "0x<pages>", |_| line("0x0")) },
    Row {
        mode: 0o400,
        ..row("mapping0/start", "0x<address>", |v| line(format_args!("{:#x}", dax_start(v)?)))
    },
    row("modalias", "dax:t0", |_| line("dax:t0")),
    row("numa_node", "<n>", |v| line(v.region()?.numa_node)),
    Row { mode: 0o400, ..row("resource", "0x<address>", |v| line(format_args!("{:#x}", dax_start(v)?))) },
    row("size", "<bytes>", |v| line(dax_size(v)?)),
    row("target_node", "<n>", |v| line(v.region()?.target_node.unwrap_or(-1))),
];
