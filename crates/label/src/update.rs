// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing a label area: nothing in place, and an index block last.
//!
//! Each change is the same four steps, in this order, so that a cut before the last one ends leaves the old state:
//!
//! 1. the label goes to a free slot, which nobody reads;
//! 2. persist;
//! 3. the index block that is *not* current is rewritten, with the next sequence number and the changed bitmap;
//! 4. persist.
//!
//! A half-written index block fails its checksum, and the other one, still whole, goes on to count.

use nvstack_format::guid::ClaimClass;
use nvstack_format::label::{AreaLayout, Flags, HEADER_LEN, Index, Label, Version};
use nvstack_media::{Domain, Error, Kind, Media, MediaOffset, Result};
use uuid::Uuid;

use crate::LabelArea;
use crate::area::{Doubt, layout, read_block};
use crate::mutants::{Mutant, encode, keeps};

impl<M: Media> LabelArea<M> {
    /// Makes a new area without labels on a blank medium. What an earlier call has made of it, whole or cut short, is no
    /// obstacle as long as nothing was changed since.
    ///
    /// [`Kind::Exists`] if other index blocks, or anything else, stand where they would go: see [`LabelArea::init_over`].
    pub fn init(media: M, version: Version) -> Result<LabelArea<M>> {
        let area = LabelArea::open(media)?;
        if area.is_blank()? || is_begun(&area.media, version)? {
            return write_fresh(area.media, version);
        }
        let found = match area.index() {
            Some(index) => format!("labels of version {} there", index.layout().version),
            None => "bytes that are no valid index block".to_owned(),
        };
        Err(Error::new(Kind::Exists, "initialise labels")
            .at(MediaOffset(0))
            .found(found)
            .accepted("a blank label area"))
    }

    /// Makes a new area without labels, whatever is on the medium. A cut leaves the old labels, none, or a blank area.
    pub fn init_over(media: M, version: Version) -> Result<LabelArea<M>> {
        wipe(&media)?;
        write_fresh(media, version)
    }

    /// Writes the label of one namespace, in place of those it already has here. Its `slot` and its UPDATING flag are
    /// ignored.
    ///
    /// Done in two updates as Linux does (UEFI "Updating labels"): with the UPDATING flag, then without it. A cut leaves
    /// the old label, the new one with the flag, or the new one.
    ///
    /// [`Kind::NoSpace`] if there are too few free slots for both, before anything is written; [`Kind::Invalid`] for a
    /// label that cannot be, that this version cannot hold, or that claims bytes of another one.
    pub fn write_namespace(&mut self, label: &Label) -> Result<()> {
        let own = [label.uuid];
        self.make_sure()?;
        self.admit(label, &own)?;
        self.update(label, &own, true)?;
        self.update(label, &own, false)
    }

    /// One of the two updates: with the UPDATING flag, then without it. The index block that publishes the label frees all
    /// labels of the namespaces `own`.
    pub(crate) fn update(&mut self, label: &Label, own: &[Uuid], updating: bool) -> Result<()> {
        let mut label = *label;
        label.flags.set(Flags::UPDATING, updating);
        self.make_sure()?;
        let (mut next, version) = self.staged()?;
        let own = self.slots_of(own)?;
        let Some(slot) = self.usable(&next).next() else {
            return Err(self.no_space(&next, 1));
        };
        let slot = own.first().copied().filter(|_| !keeps(Mutant::SlotReuse)).unwrap_or(slot);
        let place = MediaOffset(self.layout.slot(slot).unwrap_or(u64::MAX));
        let bytes = Label { slot, ..label }.encode(version);
        if !keeps(Mutant::FreeFirst) {
            self.free_slots(&own, None)?;
            next = self.staged()?.0;
        }
        if keeps(Mutant::UsedFirst) {
            put(&self.media, place, &bytes, Mutant::LabelDrain)?;
        }
        for old in own.iter().filter(|_| keeps(Mutant::OldSlots)) {
            next.mark(*old, true);
        }
        next.mark(slot, false);
        self.commit(next)?;
        if !keeps(Mutant::UsedFirst) {
            put(&self.media, place, &bytes, Mutant::LabelDrain)?;
        }
        Ok(())
    }

    /// Removes the labels of one namespace. One update; the labels' bytes stay behind in free slots, as with Linux.
    ///
    /// [`Kind::NotFound`] if there are none, which then is durable. A deletion that failed is ended by another try.
    pub fn delete(&mut self, uuid: Uuid) -> Result<()> {
        self.staged()?;
        self.make_sure()?;
        let own = self.slots_of(&[uuid])?;
        if !own.is_empty() {
            self.free_slots(&own, Some(uuid))?;
        } else if !self.leaving.contains(&uuid) {
            return Err(
                Error::new(Kind::NotFound, "delete label").accepted(format_args!("a label of {uuid}"))
            );
        }
        self.leaving.retain(|left| *left != uuid);
        Ok(())
    }

