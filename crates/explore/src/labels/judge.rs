// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a set of images that a cut left is worth: read by the engine and by a second reader, settled, cut again in that, and
//! changed further.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvstack_format::label::Flags;
use nvstack_label_sim::{Assembled, FindingKind, LabelArea};
use nvstack_media::Kind;
use nvstack_sim::{Image, Model, SimMedium, mix};
use uuid::Uuid;

use super::moment::{Moment, Recorder, hash};
use super::naive::{self, GivenUp};
use super::workload::{CLASSES, COOKIES, Change, Deed, Ns, SIZE, START, State, Step, open, set, state};
use crate::judge::Through;

/// What there is, or what is wrong.
type Verdict = Result<State, Arc<str>>;

/// What may be found.
#[derive(Clone, Debug)]
pub(crate) struct Expect<'w> {
    /// The change under way, or the last one.
    pub(crate) step: &'w Step,
    /// A number that tells this from other expectations of the workload.
    pub(crate) number: usize,
    /// The states that there may be.
    pub(crate) allowed: Vec<State>,
    /// Whether nothing may be half-way.
    pub(crate) whole: bool,
}

/// What was met: counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Different sets of images that were judged by all rules.
    pub(crate) recoveries: u64,
    /// Sets of images that cuts in repairs left.
    pub(crate) inner: u64,
    /// Sets of images of which Linux shows nothing until they are settled.
    pub(crate) given_up: u64,
    /// Moments in repairs of whose images a sample was taken.
    pub(crate) sampled: u64,
}

/// What a set of images reads as.
struct Reading {
    areas: Vec<Option<naive::Area>>,
    found: State,
    assembled: Assembled,
}

/// Judges the images of one workload.
pub(crate) struct Judge {
    model: Model,
    ways: usize,
    depth: u32,
    /// Images at one moment of a repair.
    limit: u64,
    /// How many images of areas that are made anew, of those that read alike, are tried further.
    raw: u64,
    classes: HashMap<u64, u64>,
    known: Option<HashMap<u128, (u32, Verdict), BuildHasherDefault<Through>>>,
    pub(crate) judged: Judged,
    /// Set when nothing more is to be looked at.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Judge {
    pub(crate) fn new(model: Model, ways: u8, depth: u32, limit: u64, keep: bool) -> Judge {
        let known = keep.then(HashMap::default);
        Judge {
            model,
            ways: ways.into(),
            depth,
            limit,
            raw: if keep { 16 } else { u64::MAX },
            classes: HashMap::new(),
            known,
            judged: Judged::default(),
            stop: Arc::default(),
        }
    }

    /// What a set of images holds.
    pub(crate) fn judge(&mut self, images: &[Image], expect: &Expect<'_>) -> Verdict {
        self.judge_to(images, expect, self.depth)
    }

    fn judge_to(&mut self, images: &[Image], expect: &Expect<'_>, depth: u32) -> Verdict {
        let bytes: Vec<Vec<u8>> = images.iter().map(Image::to_bytes).collect();
        let areas: Vec<Option<naive::Area>> = bytes.iter().map(|b| naive::read(b)).collect();
        let key = key(images, &bytes, &areas, expect);
        if let Some((deep, verdict)) = self.known.as_ref().and_then(|k| k.get(&key))
            && *deep >= depth
        {
            return verdict.clone();
        }
        self.judged.recoveries += 1;
        let verdict = self.recover(images, areas, expect, depth).map_err(Arc::from);
        if let Some(known) = &mut self.known {
            known.insert(key, (depth, verdict.clone()));
        }
        verdict
    }

    fn recover(
        &mut self,
        images: &[Image],
        areas: Vec<Option<naive::Area>>,
        expect: &Expect<'_>,
        depth: u32,
    ) -> Result<State, String> {
        let quiet: Vec<SimMedium> =
            images.iter().map(|i| SimMedium::read_only_of(i.clone(), self.model)).collect();
        let reading = self.read(&quiet, areas, expect, expect.whole)?;
        if !expect.allowed.contains(&reading.found) {
            let allowed: Vec<String> = expect.allowed.iter().map(describe).collect();
            return Err(format!("there is {}, and not {}", describe(&reading.found), allowed.join(" or ")));
        }
        if expect.step.change.is_raw() {
            // Nearly every image of a half-written block is one of its own. What differs is rubbish to every reader, and does not
            // stand in the way of another try: a sample is enough.
            let class = self.classes.entry(class(images, &reading, expect)).or_insert(0);
            *class += 1;
            if *class > self.raw {
                return Ok(reading.found);
            }
            self.go_on(images, &reading, &reading.found, expect, depth)?;
            return Ok(reading.found);
        }
        let settled = self.settle(images, &quiet, &reading, expect, depth)?;
        self.go_on(images, &reading, &settled, expect, depth)?;
        Ok(reading.found)
    }

