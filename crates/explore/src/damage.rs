// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that no power cut leaves: words of the tables changed, bits of info blocks turned. Whoever opens such an arena is
//! told, or it does no harm.

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt_sim::{Btt, CreateOptions, create};
use nvstack_format::btt::{ARENA_MIN, Info, LbaSize, Version};
use nvstack_media::{Kind, MediaOffset, Result};
use nvstack_sim::{Image, Model, SimMedium, mix};
use uuid::Uuid;

use crate::Mutant;
use crate::case::{Case, Violation};
use crate::content;
use crate::explorer::{Bounds, Counts, start};
use crate::judge::{Judge, options, read};
use crate::naive;
use crate::workload::Workload;

/// Values that a word may get, beside all numbers up to that of blocks and two more.
const VALUES: [u32; 7] =
    [0xc000_0000, 0x8000_0000, 0x4000_0000, 0xffff_ffff, 0x3fff_ffff, 0xc000_0001, 0x4000_0002];

/// Damages the arena that a workload begins with.
pub(crate) struct Damager<'w> {
    workload: &'w Workload,
    model: Model,
    judge: Judge,
    start: Image,
    /// The words that are changed, by their places.
    words: Vec<u64>,
    values: Vec<u32>,
}

impl<'w> Damager<'w> {
    pub(crate) fn new(workload: &'w Workload, model: Model) -> Result<Damager<'w>> {
        let judge = Judge::new(workload, model, 0, false)?;
        let start = start(workload, &judge)?;
        let places = *judge.places();
        let map = (0..places.sectors).map(|s| places.map + u64::from(s) * 4);
        let flog = (0..places.lanes * 16).map(|w| places.flog + u64::from(w) * 4);
        let words = map.chain(flog).collect();
        let values = (0..places.sectors + places.lanes + 2).chain(VALUES).collect();
        Ok(Damager { workload, model, judge, start, words, values })
    }

    /// The image of a choice: pairs of a word's number and a value's.
    pub(crate) fn image(&self, choice: &[u16]) -> Image {
        let mut image = self.start.clone();
        for pair in choice.chunks_exact(2) {
            let word = self.words.get(usize::from(pair[0])).copied();
            let value = self.values.get(usize::from(pair[1])).copied();
            if let (Some(word), Some(value)) = (word, value) {
                image.write(word, &value.to_le_bytes());
            }
        }
        image
    }

    /// Changes each word to each value, and so many pairs of words.
    pub(crate) fn explore(&self, mutant: Option<Mutant>, bounds: &Bounds) -> (Counts, Option<Violation>) {
        let mut counts = Counts { states: 1, runs: 1, ..Counts::default() };
        let (words, values) = (self.words.len() as u64, self.values.len() as u64);
        let singles = (0..words * values).map(|n| vec![(n / values) as u16, (n % values) as u16]);
        let pairs = (0..bounds.images).map(|n| {
            let mut random = mix(bounds.seed ^ n);
            let mut roll = |n: u64| {
                random = mix(random);
                ((random >> 20) % n) as u16
            };
            vec![roll(words), roll(values), roll(words), roll(values)]
        });
        for choice in singles.chain(pairs) {
            counts.damaged += 1;
            let image = self.image(&choice);
            let Err(what) = self.judge(&image) else { continue };
            let case = Case {
                model: self.model,
                mutant,
                workload: self.workload.clone(),
                schedule: Vec::new(),
                choice: choice.clone(),
            };
            let size = (0, 0, choice.len());
            return (counts, Some(Violation { case, what, lost: Vec::new(), size, states: counts.damaged }));
        }
        (counts, None)
    }

    /// Whether a damaged arena is refused, or does no harm.
    pub(crate) fn judge(&self, image: &Image) -> Result<(), String> {
        let places = self.judge.places();
        let naive = naive::read_tables(image, places);
        let quiet = self.judge.open(SimMedium::read_only_of(image.clone(), self.model), true);
        let medium = SimMedium::memory(image.clone(), self.model);
        let device = self.judge.open(medium.clone(), false);
        for e in quiet.as_ref().err().into_iter().chain(device.as_ref().err()) {
            if e.kind() != Kind::Corrupt {
                return Err(format!("refused as something else than corrupt: {e}"));
            }
        }
        let tables = match naive {
            Ok(tables) => match tables.flog_danger(places) {
                None => tables,
                Some(why) if quiet.is_ok() || device.is_ok() => return Err(format!("opened, though {why}")),
                Some(_) => return Ok(()),
            },
            Err(why) if quiet.is_ok() || device.is_ok() => return Err(format!("opened, though {why}")),
            Err(_) => return Ok(()),
        };
        if let Ok(quiet) = &quiet {
            self.compare(quiet, &tables, image, "read-only")?;
        }
        let device = match device {
            Ok(_) if tables.danger(places).is_some() => {
                return Err(format!(
                    "opened for writing, though {}",
                    tables.danger(places).unwrap_or_default()
                ));
            }
            Ok(device) => device,
            Err(_) if medium.image() != *image => return Err("refused, and changed".into()),
            Err(_) => return Ok(()),
        };
        self.compare(&device, &tables, image, "opened for writing")?;
        for sector in 0..places.sectors {
            let before = medium.image();
            let data = content::sector(7);
            let written = device.write(Lba(sector.into()), &[std::io::IoSlice::new(&data)], WriteFlags::FUA);
            match (written, tables.is_sound(places, sector)) {
                (Ok(()), true) => {}
                (Ok(()), false) => return Err(format!("sector {sector} has no block, and was written")),
                (Err(e), true) => {
                    return Err(format!("a write to sector {sector} after damage elsewhere: {e}"));
                }
                // Its data may have gone into a free block.
                (Err(_), false) => {
                    let now = medium.image();
                    let tables = |image: &Image| -> Vec<u64> {
                        (places.map / 8..image.len() / 8).map(|u| image.unit(u)).collect()
                    };
                    if tables(&before) != tables(&now) {
                        return Err(format!(
                            "a write to sector {sector}, which has no block, failed too late"
                        ));
                    }
                }
            }
        }
        let after = naive::read_tables(&medium.image(), places)?;
        match after.danger(places) {
            Some(why) => Err(format!("after more writes {why}")),
            None => Ok(()),
        }
    }

    fn compare(
        &self,
        device: &Btt<SimMedium>,
        tables: &naive::Decoded,
        image: &Image,
        what: &str,
    ) -> Result<(), String> {
        let places = self.judge.places();
        for sector in 0..places.sectors {
            let found = read(device, sector.into());
            let expected = tables.content(image, places, sector);
            match found {
                Ok(found) if !tables.is_sound(places, sector) && !matches!(found, 0 | content::LOST) => {
                    return Err(format!("{what}: sector {sector} has no block, and reads"));
                }
                Ok(found) if tables.is_sound(places, sector) && found != expected => {
                    let [found, expected] = [found, expected].map(content::describe);
                    return Err(format!("{what}: sector {sector} is {found} and not {expected}"));
                }
                Err(e) if tables.is_sound(places, sector) => {
                    return Err(format!("{what}: sector {sector}: {e}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A BTT of a whole arena, as this engine lays it out.
pub(crate) fn whole(lbasize: u32, uuid: u128) -> Result<(Image, CreateOptions)> {
    let lbasize = LbaSize::new(lbasize)
        .map_err(|f| nvstack_media::Error::invalid(Kind::Invalid, "lay out", MediaOffset(0), f))?;
    let options = CreateOptions {
        version: Version::V2_0,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(uuid),
        lbasize,
        overwrite: true,
    };
    let medium = SimMedium::memory(Image::zeros(ARENA_MIN), Model::X86);
    create(&medium, &options)?;
    Ok((medium.image(), options))
}

/// The image of a damaged whole arena: one bit of the info block turned, or, as number 4096, a second arena behind it that is of
/// another BTT.
pub(crate) fn whole_image(number: u16) -> Result<Image> {
    let (mut image, options) = whole(512, 7)?;
    if number < 4096 {
        let at = u64::from(number);
        let mut byte = [0];
        image.read(at, &mut byte);
        image.write(at, &[byte[0] ^ 1 << (number % 8)]);
        return Ok(image);
    }
    let (second, _) = whole(512, 8)?;
    let mut raw = [0; 4096];
    image.read(0, &mut raw);
    let found = Info::parse(&raw, options.version, options.parent, ARENA_MIN);
    let mut info = found.map_err(|r| {
        nvstack_media::Error::invalid(Kind::Corrupt, "lay out", MediaOffset(0), r.invalid().clone())
    })?;
    info.layout.nextoff = ARENA_MIN;
    let mut both = Image::zeros(ARENA_MIN * 2);
    for (from, base) in [(&image, 0), (&second, ARENA_MIN)] {
        for unit in 0..ARENA_MIN / 8 {
            both.set_unit(base / 8 + unit, from.unit(unit));
        }
    }
    for at in [0, info.layout.info2off] {
        both.write(at, &info.encode());
    }
    Ok(both)
}

/// What is wrong with how a damaged whole arena is met.
pub(crate) fn judge_whole(image: &Image, model: Model) -> Option<String> {
    for read_only in [true, false] {
        let medium = SimMedium::memory(image.clone(), model);
        match Btt::open(medium.clone(), options(read_only)) {
            Ok(_) => return Some("a damaged info block was taken for a whole one".into()),
            Err(e) if !matches!(e.kind(), Kind::Unrecognised | Kind::Corrupt) => {
                return Some(format!("refused as something else than corrupt: {e}"));
            }
            Err(_) if medium.image() != *image => return Some("refused, and changed".into()),
            Err(_) => {}
        }
    }
    None
}

/// Damages a whole arena in every byte of its info block.
pub(crate) fn explore_whole(
    workload: &Workload,
    model: Model,
    mutant: Option<Mutant>,
) -> Result<(Counts, Option<Violation>)> {
    let mut counts = Counts { states: 1, runs: 1, ..Counts::default() };
    let (sound, _) = whole(512, 7)?;
    for number in (0..4096).chain([4096]) {
        let image = if number < 4096 {
            let mut image = sound.clone();
            let mut byte = [0];
            image.read(u64::from(number), &mut byte);
            image.write(u64::from(number), &[byte[0] ^ 1 << (number % 8)]);
            image
        } else {
            whole_image(number)?
        };
        counts.damaged += 1;
        if let Some(what) = judge_whole(&image, model) {
            let case = Case {
                model,
                mutant,
                workload: workload.clone(),
                schedule: Vec::new(),
                choice: vec![number],
            };
            let size = (0, 0, 1);
            let violation = Violation { case, what, lost: Vec::new(), size, states: counts.damaged };
            return Ok((counts, Some(violation)));
        }
    }
    Ok((counts, None))
}
