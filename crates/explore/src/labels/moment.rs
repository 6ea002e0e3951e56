// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several media whose power is cut at one moment.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvstack_media::{Error, Kind, Result};
use nvstack_sim::{Cuts, Event, Hook, Image, Model, Operation, SimMedium, mix};

/// A moment at which the power may go: just before an operation on a medium, or after the last one.
pub(crate) struct Moment {
    /// Changes that were answered.
    pub(crate) answered: usize,
    /// What each medium could hold then.
    pub(crate) cuts: Vec<Cuts>,
    /// The operation that does not happen any more.
    pub(crate) event: String,
    /// Whether the last operation was a flush, which by itself makes nothing durable: the same images are possible as
    /// before it.
    pub(crate) same: bool,
}

#[derive(Default)]
struct Inner {
    media: Vec<SimMedium>,
    moments: Vec<Moment>,
    answered: usize,
    flushed: bool,
    steps: usize,
    fail_at: Option<usize>,
    failed: bool,
    /// Who notes what becomes of a medium after a kill, and that medium.
    heir: Option<(Arc<Recorder>, Option<SimMedium>)>,
}

/// Notes every moment of what is done to some media.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Inner>);

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Media that hold these images.
    pub(crate) fn media(
        images: &[Image],
        model: Model,
        fail_at: Option<usize>,
    ) -> (Arc<Recorder>, Vec<SimMedium>) {
        let recorder = Arc::new(Recorder::default());
        let hook = |image: &Image| {
            SimMedium::hooked(image.clone(), model, Arc::<Recorder>::clone(&recorder) as Arc<dyn Hook>)
        };
        let media: Vec<SimMedium> = images.iter().map(hook).collect();
        let mut inner = recorder.lock();
        inner.media.clone_from(&media);
        inner.fail_at = fail_at;
        drop(inner);
        (recorder, media)
    }

    /// A medium that holds an image, whose process is killed before an operation: that and all later ones fail.
    pub(crate) fn killed(image: &Image, model: Model, at: usize) -> (Arc<Recorder>, Vec<SimMedium>) {
        let (recorder, media) = Recorder::media(std::slice::from_ref(image), model, Some(at));
        recorder.lock().heir = Some((Arc::default(), None));
        (recorder, media)
    }

    /// The medium as the killed process left it, in the hands of another one, after so many changes were answered.
    pub(crate) fn survivor(&self, answered: usize) -> Option<(Arc<Recorder>, SimMedium)> {
        let (recorder, medium) = self.lock().heir.take()?;
        let medium = medium?;
        let mut inner = recorder.lock();
        inner.media = vec![medium.clone()];
        inner.answered = answered;
        drop(inner);
        Some((recorder, medium))
    }

    /// One more change was answered.
    pub(crate) fn answer(&self) {
        let mut inner = self.lock();
        inner.answered += 1;
        inner.flushed = false;
    }

    /// Whether an operation was made to fail.
    pub(crate) fn failed(&self) -> bool {
        self.lock().failed
    }

    /// All moments, and that after the last operation. The media are let go of.
    pub(crate) fn end(&self) -> Vec<Moment> {
        self.note("the end".to_owned());
        let mut inner = self.lock();
        inner.media.clear();
        std::mem::take(&mut inner.moments)
    }

    fn note(&self, event: String) {
        let media = self.lock().media.clone();
        let cuts = media.iter().map(SimMedium::cuts).collect();
        let mut inner = self.lock();
        let (answered, same) = (inner.answered, inner.flushed);
        inner.moments.push(Moment { answered, cuts, event, same });
    }
}

impl Hook for Recorder {
    fn step(&self, event: &Event) -> Result<()> {
        if matches!(event.operation, Operation::Load | Operation::Read) {
            return Ok(());
        }
        self.note(event.to_string());
        let mut inner = self.lock();
        inner.steps += 1;
        let dies = inner.fail_at.is_some_and(|at| at + 1 == inner.steps);
        if dies && let (Some(medium), Some((heir, _))) = (inner.media.first().cloned(), inner.heir.clone()) {
            let survivor = medium.survivor(Arc::<Recorder>::clone(&heir) as Arc<dyn Hook>);
            inner.heir = Some((heir, Some(survivor)));
        }
        inner.flushed = event.operation == Operation::Flush;
        if inner.fail_at.is_some_and(|at| at + 1 == inner.steps) {
            inner.failed = true;
            return Err(Error::new(Kind::Io, "use simulated medium").found("a fault that was asked for"));
        }
        Ok(())
    }

    fn task(&self) -> usize {
        0
    }
}

impl Moment {
    /// How many sets of images there are.
    pub(crate) fn count(&self) -> u128 {
        self.cuts.iter().fold(1, |n, cuts| n.saturating_mul(cuts.count()))
    }

    /// Gives every set of images, one image for each medium, or a sample of about `limit`.
    pub(crate) fn each<B>(
        &self,
        limit: u64,
        mut each: impl FnMut(&[Vec<u16>], &[Image]) -> ControlFlow<B>,
    ) -> (u64, Option<B>) {
        let limit = if self.count() <= u128::from(limit) {
            limit
        } else {
            // Each medium with a choice at all gets the same share.
            let several = self.cuts.iter().filter(|cuts| cuts.count() > 1).count() as u32;
            let mut share = 1u64;
            while (share + 1).checked_pow(several).is_some_and(|all| all <= limit) {
                share += 1;
            }
            share.max(2)
        };
        let (mut choices, mut images) = (Vec::new(), Vec::new());
        let mut given = 0;
        let out = descend(&self.cuts, limit, &mut choices, &mut images, &mut |choices, images| {
            given += 1;
            each(choices, images)
        });
        (given, out)
    }

    /// One set of images.
    pub(crate) fn images(&self, choices: &[Vec<u16>]) -> Vec<Image> {
        let none = Vec::new();
        self.cuts.iter().enumerate().map(|(i, cuts)| cuts.image(choices.get(i).unwrap_or(&none))).collect()
    }
}

type Each<'e, B> = &'e mut dyn FnMut(&[Vec<u16>], &[Image]) -> ControlFlow<B>;

fn descend<B>(
    cuts: &[Cuts],
    limit: u64,
    choices: &mut Vec<Vec<u16>>,
    images: &mut Vec<Image>,
    each: Each<'_, B>,
) -> Option<B> {
    let Some((first, rest)) = cuts.split_first() else {
        return match each(choices, images) {
            ControlFlow::Break(b) => Some(b),
            ControlFlow::Continue(()) => None,
        };
    };
    let (_, out) = first.each(limit, 1, |choice, image| {
        choices.push(choice.to_vec());
        images.push(image.clone());
        let out = descend(rest, limit, choices, images, each);
        choices.pop();
        images.pop();
        match out {
            Some(b) => ControlFlow::Break(b),
            None => ControlFlow::Continue(()),
        }
    });
    out
}

/// A hash of a set of images.
pub(crate) fn hash(images: &[Image]) -> u128 {
    images.iter().fold(0, |h, image| {
        let h = h.rotate_left(21) ^ image.hash();
        u128::from(mix((h >> 64) as u64)) << 64 | u128::from(mix(h as u64))
    })
}