    /// Reads, with the engine and without it, and holds the one against the other. Nothing is changed by that.
    fn read(
        &mut self,
        media: &[SimMedium],
        areas: Vec<Option<naive::Area>>,
        expect: &Expect<'_>,
        whole: bool,
    ) -> Result<Reading, String> {
        let before: Vec<Image> = media.iter().map(SimMedium::image).collect();
        let mut ours = open(media).map_err(|e| format!("open: {e}"))?;
        for (dimm, (ours, linux)) in ours.iter().zip(&areas).enumerate() {
            compare(ours, linux.as_ref()).map_err(|e| format!("DIMM {dimm}: {e}"))?;
            let Some(linux) = linux else {
                if expect.step.change.is_raw() {
                    continue;
                }
                return Err(format!("DIMM {dimm}: no index block is valid"));
            };
            sane(linux).map_err(|e| format!("DIMM {dimm}: {e}"))?;
        }
        let set = set(&mut ours).map_err(|e| e.to_string())?;
        let assembled = set.assemble().map_err(|e| format!("assemble: {e}"))?;
        let none = areas.iter().all(Option::is_none);
        let found = (!none).then(|| state(&assembled));
        let reading = Reading { areas, found, assembled };
        reading.half_way(expect, whole)?;
        if self.region_of_linux(&reading, expect)? {
            self.judged.given_up += 1;
        }
        if media.iter().map(SimMedium::image).ne(before) {
            return Err("reading changed a label area".into());
        }
        Ok(reading)
    }

    /// What Linux makes of the region: the same, or nothing while a change of labels on several DIMMs is not settled. Tells
    /// whether it is the latter.
    fn region_of_linux(&self, reading: &Reading, expect: &Expect<'_>) -> Result<bool, String> {
        let region = naive::Region { start: START, size: SIZE, cookies: [COOKIES.v1_1, COOKIES.v1_2] };
        let ours = reading.found.clone().unwrap_or_default();
        let half_way = !reading.assembled.findings.is_empty();
        // Of a namespace that has no label on the first DIMM Linux does not know; and there it begins to look.
        let order = matches!(expect.step.change, Change::Create | Change::Delete);
        let linux = match region.scan(&reading.areas) {
            Err(e @ GivenUp::Overlap(_)) => return Err(format!("Linux gives up the DIMM: {e}")),
            Err(e) if !half_way || order || self.ways == 1 => {
                return Err(format!("Linux gives up the region: {e}"));
            }
            Err(_) => return Ok(true),
            Ok(linux) => linux,
        };
        let by_them = linux.iter().filter(|n| !half_way || !expect.step.touches(Uuid::from_bytes(n.uuid)));
        let by_us: Vec<&Ns> = ours.iter().filter(|n| !half_way || !expect.step.touches(n.id)).collect();
        let mut count = 0;
        for (n, theirs) in by_them.enumerate() {
            count += 1;
            let same = by_us.get(n).is_some_and(|ns| {
                let guid =
                    CLASSES.get(usize::from(ns.class)).map(|c| nvstack_format::guid::to_media(c.guid()));
                (ns.start, ns.size, ns.lbasize) == (theirs.start, theirs.size, theirs.lbasize)
                    && (ns.id.as_bytes(), &ns.name) == (&theirs.uuid, &theirs.name)
                    && (theirs.guids.is_empty() || guid.is_some_and(|g| theirs.guids.ends_with(&g)))
            });
            if !same {
                return Err(format!("Linux has {theirs:?}, and not {:?}", by_us.get(n)));
            }
        }
        if count != by_us.len() {
            return Err(format!("Linux has {count} namespaces, and not {}", by_us.len()));
        }
        Ok(false)
    }

