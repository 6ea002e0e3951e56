// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label areas with one damaged word: ours and Linux's reading agree about each, and no bytes are used twice.
//!
//! This is not about cuts but about the checks that a reader makes: what a cut cannot leave as long as a writer keeps to the
//! protocol, other writers can.

use std::sync::Arc;

use nvstack_media::Media;
use nvstack_sim::{Image, Model, SimMedium};

use super::judge::compare;
use super::naive;
use super::workload::{SIZE, START, open, set};

/// What the damaged word becomes: of its value, and of the words at the same place in the other block or label.
const VALUES: usize = 12;

/// All damages of the first area: one for each word, value, and whether checksums are made right afterwards.
pub(crate) fn count(image: &Image) -> u64 {
    image.len() / 8 * VALUES as u64 * 2
}

/// One of them; none if it would change nothing.
pub(crate) fn damaged(image: &Image, number: u64) -> Option<Image> {
    let (unit, number) = (number / (VALUES as u64 * 2), number % (VALUES as u64 * 2));
    let area = naive::read(&image.to_bytes())?;
    let (value, mend) = (number / 2, number % 2 == 1);
    let was = image.unit(unit);
    let index_len = area.slots_at as u64 / 2;
    let (len, start) = if unit * 8 < area.slots_at as u64 {
        (index_len, unit * 8 / index_len * index_len)
    } else {
        let len = area.label_len as u64;
        (len, (unit * 8 - area.slots_at as u64) / len * len + area.slots_at as u64)
    };
    // The same word of the block or label before and after it.
    let new = match value {
        0 => 0,
        1 => u64::MAX,
        2 => was.wrapping_add(1),
        3 => was.wrapping_sub(1),
        4 => was ^ 1 << 32,
        5 => was.wrapping_add(1 << 32),
        6 => was.wrapping_sub(1 << 32),
        7 => was ^ 1 << 63,
        8 => image.unit(unit + len / 8),
        9 => image.unit(unit.saturating_sub(len / 8)),
        10 => was.wrapping_add(8 << 20),
        _ => was.wrapping_sub(8 << 20),
    };
    if new == was {
        return None;
    }
    let mut image = image.clone();
    image.set_unit(unit, new);
    if mend {
        let field = if start < area.slots_at as u64 { 64 } else { 248 };
        if field + 8 > len {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        image.read(start, &mut bytes);
        image.set_unit((start + field) / 8, naive::checksum(&bytes, field as usize));
    }
    Some(image)
}

/// What is wrong with the reading of some areas, whatever they hold.
pub(crate) fn judge(images: &[Image], model: Model) -> Result<(), Arc<str>> {
    read(images, model).map_err(Arc::from)
}

fn read(images: &[Image], model: Model) -> Result<(), String> {
    let media: Vec<SimMedium> = images.iter().map(|i| SimMedium::read_only_of(i.clone(), model)).collect();
    let areas: Vec<Option<naive::Area>> = images.iter().map(|i| naive::read(&i.to_bytes())).collect();
    let mut ours = open(&media).map_err(|e| format!("open: {e}"))?;
    for (dimm, (ours, linux)) in ours.iter().zip(&areas).enumerate() {
        compare(ours, linux.as_ref()).map_err(|e| format!("DIMM {dimm}: {e}"))?;
    }
    let found = set(&mut ours).and_then(|s| s.assemble()).map_err(|e| format!("assemble: {e}"))?;
    // Bytes of a namespace are nobody else's, on any DIMM.
    for namespace in &found.namespaces {
        for (dimm, (mine, area)) in namespace.labels.iter().zip(&areas).enumerate() {
            let theirs = area.iter().flat_map(|a| &a.used).filter(|(slot, _)| *slot != mine.slot as usize);
            for other in theirs.filter_map(|(_, l)| l.as_ref()) {
                let end = other.dpa.saturating_add(other.size);
                if mine.dpa.0 < end && other.dpa < mine.end().0 {
                    return Err(format!("DIMM {dimm}: bytes of {} are another label's, too", namespace.uuid));
                }
            }
            if mine.dpa.0 < START || mine.end().0 > START + SIZE {
                return Err(format!("{} lies outside", namespace.uuid));
            }
        }
    }
    if media.iter().zip(images).any(|(m, i)| m.image() != *i || !m.read_only()) {
        return Err("reading changed a label area".into());
    }
    Ok(())
}
