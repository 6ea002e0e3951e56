// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several media as one: striped as the DIMMs of an interleave set are, or one after the other.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::medium::check_range;
use crate::{Domain, Error, Extent, Kind, Media, MediaOffset, Result};

/// Bytes of a badblocks unit.
const UNIT: u64 = 512;
/// The smallest line: a cache line, so that no aligned word lies on two members.
const LINE_MIN: u64 = 64;
/// What every member but the last must be a multiple of, so that an aligned word is one on its member too.
const WORD: u64 = 8;
/// No member's drain has failed.
const SOUND: usize = usize::MAX;

/// Members in lines of a fixed size, in turn: an interleave set of DIMMs. See [`Joined`].
///
/// With `n` members and lines of `g` bytes, byte `b` lies on member `(b / g) % n`, at `(b / (g * n)) * g + b % g`.
pub type Interleave<M> = Joined<M, Stripes>;

/// Members one after the other. This is how a QEMU guest that is shown a set through replaced ACPI tables finds its
/// files. See [`Joined`].
pub type Concat<M> = Joined<M, Sequence>;

/// Several media as one. Made as [`Interleave`] or as [`Concat`].
///
/// * A request is split where it crosses from one member to the next; its pieces are made in order. One that is out of
///   range, or a store while a member is read-only, moves nothing; any other failure but poison ends it where it stands.
///   Errors name the member's file and the offset there, so that what a person reads is a place that can be looked at.
/// * Words never lie on two members.
/// * The domain is that of the weakest member. A drain tries every member and tells the first failure. Once it has failed
///   for good on one, stores to the others fail as well: what they belong with is lost.
/// * Members keep the poison, in units of 512 bytes of their own. As seen here it is rounded outward: where lines are
///   shorter than a unit, or a member does not start on one, a lost unit of a member makes every unit bad that has a byte
///   of it. For the same reason a store or [`Media::clear_poison`] heals only what covers a whole unit of a member
///   ([`Interleave::clear_unit`](Joined::clear_unit)).
pub struct Joined<M, L> {
    members: Vec<M>,
    layout: L,
    len: u64,
    read_only: bool,
    domain: Domain,
    /// The member whose drain failed, or [`SOUND`].
    broken: AtomicUsize,
}

/// Which member holds a byte. Sealed: the two kinds are [`Stripes`] and [`Sequence`].
pub trait Layout: sealed::Layout {}

/// The layout of an [`Interleave`].
#[derive(Clone, Debug)]
pub struct Stripes {
    /// log2 of the bytes of a line.
    shift: u32,
    /// Members.
    count: u64,
}

/// The layout of a [`Concat`].
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Where each member begins, and the end of the last.
    starts: Vec<u64>,
}

impl Layout for Stripes {}
impl Layout for Sequence {}

mod sealed {
    /// A byte's place: the member, the offset in it, and how many bytes follow there without a break.
    #[derive(Clone, Copy, Debug)]
    pub struct Place {
        pub member: usize,
        pub at: u64,
        pub room: u64,
    }

    /// The arithmetic. Offsets that are no place at all may give any, but never a panic.
    pub trait Layout: Send + Sync {
        /// Where a byte lies.
        fn place(&self, at: u64) -> Place;
        /// Where the byte after the room of `place` lies.
        fn next(&self, place: Place) -> Place;
        /// How many bytes of a member lie before byte `end`. Of any range a member holds one run.
        fn before(&self, member: usize, end: u64) -> u64;
        /// Where a member's byte is seen.
        fn seen(&self, member: usize, at: u64) -> u64;
        /// How many members hold the bytes of a range that is not empty, counted from that of its first byte.
        fn touched(&self, at: u64, len: u64) -> usize;
        /// How a name begins.
        fn describe(&self) -> String;
    }
}

use sealed::Place;

impl Stripes {
    fn line(&self) -> u64 {
        1u64.checked_shl(self.shift).unwrap_or(u64::MAX)
    }

    /// The quotient and the remainder of a number of lines by the number of members, of which there is one at least.
    fn turn(&self, lines: u64) -> (u64, u64) {
        let count = self.count.max(1);
        (lines.checked_div(count).unwrap_or(0), lines.checked_rem(count).unwrap_or(0))
    }

    fn bytes(&self, lines: u64) -> u64 {
        lines.saturating_mul(self.line())
    }

