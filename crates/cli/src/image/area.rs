// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the label area of an image is, if it has one.

use std::sync::Arc;

use nvstack_format::Invalid;
use nvstack_format::label::{AREA_MIN, AreaLayout, SIGNATURE, Version};
use nvstack_label::{LabelArea, WINDOW, find_area};
use nvstack_media::{Error, Kind, Mapping, Media, MediaOffset, Part, Result};

use super::ImagePart;

/// The end of an image.
pub(super) struct Found {
    /// Bytes at the end that are no persistent memory.
    pub(super) size: u64,
    /// The label area in them. Without a valid index block it has no labels.
    pub(super) area: Option<LabelArea<ImagePart>>,
    /// Why the index blocks that are there cannot be used. Linux would take the region for one without labels, raw.
    pub(super) damage: Option<Error>,
}

/// Finds the label area, or takes it to be `label_size` bytes; 0 for none.
pub(super) fn find(mapping: &Arc<Mapping>, label_size: Option<u64>) -> Result<Found> {
    let size = match label_size {
        Some(0) => return Ok(Found { size: 0, area: None, damage: None }),
        Some(size) if size >= mapping.len() => {
            return Err(Error::new(Kind::Invalid, "open image")
                .found(format_args!("a label area of {size} bytes"))
                .accepted(format_args!("less than the file's {} bytes", mapping.len())));
        }
        Some(size) => Some(size),
        None => find_area(mapping)?,
    };
    match size {
        Some(size) => open(mapping, size),
        None => match remains(mapping)? {
            Some(size) => open(mapping, size),
            None => Ok(Found { size: 0, area: None, damage: None }),
        },
    }
}

/// The area of this size. A blank one is as good as none.
fn open(mapping: &Arc<Mapping>, size: u64) -> Result<Found> {
    let at = MediaOffset(mapping.len().saturating_sub(size));
    let area = LabelArea::open(Part::new(Arc::clone(mapping), at, size)?)?;
    let damage = if area.index().is_some() { None } else { signed(&area)? };
    let damage = damage.map(|finding| Error::invalid(Kind::Corrupt, "read label area", at, finding));
    Ok(Found { size, area: Some(area), damage })
}

/// What is wrong with an index block that carries the signature of one.
fn signed(area: &LabelArea<ImagePart>) -> Result<Option<Invalid>> {
    let headers = area.headers()?;
    let signed = headers.iter().zip(area.blocks()).find(|(header, _)| header.signature == SIGNATURE);
    Ok(signed.and_then(|(_, block)| block.as_ref().err().cloned()))
}

/// The size of an area whose index blocks are both damaged: their signatures are looked for where areas usually begin,
/// a power of two from the end.
fn remains(mapping: &Arc<Mapping>) -> Result<Option<u64>> {
    let sizes = (0..)
        .map_while(|shift| AREA_MIN.checked_shl(shift))
        .take_while(|size| *size <= WINDOW && *size < mapping.len());
    for size in sizes {
        let start = MediaOffset(mapping.len().saturating_sub(size));
        let others =
            Version::ALL.into_iter().filter_map(|v| AreaLayout::compute(size, v).ok()).map(|l| l.index(1));
        for at in std::iter::once(0).chain(others) {
            let mut found = [0; SIGNATURE.len()];
            mapping.read(start.plus(at), &mut found)?;
            if found == SIGNATURE {
                return Ok(Some(size));
            }
        }
    }
    Ok(None)
}