    /// Ends what was half-way. Gives the state that is there then.
    fn settle(
        &mut self,
        images: &[Image],
        quiet: &[SimMedium],
        reading: &Reading,
        expect: &Expect<'_>,
        depth: u32,
    ) -> Result<State, String> {
        let mut uuids: Vec<Uuid> = reading.assembled.findings.iter().filter_map(|f| f.uuid).collect();
        uuids.dedup();
        let half_way = !uuids.is_empty();
        if !half_way {
            uuids = reading.found.iter().flatten().map(|n| n.id).collect();
        }
        if half_way {
            let mut areas = open(quiet).map_err(|e| e.to_string())?;
            let mut set = set(&mut areas).map_err(|e| e.to_string())?;
            if set.settle(uuids[0]).map_err(|e| e.kind()) != Err(Kind::ReadOnly) {
                return Err("settling read-only is not refused".into());
            }
        }
        let media = self.memory(images);
        settle_all(&media, &uuids, half_way)?;
        if !half_way {
            let stored = media.iter().any(|m| m.counts().0 > 0);
            return if stored {
                Err("settling what is whole stores".into())
            } else {
                Ok(reading.found.clone())
            };
        }
        let after = self.whole(&media, expect, "after settling")?;
        let usable = reading.assembled.namespaces.iter().any(|n| n.half_way);
        if usable && after != reading.found {
            return Err(format!("settling made {} of {}", describe(&after), describe(&reading.found)));
        }
        if !expect.allowed.contains(&after) {
            return Err(format!("settled there is {}", describe(&after)));
        }
        let again = self.memory(&media.iter().map(SimMedium::image).collect::<Vec<_>>());
        settle_all(&again, &uuids, false)?;
        if again.iter().any(|m| m.counts().0 > 0) {
            return Err("settling twice stores twice".into());
        }
        let allowed = vec![reading.found.clone(), after.clone()];
        self.cut_in(images, "settling", expect, depth, allowed, |media| settle_all(media, &uuids, true))?;
        Ok(after)
    }

    /// Whatever was cut can be done again, and what is there can go.
    fn go_on(
        &mut self,
        images: &[Image],
        reading: &Reading,
        settled: &State,
        expect: &Expect<'_>,
        depth: u32,
    ) -> Result<(), String> {
        let step = expect.step;
        let media = self.memory(images);
        let gone = matches!(step.deed, Deed::Delete(_))
            && reading.found == step.after
            && reading.assembled.findings.is_empty();
        let again = |media: &[SimMedium]| -> Result<(), String> {
            let mut areas = open(media).map_err(|e| e.to_string())?;
            match step.again(&mut areas) {
                Err(e) if e.kind() == Kind::NotFound && gone => Ok(()),
                other => other.map_err(|e| format!("once more: {e}")),
            }
        };
        again(&media)?;
        let done = self.whole(&media, expect, "done once more")?;
        if done != step.after {
            return Err(format!("done once more there is {}", describe(&done)));
        }
        let half_way = !reading.assembled.findings.is_empty() || step.change.is_raw();
        if half_way {
            let mut allowed = vec![reading.found.clone(), settled.clone(), done];
            if step.change.is_raw() {
                allowed.push(None);
            }
            self.cut_in(images, "doing it once more", expect, depth, allowed, again)?;
        }
        if step.change.is_raw() {
            return Ok(());
        }
        // Who does not want it deletes it; and something else can take its place.
        let subject =
            settled.iter().flatten().chain(step.after.iter().flatten()).find(|n| step.touches(n.id));
        let Some(subject) = subject else { return Ok(()) };
        let there = reading.assembled.findings.iter().any(|f| f.uuid == Some(subject.id))
            || reading.found.iter().flatten().any(|n| n.id == subject.id);
        let media = self.memory(images);
        let mut areas = open(&media).map_err(|e| e.to_string())?;
        let mut set = set(&mut areas).map_err(|e| e.to_string())?;
        match set.delete(subject.id) {
            Err(e) if e.kind() == Kind::NotFound && !there => return Ok(()),
            other => other.map_err(|e| format!("delete: {e}"))?,
        }
        let without: Vec<Ns> =
            reading.found.iter().flatten().filter(|n| n.id != subject.id).cloned().collect();
        let left = self.whole(&media, expect, "deleted")?;
        if left.iter().flatten().any(|n| n.id == subject.id) {
            return Err("it is there after it was deleted".into());
        }
        if !half_way && left != Some(without) {
            return Err(format!("deleted there is {}", describe(&left)));
        }
        Ok(())
    }

    /// Cuts the power in a repair.
    fn cut_in(
        &mut self,
        images: &[Image],
        what: &str,
        expect: &Expect<'_>,
        depth: u32,
        mut allowed: Vec<State>,
        repair: impl FnOnce(&[SimMedium]) -> Result<(), String>,
    ) -> Result<(), String> {
        if depth == 0 {
            return Ok(());
        }
        allowed.sort();
        allowed.dedup();
        let (recorder, media) = Recorder::media(images, self.model, None);
        repair(&media)?;
        let moments: Vec<Moment> = recorder.end();
        // The first is the image as it is.
        for moment in moments.iter().skip(1).filter(|m| !m.same) {
            self.judged.sampled += u64::from(moment.count() > u128::from(self.limit));
            let expect =
                Expect { allowed: allowed.clone(), whole: false, number: usize::MAX, ..expect.clone() };
            let mut inner = 0;
            let (_, end) = moment.each(self.limit, |_, images| {
                if self.stop.load(Ordering::Relaxed) {
                    return ControlFlow::Break(None);
                }
                inner += 1;
                match self.judge_to(images, &expect, depth - 1) {
                    Ok(_) => ControlFlow::Continue(()),
                    Err(e) => ControlFlow::Break(Some(e)),
                }
            });
            self.judged.inner += inner;
            match end {
                Some(Some(e)) => return Err(format!("cut in {what}, before {}: {e}", moment.event)),
                Some(None) => return Ok(()),
                None => {}
            }
        }
        Ok(())
    }