    /// Frees some slots in one update; `leaving` is the namespace that is deleted by that.
    pub(crate) fn free_slots(&mut self, slots: &[u32], leaving: Option<Uuid>) -> Result<()> {
        self.make_sure()?;
        let (mut next, _) = self.staged()?;
        for slot in slots {
            next.mark(*slot, true);
        }
        let done = self.commit(next);
        if done.is_err() {
            self.leaving.extend(leaving);
        }
        done
    }

    /// Refuses what would leave the area in a state that a reader gives up, or half-way through. The labels of the
    /// namespaces `own` are going to be replaced.
    pub(crate) fn admit(&self, label: &Label, own: &[Uuid]) -> Result<()> {
        let (next, version) = self.staged()?;
        let invalid = |finding| Error::invalid(Kind::Invalid, "write label", MediaOffset(0), finding);
        // A 1.1 label has no room for the type, so it need not be right.
        label.check(version).map_err(invalid)?;
        if label.name.as_bytes().len() >= 64 {
            return Err(Error::new(Kind::Invalid, "write label")
                .found(format_args!("a name of 64 bytes: {:?}", label.name))
                .accepted("at most 63: Linux prints past the end of a longer one"));
        }
        if version == Version::V1_1 && label.claim() != ClaimClass::None {
            return Err(Error::new(Kind::Invalid, "write label")
                .found(format_args!("abstraction {}", label.abstraction))
                .accepted("none: labels of version 1.1 cannot name one"));
        }
        let slots = self.slots()?;
        let same = |l: &Label| own.contains(&l.uuid) && (l.dpa, l.rawsize) == (label.dpa, label.rawsize);
        if !slots.iter().any(|slot| slot.label.as_ref().is_ok_and(same)) {
            // Nobody knows whose bytes a lost label claims; so no label gets a new place beside it.
            if let Some(slot) = slots.iter().find(|slot| slot.label.is_err() && self.is_lost(slot.number)) {
                return Err(Error::new(Kind::Poison, "write label")
                    .at(MediaOffset(self.layout.slot(slot.number).unwrap_or(0)))
                    .found(format_args!("lost bytes in slot {}, which is in use", slot.number))
                    .accepted("labels that can be read, where a label is to get a new place"));
            }
        }
        let mut replaced = 0usize;
        for other in slots.into_iter().filter_map(|slot| slot.label.ok()) {
            if own.contains(&other.uuid) || !keeps(Mutant::OverlapCheck) {
                replaced = replaced.saturating_add(1);
            } else if label.dpa < other.end() && other.dpa < label.end() {
                return Err(Error::new(Kind::Invalid, "write label")
                    .found(format_args!("bytes {} to {}", label.dpa, label.end()))
                    .accepted(format_args!(
                        "bytes outside {} to {}, which belong to {}",
                        other.dpa,
                        other.end(),
                        other.uuid
                    )));
            }
        }
        // The first update of a known namespace frees a slot for the second one.
        let needed = if replaced == 0 { 2 } else { 1 };
        if self.usable(&next).take(needed).count() < needed && keeps(Mutant::SpaceCheck) {
            Err(self.no_space(&next, needed))
        } else {
            Ok(())
        }
    }

    /// The free slots that can hold a label.
    fn usable<'a>(&'a self, index: &'a Index) -> impl Iterator<Item = u32> + 'a {
        index.free().filter(|slot| !self.is_lost(*slot))
    }

    fn no_space(&self, index: &Index, needed: usize) -> Error {
        Error::new(Kind::NoSpace, "write label")
            .at(MediaOffset(self.layout.labeloff()))
            .found(format_args!("{} free slots of {}", self.usable(index).count(), index.nslot()))
            .accepted(format_args!("{needed} or more"))
    }

    /// The index block that the next update writes, as yet unchanged.
    pub(crate) fn staged(&self) -> Result<(Index, Version)> {
        self.check_lost()?;
        match self.index() {
            Some(index) if !keeps(Mutant::IndexInPlace) => Ok((index.clone(), index.layout().version)),
            Some(index) => Ok((index.successor(), index.layout().version)),
            None => {
                let error = Error::new(Kind::Unrecognised, "change labels").at(MediaOffset(0));
                let [first, _] = &self.blocks;
                Err(match first {
                    Err(finding) => error.because(finding.clone()),
                    Ok(_) => error,
                })
            }
        }
    }

    fn slots_of(&self, own: &[Uuid]) -> Result<Vec<u32>> {
        let used = self.slots()?.into_iter();
        Ok(used
            .filter(|slot| slot.label.as_ref().is_ok_and(|l| own.contains(&l.uuid)))
            .map(|slot| slot.number)
            .collect())
    }

