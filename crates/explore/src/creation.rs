// SPDX-License-Identifier: MIT OR Apache-2.0
//! Laying out a BTT, cut at every operation: there is none, or the old one as it was, or the new one, whole.

use std::collections::HashMap;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt_sim::{Btt, CreateOptions, Probe, create, probe};
use nvstack_format::btt::{ARENA_MIN, ArenaLayout, Version};
use nvstack_media::{Error, Kind, MediaOffset, Result};
use nvstack_sim::{Cuts, Event, Hook, Image, Model, Operation, SimMedium, mix};
use uuid::Uuid;

use crate::Mutant;
use crate::case::{Case, Violation};
use crate::content;
use crate::damage::whole;
use crate::explorer::{Bounds, Counts};
use crate::judge::options;
use crate::workload::{Start, Workload};

/// Sectors of the old BTT that hold something: their map entries lie all over the map.
const OLD: [u64; 5] = [0, 1, 17, 3000, 30_000];
/// The old BTT's uuid, and the new one's.
const UUIDS: [u128; 2] = [7, 9];

/// Units of eight bytes from here on are the tables of either BTT.
const TABLES: u64 = ARENA_MIN / 8 - 40_000;

/// What laying out begins with and is to end with.
pub(crate) struct Creation {
    before: Image,
    after: Image,
    options: CreateOptions,
    model: Model,
}

/// Keeps what a cut could leave before each operation.
#[derive(Default)]
struct Moments {
    medium: Mutex<Option<SimMedium>>,
    cuts: Mutex<Vec<Option<Cuts>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Moments {
    fn take(&self) {
        if let Some(medium) = &*lock(&self.medium) {
            let cuts = &mut *lock(&self.cuts);
            // Two hundred and fifty-six flog groups in a row are much alike.
            let step = cuts.len();
            let wanted = !(24..248).contains(&step) || step.is_multiple_of(16);
            cuts.push(wanted.then(|| medium.cuts()));
        }
    }
}

impl Hook for Moments {
    fn step(&self, event: &Event) -> Result<()> {
        // Nothing that is read changes what a cut leaves.
        if !matches!(event.operation, Operation::Read | Operation::Load) {
            self.take();
        }
        Ok(())
    }

    fn task(&self) -> usize {
        0
    }
}

impl Creation {
    pub(crate) fn new(start: Start, model: Model) -> Result<Creation> {
        let (empty, options) = whole(4096, UUIDS[1])?;
        let before = match start {
            Start::Fresh => Image::zeros(ARENA_MIN),
            // What was there before was no BTT, and nothing of it may be taken for one.
            Start::Bad | Start::Lost => {
                let mut image = Image::zeros(ARENA_MIN);
                for unit in (0..ARENA_MIN / 8)
                    .filter(|u| mix(*u).is_multiple_of(if *u > TABLES { 256 } else { 2048 }))
                {
                    image.set_unit(unit, mix(!unit));
                }
                image
            }
            Start::Worn | Start::Cut => old(4096)?,
            Start::Old => old(512)?,
        };
        // What is to be there in the end, made without the engine: the tables of an empty one over what was there.
        let mut after = before.clone();
        let layout = ArenaLayout::compute(ARENA_MIN, options.lbasize, 0)
            .map_err(|f| Error::invalid(Kind::Invalid, "lay out", MediaOffset(0), f))?;
        for unit in (0..512).chain(layout.mapoff / 8..ARENA_MIN / 8) {
            after.set_unit(unit, empty.unit(unit));
        }
        // Between the tables lies nothing that anybody writes.
        let map_end = (layout.mapoff + layout.map_len()).div_ceil(8);
        let flog_end = layout.logoff / 8 + u64::from(layout.nfree) * 8;
        for unit in (map_end..layout.logoff / 8).chain(flog_end..layout.info2off / 8) {
            after.set_unit(unit, before.unit(unit));
        }
        Ok(Creation { before, after, options, model })
    }

    /// What a cut could leave at each step, as far as it is kept, and the steps.
    fn moments(&self) -> Result<(Vec<Option<Cuts>>, Vec<Event>)> {
        let moments = Arc::new(Moments::default());
        let medium = SimMedium::hooked(self.before.clone(), self.model, Arc::<Moments>::clone(&moments));
        medium.record();
        *lock(&moments.medium) = Some(medium.clone());
        let done = create(&medium, &self.options);
        moments.take();
        *lock(&moments.medium) = None;
        done?;
        let cuts = std::mem::take(&mut *lock(&moments.cuts));
        Ok((cuts, medium.trace()))
    }

