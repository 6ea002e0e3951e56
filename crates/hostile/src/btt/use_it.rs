// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BTT that may be anything, opened, read, written and opened again.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt::{Btt, OpenOptions, probe};
use nvstack_media::Kind;
use uuid::Uuid;

use super::Made;
use crate::Sparse;
use crate::naive::btt as naive;

/// What a sector reads as: its bytes, in short, or the kind of error.
type Contents = BTreeMap<u64, Result<u64, Kind>>;

/// Bytes in short, in order and number.
fn digest(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, word| {
        let mut eight = [0; 8];
        eight[..word.len()].copy_from_slice(word);
        (sum ^ u64::from_le_bytes(eight)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    })
}

fn read(device: &dyn BlockDevice, lba: u64) -> Result<u64, Kind> {
    let mut bytes = vec![0; device.geometry().sector_size as usize];
    device.read(Lba(lba), &mut [IoSliceMut::new(&mut bytes)]).map_err(|e| e.kind())?;
    Ok(digest(&bytes))
}

fn read_all(device: &dyn BlockDevice, sectors: impl IntoIterator<Item = u64>) -> Contents {
    sectors.into_iter().map(|lba| (lba, read(device, lba))).collect()
}

/// Sectors of an arena whose entries, blocks or lanes hold anything; not more than a few thousand.
fn touched(medium: &Sparse, base: u64, sectors: u64, map: u64, data: u64, stride: u64) -> Vec<u64> {
    let entries = medium.present(base + map, base + map + sectors * 4);
    let from_map = entries.into_iter().take(4).flat_map(|page| {
        let first = page.saturating_sub(base + map) / 4;
        first..first + 1024
    });
    let blocks = medium.present(base + data, base + data + sectors * stride);
    let from_data = blocks.into_iter().take(512).map(|page| page.saturating_sub(base + data) / stride);
    let mut found: Vec<u64> = from_map.chain(from_data).chain(0..260).chain([sectors - 1]).collect();
    found.retain(|sector| *sector < sectors);
    found.sort_unstable();
    found.dedup();
    found
}

/// The sectors of a device that are looked at.
fn looked_at(device: &Btt<Sparse>, made: &Made, medium: &Sparse) -> Vec<u64> {
    let (mut first, mut base) = (0, made.version.start());
    let mut all = Vec::new();
    for info in device.infos() {
        let layout = &info.layout;
        let (sectors, stride) = (u64::from(layout.external_nlba), u64::from(layout.lbasize.internal()));
        let here = touched(medium, base, sectors, layout.mapoff, layout.dataoff, stride);
        all.extend(here.into_iter().map(|sector| first + sector));
        (first, base) = (first + sectors, base + layout.nextoff);
    }
    all
}

/// Every sector that matters reads as the naive reader says.
pub(super) fn compare(
    ours: &Btt<Sparse>,
    medium: &Sparse,
    first: u64,
    info: &naive::Info,
    tables: &naive::Tables,
) {
    let base = tables.base();
    let size = ours.geometry().sector_size as usize;
    let mut sectors = touched(medium, base, info.sectors, info.map, info.data, info.stride);
    sectors.extend(tables.redo.keys());
    for sector in sectors {
        let found = read(ours, first + sector);
        let wanted = match tables.sector(medium, sector) {
            naive::Sector::Zeros => Ok(digest(&vec![0; size])),
            naive::Sector::Lost => Err(Kind::Poison),
            naive::Sector::Nowhere => Err(Kind::Corrupt),
            naive::Sector::At(at) => {
                let mut bytes = vec![0; size];
                medium.peek(at, &mut bytes);
                Ok(digest(&bytes))
            }
        };
        assert_eq!(found, wanted, "sector {sector} of the arena at {base:#x}");
    }
}