    fn memory(&self, images: &[Image]) -> Vec<SimMedium> {
        images.iter().map(|image| SimMedium::memory(image.clone(), self.model)).collect()
    }

    /// Reads what must be whole, on all DIMMs, with both index blocks.
    fn whole(&mut self, media: &[SimMedium], expect: &Expect<'_>, what: &str) -> Result<State, String> {
        let areas: Vec<Option<naive::Area>> =
            media.iter().map(|m| naive::read(&m.image().to_bytes())).collect();
        let reading = self.read(media, areas, expect, true).map_err(|e| format!("{what}: {e}"))?;
        Ok(reading.found)
    }
}

impl Reading {
    /// What is half-way is told, and nothing else is.
    fn half_way(&self, expect: &Expect<'_>, whole: bool) -> Result<(), String> {
        for finding in &self.assembled.findings {
            let kind = matches!(
                finding.kind,
                FindingKind::HalfWay | FindingKind::HalfCreated | FindingKind::Missing
            );
            let ours = finding.uuid.is_some_and(|uuid| expect.step.touches(uuid));
            if whole || !kind || !ours {
                return Err(finding.to_string());
            }
        }
        let in_region = |l: &&naive::Label| l.dpa >= START && l.dpa < START + SIZE;
        let labels = self.areas.iter().flatten().flat_map(|a| &a.used).filter_map(|(_, l)| l.as_ref());
        let updating = labels.filter(in_region).any(|l| l.flags & Flags::UPDATING.bits() != 0);
        if updating && self.assembled.findings.is_empty() {
            return Err("a label is UPDATING, and nobody tells".into());
        }
        let told = self.assembled.findings.iter().any(|f| f.kind.is_usable());
        if self.assembled.namespaces.iter().any(|n| n.half_way) != told {
            return Err("a namespace is half-way and not told, or told and not".into());
        }
        Ok(())
    }
}

fn settle_all(media: &[SimMedium], uuids: &[Uuid], must: bool) -> Result<(), String> {
    let mut areas = open(media).map_err(|e| e.to_string())?;
    let mut set = set(&mut areas).map_err(|e| e.to_string())?;
    for (n, uuid) in uuids.iter().enumerate() {
        match set.settle(*uuid) {
            Ok(done) if n > 0 || done == must => {}
            Ok(done) => return Err(format!("settling {uuid} had something to do: {done}, and not {must}")),
            // Another uuid has taken its place, or nothing has.
            Err(e) if e.kind() == Kind::NotFound && (n > 0 || !must) => {}
            Err(e) => return Err(format!("settle {uuid}: {e}")),
        }
    }
    Ok(())
}

/// Holds the engine's view of an area against the second reader's.
pub(crate) fn compare(ours: &LabelArea<SimMedium>, linux: Option<&naive::Area>) -> Result<(), String> {
    let (index, linux) = match (ours.index(), linux) {
        (None, None) => return Ok(()),
        (Some(index), Some(linux)) => (index, linux),
        (ours, linux) => {
            return Err(format!("index blocks: {} for us, {} for Linux", ours.is_some(), linux.is_some()));
        }
    };
    let valid = ours.blocks().each_ref().map(Result::is_ok);
    let view = (index.number(), u64::from(index.seq()), index.layout().version.label_len() as usize);
    if view != (linux.current, linux.seq, linux.label_len) || valid != linux.valid {
        return Err(format!("index block {view:?} of {valid:?} for us, {linux:?} for Linux"));
    }
    let slots = ours.slots().map_err(|e| e.to_string())?;
    if slots.len() != linux.used.len() || index.nslot() as usize != linux.slots {
        return Err(format!("{} slots in use, {} for Linux", slots.len(), linux.used.len()));
    }
    for (slot, (number, label)) in slots.iter().zip(&linux.used) {
        let same = match (&slot.label, label) {
            (Err(_), None) => true,
            (Ok(ours), Some(linux)) => {
                let guid = nvstack_format::guid::to_media(ours.abstraction);
                (ours.uuid.as_bytes(), &ours.name.to_string()) == (&linux.uuid, &linux.name)
                    && (ours.flags.bits(), u64::from(ours.position)) == (linux.flags, linux.position)
                    && (u64::from(ours.nlabel), ours.isetcookie) == (linux.count, linux.cookie)
                    && (ours.dpa.0, ours.rawsize, ours.lbasize) == (linux.dpa, linux.size, linux.lbasize)
                    && (linux.guids.is_empty() || linux.guids.ends_with(&guid))
            }
            _ => false,
        };
        if slot.number as usize != *number || !same {
            return Err(format!(
                "slot {} holds {:?}, for Linux {number}: {label:?}",
                slot.number, slot.label
            ));
        }
    }
    Ok(())
}