    /// What is wrong with an image. `done`: the creation has returned.
    fn judge(&self, image: &Image, done: bool) -> Option<String> {
        let medium = SimMedium::read_only_of(image.clone(), self.model);
        let found = match probe(&medium, Version::V2_0, Uuid::nil()) {
            Ok(Probe::Found(info)) => info.uuid,
            // Whoever finds the backup alone may read by it, so all but the primary is there.
            Ok(Probe::Damaged { backup, .. }) if !done && backup.uuid == self.options.uuid => {
                let wrong = (TABLES..image.len() / 8).find(|u| image.unit(*u) != self.after.unit(*u));
                return wrong
                    .map(|u| format!("the backup is there, and not what it leads to at {:#x}", u * 8));
            }
            Ok(_) if done => return Some("laid out, and not there".into()),
            Ok(_) => return None,
            Err(e) => return Some(format!("probe: {e}")),
        };
        if done && found != self.options.uuid {
            return Some("laid out, and the old one is there".into());
        }
        let (is, whole) =
            if found == self.options.uuid { ("new", &self.after) } else { ("old", &self.before) };
        // What is as it should be, byte for byte, is opened once in the end.
        if image == whole {
            return None;
        }
        let unit = (0..image.len() / 8).find(|u| image.unit(*u) != whole.unit(*u)).unwrap_or(0);
        Some(format!("the {is} BTT is there, and not whole at {:#x}", unit * 8))
    }

    pub(crate) fn explore(
        &self,
        workload: &Workload,
        mutant: Option<Mutant>,
        bounds: &Bounds,
    ) -> Result<(Counts, Option<Violation>)> {
        let mut counts = Counts { runs: 1, ..Counts::default() };
        let mut known: HashMap<(u128, bool), Option<String>> = HashMap::new();
        let mut found: Option<Violation> = None;
        let (moments, _) = self.moments()?;
        let last = moments.len() - 1;
        for (step, cuts) in moments.iter().enumerate() {
            let Some(cuts) = cuts else { continue };
            counts.states += 1;
            let limit = bounds.images.min(if cuts.count() > 4096 { 48 } else { 4096 });
            counts.sampled += u64::from(cuts.count() > u128::from(limit));
            let seed = mix(bounds.seed ^ step as u64);
            let mut worst: Option<(Vec<u16>, String)> = None;
            let (images, _) = cuts.each(limit, seed, |choice, image| {
                let wrong = known.entry((image.hash(), step == last)).or_insert_with(|| {
                    counts.recoveries += 1;
                    self.judge(image, step == last)
                });
                if let Some(wrong) = wrong {
                    let lost = |choice: &[u16]| cuts.lost(choice).len();
                    if worst.as_ref().is_none_or(|(best, _)| lost(choice) < lost(best)) {
                        worst = Some((choice.to_vec(), wrong.clone()));
                    }
                }
                ControlFlow::<()>::Continue(())
            });
            counts.images += images;
            if let Some((choice, what)) = worst {
                let lost = cuts.lost(&choice);
                let size = (0, step, lost.len());
                if found.as_ref().is_none_or(|f| f.size > size) {
                    let case = Case {
                        model: self.model,
                        mutant,
                        workload: workload.clone(),
                        schedule: vec![0; step],
                        choice,
                    };
                    found = Some(Violation { case, what, lost, size, states: counts.states });
                }
            }
            if found.is_some() {
                break;
            }
        }
        if found.is_none() {
            self.opens()?;
        }
        Ok((counts, found))
    }

    /// The new one opens and takes writes, and so does the old one, if it is one, with what it held.
    fn opens(&self) -> Result<()> {
        let device = Btt::open(SimMedium::memory(self.after.clone(), self.model), options(false))?;
        device.write(Lba(1), &[IoSlice::new(&[7; 4096])], WriteFlags::FUA)
    }

    pub(crate) fn replay(&self, case: &Case) -> Result<(Vec<Event>, Image, Option<String>)> {
        let (moments, trace) = self.moments()?;
        let step = case.schedule.len();
        let cuts = moments.get(step).and_then(Option::as_ref).ok_or_else(|| {
            Error::new(Kind::Invalid, "replay").found(case).accepted(format_args!("{} steps", moments.len()))
        })?;
        let image = cuts.image(&case.choice);
        let wrong = self.judge(&image, step + 1 == moments.len());
        Ok((trace, image, wrong))
    }
}

/// A BTT that holds something.
fn old(lbasize: u32) -> Result<Image> {
    let (image, _) = whole(lbasize, UUIDS[0])?;
    let medium = SimMedium::memory(image, Model::X86);
    let device = Btt::open(medium.clone(), options(false))?;
    let size = device.geometry().sector_size as usize;
    for lba in OLD.into_iter().filter(|lba| *lba < device.geometry().sectors) {
        device.write(Lba(lba), &[IoSlice::new(&content::sector(5).repeat(size / 512))], WriteFlags::FUA)?;
    }
    Ok(medium.image())
}
