// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding the label area in an image.

use nvstack_format::label::{AREA_MIN, AreaLayout, HEADER_LEN, Index, IndexHeader, SIGNATURE, Version};
use nvstack_media::{Media, MediaOffset, Result};

/// How far from the end of an image a label area is looked for, in bytes. QEMU's default is 128 KiB; DIMMs that exist
/// have at most a few MiB.
pub const WINDOW: u64 = 16 << 20;

/// Index blocks lie at multiples of this many bytes from the start of an area, and persistent memory before it is a
/// multiple of far more.
const STEP: usize = 256;
const CHUNK: u64 = 64 << 10;

/// The size of the label area in the last bytes of an image, if one is there.
///
/// Nothing in an image tells that size, so index blocks are looked for, from the end of the image backwards. One counts
/// if it is valid in every respect and its area, by the number of slots in it, ends where the image ends; either of the
/// two blocks will do. The area nearest to the end is taken: what a guest keeps in its persistent memory, before the area,
/// is then never mistaken for it.
///
/// An area whose index blocks are both bad is not found, as if the image had none. Reads at most [`WINDOW`] bytes, and
/// no holes.
pub fn find_area<M: Media>(image: &M) -> Result<Option<u64>> {
    let len = image.len();
    let lowest = len.saturating_sub(WINDOW);
    let mut chunk = Vec::new();
    let mut end = len;
    while end > lowest {
        // Chunks start at multiples of their size, so that no index block's signature lies across two of them.
        let start = (end.saturating_sub(1) / CHUNK).saturating_mul(CHUNK);
        if !is_hole(image, start, end)? {
            chunk.resize(usize::try_from(end.saturating_sub(start)).unwrap_or(0), 0);
            image.read(MediaOffset(start), &mut chunk)?;
            let steps = chunk.chunks(STEP).enumerate().rev();
            for (step, _) in steps.filter(|(_, bytes)| bytes.starts_with(&SIGNATURE)) {
                let at = start.saturating_add(u64::try_from(step.saturating_mul(STEP)).unwrap_or(u64::MAX));
                if let Some(size) = area_of(image, at)? {
                    return Ok(Some(size));
                }
            }
        }
        end = start;
    }
    Ok(None)
}

fn is_hole<M: Media>(image: &M, start: u64, end: u64) -> Result<bool> {
    let len = end.saturating_sub(start);
    let extent = image.extent(MediaOffset(start), len)?;
    Ok(extent.hole && extent.len >= len)
}

/// The size of the area that the index block at `at` belongs to, if it is a valid one of an area that ends with the image.
fn area_of<M: Media>(image: &M, at: u64) -> Result<Option<u64>> {
    let len = image.len();
    let mut header = [0; HEADER_LEN];
    if len.saturating_sub(at) < AREA_MIN / 2 {
        return Ok(None);
    }
    image.read(MediaOffset(at), &mut header)?;
    let Some(header) = IndexHeader::decode(&header) else { return Ok(None) };
    let Some(start) = at.checked_sub(header.myoff) else { return Ok(None) };
    let size = len.saturating_sub(start);
    let version = Version::ALL.into_iter().find(|version| u64::from(version.label_len()) == header.label_len);
    let Some(layout) = version.and_then(|version| AreaLayout::compute(size, version).ok()) else {
        return Ok(None);
    };
    let number = if header.myoff == 0 { 0 } else { 1 };
    let mut bytes = match usize::try_from(layout.index_len) {
        Ok(index_len) if size <= WINDOW && layout.made_for(header.nslot) => vec![0; index_len],
        _ => return Ok(None),
    };
    if at != start.saturating_add(layout.index(number)) {
        return Ok(None);
    }
    image.read(MediaOffset(at), &mut bytes)?;
    Ok(Index::parse(&bytes, &layout, number).is_ok().then_some(size))
}