/// Whoever looks changes nothing; whoever may write changes what is written and nothing else, and it stays.
pub(super) fn engine(medium: &Sparse, made: &Made, zero_entries: bool, writes: &[(u64, u8)]) {
    let before = medium.clone();
    let parent = Uuid::from_bytes(made.parent);
    let unchanged = |who: &str| {
        if let Some(at) = medium.differs(&before) {
            panic!("{who} changed the page at {at:#x}");
        }
    };
    let mut options = OpenOptions::new("hostile", made.version, parent);
    options.zero_entries = zero_entries;
    let read_only = OpenOptions { read_only: true, ..options.clone() };
    let backup = OpenOptions { from_backup: true, ..read_only.clone() };

    let _ = probe(medium, made.version, parent);
    unchanged("probe");
    if let Ok(device) = Btt::open(medium, backup) {
        let _ = read(&device, device.geometry().sectors - 1);
    }
    unchanged("a reader of the backup");

    let mut shown = Contents::new();
    if let Ok(device) = Btt::open(medium.clone(), read_only.clone()) {
        let sectors: u64 = device.infos().iter().map(|info| u64::from(info.layout.external_nlba)).sum();
        assert_eq!(device.geometry().sectors, sectors);
        shown = read_all(&device, looked_at(&device, made, medium));
        let mut told = 0;
        let window = sectors.min(1 << 14);
        device
            .extents(Lba(0), window, &mut |extent| {
                told += extent.sectors;
                true
            })
            .expect("extents");
        assert_eq!(told, window, "extents leave sectors out, or go past the end");
        assert!(device.write(Lba(0), &[IoSlice::new(&[0; 4096])], WriteFlags::empty()).is_err());
        assert!(device.media().differs(&before).is_none(), "a reader changed something");
    }

    let device = match Btt::open(medium, options.clone()) {
        Ok(device) => device,
        Err(e) => {
            if matches!(e.kind(), Kind::Corrupt | Kind::Unrecognised | Kind::Invalid) {
                unchanged("who refused it");
            }
            return;
        }
    };
    // What recovery does on the medium is what it does in memory.
    let mut wanted = read_all(&device, shown.keys().copied());
    assert_eq!(differ(&shown, &wanted), None, "as a reader, then as a writer");
    write_all(&device, writes, &mut wanted, zero_entries);
    let flushed = device.flush();
    assert_eq!(differ(&wanted, &read_all(&device, wanted.keys().copied())), None, "wanted, then read");
    drop(device);
    if flushed.is_err() {
        return;
    }
    for options in [read_only, options] {
        let device = match Btt::open(medium, options) {
            Ok(device) => device,
            Err(e) => panic!("what was opened for writing is refused afterwards: {e}"),
        };
        // An arena in error state is not written, not even by recovery.
        if !device.infos().iter().any(nvstack_format::btt::Info::error) {
            assert_eq!(device.recovered(), 0, "something was left to do");
        }
        assert_eq!(
            differ(&wanted, &read_all(&device, wanted.keys().copied())),
            None,
            "wanted, then read again"
        );
    }
}

/// Writes sectors, and notes what they must hold from then on.
fn write_all(device: &dyn BlockDevice, writes: &[(u64, u8)], wanted: &mut Contents, zero_entries: bool) {
    let geometry = device.geometry();
    for (lba, fill) in writes {
        let lba = lba % geometry.sectors;
        let zero = fill & 15 == 0;
        let bytes = vec![if zero { 0 } else { *fill }; geometry.sector_size as usize];
        let written = if zero {
            device.write_zeroes(Lba(lba), 1, WriteFlags::empty())
        } else if fill & 15 == 1 {
            if device.discard(Lba(lba), 1).is_ok() && zero_entries { Ok(()) } else { continue }
        } else {
            device.write(Lba(lba), &[IoSlice::new(&bytes)], WriteFlags::empty())
        };
        match written {
            Ok(()) if fill & 15 == 1 => wanted.insert(lba, Ok(digest(&vec![0; bytes.len()]))),
            Ok(()) => wanted.insert(lba, Ok(digest(&bytes))),
            // Whatever kept it from being written, the sector is not half of each.
            Err(_) => wanted.insert(lba, read(device, lba)),
        };
    }
}

/// The first sector about which two readings differ.
fn differ(one: &Contents, other: &Contents) -> Option<String> {
    let (one, other) = one.iter().zip(other).find(|(a, b)| a != b)?;
    Some(format!("{one:?}, {other:?}"))
}