    /// Lines of one member follow each other.
    fn room(&self, within: u64) -> u64 {
        if self.count == 1 { u64::MAX } else { self.line().saturating_sub(within) }
    }

    fn split(&self, at: u64) -> (u64, u64) {
        (at.checked_shr(self.shift).unwrap_or(0), at & self.line().saturating_sub(1))
    }
}

impl sealed::Layout for Stripes {
    fn place(&self, at: u64) -> Place {
        let (line, within) = self.split(at);
        let (row, member) = self.turn(line);
        Place { member: narrow(member), at: self.bytes(row).saturating_add(within), room: self.room(within) }
    }

    fn next(&self, place: Place) -> Place {
        let (line, _) = self.split(place.at);
        let member = place.member.saturating_add(1);
        let room = self.room(0);
        if wide(member) < self.count {
            Place { member, at: self.bytes(line), room }
        } else {
            Place { member: 0, at: self.bytes(line.saturating_add(1)), room }
        }
    }

    fn before(&self, member: usize, end: u64) -> u64 {
        let (line, within) = self.split(end);
        let (row, turn) = self.turn(line);
        let last = match turn.cmp(&wide(member)) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => within,
            std::cmp::Ordering::Greater => self.line(),
        };
        self.bytes(row).saturating_add(last)
    }

    fn seen(&self, member: usize, at: u64) -> u64 {
        let (row, within) = self.split(at);
        self.bytes(row.saturating_mul(self.count).saturating_add(wide(member))).saturating_add(within)
    }

    fn touched(&self, at: u64, len: u64) -> usize {
        let (first, _) = self.split(at);
        let (last, _) = self.split(at.saturating_add(len).saturating_sub(1));
        narrow(last.saturating_sub(first).saturating_add(1).min(self.count))
    }

    fn describe(&self) -> String {
        format!("an interleave of {} bytes over ", self.line())
    }
}

impl Sequence {
    fn start(&self, member: usize) -> u64 {
        self.starts.get(member).copied().unwrap_or(u64::MAX)
    }

    fn place_in(&self, member: usize, at: u64) -> Place {
        let (start, end) = (self.start(member), self.start(member.saturating_add(1)));
        Place { member, at: at.saturating_sub(start), room: end.saturating_sub(at) }
    }
}

impl sealed::Layout for Sequence {
    fn place(&self, at: u64) -> Place {
        self.place_in(self.starts.partition_point(|start| *start <= at).saturating_sub(1), at)
    }

    fn next(&self, place: Place) -> Place {
        let member = place.member.saturating_add(1);
        self.place_in(member, self.start(member))
    }

    fn before(&self, member: usize, end: u64) -> u64 {
        let start = self.start(member);
        end.min(self.start(member.saturating_add(1))).saturating_sub(start)
    }

    fn seen(&self, member: usize, at: u64) -> u64 {
        self.start(member).saturating_add(at)
    }

    fn touched(&self, at: u64, len: u64) -> usize {
        let (first, last) = (self.place(at), self.place(at.saturating_add(len).saturating_sub(1)));
        last.member.saturating_sub(first.member).saturating_add(1)
    }

    fn describe(&self) -> String {
        "one after the other, ".to_owned()
    }
}

impl<M: Media> Joined<M, Stripes> {
    /// Members of equal size, striped in lines of `granularity` bytes: a power of two, 64 at least; 256 and 4096 are what
    /// hardware does. Any number of members is taken, though hardware has powers of two and three of them.
    ///
    /// [`Kind::Invalid`] for no member, for another granularity, and for members that are not all of one size and a
    /// multiple of it.
    pub fn new(members: Vec<M>, granularity: u64) -> Result<Interleave<M>> {
        const OPERATION: &str = "interleave";
        if !granularity.is_power_of_two() || granularity < LINE_MIN {
            return Err(Error::new(Kind::Invalid, OPERATION)
                .found(format_args!("lines of {granularity} bytes"))
                .accepted(format_args!("a power of two, {LINE_MIN} or more")));
        }
        let Some(size) = members.first().map(Media::len) else { return Err(no_members(OPERATION)) };
        if let Some(odd) =
            members.iter().find(|m| m.len() != size || m.len().checked_rem(granularity) != Some(0))
        {
            return Err(Error::new(Kind::Invalid, OPERATION)
                .path(odd.name())
                .found(format_args!("{} bytes", odd.len()))
                .accepted(format_args!("members of one size, a multiple of {granularity}")));
        }
        let count = wide(members.len());
        let len = size.checked_mul(count).ok_or_else(|| too_large(OPERATION))?;
        Ok(Joined::over(members, Stripes { shift: granularity.trailing_zeros(), count }, len))
    }

