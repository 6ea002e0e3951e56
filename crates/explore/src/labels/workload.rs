// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done to label areas, and a plain model of what then is there.

use std::fmt;
use std::str::FromStr;

use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Cookies, Dpa};
use nvstack_label_sim::{Assembled, LabelArea, LabelSet, NamespaceLabel, SetArea};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};
use nvstack_sim::{Image, Model, SimMedium, mix};
use uuid::Uuid;

/// The cookies of the region.
pub(crate) const COOKIES: Cookies = Cookies { v1_1: 11, v1_2: 12, alternative: 13 };
const MIB: u64 = 1 << 20;
/// Where the mapping begins on each DIMM.
pub(crate) const START: u64 = MIB;
/// Bytes of the mapping on each DIMM.
pub(crate) const SIZE: u64 = 64 * MIB;
/// The namespace that is changed.
const SUBJECT: u8 = 1;

/// A change of labels. What is left to say follows from the state that it finds: names count on, sizes and places go round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The namespace is made.
    Create,
    /// It gets another name.
    Rename,
    /// It gets another size, larger or smaller.
    Resize,
    /// It begins elsewhere; the old and the new place overlap or not.
    Move,
    /// It gets another uuid.
    Uuid,
    /// It gets another sector size.
    Lbasize,
    /// Something else may stack on it. Version 1.2 alone.
    Class,
    /// It gets another uuid, size, sector size and name at once.
    Reconfigure,
    /// It goes.
    Delete,
    /// A namespace on bytes of this one is refused, and nothing is stored.
    Overlap,
    /// Labels of another region fill one DIMM; then a namespace more is refused by all of them.
    Crowd,
    /// Not a change but every damage of one word.
    Damage,
    /// One DIMM alone: the area is made anew, for version 1.1.
    InitSmall,
    /// One DIMM alone: the area is made anew, for version 1.2.
    InitLarge,
    /// One DIMM alone: all of it is zeroed.
    Zero,
    /// One DIMM alone: bytes that were read from it before come back. They have one namespace more.
    Restore,
}

impl Change {
    /// All of them.
    pub const ALL: [Change; 16] = [
        Change::Create,
        Change::Rename,
        Change::Resize,
        Change::Move,
        Change::Uuid,
        Change::Lbasize,
        Change::Class,
        Change::Reconfigure,
        Change::Delete,
        Change::Overlap,
        Change::Crowd,
        Change::Damage,
        Change::InitSmall,
        Change::InitLarge,
        Change::Zero,
        Change::Restore,
    ];

    /// The name that a person types.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Change::Create => "create",
            Change::Rename => "rename",
            Change::Resize => "resize",
            Change::Move => "move",
            Change::Uuid => "uuid",
            Change::Lbasize => "lbasize",
            Change::Class => "class",
            Change::Reconfigure => "reconfigure",
            Change::Delete => "delete",
            Change::Overlap => "overlap",
            Change::Crowd => "crowd",
            Change::Damage => "damage",
            Change::InitSmall => "init-small",
            Change::InitLarge => "init-large",
            Change::Zero => "zero",
            Change::Restore => "restore",
        }
    }

    /// Whether it is about the area as such, and not about a namespace.
    #[must_use]
    pub const fn is_raw(self) -> bool {
        matches!(self, Change::InitSmall | Change::InitLarge | Change::Zero | Change::Restore)
    }
}

/// A namespace of the model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ns {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) class: u8,
    pub(crate) lbasize: u64,
}

/// The classes that are used, by their number in [`Ns`].
pub(crate) const CLASSES: [ClaimClass; 3] = [ClaimClass::None, ClaimClass::Btt2, ClaimClass::Pfn];

impl Ns {
    pub(crate) fn label(&self) -> Result<NamespaceLabel> {
        Ok(NamespaceLabel {
            uuid: self.id,
            name: named(&self.name)?,
            class: CLASSES.get(usize::from(self.class)).copied().unwrap_or(ClaimClass::None),
            lbasize: self.lbasize,
            start: self.start,
            size: self.size,
        })
    }
}

/// All namespaces from the lowest on; none where there is no area.
pub(crate) type State = Option<Vec<Ns>>;

/// What the engine found, in the terms of the model.
pub(crate) fn state(found: &Assembled) -> Vec<Ns> {
    let class = |c: ClaimClass| CLASSES.iter().position(|known| *known == c).map_or(u8::MAX, |n| n as u8);
    let of = found.namespaces.iter().map(|n| Ns {
        start: n.start,
        size: n.size,
        id: n.uuid,
        name: n.name.to_string(),
        class: class(n.class),
        lbasize: n.lbasize,
    });
    of.collect()
}

