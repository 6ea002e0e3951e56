// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking for an fsdax or devdax.

use nvstack_format::pfn::{INFO_LEN, INFO_OFFSET, Info, Kind, Place, RESERVE, Rejected};
use nvstack_format::{Invalid, MediaOffset};
use nvstack_media::{Error, Kind as ErrorKind, Media, Result};
use uuid::Uuid;

/// What stands where the info block of an fsdax or devdax would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// One of this kind and this namespace.
    Found(Info),
    /// None of this kind and this namespace: Linux goes on, and serves the namespace raw in the end (`ENODEV`).
    Absent(Invalid),
    /// One of this namespace that cannot be honoured on this machine or at this place: Linux leaves the namespace unused
    /// (`EOPNOTSUPP`).
    Unsupported(Invalid),
    /// One of this namespace whose fields cannot be.
    Corrupt(Invalid),
}

/// The words for a kind in operations.
pub(crate) const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Fsdax => "fsdax",
        Kind::Devdax => "devdax",
    }
}

/// Looks for a namespace of `kind` in one of uuid `parent` (nil without labels) that lies at `place`; checks in Linux's
/// order (`nd_pfn_validate`). Reads one info block, writes nothing.
///
/// [`Poison`](ErrorKind::Poison) if the info block is lost, [`Invalid`](ErrorKind::Invalid) if `place` has another size
/// than the medium.
pub fn probe<M: Media>(media: &M, kind: Kind, parent: Uuid, place: Place) -> Result<Probe> {
    check_place(media, place, "look for an info block")?;
    let Some(raw) = read_info(media)? else { return Ok(Probe::Absent(too_small(media.len()))) };
    Ok(match Info::parse(&raw, kind, parent, place) {
        Ok(info) => Probe::Found(info),
        Err(Rejected::NotPfn(finding)) => Probe::Absent(finding),
        Err(Rejected::Unsupported(finding)) => Probe::Unsupported(finding),
        Err(Rejected::Corrupt(finding)) => Probe::Corrupt(finding),
    })
}

/// The place of a namespace is that of its medium: geometry that was checked against one holds on the other.
pub(crate) fn check_place<M: Media>(media: &M, place: Place, operation: &'static str) -> Result<()> {
    if place.size == media.len() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, operation)
        .path(media.name())
        .found(format_args!("a place of {} bytes", place.size))
        .accepted(format_args!("the {} of the medium", media.len())))
}

pub(crate) fn too_small(len: u64) -> Invalid {
    let accepted = format!("more than {RESERVE}: room for an info block");
    Invalid::new("namespace", "size", 0, format!("{len} bytes"), accepted)
}

/// The bytes of the info block, where the namespace has room for one.
pub(crate) fn read_info<M: Media>(media: &M) -> Result<Option<[u8; INFO_LEN]>> {
    if media.len() < RESERVE {
        return Ok(None);
    }
    let mut raw = [0u8; INFO_LEN];
    match media.read(MediaOffset(INFO_OFFSET), &mut raw) {
        Ok(()) => Ok(Some(raw)),
        Err(e) if e.kind() == ErrorKind::Poison => Err(Error::new(ErrorKind::Poison, "read PFN info block")
            .path(media.name())
            .at(e.offset().unwrap_or(MediaOffset(INFO_OFFSET)))
            .found("lost bytes in the info block")
            .accepted("one that reads whole, or to create a new one over it")),
        Err(e) => Err(e),
    }
}
