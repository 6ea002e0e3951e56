// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image file as QEMU lays it out: the persistent memory of one DIMM, then its label area.
//!
//! Which DIMM it is, is told by the machine's tables, not by the image. So labels are taken if they agree among themselves: the
//! DIMM is the one whose cookie they carry, one of a QEMU before any other. A label that carries another is left out, as Linux
//! would.

use std::collections::HashMap;
use std::sync::Arc;

use nvstack_format::label::{AREA_MIN, AreaLayout, SIGNATURE, Version};
use nvstack_format::{Cookies, SetMember, cookies};
use nvstack_label::{LabelArea, WINDOW, find_area};
use nvstack_media::{Error, Kind, Media, MediaOffset, Part, Result};

use super::QEMU_START;
use crate::spec::{BusSpec, DimmSpec, Identity, Idle, Provider, RegionSpec};

/// Bytes of a label area that is made where none was asked for: what QEMU's examples have.
pub const LABEL_AREA: u64 = 128 << 10;

/// Linux maps memory by pages, and so does every region.
const PAGE: u64 = 4096;

/// Nvdimm devices that one QEMU can have (`ACPI_MAX_RAM_SLOTS`).
const QEMU_DIMMS: u32 = 256;

/// An image, taken apart.
#[derive(Clone)]
pub struct ImageProvider {
    /// Persistent memory.
    pub memory: Arc<dyn Media>,
    /// The label area, if there is room for one.
    pub labels: Option<Arc<dyn Media>>,
    /// Which nvdimm of a QEMU it is, counted from 1; 1 where nothing tells.
    pub dimm: u32,
    /// Cookies of its interleave set.
    pub cookies: Cookies,
    /// The cookie of its labels is that of no nvdimm of a QEMU.
    pub foreign: bool,
}

/// Whose labels they are, as far as a cookie tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Set(u64),
    Qemu(u32),
}

impl ImageProvider {
    /// Takes an image apart. `label_size` is that of its label area, 0 for none, where it is not to be looked for.
    pub fn new(image: Arc<dyn Media>, label_size: Option<u64>) -> Result<ImageProvider> {
        let len = image.len();
        let labels = match label_size {
            Some(0) => 0,
            Some(size) if size >= len => {
                return Err(Error::new(Kind::Invalid, "open image")
                    .path(image.name())
                    .found(format_args!("a label area of {size} bytes"))
                    .accepted(format_args!("less than the file's {len} bytes")));
            }
            Some(size) => size,
            None => find_labels(&image)?.unwrap_or(0),
        };
        let size = len.saturating_sub(labels) / PAGE * PAGE;
        if size == 0 {
            return Err(Error::new(Kind::Invalid, "open image")
                .path(image.name())
                .found(format_args!("{len} bytes, {labels} of them for labels"))
                .accepted(format_args!("{PAGE} bytes or more beside the labels")));
        }
        let memory: Arc<dyn Media> = Arc::new(Part::new(Arc::clone(&image), MediaOffset(0), size)?);
        let area: Option<Arc<dyn Media>> = match labels {
            0 => None,
            labels => Some(Arc::new(Part::new(image, MediaOffset(len.saturating_sub(labels)), labels)?)),
        };
        let owner = area.as_ref().map_or(Ok(None), owner)?;
        let (dimm, cookies, foreign) = match owner {
            Some(Owner::Set(cookie)) => {
                (1, Cookies { v1_1: cookie, v1_2: cookie, alternative: cookie }, true)
            }
            Some(Owner::Qemu(dimm)) => (dimm, qemu_cookies(dimm), false),
            None => (1, qemu_cookies(1), false),
        };
        Ok(ImageProvider { memory, labels: area, dimm, cookies, foreign })
    }

    /// The same, as the `dimm`-th nvdimm of a QEMU, whatever its labels say.
    #[must_use]
    pub fn as_qemu(self, dimm: u32) -> ImageProvider {
        ImageProvider { dimm, cookies: qemu_cookies(dimm), foreign: false, ..self }
    }

    /// Its bus: one DIMM, one region over all of it, at the place where QEMU puts its first nvdimm.
    #[must_use]
    pub fn bus(self) -> BusSpec {
        let region = RegionSpec::of_dimm(0, self.memory, QEMU_START, self.cookies);
        BusSpec {
            provider: Provider::Nfit,
            dimms: vec![DimmSpec {
                identity: Some(Identity::qemu(self.dimm)),
                labels: self.labels,
                fault: None,
            }],
            regions: vec![region],
            idle: Idle::default(),
        }
    }
}

fn qemu_cookies(dimm: u32) -> Cookies {
    cookies(&[SetMember::qemu(dimm.saturating_sub(1))])
}

/// The size of the label area in the last bytes of an image: found by a valid index block, else by the signature of a damaged one
/// where areas usually begin, a power of two from the end.
pub fn find_labels(image: &Arc<dyn Media>) -> Result<Option<u64>> {
    if let Some(size) = find_area(image)? {
        return Ok(Some(size));
    }
    let len = image.len();
    let sizes = (0..)
        .map_while(|shift| AREA_MIN.checked_shl(shift))
        .take_while(|size| *size <= WINDOW && *size < len);
    for size in sizes {
        let start = MediaOffset(len.saturating_sub(size));
        let others =
            Version::ALL.into_iter().filter_map(|v| AreaLayout::compute(size, v).ok()).map(|l| l.index(1));
        for at in std::iter::once(0).chain(others) {
            let mut found = [0; SIGNATURE.len()];
            image.read(start.plus(at), &mut found)?;
            if found == SIGNATURE {
                return Ok(Some(size));
            }
        }
    }
    Ok(None)
}

/// Whose labels an area holds: a QEMU's before any other, then the more frequent; none where two are equally good.
fn owner(area: &Arc<dyn Media>) -> Result<Option<Owner>> {
    let area = LabelArea::open(Arc::clone(area))?;
    let qemu: HashMap<u64, u32> = (1..=QEMU_DIMMS)
        .flat_map(|n| {
            let c = qemu_cookies(n);
            [(c.v1_1, n), (c.v1_2, n)]
        })
        .collect();
    let mut votes: HashMap<Owner, usize> = HashMap::new();
    for label in area.slots()?.into_iter().filter_map(|slot| slot.label.ok()).filter(|l| l.isetcookie != 0) {
        let owner = qemu.get(&label.isetcookie).map_or(Owner::Set(label.isetcookie), |n| Owner::Qemu(*n));
        *votes.entry(owner).or_default() += 1;
    }
    let rank = |(owner, n): (&Owner, &usize)| (matches!(owner, Owner::Qemu(_)), *n);
    let Some(best) = votes.iter().map(rank).max() else { return Ok(None) };
    let mut winners = votes.iter().filter(|v| rank(*v) == best);
    Ok(match (winners.next(), winners.next()) {
        (Some((owner, _)), None) => Some(*owner),
        _ => None,
    })
}