/// What a change does, said without reference to the state that it finds.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// The labels of a namespace are written, in place of those of another uuid if one is told.
    Write(Option<Uuid>, Ns),
    /// The labels of a namespace are removed.
    Delete(Uuid),
    /// A namespace is refused.
    Refuse(Ns, Kind),
    /// One DIMM is full, and a namespace is refused.
    Crowd(Ns),
    /// The area is made anew.
    Init(Version),
    /// The area is zeroed.
    Zero,
    /// The area gets these bytes.
    Restore(Image),
}

/// A change in a workload.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) change: Change,
    pub(crate) deed: Deed,
    pub(crate) before: State,
    pub(crate) after: State,
}

impl Step {
    /// The uuids whose labels are changed.
    pub(crate) fn touches(&self, uuid: Uuid) -> bool {
        match &self.deed {
            Deed::Write(old, new) => new.id == uuid || *old == Some(uuid),
            Deed::Delete(id) => *id == uuid,
            _ => false,
        }
    }

    /// Does it. The methods for single properties are used where there are such.
    pub(crate) fn run<M: Media>(&self, areas: &mut [LabelArea<M>]) -> Result<()> {
        match (&self.deed, self.change) {
            (Deed::Write(None, ns), Change::Rename) => {
                let name = ns.label()?.name;
                set(areas)?.rename(ns.id, name)
            }
            (Deed::Write(None, ns), Change::Resize) => set(areas)?.resize(ns.id, ns.size),
            (Deed::Write(None, ns), Change::Lbasize) => set(areas)?.set_lbasize(ns.id, ns.lbasize),
            (Deed::Write(None, ns), Change::Class) => set(areas)?.set_class(ns.id, ns.label()?.class),
            _ => self.again(areas),
        }
    }

    /// Does it, whatever of it was done before.
    pub(crate) fn again<M: Media>(&self, areas: &mut [LabelArea<M>]) -> Result<()> {
        match &self.deed {
            Deed::Write(old, ns) => set(areas)?.write_as(*old, &ns.label()?),
            Deed::Delete(id) => set(areas)?.delete(*id),
            Deed::Refuse(ns, kind) => refused(areas, ns, *kind),
            Deed::Crowd(ns) => {
                if let Some(first) = areas.first_mut() {
                    crowd(first)?;
                }
                refused(areas, ns, Kind::NoSpace)
            }
            Deed::Init(version) => {
                for area in areas {
                    LabelArea::init_over(area.media(), *version)?;
                    area.reload()?;
                }
                Ok(())
            }
            Deed::Zero => areas.iter_mut().try_for_each(|area| {
                let len = area.media().len();
                area.zero(MediaOffset(0), len)
            }),
            Deed::Restore(bytes) => {
                areas.iter_mut().try_for_each(|area| area.write_bytes(MediaOffset(0), &bytes.to_bytes()))
            }
        }
    }
}

/// Labels of another region, until there is no room for one more.
fn crowd<M: Media>(area: &mut LabelArea<M>) -> Result<()> {
    let small = area.version() == Some(Version::V1_1);
    for number in 0..=area.slot_count() {
        let label = Label {
            uuid: Uuid::from_u128(0xf0_0000 + u128::from(number)),
            name: named("crowd")?,
            flags: Flags::empty(),
            nlabel: 1,
            position: 0,
            isetcookie: 99,
            lbasize: 0,
            dpa: Dpa(START + SIZE + u64::from(number) * MIB),
            rawsize: MIB,
            slot: 0,
            align: 0,
            type_guid: if small { Uuid::nil() } else { guid::PERSISTENT_MEMORY },
            abstraction: Uuid::nil(),
        };
        // What is there stays as it is when this is done again.
        if area.slots()?.iter().any(|slot| slot.label.as_ref().is_ok_and(|l| l.uuid == label.uuid)) {
            continue;
        }
        match area.write_namespace(&label) {
            Err(e) if e.kind() == Kind::NoSpace => return Ok(()),
            other => other?,
        }
    }
    Err(Error::new(Kind::Invalid, "fill label area").found("room for more labels than slots"))
}