    /// Bytes of a line.
    pub fn granularity(&self) -> u64 {
        self.layout.line()
    }

    /// How many bytes, from a multiple of as many on, cover whole units of members and so can be healed together.
    pub fn clear_unit(&self) -> u64 {
        if self.layout.count == 1 || self.granularity() >= UNIT {
            UNIT
        } else {
            UNIT.saturating_mul(self.layout.count)
        }
    }
}

impl<M: Media> Joined<M, Sequence> {
    /// Members of any sizes, one after the other.
    ///
    /// [`Kind::Invalid`] for no member, for an empty one, and for one before the last that is not a multiple of 8 bytes.
    pub fn new(members: Vec<M>) -> Result<Concat<M>> {
        const OPERATION: &str = "concatenate";
        if members.is_empty() {
            return Err(no_members(OPERATION));
        }
        let mut starts = vec![0];
        let mut len = 0u64;
        for member in &members {
            let size = member.len();
            if size == 0 || len.checked_rem(WORD) != Some(0) {
                return Err(Error::new(Kind::Invalid, OPERATION)
                    .path(member.name())
                    .found(format_args!("{size} bytes after {len}"))
                    .accepted(format_args!("1 byte or more, and before it a multiple of {WORD}")));
            }
            len = len.checked_add(size).ok_or_else(|| too_large(OPERATION))?;
            starts.push(len);
        }
        Ok(Joined::over(members, Sequence { starts }, len))
    }
}

impl<M: Media, L: Layout> Joined<M, L> {
    fn over(members: Vec<M>, layout: L, len: u64) -> Joined<M, L> {
        let weakest = |a: Domain, b: Domain| match (a, b) {
            (Domain::PageCache, _) | (_, Domain::PageCache) => Domain::PageCache,
            (Domain::Memory, _) | (_, Domain::Memory) => Domain::Memory,
            (Domain::Cache, Domain::Cache) => Domain::Cache,
        };
        let read_only = members.iter().any(Media::read_only);
        let domain = members.iter().map(Media::domain).fold(Domain::Cache, weakest);
        Joined { members, layout, len, read_only, domain, broken: AtomicUsize::new(SOUND) }
    }

    /// The members, in their order.
    pub fn members(&self) -> &[M] {
        &self.members
    }

    /// Which member holds a byte, by its number, and at what offset. [`Kind::OutOfRange`] for none.
    pub fn place(&self, at: MediaOffset) -> Result<(usize, MediaOffset)> {
        self.check("look for the place", at, 1)?;
        let place = self.layout.place(at.0);
        Ok((place.member, MediaOffset(place.at)))
    }

