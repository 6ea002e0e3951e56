// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an image that a cut left is worth: recovered by the real code, read by a second one, and cut again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{IoSlice, IoSliceMut};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt_sim::sim::{self, Small};
use nvstack_btt_sim::{Btt, OpenOptions};
use nvstack_format::btt::Version;
use nvstack_media::{Kind, Result};
use nvstack_sim::{Event, Hook, Image, Model, SimMedium};

use crate::content::{self, Contents};
use crate::naive::{self, Places};
use crate::workload::Workload;

/// What an image holds, or what is wrong with it.
pub(crate) type Verdict = Result<Found, Arc<str>>;

/// What an image holds, once it is recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Of its sectors.
    pub(crate) contents: Contents,
    /// Whether recovery had something to do.
    pub(crate) redone: bool,
}

impl Found {
    /// What is wrong with an image that was cut while nothing was under way, and everything promised.
    pub(crate) fn unrest(&self, at_rest: bool) -> Option<String> {
        (at_rest && self.redone)
            .then(|| "everything was promised, and yet recovery had something to do".into())
    }
}

/// A hash is its own hash.
#[derive(Default)]
pub(crate) struct Through(u64);

impl Hasher for Through {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, word: u128) {
        self.0 ^= word as u64;
    }
}

/// A map from hashes.
pub(crate) type HashedMap<V> = HashMap<u128, V, BuildHasherDefault<Through>>;

/// The options that arenas are opened with here.
pub(crate) fn options(read_only: bool) -> OpenOptions {
    let mut options = OpenOptions::new("explored", Version::V2_0, uuid::Uuid::nil());
    options.read_only = read_only;
    options.zero_entries = true;
    options
}

/// What a sector reads as.
pub(crate) fn read<D: BlockDevice>(device: &D, lba: u64) -> Result<u8> {
    let mut buffer = [0; 512];
    match device.read(Lba(lba), &mut [IoSliceMut::new(&mut buffer)]) {
        Ok(()) => Ok(content::of_sector(&buffer)),
        Err(e) if e.kind() == Kind::Poison => Ok(content::LOST),
        Err(e) => Err(e),
    }
}

/// Takes the images that a cut leaves while a recovery runs.
struct Snapshots {
    medium: Mutex<Option<SimMedium>>,
    images: Mutex<Vec<Image>>,
    limit: u64,
}

impl Snapshots {
    fn take(&self) {
        let medium = self.medium.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(medium) = medium else { return };
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        medium.cuts().each(self.limit, 1, |_, image| {
            images.push(image.clone());
            ControlFlow::<()>::Continue(())
        });
    }
}

impl Hook for Snapshots {
    fn step(&self, _: &Event) -> Result<()> {
        self.take();
        Ok(())
    }

    fn task(&self) -> usize {
        0
    }
}

/// Judges the images of one workload.
pub(crate) struct Judge {
    model: Model,
    shape: Small,
    places: Places,
    sectors: Vec<u32>,
    /// How often the power is cut again while a cut is recovered from; 0 is never.
    depth: u32,
    known: Option<HashedMap<(u32, Verdict)>>,
    /// Images that were recovered and judged, each once if verdicts are kept.
    pub(crate) recoveries: u64,
    /// Images that a cut left inside a recovery.
    pub(crate) inner: u64,
    /// Verdicts are kept for so many images at most.
    room: usize,
}

impl Judge {
    /// For a workload. Unless `keep`, each image is judged anew each time that it comes up.
    pub(crate) fn new(workload: &Workload, model: Model, depth: u32, keep: bool) -> Result<Judge> {
        let shape = workload.shape(model);
        let layout = shape.layout()?;
        let places = Places {
            data: layout.dataoff,
            map: layout.mapoff,
            flog: layout.logoff,
            sectors: shape.sectors,
            lanes: shape.lanes,
        };
        let sectors = (0..workload.sectors()).map(|s| workload.lba(s) as u32).collect();
        let known = keep.then(HashMap::default);
        Ok(Judge { model, shape, places, sectors, depth, known, recoveries: 0, inner: 0, room: 4_000_000 })
    }

    /// Where the parts of its arena lie.
    pub(crate) const fn places(&self) -> &Places {
        &self.places
    }

    /// The numbers that its sectors have in the arena.
    pub(crate) fn sectors(&self) -> &[u32] {
        &self.sectors
    }

    /// Bytes of its arena.
    pub(crate) fn size(&self) -> Result<u64> {
        Ok(self.shape.layout()?.size)
    }

    /// Attaches to an arena of its shape.
    pub(crate) fn open(&self, medium: SimMedium, read_only: bool) -> Result<Btt<SimMedium>> {
        sim::open(medium, options(read_only), &self.shape)
    }

    /// What an image holds.
    pub(crate) fn judge(&mut self, image: &Image) -> Verdict {
        self.judge_to(image, self.depth)
    }