/// A namespace that is refused: nothing changes.
fn refused<M: Media>(areas: &mut [LabelArea<M>], ns: &Ns, kind: Kind) -> Result<()> {
    let bytes = |areas: &[LabelArea<M>]| -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        for area in areas {
            let mut bytes = vec![0; area.media().len() as usize];
            area.media().read(MediaOffset(0), &mut bytes)?;
            all.push(bytes);
        }
        Ok(all)
    };
    let wrong = |what| Err(Error::new(Kind::Invalid, "refuse namespace").found(what));
    let before = bytes(areas)?;
    match set(areas)?.write(&ns.label()?) {
        Ok(()) => wrong("it was written"),
        Err(e) if e.kind() != kind => Err(e),
        Err(_) if before != bytes(areas)? => wrong("something was stored first"),
        Err(_) => Ok(()),
    }
}

fn named(text: &str) -> Result<Name> {
    Name::new(text)
        .map_err(|finding| Error::invalid(Kind::Invalid, "name namespace", MediaOffset(0), finding))
}

/// The areas as the set of the region.
pub(crate) fn set<M: Media>(areas: &mut [LabelArea<M>]) -> Result<LabelSet<'_, M>> {
    let areas = areas.iter_mut().map(|area| SetArea { area, start: Dpa(START), size: SIZE }).collect();
    LabelSet::new(areas, COOKIES)
}

/// Some DIMMs, and changes of their labels one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Version of the labels.
    pub version: Version,
    /// DIMMs of the set.
    pub ways: u8,
    /// Bytes of each label area.
    pub area: u32,
    /// Where the index blocks stand at first: 0 to 5, which are all combinations of block and sequence number.
    pub turn: u8,
    /// Namespaces beside it, 0 to 2, that nothing may happen to.
    pub neighbours: u8,
    /// The operation on the media that fails, by its number; the first change then fails, and the next is another try.
    pub fault: Option<u16>,
    /// The changes.
    pub changes: Vec<Change>,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Workload { version, ways, area, turn, neighbours, .. } = self;
        write!(f, "{version}/{ways}x{area}/turn{turn}/beside{neighbours}/")?;
        if let Some(fault) = self.fault {
            write!(f, "fault{fault}/")?;
        }
        let names: Vec<&str> = self.changes.iter().map(|c| c.name()).collect();
        f.write_str(&names.join("+"))
    }
}

impl FromStr for Workload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Workload, Error> {
        let parse = || -> Option<Workload> {
            let mut parts: Vec<&str> = text.split('/').collect();
            let changes = parts.pop()?.split('+');
            let fault = match parts.get(4) {
                Some(fault) => Some(fault.strip_prefix("fault")?.parse().ok()?),
                None => None,
            };
            let [version, shape, turn, beside] = *parts.get(..4)? else { return None };
            let (ways, area) = shape.split_once('x')?;
            let change = |name: &str| Change::ALL.into_iter().find(|c| c.name() == name);
            let workload = Workload {
                version: Version::ALL.into_iter().find(|v| v.to_string() == version)?,
                ways: ways.parse().ok()?,
                area: area.parse().ok()?,
                turn: turn.strip_prefix("turn")?.parse().ok()?,
                neighbours: beside.strip_prefix("beside")?.parse().ok()?,
                fault,
                changes: changes.map(change).collect::<Option<_>>()?,
            };
            let sane = parts.len() <= 5
                && (1..=8).contains(&workload.ways)
                && (1024..=1 << 20).contains(&workload.area)
                && workload.turn < 6
                && workload.neighbours <= 2;
            sane.then_some(workload)
        };
        parse().ok_or_else(|| {
            Error::new(Kind::Invalid, "read workload")
                .found(format_args!("{text:?}"))
                .accepted("as in 1.2/2x2048/turn0/beside2/create+rename")
        })
    }
}

/// The areas of some media.
pub(crate) fn open(media: &[SimMedium]) -> Result<Vec<LabelArea<SimMedium>>> {
    media.iter().map(|m| LabelArea::open(m.clone())).collect()
}

impl Workload {
    fn share(&self) -> u64 {
        u64::from(self.ways)
    }

    /// A namespace of some MiB on each DIMM.
    fn ns(&self, id: u8, name: &str, at: u64, mib: u64) -> Ns {
        Ns {
            start: at * MIB * self.share(),
            size: mib * MIB * self.share(),
            id: Uuid::from_bytes([id; 16]),
            name: name.to_owned(),
            class: 0,
            lbasize: 512,
        }
    }