    fn check(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len, operation, at, len).map_err(|e| e.path(self.name()))
    }

    /// What every store begins with.
    fn begin(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
        if self.read_only {
            return Err(Error::new(Kind::ReadOnly, operation).path(self.name()).at(at));
        }
        if let Some(member) = self.members.get(self.broken.load(Ordering::Relaxed)) {
            // What is lost for good is told again, in the member's words.
            member.drain()?;
            self.broken.store(SOUND, Ordering::Relaxed);
        }
        self.check(operation, at, len)
    }

    /// The pieces of a range that was checked, in its order: member, offset there, bytes.
    fn pieces(&self, at: MediaOffset, len: u64) -> impl Iterator<Item = (&M, MediaOffset, u64)> {
        let mut place = self.layout.place(at.0);
        let mut rest = len;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let (member, start, piece) = (self.members.get(place.member)?, place.at, place.room.min(rest));
            rest = rest.saturating_sub(piece);
            if rest > 0 {
                place = self.layout.next(place);
            }
            Some((member, MediaOffset(start), piece))
        })
    }

    /// What a range that was checked covers of each member: one run of it. In the order in which the range meets them.
    fn runs(&self, at: MediaOffset, len: u64) -> impl Iterator<Item = (usize, &M, MediaOffset, u64)> {
        let count = if len == 0 { 0 } else { self.layout.touched(at.0, len) };
        let first = self.layout.place(at.0).member;
        let end = at.0.saturating_add(len);
        (0..count).filter_map(move |step| {
            let number = first.saturating_add(step);
            let number = number.checked_sub(self.members.len()).unwrap_or(number);
            let start = self.layout.before(number, at.0);
            let stop = self.layout.before(number, end);
            Some((number, self.members.get(number)?, MediaOffset(start), stop.saturating_sub(start)))
        })
    }

    /// Copies bytes in, piece by piece.
    fn copy_in(
        &self,
        operation: &'static str,
        at: MediaOffset,
        mut from: &[u8],
        copy: impl Fn(&M, MediaOffset, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let len = wide(from.len());
        self.begin(operation, at, len)?;
        let mut poisoned = false;
        for (member, start, piece) in self.pieces(at, len) {
            let (head, rest) = from.split_at_checked(narrow(piece)).unwrap_or((from, &[]));
            from = rest;
            poisoned |= met_poison(copy(member, start, head))?;
        }
        if poisoned { self.settle(operation, at, len) } else { Ok(()) }
    }

    /// After a store that met poison: heals the units of members that its pieces cover together, and tells what is left.
    #[cold]
    fn settle(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
        for (_, member, start, run) in self.runs(at, len) {
            // What could not be healed is found below.
            let _ = member.clear_poison(start, run);
        }
        for (_, member, start, run) in self.runs(at, len) {
            if let Some((unit, _)) = member.badblocks(start, run).first() {
                let lost = MediaOffset(unit.saturating_mul(UNIT));
                return Err(Error::new(Kind::Poison, operation).path(member.name()).at(lost));
            }
        }
        Ok(())
    }

    /// The member of an aligned word, and the offset there.
    fn word(&self, operation: &'static str, at: MediaOffset, size: u64) -> Result<(&M, MediaOffset)> {
        self.check(operation, at, size)?;
        let place = self.layout.place(at.0);
        match self.members.get(place.member) {
            Some(member) if at.0 & size.saturating_sub(1) == 0 => Ok((member, MediaOffset(place.at))),
            _ => Err(Error::new(Kind::Invalid, operation)
                .path(self.name())
                .at(at)
                .accepted(format_args!("a multiple of {size}"))),
        }
    }

    /// As [`Joined::word`], for a store.
    fn word_to_store(&self, at: MediaOffset, size: u64) -> Result<(&M, MediaOffset)> {
        self.begin("store", at, size)?;
        self.word("store", at, size)
    }

    /// Adds the units, from `units.0` to before `units.1`, that have a byte of a run of a member.
    fn spread(&self, member: usize, run: (u64, u64), units: (u64, u64), into: &mut Vec<(u64, u64)>) {
        let (mut at, end) = run;
        while at < end {
            let seen = self.layout.seen(member, at);
            let piece = self.layout.place(seen).room.min(end.saturating_sub(at));
            let stop = seen.saturating_add(piece).div_ceil(UNIT).min(units.1);
            add_run(into, ((seen / UNIT).max(units.0), stop));
            at = at.saturating_add(piece);
        }
    }
}

/// Adds a run to those that rise, so that what overlaps or touches is one run.
fn add_run(runs: &mut Vec<(u64, u64)>, (first, end): (u64, u64)) {
    match runs.last_mut() {
        _ if first >= end => {}
        Some((_, stop)) if first <= *stop => *stop = end.max(*stop),
        _ => runs.push((first, end)),
    }
}

/// Whether a store met poison, which moves the bytes all the same. Every other failure ends it.
fn met_poison(done: Result<()>) -> Result<bool> {
    match done {
        Ok(()) => Ok(false),
        Err(e) if e.kind() == Kind::Poison => Ok(true),
        Err(e) => Err(e),
    }
}