    fn judge_to(&mut self, image: &Image, depth: u32) -> Verdict {
        if let Some((deep, verdict)) = self.known.as_ref().and_then(|k| k.get(&image.hash()))
            && *deep >= depth
        {
            return verdict.clone();
        }
        let verdict = self.recover(image, depth).map_err(Arc::from);
        if let Some(known) = &mut self.known {
            if known.len() >= self.room {
                known.clear();
            }
            known.insert(image.hash(), (depth, verdict.clone()));
        }
        verdict
    }

    fn recover(&mut self, image: &Image, depth: u32) -> Result<Found, String> {
        self.recoveries += 1;
        let linux = naive::decode(image, &self.places).map_err(|e| format!("as Linux reads it: {e}"))?;
        let expected = linux.contents(image, &self.places, &self.sectors);

        let quiet = SimMedium::read_only_of(image.clone(), self.model);
        let device = self.open(quiet, true).map_err(|e| format!("read-only: {e}"))?;
        let found = self.contents(&device).map_err(|e| format!("read-only: {e}"))?;
        compare(found, expected, "read-only, as Linux reads it")?;
        if device.media().image() != *image {
            return Err("a read-only open changed the medium".into());
        }

        let medium = SimMedium::memory(image.clone(), self.model);
        let device = self.open(medium.clone(), false).map_err(|e| format!("recovery: {e}"))?;
        if medium.counts().0 > 0 || linux.redone > 0 {
            self.recovered(image, &medium.image(), expected, depth)?;
        }
        let found = self.contents(&device).map_err(|e| format!("after recovery: {e}"))?;
        compare(found, expected, "after recovery, as Linux reads it")?;
        self.go_on(&device, &medium)?;
        Ok(Found { contents: expected, redone: linux.redone > 0 })
    }

    /// Recovery stored something: that is all there is to do, and a cut in the middle of it does no harm.
    fn recovered(
        &mut self,
        before: &Image,
        after: &Image,
        expected: Contents,
        depth: u32,
    ) -> Result<(), String> {
        let linux = naive::decode(after, &self.places)
            .map_err(|e| format!("after recovery, as Linux reads it: {e}"))?;
        compare(linux.contents(after, &self.places, &self.sectors), expected, "after recovery, by Linux")?;
        if linux.redone > 0 {
            return Err("recovery left something to be done".into());
        }
        let again = SimMedium::memory(after.clone(), self.model);
        self.open(again.clone(), false).map_err(|e| format!("second recovery: {e}"))?;
        if again.counts().0 > 0 || again.image() != *after {
            return Err("a second recovery stored something".into());
        }
        if depth == 0 {
            return Ok(());
        }
        let hook = Arc::new(Snapshots { medium: Mutex::default(), images: Mutex::default(), limit: 256 });
        let medium = SimMedium::hooked(before.clone(), self.model, Arc::<Snapshots>::clone(&hook));
        *hook.medium.lock().unwrap_or_else(PoisonError::into_inner) = Some(medium.clone());
        let device = self.open(medium, false).map_err(|e| format!("recovery: {e}"));
        let left = device.as_ref().map_or(0, |d| d.media().cuts().count());
        // The hook holds the medium that holds the hook.
        *hook.medium.lock().unwrap_or_else(PoisonError::into_inner) = None;
        device?;
        let images = std::mem::take(&mut *hook.images.lock().unwrap_or_else(PoisonError::into_inner));
        for image in &images {
            self.inner += 1;
            if image == before {
                continue;
            }
            let found = self.judge_to(image, depth - 1).map_err(|e| format!("cut in recovery: {e}"))?;
            compare(found.contents, expected, "after a cut in recovery")?;
        }
        // Whatever is done once recovery is over must not find it half durable.
        if left == 1 { Ok(()) } else { Err("recovery is not durable when it is over".into()) }
    }

    /// The device serves writes after it: each sector is written once, and nothing else changes.
    fn go_on(&self, device: &Btt<SimMedium>, medium: &SimMedium) -> Result<(), String> {
        for (n, sector) in (0xe0u8..).zip(&self.sectors) {
            let write = device.write(
                Lba(u64::from(*sector)),
                &[IoSlice::new(&content::sector(n))],
                WriteFlags::empty(),
            );
            write.map_err(|e| format!("a write after recovery: {e}"))?;
        }
        device.flush().map_err(|e| format!("a flush after recovery: {e}"))?;
        let image = medium.image();
        let linux = naive::decode(&image, &self.places).map_err(|e| format!("after more writes: {e}"))?;
        let expected = (0xe0u8..).zip(&self.sectors).map(|(n, _)| n).collect();
        compare(linux.contents(&image, &self.places, &self.sectors), expected, "after more writes")
    }

    fn contents(&self, device: &Btt<SimMedium>) -> Result<Contents> {
        self.sectors.iter().map(|s| read(device, u64::from(*s))).collect()
    }
}

fn compare(found: Contents, expected: Contents, what: &str) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let wrong = (0..8u8).find(|s| found.get(*s) != expected.get(*s)).unwrap_or(0);
    let [found, expected] = [found, expected].map(|c| content::describe(c.get(wrong)));
    Err(format!("{what}: sector {wrong} is {found} and not {expected}"))
}