    /// Before the older state goes: what counts is made durable if that is in doubt. Otherwise the next change could give up
    /// the only block that is, or after a failed write put its label into a slot that is in use.
    pub(crate) fn make_sure(&mut self) -> Result<()> {
        match self.doubt {
            Doubt::None => return Ok(()),
            Doubt::Failed if !keeps(Mutant::LocalChange) => return Ok(()),
            Doubt::Failed => self.reload()?,
            Doubt::Opened => {}
        }
        if self.media.read_only() {
            return Ok(());
        }
        if let Some(number) =
            self.index().map(Index::number).filter(|_| self.media.domain() == Domain::PageCache)
        {
            // A page that could not be written, by a process that is no more, counts as written until it is stored to.
            let bytes = read_block(&self.media, &self.layout, number)?;
            self.media.store(MediaOffset(self.layout.index(number)), &bytes)?;
        }
        self.media.persist(MediaOffset(0), self.layout.labeloff()).map_err(|e| e.at(MediaOffset(0)))?;
        self.doubt = Doubt::None;
        Ok(())
    }

    /// A write failed: what stands there is what counts, if it can be read at all.
    pub(crate) fn failed(&mut self) {
        self.doubt = Doubt::Failed;
        if keeps(Mutant::LocalChange) {
            let _ = self.reload();
        }
    }

    /// Makes `next` the current index block.
    fn commit(&mut self, next: Index) -> Result<()> {
        let number = next.number();
        let place = MediaOffset(self.layout.index(number));
        if let Err(e) = put(&self.media, place, &encode(&next), Mutant::IndexDrain) {
            self.failed();
            return Err(e);
        }
        if let Some(block) = self.blocks.get_mut(number) {
            *block = Ok(next);
        }
        Ok(())
    }
}

/// Stores bytes and waits until they are durable; `drain` is the name under which a test leaves the waiting out.
#[track_caller]
pub(crate) fn put<M: Media>(media: &M, at: MediaOffset, bytes: &[u8], drain: Mutant) -> Result<()> {
    media.store(at, bytes)?;
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let done = if keeps(drain) { media.persist(at, len) } else { media.flush(at, len) };
    done.map_err(|e| e.at(at))
}

/// A new area's index blocks, the first of them current. Linux and ndctl number them 3 and 2.
fn fresh(layout: AreaLayout) -> [Index; 2] {
    [Index::fresh(layout, 0, 3), Index::fresh(layout, 1, 2)]
}

/// Whether there is nothing where index blocks go but some words of those of a new area.
fn is_begun<M: Media>(media: &M, version: Version) -> Result<bool> {
    let layout = layout(media, version)?;
    for block in fresh(layout) {
        let (found, new) = (read_block(media, &layout, block.number())?, block.encode());
        let words = found.chunks(8).zip(new.chunks(8));
        if found.len() != new.len() || words.into_iter().any(|(f, n)| f != n && f.iter().any(|b| *b != 0)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes a new area's index blocks.
fn write_fresh<M: Media>(media: M, version: Version) -> Result<LabelArea<M>> {
    let layout = layout(&media, version)?;
    let blocks = fresh(layout);
    for block in &blocks {
        put(&media, MediaOffset(layout.index(block.number())), &block.encode(), Mutant::FreshDrain)?;
    }
    Ok(LabelArea::written(media, layout, blocks))
}

/// Zeroes every place where an index block of either version may stand. The current block goes after the other one of its
/// kind, and before anything that could be a label to it, so that neither an older state comes back nor half of this one.
/// More than the signature goes: a half-written new block could bring that back over an old rest.
///
/// Where bytes were lost, all of that part of the area is zeroed at once, which heals it. At most one block can be valid then,
/// so there is no older state that could come back.
pub(crate) fn wipe<M: Media>(media: &M) -> Result<()> {
    if !keeps(Mutant::Wipe) {
        return Ok(());
    }
    match wipe_in_order(media) {
        Err(e) if e.kind() == Kind::Poison => {
            let mut end = 0;
            for version in Version::ALL {
                end = end.max(layout(media, version)?.labeloff());
            }
            media.zero(MediaOffset(0), end.next_multiple_of(512).min(media.len()))?;
            media.drain()
        }
        done => done,
    }
}

fn wipe_in_order<M: Media>(media: &M) -> Result<()> {
    let header = if keeps(Mutant::WipeWhole) { HEADER_LEN } else { 16 };
    let mut places = Vec::new();
    let area = LabelArea::open(media)?;
    if let Some(current) = area.index() {
        let number = current.number();
        let len = current.encode().len();
        let mut order = [1usize.saturating_sub(number), number];
        if !keeps(Mutant::WipeOrder) {
            order.reverse();
        }
        let len = if keeps(Mutant::WipeWhole) { len } else { 16 };
        places.extend(order.map(|number| (area.layout.index(number), len)));
    }
    for version in Version::ALL.into_iter().filter(|_| keeps(Mutant::WipeVersions)) {
        let layout = layout(media, version)?;
        places.extend([0, 1].map(|number| (layout.index(number), header)));
    }
    for (at, len) in places {
        let mut bytes = vec![0; len];
        media.read(MediaOffset(at), &mut bytes)?;
        if bytes.iter().any(|byte| *byte != 0) {
            bytes.fill(0);
            put(media, MediaOffset(at), &bytes, Mutant::WipeDrain)?;
        }
    }
    Ok(())
}