impl<M: Media, L: Layout> Media for Joined<M, L> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn domain(&self) -> Domain {
        self.domain
    }

    fn read(&self, at: MediaOffset, mut into: &mut [u8]) -> Result<()> {
        let len = wide(into.len());
        self.check("read", at, len)?;
        for (member, start, piece) in self.pieces(at, len) {
            let Some((head, rest)) = into.split_at_mut_checked(narrow(piece)) else { break };
            into = rest;
            member.read(start, head)?;
        }
        Ok(())
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.copy_in("store", at, from, |member, start, bytes| member.store(start, bytes))
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.copy_in("stream", at, from, |member, start, bytes| member.stream(start, bytes))
    }

    /// Each member's share at once, so that its file gets holes as large as they can be.
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.begin("zero", at, len)?;
        let mut lost = None;
        for (_, member, start, run) in self.runs(at, len) {
            match member.zero(start, run) {
                Err(e) if e.kind() == Kind::Poison => lost = lost.or(Some(e)),
                done => done?,
            }
        }
        lost.map_or(Ok(()), Err)
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        let (member, start) = self.word("load", at, 4)?;
        member.load_u32(start)
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        let (member, start) = self.word_to_store(at, 4)?;
        member.store_u32(start, value)
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        let (member, start) = self.word("load", at, 8)?;
        member.load_u64(start)
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        let (member, start) = self.word_to_store(at, 8)?;
        member.store_u64(start, value)
    }

    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.check("flush", at, len)?;
        self.runs(at, len).try_for_each(|(_, member, start, run)| member.flush(start, run))
    }

    fn drain(&self) -> Result<()> {
        let mut first = Ok(());
        for (number, member) in self.members.iter().enumerate() {
            if let Err(e) = member.drain()
                && first.is_ok()
            {
                self.broken.store(number, Ordering::Relaxed);
                first = Err(e);
            }
        }
        first
    }

    /// Units count from the start of the whole, not of a member. One is bad if any byte of it is.
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        let stop = at.0.saturating_add(len).min(self.len);
        if at.0 >= stop {
            return Vec::new();
        }
        // All the bytes of the units that the range touches.
        let units = (at.0 / UNIT, stop.div_ceil(UNIT));
        let start = units.0.saturating_mul(UNIT);
        let bytes = units.1.saturating_mul(UNIT).min(self.len).saturating_sub(start);
        let mut found = Vec::new();
        for (number, member, from, run) in self.runs(MediaOffset(start), bytes) {
            let end = from.0.saturating_add(run);
            let mut of_member = Vec::new();
            for (unit, count) in member.badblocks(from, run) {
                let lost = unit.saturating_mul(UNIT).max(from.0);
                let lost_end = unit.saturating_add(count).saturating_mul(UNIT).min(end);
                self.spread(number, (lost, lost_end), units, &mut of_member);
            }
            found.append(&mut of_member);
        }
        found.sort_unstable();
        let mut runs = Vec::new();
        found.into_iter().for_each(|run| add_run(&mut runs, run));
        runs.into_iter().map(|(first, end)| (first, end.saturating_sub(first))).collect()
    }

    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        let len = len.min(self.len.saturating_sub(at.0));
        self.runs(at, len).any(|(_, member, start, run)| member.is_poisoned(start, run))
    }

    /// Members round outward to units of their own, so where lines are shorter than a unit more is lost than was asked.
    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.check("inject poison", at, len)?;
        self.runs(at, len).try_for_each(|(_, member, start, run)| member.inject_poison(start, run))
    }

    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.check("clear poison", at, len)?;
        self.runs(at, len).try_for_each(|(_, member, start, run)| member.clear_poison(start, run))
    }

    /// A hole only as far as every member has one.
    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        self.check("look for holes", at, len)?;
        let end = at.0.saturating_add(len);
        let (mut holes_end, mut data_end) = (end, at.0);
        for (number, member, start, run) in self.runs(at, len) {
            let found = member.extent(start, run)?;
            // The first byte that is not of the run, as it is seen here.
            let seen = match found.len {
                part if part < run => self.layout.seen(number, start.0.saturating_add(part)),
                _ => end,
            };
            if found.hole {
                holes_end = holes_end.min(seen);
            } else {
                data_end = data_end.max(seen);
            }
        }
        let hole = data_end == at.0 && len > 0;
        let until = if hole { holes_end } else { data_end };
        Ok(Extent { at, len: until.saturating_sub(at.0).min(len), hole })
    }

    fn name(&self) -> String {
        let names: Vec<String> = self.members.iter().map(Media::name).collect();
        self.layout.describe() + &names.join(", ")
    }
}

impl<M: Media, L: Layout> fmt::Debug for Joined<M, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Joined({}, {} bytes)", self.name(), self.len)
    }
}

#[cold]
fn no_members(operation: &'static str) -> Error {
    Error::new(Kind::Invalid, operation).found("no member").accepted("1 or more")
}

#[cold]
fn too_large(operation: &'static str) -> Error {
    Error::new(Kind::Invalid, operation).found("16 EiB or more").accepted("less in all")
}

/// A `usize` has no more bits than a `u64` on the machines that this runs on.
fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn narrow(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
