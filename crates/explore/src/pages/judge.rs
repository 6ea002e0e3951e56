// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an image that a cut left is worth.

use nvstack_media::{Error, Kind as ErrorKind, Result};
use nvstack_pfn_sim::{Kind, Probe, Recorded, probe};
use nvstack_sim::{Image, Model, SimMedium};

use super::workload::{Before, Deed, NEW, OLD, PARENT, PLACE, SETS, Workload, descriptor, open};
use crate::labels::naive;

const INFO: u64 = 4096;
const TABLE: u64 = 8192;

/// What Linux sees in an image: the kind and the uuid of a whole info block of this namespace.
fn by_linux(image: &Image) -> Option<(Kind, [u8; 16])> {
    let mut bytes = [0; 4096];
    image.read(INFO, &mut bytes);
    let kind = match &bytes[..16] {
        b"NVDIMM_PFN_INFO\0" => Kind::Fsdax,
        b"NVDIMM_DAX_INFO\0" => Kind::Devdax,
        _ => return None,
    };
    let stored = u64::from_le_bytes(bytes[4088..].try_into().unwrap_or_default());
    let ours = bytes[32..48] == PARENT.into_bytes();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[16..32]);
    (ours && stored == naive::checksum(&bytes, 4088)).then_some((kind, uuid))
}

/// Judges the images of one workload.
pub(crate) struct Judge<'w> {
    workload: &'w Workload,
    model: Model,
    start: Image,
    /// The info block that is to be there in the end.
    block: Vec<u8>,
    /// How many images of each outcome were gone on with: none, old, new.
    tried: [u32; 3],
}

impl<'w> Judge<'w> {
    pub(crate) fn new(workload: &'w Workload, model: Model, start: Image) -> Result<Judge<'w>> {
        let block = match workload.deed {
            Deed::Descriptors => Vec::new(),
            _ => workload
                .block()
                .ok_or_else(|| Error::new(ErrorKind::Invalid, "lay out info block"))?
                .encode()
                .to_vec(),
        };
        Ok(Judge { workload, model, start, block, tried: [0; 3] })
    }

    /// What is wrong with an image, after so many changes were answered.
    pub(crate) fn judge(&mut self, image: &Image, answered: usize) -> Result<(), String> {
        match self.workload.deed {
            Deed::Descriptors => self.descriptors(image, answered),
            _ => self.block(image, answered > 0),
        }
    }

    fn quiet(&self, image: &Image) -> SimMedium {
        SimMedium::read_only_of(image.clone(), self.model)
    }

    fn block(&mut self, image: &Image, answered: bool) -> Result<(), String> {
        let linux = by_linux(image);
        let medium = self.quiet(image);
        let mut ours = None;
        for kind in [Kind::Fsdax, Kind::Devdax] {
            match probe(&medium, kind, PARENT, PLACE).map_err(|e| format!("look: {e}"))? {
                Probe::Found(info) => ours = Some((kind, info.uuid.into_bytes())),
                Probe::Absent(_) => {}
                other => return Err(format!("{other:?}")),
            }
        }
        if ours != linux {
            return Err(format!("{ours:?} for us, {linux:?} for Linux"));
        }
        let outcome = match ours {
            None if answered => return Err("there is no info block".into()),
            None => 0,
            Some((_, uuid))
                if uuid == OLD.into_bytes() && self.workload.before == Before::Whole && !answered =>
            {
                1
            }
            Some((_, uuid)) if uuid == NEW.into_bytes() => 2,
            Some((kind, uuid)) => return Err(format!("there is {kind:?} {uuid:02x?}")),
        };
        let mut bytes = vec![0; 4096];
        image.read(INFO, &mut bytes);
        if outcome == 2 && bytes != self.block {
            return Err("the info block is not the one that was made".into());
        }
        // The first descriptors and the last one: what anybody ever wrote of them. An info block alone leaves them.
        let laid_out = matches!(self.workload.deed, Deed::Create(_, nvstack_pfn_sim::Mode::Pmem));
        for unit in (TABLE / 8..TABLE / 8 + 64).chain((2 << 17) - 64..2 << 17) {
            let (was, is) = (self.start.unit(unit), image.unit(unit));
            if outcome == 1 && is != was {
                return Err("the old one has lost its descriptors".into());
            }
            if outcome == 2 && is != if laid_out { 0 } else { was } {
                return Err("there is an info block before its descriptors".into());
            }
        }
        if self.tried[outcome] < 4 {
            self.tried[outcome] += 1;
            let medium = SimMedium::memory(image.clone(), self.model);
            self.workload.run(&medium, 0).map_err(|e| format!("once more: {e}"))?;
            let mut bytes = vec![0; 4096];
            medium.image().read(INFO, &mut bytes);
            if bytes != self.block {
                return Err("once more, and it is not there".into());
            }
        }
        Ok(())
    }

    fn descriptors(&self, image: &Image, answered: usize) -> Result<(), String> {
        let medium = self.quiet(image);
        let pages = open(medium.clone(), Kind::Fsdax, true).map_err(|e| format!("open: {e}"))?;
        for page in 0..3u64 {
            let found = pages.descriptor(page).map_err(|e| format!("page {page}: {e}"))?;
            let before = match (self.workload.before, page) {
                (Before::Whole, 0 | 1) => Some(Some(page + 7)),
                (Before::Junk, 0 | 1) => None,
                _ => Some(Some(0)),
            };
            let mut allowed = vec![before];
            for (n, (of, number)) in SETS.iter().enumerate().filter(|(_, (of, _))| *of == page) {
                let _ = of;
                if n < answered {
                    allowed = vec![Some(Some(*number))];
                } else if n == answered {
                    allowed.push(Some(Some(*number)));
                }
            }
            let number = match found {
                Recorded::Unknown => None,
                Recorded::Known(d) => {
                    let known = (0..9).find(|n| {
                        let wanted = descriptor(*n);
                        let nothing = *n == 0 && d == nvstack_pfn_sim::Descriptor::default();
                        nothing
                            || *n > 0
                                && (d.flags, d.references, d.owner)
                                    == (wanted.flags, wanted.references, wanted.owner)
                    });
                    Some(known)
                }
            };
            if !allowed.contains(&number) {
                return Err(format!("page {page} has {found:?}"));
            }
        }
        if medium.image() != *image {
            return Err("a read-only open changed the medium".into());
        }
        Ok(())
    }
}