/// What no cut may leave: a slot in use without a label, two labels of one namespace, no free slot.
fn sane(area: &naive::Area) -> Result<(), String> {
    let mut seen: Vec<[u8; 16]> = Vec::new();
    for (slot, label) in &area.used {
        let Some(label) = label else { return Err(format!("slot {slot} is in use and holds no label")) };
        if seen.contains(&label.uuid) {
            return Err(format!("slot {slot} holds a second label of one namespace"));
        }
        seen.push(label.uuid);
    }
    if area.used.len() >= area.slots {
        return Err("no slot is free".into());
    }
    Ok(())
}

/// What tells images apart: what free slots hold does not, for changes that don't read them.
fn key(images: &[Image], bytes: &[Vec<u8>], areas: &[Option<naive::Area>], expect: &Expect<'_>) -> u128 {
    let whole = u64::from(expect.whole);
    let mut words = [mix(expect.number as u64 ^ whole << 63), expect.allowed.len() as u64];
    if expect.number == usize::MAX {
        for state in &expect.allowed {
            for ns in state.iter().flatten() {
                let name = ns.name.bytes().fold(7, |h, b| mix(h ^ u64::from(b)));
                let id = ns.id.as_u128() as u64;
                for word in [ns.start, ns.size, id, name, u64::from(ns.class), ns.lbasize] {
                    words[0] = mix(words[0] ^ word);
                }
            }
            words[0] = mix(words[0] ^ u64::from(state.is_some()));
        }
    }
    let salt = u128::from(words[0]) << 64 | u128::from(words[1]);
    if expect.step.change.is_raw() || areas.iter().any(Option::is_none) {
        return hash(images) ^ salt;
    }
    let mut add = |word: u64| words = [mix(words[0] ^ word), mix(words[1].rotate_left(9) ^ word)];
    for (bytes, area) in bytes.iter().zip(areas.iter().flatten()) {
        let slots = area.used.iter().map(|(slot, _)| area.slots_at + slot * area.label_len);
        for (from, to) in [(0, area.slots_at)].into_iter().chain(slots.map(|at| (at, at + area.label_len))) {
            for unit in bytes.get(from..to).unwrap_or_default().chunks_exact(8) {
                add(u64::from_le_bytes(unit.try_into().unwrap_or_default()));
            }
        }
    }
    u128::from(words[0]) << 64 | u128::from(words[1])
}

/// What images of an area that is made anew have in common for whoever reads them, or zeroes what is not zero.
fn class(images: &[Image], reading: &Reading, expect: &Expect<'_>) -> u64 {
    let mut class = expect.number as u64;
    for (image, area) in images.iter().zip(&reading.areas) {
        let blank = |from: u64, to: u64| (from / 8..to / 8).all(|unit| image.unit(unit) == 0);
        let blanks = [blank(0, 72), blank(72, 256), blank(256, 328), blank(328, 512)];
        class = blanks.into_iter().fold(class, |h, b| mix(h ^ u64::from(b)));
        if let Some(area) = area {
            let valid = u64::from(area.valid[0]) << 1 | u64::from(area.valid[1]);
            for word in [valid, area.current as u64, area.seq, area.label_len as u64, area.used.len() as u64]
            {
                class = mix(class ^ word);
            }
        }
    }
    class
}

/// In words.
pub(crate) fn describe(state: &State) -> String {
    let Some(all) = state else { return "no label area".to_owned() };
    let of = |n: &Ns| {
        let id = n.id.as_bytes()[0];
        format!(
            "{:?} ({id:02x}, {:#x} bytes from {:#x}, {}, {})",
            n.name, n.size, n.start, n.class, n.lbasize
        )
    };
    if all.is_empty() {
        return "no namespace".to_owned();
    }
    all.iter().map(of).collect::<Vec<_>>().join(" and ")
}
