// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process is killed, and another one goes on with what it left: all of it is seen, and not all of it is durable. The
//! power is cut while that other one opens the device, and while it writes.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt_sim::Btt;
use nvstack_media::Result;
use nvstack_sim::{Event, Hook, Image, Lost, Model, Operation, SimMedium, mix};

use crate::content::{self, Contents};
use crate::judge::{Judge, read};
use crate::oracle::Allowed;

/// Images at one moment after a kill; of more, a sample.
const IMAGES: u64 = 64;

/// A cut after a kill.
struct Cut {
    /// Operations of the survivor before it, from 1.
    step: u32,
    choice: Vec<u16>,
    image: Image,
    lost: Vec<Lost>,
}

/// Cuts the power before each operation of the survivor that changes what a cut leaves, and keeps the images.
#[derive(Default)]
struct Cutter(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    medium: Option<SimMedium>,
    step: u32,
    /// The one step that is wanted, if not all are.
    only: Option<u32>,
    cuts: Vec<Cut>,
    events: Vec<String>,
}

impl Cutter {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(kept: &mut Kept) {
        kept.step += 1;
        if kept.only.is_some_and(|only| only != kept.step) {
            return;
        }
        let Some(medium) = kept.medium.clone() else { return };
        let (step, all) = (kept.step, medium.cuts());
        let cuts = &mut kept.cuts;
        all.each(IMAGES, mix(u64::from(step)), |choice, image| {
            cuts.push(Cut { step, choice: choice.to_vec(), image: image.clone(), lost: all.lost(choice) });
            ControlFlow::<()>::Continue(())
        });
    }
}

impl Hook for Cutter {
    fn step(&self, event: &Event) -> Result<()> {
        let mut kept = self.lock();
        if kept.only.is_some() {
            kept.events.push(event.to_string());
        }
        if !matches!(event.operation, Operation::Load | Operation::Read | Operation::Flush) {
            Cutter::cut(&mut kept);
        }
        Ok(())
    }

    fn task(&self) -> usize {
        0
    }
}

/// What was wrong after a kill.
pub(crate) struct Wrong {
    /// Steps of the survivor.
    pub(crate) step: u32,
    pub(crate) choice: Vec<u16>,
    pub(crate) what: String,
    pub(crate) lost: Vec<Lost>,
}

/// What a survivor saw.
pub(crate) struct Outcome {
    pub(crate) wrong: Option<Wrong>,
    /// Images that were judged, alike ones of one moment once.
    pub(crate) images: u64,
    /// If one step was wanted: what was done up to there.
    pub(crate) events: Vec<String>,
    /// And the image of the choice that was wanted.
    pub(crate) image: Option<Image>,
}

/// What the survivor does, and what may be found after a cut meanwhile.
struct Survivor<'a> {
    judge: &'a mut Judge,
    cutter: Arc<Cutter>,
    allowed: Allowed,
    images: u64,
    found: Option<(u32, Vec<u16>, Option<String>, Image)>,
    wanted: Option<&'a [u16]>,
}

impl Survivor<'_> {
    /// Judges the cuts since the last call.
    fn check(&mut self) -> Result<(), Wrong> {
        let cuts = std::mem::take(&mut self.cutter.lock().cuts);
        for Cut { step, choice, image, lost } in cuts {
            self.images += 1;
            let wrong = match self.judge.judge(&image) {
                Ok(found) => self.allowed.finds(found.contents),
                Err(wrong) => Some(wrong.to_string()),
            };
            if let Some(wanted) = self.wanted {
                if choice == wanted {
                    let what = wrong.map(|w| format!("after a kill: {w}"));
                    self.found = Some((step, choice, what, image));
                }
            } else if let Some(wrong) = wrong {
                return Err(Wrong { step, choice, what: format!("after a kill: {wrong}"), lost });
            }
        }
        Ok(())
    }

    fn failed(&self, what: String) -> Wrong {
        let step = self.cutter.lock().step.max(1);
        Wrong { step, choice: Vec::new(), what: format!("after a kill: {what}"), lost: Vec::new() }
    }

    /// A request of the survivor: cuts before its answer and after it.
    fn request(&mut self, what: &str, outcome: Result<()>) -> Result<(), Wrong> {
        outcome.map_err(|e| self.failed(format!("{what} failed: {e}")))?;
        self.check()
    }

    fn contents(&self, device: &Btt<SimMedium>) -> Result<Contents> {
        self.judge.sectors().iter().map(|s| read(device, u64::from(*s))).collect()
    }

    /// Opens the device, and writes each sector twice: so the lanes that the dead one used come into use again.
    fn live(&mut self, medium: SimMedium, model: Model) -> Result<(), Wrong> {
        let device = self.judge.open(medium, false);
        let device = device.map_err(|e| self.failed(format!("open: {e}")))?;
        self.check()?;
        let seen = self.contents(&device).map_err(|e| self.failed(format!("read: {e}")))?;
        if let Some(wrong) = self.allowed.finds(seen) {
            return Err(self.failed(wrong));
        }
        // What is there once a device is open stays, whatever is cut: recovery has nothing in hand that may go away.
        self.allowed.settle(seen);
        let sectors: Vec<u32> = self.judge.sectors().to_vec();
        for round in [0xe0u8, 0xe8] {
            for (sector, lba) in (0u8..).zip(&sectors) {
                let content = round | sector;
                self.allowed.add(sector, content);
                let bytes = content::sector(content);
                let outcome =
                    device.write(Lba(u64::from(*lba)), &[std::io::IoSlice::new(&bytes)], WriteFlags::empty());
                self.request("a write", outcome)?;
                if model != Model::Pages {
                    self.allowed.only(sector, content);
                }
            }
            let outcome = device.flush();
            self.request("a flush", outcome)?;
            for sector in (0u8..).zip(&sectors).map(|(sector, _)| sector) {
                self.allowed.only(sector, round | sector);
            }
        }
        Cutter::cut(&mut self.cutter.lock());
        self.check()
    }
}

/// Kills whoever uses a medium, and lets another process go on. `only` wants one moment of it: the number of its steps,
/// and the image.
pub(crate) fn kill(
    medium: &SimMedium,
    model: Model,
    judge: &mut Judge,
    allowed: &Allowed,
    only: Option<(u32, &[u16])>,
) -> Outcome {
    let cutter = Arc::new(Cutter::default());
    let survivor = medium.survivor(Arc::<Cutter>::clone(&cutter));
    {
        let mut kept = cutter.lock();
        kept.medium = Some(survivor.clone());
        kept.only = only.map(|(step, _)| step);
    }
    let wanted = only.map(|(_, choice)| choice);
    let mut life = Survivor { judge, cutter, allowed: allowed.clone(), images: 0, found: None, wanted };
    let wrong = life.live(survivor, model).err();
    // The hook holds the medium that holds the hook.
    let mut kept = life.cutter.lock();
    kept.medium = None;
    let events = std::mem::take(&mut kept.events);
    drop(kept);
    match life.found.take() {
        Some((step, choice, what, image)) => Outcome {
            wrong: what.map(|what| Wrong { step, choice, what, lost: Vec::new() }),
            images: life.images,
            events,
            image: Some(image),
        },
        None => Outcome { wrong, images: life.images, events, image: None },
    }
}