    /// Whether it can be: the changes fit one another, the shape, and the slots.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let slots = nvstack_format::label::AreaLayout::compute(self.area.into(), self.version);
        let room = slots.map_or(0, |l| l.slots) > u32::from(self.neighbours) + 1;
        // With large labels in 1 KiB the index blocks of the two versions lie in the same places all the same.
        let alone = self.ways == 1 || !self.changes.iter().any(|c| c.is_raw());
        let has = |change| self.changes.contains(&change);
        let small = self.version == Version::V1_2 && !has(Change::InitSmall) || !has(Change::Class);
        let damage = !has(Change::Damage) || self.changes.len() == 1;
        // A DIMM that was filled takes no new namespace.
        let mut full = self.changes.iter().skip_while(|c| **c != Change::Crowd);
        let takes = !full.any(|c| *c == Change::Create);
        room && alone && small && damage && takes && self.steps().is_some()
    }

    /// Whether the namespace is there at first.
    fn begins_with_subject(&self) -> bool {
        self.changes.first() != Some(&Change::Create)
    }

    /// What is there at first.
    fn first_state(&self) -> Vec<Ns> {
        let mut all = Vec::new();
        if self.neighbours > 0 {
            all.push(self.ns(2, "before", 0, 8));
        }
        if self.begins_with_subject() {
            all.push(self.ns(SUBJECT, "name 0", 16, 16));
        }
        if self.neighbours > 1 {
            all.push(self.ns(3, "after", 48, 8));
        }
        all
    }

    /// The changes, with the states between them. None if they don't fit one another.
    pub(crate) fn steps(&self) -> Option<Vec<Step>> {
        let mut now: State = Some(self.first_state());
        let mut steps = Vec::new();
        for (number, change) in self.changes.iter().enumerate() {
            let (deed, after) = self.step(*change, number as u64 + 1, &now)?;
            steps.push(Step { change: *change, deed, before: now, after: after.clone() });
            now = after;
        }
        Some(steps)
    }

    fn step(&self, change: Change, number: u64, now: &State) -> Option<(Deed, State)> {
        if change.is_raw() {
            return Some(match change {
                Change::InitSmall => (Deed::Init(Version::V1_1), Some(Vec::new())),
                Change::InitLarge => (Deed::Init(Version::V1_2), Some(Vec::new())),
                Change::Zero => (Deed::Zero, None),
                _ => {
                    let mut all = self.first_state();
                    all.push(self.ns(7, "restored", 58, 2));
                    let room =
                        Workload { neighbours: self.neighbours + 1, changes: Vec::new(), ..self.clone() };
                    let image = room.is_sound().then(|| self.base(&all).ok()?.pop())??;
                    (Deed::Restore(image), Some(all))
                }
            });
        }
        let mut all = now.clone()?;
        let here = all.iter().position(|n| n.name.starts_with("name") && n.id != Uuid::from_bytes([7; 16]));
        let mib = MIB * self.share();
        match change {
            Change::Damage => return Some((Deed::Delete(Uuid::nil()), now.clone())),
            Change::Overlap if here.is_some() => {
                // Whatever it is resized and moved to, it has these.
                return Some((Deed::Refuse(self.ns(8, "twin", 16, 20), Kind::Invalid), now.clone()));
            }
            Change::Crowd => {
                return Some((Deed::Crowd(self.ns(8, "crowded", 44, 2)), now.clone()));
            }
            _ => {}
        }
        let old = match (change, here) {
            (Change::Create, None) => {
                let made = self.ns(SUBJECT + 10 * number as u8, &format!("name {number}"), 16, 16);
                all.push(made.clone());
                all.sort();
                return Some((Deed::Write(None, made), Some(all)));
            }
            (Change::Create, Some(_)) | (_, None) => return None,
            (_, Some(here)) => all.remove(here),
        };
        if change == Change::Delete {
            return Some((Deed::Delete(old.id), Some(all)));
        }
        let mut new = old.clone();
        let next = |value: u64, of: &[u64]| {
            let at = of.iter().position(|v| *v == value).map_or(0, |at| at + 1);
            of.get(at).or(of.first()).copied().unwrap_or(value)
        };
        let another = Uuid::from_bytes([SUBJECT + 10 * number as u8; 16]);
        match change {
            Change::Rename => new.name = format!("name {number}"),
            Change::Resize => new.size = next(old.size / mib, &[16, 24, 8]) * mib,
            Change::Move => new.start = next(old.start / mib, &[16, 20, 10]) * mib,
            Change::Lbasize => new.lbasize = next(old.lbasize, &[512, 4096]),
            Change::Class => new.class = (old.class + 1) % CLASSES.len() as u8,
            Change::Uuid => new.id = another,
            _ => {
                new.id = another;
                new.size = next(old.size / mib, &[16, 24, 8]) * mib;
                new.lbasize = next(old.lbasize, &[512, 4096]);
                new.name = format!("name {number}");
            }
        }
        all.push(new.clone());
        all.sort();
        let stead = (old.id != new.id).then_some(old.id);
        Some((Deed::Write(stead, new), Some(all)))
    }

    /// The areas before the first change.
    pub(crate) fn images(&self) -> Result<Vec<Image>> {
        self.base(&self.first_state())
    }

    /// Areas with some namespaces.
    fn base(&self, all: &[Ns]) -> Result<Vec<Image>> {
        let blank = || SimMedium::memory(Image::zeros(self.area.into()), Model::X86);
        let media: Vec<SimMedium> = (0..self.ways).map(|_| blank()).collect();
        let mut areas = Vec::new();
        for medium in &media {
            areas.push(LabelArea::init(medium.clone(), self.version)?);
        }
        let mut set = set(&mut areas)?;
        // A namespace that comes and goes is three updates, and a change is two: that turns the index blocks as wanted.
        let visits =
            [0, 1, 2].into_iter().find(|n| (n + self.turn).is_multiple_of(2) && (*n > 0 || self.turn == 0));
        let mut guest = self.ns(9, "guest", 30, 2);
        for visit in 0..visits.unwrap_or(0) {
            set.write(&guest.label()?)?;
            for change in 0..if visit == 0 { self.turn / 2 } else { 0 } {
                guest.name = format!("guest {change}");
                set.write(&guest.label()?)?;
            }
            set.delete(guest.id)?;
        }
        for ns in all {
            set.write(&ns.label()?)?;
        }
        Ok(media.iter().map(SimMedium::image).collect())
    }
}

