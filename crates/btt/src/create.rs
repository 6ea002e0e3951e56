// SPDX-License-Identifier: MIT OR Apache-2.0
//! Laying out a new BTT.

use nvstack_format::MediaOffset;
use nvstack_format::btt::{
    ARENA_MIN, ArenaLayout, FlogRecord, INFO_LEN, Info, LbaSize, Version, fresh_flog, split,
};
use nvstack_media::{Error, Kind, Media, Result};
use uuid::Uuid;

use crate::mutants::{Mutant, keeps};
use crate::open::{Probe, probe};

/// What to lay out.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// The version that this namespace can hold; it fixes where the BTT begins.
    pub version: Version,
    /// The namespace's uuid, nil without labels.
    pub parent: Uuid,
    /// The BTT's own uuid.
    pub uuid: Uuid,
    /// Sector size.
    pub lbasize: LbaSize,
    /// Lay it out though a BTT of this namespace, whole or damaged, is there. Its sectors are lost.
    pub overwrite: bool,
}

/// Lays out a BTT over the whole namespace.
///
/// Maps are zeroed and flogs written first, info blocks last: the highest arena's first, each backup before its primary
/// (UEFI). So a power cut leaves no BTT or a whole one. Data is not touched: a sector that was never written shows what the
/// namespace held. A hole in a sparse file stays one, so a terabyte is laid out by writing 20 KiB for each arena.
pub fn create<M: Media>(media: &M, options: &CreateOptions) -> Result<()> {
    lay_out(media, options).map_err(|e| e.path(media.name()))
}

fn lay_out<M: Media>(media: &M, options: &CreateOptions) -> Result<()> {
    let start = MediaOffset(options.version.start());
    let raw = media.len().saturating_sub(start.0);
    if raw < ARENA_MIN {
        return Err(Error::new(Kind::NoSpace, "create BTT")
            .found(format_args!("a namespace of {} bytes", media.len()))
            .accepted(format_args!("{} or more", ARENA_MIN.saturating_add(start.0))));
    }
    match probe(media, options.version, options.parent)? {
        Probe::Absent(_) => {}
        _ if options.overwrite => {
            // The old first info block goes first: from here on nobody finds the old BTT, until the new one is whole.
            media.zero(start, 4096)?;
            if keeps(Mutant::OldInfoDrain) {
                media.drain()?;
            }
        }
        Probe::Found(info) | Probe::Damaged { backup: info, .. } => {
            return Err(Error::new(Kind::Exists, "create BTT")
                .at(start)
                .found(format_args!("BTT {}", info.uuid)));
        }
        Probe::Corrupt(finding) => return Err(Error::invalid(Kind::Exists, "create BTT", start, finding)),
    }

    let mut arenas = Vec::new();
    for span in split(raw) {
        let layout = ArenaLayout::compute(span.size, options.lbasize, span.nextoff)
            .map_err(|f| Error::invalid(Kind::Invalid, "create BTT", start.plus(span.offset), f))?;
        let base = start.plus(span.offset);
        if !keeps(Mutant::InfoFirst) {
            write_infos(media, options, [(base, layout)])?;
        }
        if keeps(Mutant::MapZero) {
            media.zero(base.plus(layout.mapoff), layout.map_len())?;
        }
        for lane in 0..layout.nfree {
            let group = layout.flog_group(lane).map_or(MediaOffset(u64::MAX), |o| base.plus(o));
            media.stream(group, &encode_group(fresh_flog(&layout, lane)))?;
        }
        arenas.push((base, layout));
    }
    if keeps(Mutant::LayoutDrain) {
        media.drain()?;
    }
    write_infos(media, options, arenas.into_iter().rev())
}

/// Writes both info blocks of each arena, the backup first.
fn write_infos<M: Media>(
    media: &M,
    options: &CreateOptions,
    arenas: impl IntoIterator<Item = (MediaOffset, ArenaLayout)>,
) -> Result<()> {
    let length = |bytes: &[u8; INFO_LEN]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    for (base, layout) in arenas {
        let info =
            Info { uuid: options.uuid, parent: options.parent, flags: 0, version: options.version, layout };
        let bytes = info.encode();
        let mut places = [base.plus(layout.info2off), base];
        if !keeps(Mutant::BackupFirst) {
            places.reverse();
        }
        for at in places {
            media.store(at, &bytes)?;
            media.persist(at, length(&bytes))?;
        }
    }
    Ok(())
}

fn encode_group(records: [FlogRecord; 4]) -> [u8; 64] {
    let mut bytes = [0u8; 64];
    let words = records.into_iter().flat_map(FlogRecord::halves);
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
