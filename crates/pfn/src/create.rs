// SPDX-License-Identifier: MIT OR Apache-2.0
//! Laying out a new fsdax or devdax.

use nvstack_format::pfn::{ALIGNMENTS, Geometry, INFO_LEN, INFO_OFFSET, Info, Kind, Mode, Place, RESERVE};
use nvstack_format::{Invalid, MediaOffset};
use nvstack_media::{Error, Kind as ErrorKind, Media, Result};
use uuid::Uuid;

use crate::mutants::{Mutant, keeps};
use crate::probe::{Probe, check_place, probe, read_info, too_small, word};

/// What to lay out.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// What it is to be.
    pub kind: Kind,
    /// Its own uuid.
    pub uuid: Uuid,
    /// The namespace's uuid, nil without labels.
    pub parent: Uuid,
    /// Where the page descriptors are kept.
    pub mode: Mode,
    /// Alignment of the data in bytes: 4096, 2 MiB or 1 GiB.
    pub align: u32,
    /// Where the namespace lies; the geometry depends on it.
    pub place: Place,
    /// Lay it out though an fsdax or devdax of this namespace, whole or damaged, is there. Its data are lost.
    pub overwrite: bool,
}

/// Lays out an fsdax or devdax over the whole namespace, with the geometry that Linux gives it (`nd_pfn_init`), and
/// returns what was written.
///
/// The room for descriptors is initialised first and the info block written last, its signature at the very end: so a
/// power cut leaves none or a whole one, and so does an error. Data are not touched. A hole in a sparse file stays one. Lost bytes are healed
/// where something is written.
///
/// [`Exists`](ErrorKind::Exists) if one of this namespace is there, [`NoSpace`](ErrorKind::NoSpace) if no room is left for
/// data, [`Invalid`](ErrorKind::Invalid) for an alignment or a place that cannot be.
pub fn create<M: Media>(media: &M, options: &CreateOptions) -> Result<Info> {
    lay_out(media, options).map_err(|e| e.path(media.name()))
}

fn lay_out<M: Media>(media: &M, options: &CreateOptions) -> Result<Info> {
    let operation = match options.kind {
        Kind::Fsdax => "create fsdax",
        Kind::Devdax => "create devdax",
    };
    check_place(media, options.place, operation)?;
    if media.read_only() {
        return Err(Error::new(ErrorKind::ReadOnly, operation));
    }
    if !ALIGNMENTS.contains(&options.align) {
        return Err(Error::new(ErrorKind::Invalid, operation)
            .found(format_args!("align {}", options.align))
            .accepted("4096, 2097152 or 1073741824"));
    }
    let geometry = Geometry::compute(options.place, options.mode, options.align).map_err(|finding| {
        let kind = if finding.field == "size" { ErrorKind::NoSpace } else { ErrorKind::Invalid };
        Error::new(kind, operation).because(finding)
    })?;
    if !options.overwrite {
        refuse_existing(media, options, operation)?;
    }

    let block = MediaOffset(INFO_OFFSET);
    let length = RESERVE.saturating_sub(INFO_OFFSET);
    // From here on nobody finds what was there, until the new one is whole.
    if keeps(Mutant::OldBlock) {
        media.zero(block, length)?;
    }
    if keeps(Mutant::OldBlockDrain) {
        media.drain()?;
    }
    let table = options.mode == Mode::Pmem;
    let zero_table = || media.zero(MediaOffset(RESERVE), geometry.dataoff.saturating_sub(RESERVE));
    if table && keeps(Mutant::TableFirst) {
        // Zeros are descriptors of pages of which nothing is known yet. That heals lost bytes there, too. They are durable
        // when the rest of the info block is, and so before it is one.
        zero_table()?;
    }
    let info = Info::new(options.kind, options.uuid, options.parent, options.mode, geometry);
    let bytes = info.encode();
    // Without its first word it is no info block, however much of the rest has reached the medium.
    let Some((signature, rest)) = bytes.split_first_chunk::<8>() else { return Ok(info) };
    media.store(block.plus(8), rest)?;
    persist(media, block, length, Mutant::BlockDrain)?;
    let signed = media.store_u64(block, u64::from_le_bytes(*signature));
    let signed = signed.and_then(|()| persist(media, block, 8, Mutant::SignatureDrain));
    if signed.is_err() {
        // Nothing was made, as far as is known; whoever tries again is not to find it. If that fails as well it is whole.
        let _ = media.store_u64(block, 0).and_then(|()| media.persist(block, 8));
    }
    signed?;
    if table && !keeps(Mutant::TableFirst) {
        zero_table()?;
        media.drain()?;
    }
    Ok(info)
}

/// Waits until bytes are durable; `drain` is the name under which a test leaves the waiting out.
#[track_caller]
pub(crate) fn persist<M: Media>(media: &M, at: MediaOffset, len: u64, drain: Mutant) -> Result<()> {
    if keeps(drain) { media.persist(at, len) } else { media.flush(at, len) }
}

/// Neither a whole one of this namespace, of either kind, nor what is left of one is written over. One of another
/// namespace, which had this space before, is nobody's any more.
fn refuse_existing<M: Media>(media: &M, options: &CreateOptions, operation: &'static str) -> Result<()> {
    let exists = |at: u64, found: String| {
        Err(Error::new(ErrorKind::Exists, operation)
            .at(MediaOffset(at))
            .found(found)
            .accepted("a namespace without, or to overwrite it"))
    };
    for kind in [Kind::Fsdax, Kind::Devdax] {
        let name = word(kind);
        match probe(media, kind, options.parent, options.place)? {
            Probe::Found(info) => return exists(INFO_OFFSET, format!("{name} {}", info.uuid)),
            Probe::Unsupported(finding) | Probe::Corrupt(finding) => {
                let at = INFO_OFFSET.saturating_add(finding.offset);
                return exists(at, format!("{name} that cannot be used here ({finding})"));
            }
            Probe::Absent(finding) => {
                let Some(raw) = read_info(media)? else { return no_room(operation, too_small(media.len())) };
                if is_damaged(&raw, kind, options.parent) {
                    let at = INFO_OFFSET.saturating_add(finding.offset);
                    return exists(at, format!("a damaged {name} ({finding})"));
                }
            }
        }
    }
    Ok(())
}

fn no_room(operation: &'static str, finding: Invalid) -> Result<()> {
    Err(Error::new(ErrorKind::NoSpace, operation).because(finding))
}

/// Whether bytes that hold no valid info block held one of this namespace once.
fn is_damaged(raw: &[u8; INFO_LEN], kind: Kind, parent: Uuid) -> bool {
    raw.starts_with(&kind.signature()) && raw.get(32..48) == Some(parent.as_bytes())
}