/// One at random, by number.
#[must_use]
pub fn random(seed: u64) -> Workload {
    let mut word = mix(seed);
    let mut pick = move |n: u64| {
        word = mix(word);
        (word >> 16) % n
    };
    loop {
        let mut workload = Workload {
            version: Version::ALL.into_iter().nth(pick(2) as usize).unwrap_or(Version::V1_2),
            ways: [1, 2, 2, 3, 4].into_iter().nth(pick(5) as usize).unwrap_or(2),
            area: [1024, 2048, 4096].into_iter().nth(pick(3) as usize).unwrap_or(2048),
            turn: pick(6) as u8,
            neighbours: pick(3) as u8,
            fault: None,
            changes: Vec::new(),
        };
        let length = 3 + pick(4) as usize;
        for _ in 0..40 {
            let change = Change::ALL.into_iter().nth(pick(Change::ALL.len() as u64) as usize);
            workload.changes.extend(change);
            if !workload.is_sound() {
                workload.changes.pop();
            }
            if workload.changes.len() >= length {
                return workload;
            }
        }
    }
}

/// The shapes of sets that are small enough to be gone through.
pub(crate) const SHAPES: [(u8, u32); 5] = [(1, 1024), (2, 1024), (1, 2048), (2, 2048), (4, 2048)];

/// Every workload with `count` changes. One change is made at all turns of the index blocks in the smallest areas, and at
/// one block and the other in larger ones.
pub(crate) fn all(count: usize) -> Vec<Workload> {
    let mut found = Vec::new();
    let mut sequences: Vec<Vec<Change>> = vec![Vec::new()];
    for _ in 0..count {
        let longer = sequences
            .iter()
            .flat_map(|s| Change::ALL.map(|c| s.iter().copied().chain([c]).collect::<Vec<_>>()));
        sequences = longer.collect();
    }
    for (ways, area) in SHAPES {
        for changes in &sequences {
            for version in Version::ALL {
                for neighbours in [0, 2] {
                    let turns = match (count, ways, area, neighbours) {
                        // Half-written blocks make the most images; three turns have each number, and each block.
                        (1, _, 1024, 0) if changes.iter().any(|c| c.is_raw()) => 0..3,
                        (1, _, 1024, 0) => 0..6,
                        (1, ..) if changes.iter().any(|c| c.is_raw()) => 0..1,
                        (1, ..3, _, _) => 0..2,
                        _ => 0..1,
                    };
                    for turn in turns.clone() {
                        let changes = changes.clone();
                        found.push(Workload { version, ways, area, turn, neighbours, fault: None, changes });
                    }
                }
            }
        }
    }
    found.retain(Workload::is_sound);
    found
}
