// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a label area.

use std::fmt;

use nvstack_format::label::{AreaLayout, HEADER_LEN, Index, IndexHeader, Label, Version};
use nvstack_format::{Dpa, Invalid};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};
use uuid::Uuid;

use crate::Member;
use crate::mutants::{Mutant, current, forgive};

/// A label area on a medium.
///
/// Opening succeeds for any bytes: an area without a valid index block has no labels, and Linux then takes the DIMM as
/// one without labels. [`LabelArea::index`] tells.
pub struct LabelArea<M> {
    pub(crate) media: M,
    pub(crate) layout: AreaLayout,
    pub(crate) blocks: [Result<Index, Invalid>; 2],
    /// Blocks of which bytes are lost, and nobody knows what they said.
    lost: [bool; 2],
    pub(crate) doubt: Doubt,
    /// Namespaces whose deletion failed half-way.
    pub(crate) leaving: Vec<Uuid>,
}

/// Whether what was read of the index blocks is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It is.
    None,
    /// It was found on the medium: who stored it may have been killed before it was durable.
    Opened,
    /// A write of them failed: it may be on the medium or not, durable or not.
    Failed,
}

impl<M: Media> fmt::Debug for LabelArea<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabelArea").field("media", &self.media.name()).field("index", &self.index()).finish()
    }
}

/// A slot in use, and the label in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The slot.
    pub number: u32,
    /// The label, or why Linux drops it without a word.
    pub label: Result<Label, Invalid>,
}

impl<M: Media> LabelArea<M> {
    /// Reads the index blocks of the area that `media` is. Writes nothing.
    ///
    /// Errors: [`Kind::Invalid`] for a size that no area can have, and what the medium says. Bad index blocks are no
    /// error.
    pub fn open(media: M) -> Result<LabelArea<M>> {
        let Blocks { layout, blocks, lost } = read_state(&media)?;
        Ok(LabelArea { media, layout, blocks, lost, doubt: Doubt::Opened, leaving: Vec::new() })
    }

    /// An area whose index blocks were just written, and are durable.
    pub(crate) fn written(media: M, layout: AreaLayout, blocks: [Index; 2]) -> LabelArea<M> {
        let blocks = blocks.map(Ok);
        LabelArea { media, layout, blocks, lost: [false; 2], doubt: Doubt::None, leaving: Vec::new() }
    }

    /// Reads the index blocks again, after the medium was written past this object.
    ///
    /// Errors as [`LabelArea::open`], and [`Kind::Poison`] if the block that counted can't be read any more: the other one
    /// is older. What was known before then stays.
    pub fn reload(&mut self) -> Result<()> {
        let found = read_state(&self.media)?;
        if let Some(number) = self.index().map(Index::number)
            && found.lost.get(number) == Some(&true)
        {
            return Err(lost(&found.layout, number, "read label index"));
        }
        Blocks { layout: self.layout, blocks: self.blocks, lost: self.lost } = found;
        if self.doubt == Doubt::None {
            self.doubt = Doubt::Opened;
        }
        Ok(())
    }

    /// Refuses a change on top of an index block beside which another one was lost: that one may be the newer of both.
    pub(crate) fn check_lost(&self) -> Result<()> {
        match self.lost.iter().position(|lost| *lost) {
            Some(number) => Err(lost(&self.layout, number, "change labels")),
            None => Ok(()),
        }
    }

    /// The medium.
    pub fn media(&self) -> &M {
        &self.media
    }

    /// The medium back.
    pub fn into_media(self) -> M {
        self.media
    }

    /// The current index block; none in an area that is blank or unusable.
    pub fn index(&self) -> Option<&Index> {
        let [first, second] = &self.blocks;
        let number = current(first.as_ref().ok(), second.as_ref().ok())?;
        self.blocks.get(number)?.as_ref().ok()
    }

    /// The version of the labels, where there is a current index block.
    pub fn version(&self) -> Option<Version> {
        self.index().map(|index| index.layout().version)
    }

    /// Both index blocks, each valid or with what is wrong with it. One bad block is what a power cut leaves.
    pub fn blocks(&self) -> &[Result<Index, Invalid>; 2] {
        &self.blocks
    }

    /// The headers of both index blocks as they stand there, valid or not: what `read-labels` shows.
    pub fn headers(&self) -> Result<[IndexHeader; 2]> {
        let header = |number| -> Result<IndexHeader> {
            let at = MediaOffset(self.layout.index(number));
            let mut bytes = [0; HEADER_LEN];
            self.media.read(at, &mut bytes)?;
            // As many bytes as a header has; it cannot be none.
            IndexHeader::decode(&bytes).ok_or_else(|| Error::new(Kind::Corrupt, "read label index").at(at))
        };
        Ok([header(0)?, header(1)?])
    }

    /// Whether nothing was ever written where index blocks would be, so that a new area harms nothing.
    pub fn is_blank(&self) -> Result<bool> {
        for version in Version::ALL {
            let layout = layout(&self.media, version)?;
            for number in [0, 1] {
                if read_block(&self.media, &layout, number)?.iter().any(|byte| *byte != 0) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Slots of the area: those that the current index block counts, which may be fewer than fit. Without one it is
    /// what a new area of version 1.2 would have, as in Linux.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        let fresh = || layout(&self.media, Version::V1_2).map_or(0, |layout| layout.slots);
        self.index().map_or_else(fresh, Index::nslot)
    }

    /// Labels that may still be made (Linux `available_slots`): one slot is always kept free, since an update writes the
    /// new label before it frees the old one.
    #[must_use]
    pub fn available_slots(&self) -> u32 {
        let free = match self.index() {
            Some(index) => u32::try_from(index.free().count()).unwrap_or(u32::MAX),
            None => self.slot_count(),
        };
        free.saturating_sub(1)
    }

    /// Where a slot lies in the area; none if there is no such slot.
    #[must_use]
    pub fn slot_offset(&self, slot: u32) -> Option<MediaOffset> {
        self.layout.slot(slot).map(MediaOffset)
    }

    /// What a region is told of this area: its labels, for a mapping of `size` bytes that begins at `start` of the DIMM.
    pub fn member(&self, start: Dpa, size: u64) -> Result<Member> {
        Ok(Member { version: self.version(), slots: self.slots()?, start, size })
    }

    /// The slots that the current index block counts as used. Lost bytes make a bad label, as anything else does.
    pub fn slots(&self) -> Result<Vec<Slot>> {
        let Some(index) = self.index() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut bytes = label_buffer(&self.layout);
        for number in index.used() {
            let label = match self.read_slot(number, &mut bytes) {
                Ok(()) => {
                    forgive(&mut bytes, Mutant::LabelChecksum, 248, Some(number));
                    Label::parse(&bytes, self.layout.version, number)
                }
                // One lost label does not hide the others.
                Err(e) if e.kind() == Kind::Poison => {
                    Err(Invalid::new("label", "bytes", 0, e, "bytes that can be read"))
                }
                Err(e) => return Err(e),
            };
            found.push(Slot { number, label });
        }
        Ok(found)
    }

    /// The labels in all slots, used or free, whose stored slot number is their own: what `read-labels` prints. Without a
    /// current index block the slots are looked for where an area of this size has them.
    pub fn all_labels(&self) -> Result<Vec<Label>> {
        let mut found = Vec::new();
        let mut bytes = label_buffer(&self.layout);
        for number in 0..self.index().map_or(self.layout.slots, Index::nslot) {
            self.read_slot(number, &mut bytes)?;
            found.extend(Label::decode(&bytes, self.layout.version).filter(|label| label.slot == number));
        }
        Ok(found)
    }

    /// The labels that name a part of this DIMM, whose persistent memory is `dimm_size` bytes, from the lowest address
    /// on. Labels that cannot be, or lie outside, are left out; [`LabelArea::slots`] tells of the former.
    ///
    /// [`Kind::Corrupt`] if two labels claim the same bytes or the same namespace: Linux then gives up all labels of the
    /// DIMM or of its region, and nobody can tell which one is right. Whether the cookie is that of the DIMM's set is for
    /// the caller to judge.
    pub fn namespaces(&self, dimm_size: u64) -> Result<Vec<Label>> {
        let mut labels: Vec<Label> = self.slots()?.into_iter().filter_map(|slot| slot.label.ok()).collect();
        labels.sort_by_key(|label| (label.dpa, label.slot));
        for (one, other) in labels.iter().zip(labels.iter().skip(1)) {
            if one.end() > other.dpa {
                return Err(self.conflict(one, other, "labels of different ranges"));
            }
        }
        let version = self.layout.version;
        labels.retain(|label| label.check(version).is_ok() && label.end().0 <= dimm_size);
        let mut by_uuid: Vec<&Label> = labels.iter().collect();
        by_uuid.sort_by_key(|label| (label.uuid, label.slot));
        for (one, other) in by_uuid.iter().zip(by_uuid.iter().skip(1)) {
            if one.uuid == other.uuid {
                return Err(self.conflict(one, other, "one label for each namespace"));
            }
        }
        Ok(labels)
    }

    fn conflict(&self, one: &Label, other: &Label, accepted: &'static str) -> Error {
        let show = |label: &Label| {
            format!("slot {} with {}, bytes {} to {}", label.slot, label.uuid, label.dpa, label.end())
        };
        Error::new(Kind::Corrupt, "read labels")
            .at(MediaOffset(self.layout.slot(other.slot).unwrap_or(0)))
            .found(format_args!("{} and {}", show(one), show(other)))
            .accepted(accepted)
    }

    /// Whether bytes of a slot are lost.
    pub(crate) fn is_lost(&self, number: u32) -> bool {
        let len = u64::from(self.layout.version.label_len());
        self.slot_offset(number).is_some_and(|at| self.media.is_poisoned(at, len))
    }

    fn read_slot(&self, number: u32, bytes: &mut [u8]) -> Result<()> {
        let Some(at) = self.layout.slot(number) else {
            return Err(Error::new(Kind::OutOfRange, "read label").found(format_args!("slot {number}")));
        };
        self.media.read(MediaOffset(at), bytes)
    }
}

/// Room for one label. They are 128 or 256 bytes.
fn label_buffer(layout: &AreaLayout) -> Vec<u8> {
    vec![0; usize::try_from(layout.version.label_len()).unwrap_or(0)]
}

/// The geometry of a medium taken as an area.
pub(crate) fn layout<M: Media>(media: &M, version: Version) -> Result<AreaLayout> {
    AreaLayout::compute(media.len(), version)
        .map_err(|finding| Error::invalid(Kind::Invalid, "use as label area", MediaOffset(0), finding))
}

/// The bytes of an index block. Their number follows from the size of the medium, never from what is on it.
pub(crate) fn read_block<M: Media>(media: &M, layout: &AreaLayout, number: usize) -> Result<Vec<u8>> {
    let Ok(len) = usize::try_from(layout.index_len) else {
        return Err(
            Error::new(Kind::NoMemory, "read label index").found(format_args!("{} bytes", layout.index_len))
        );
    };
    let mut bytes = vec![0; len];
    media.read(MediaOffset(layout.index(number)), &mut bytes)?;
    Ok(bytes)
}

/// What stands where index blocks go.
struct Blocks {
    layout: AreaLayout,
    blocks: [Result<Index, Invalid>; 2],
    lost: [bool; 2],
}

impl Blocks {
    fn any(&self) -> bool {
        self.blocks.iter().any(Result::is_ok)
    }
}

fn lost(layout: &AreaLayout, number: usize, operation: &'static str) -> Error {
    Error::new(Kind::Poison, operation)
        .at(MediaOffset(layout.index(number)))
        .found(format_args!("lost bytes in index block {number}, which may be the newer one"))
        .accepted("index blocks that can be read; zeros in its place let the other one count")
}

/// The index blocks of a medium, of the version that they are, and the geometry for it.
fn read_state<M: Media>(media: &M) -> Result<Blocks> {
    let [first, second] = Version::ALL;
    // Linux tries the small labels first and takes them if only one block is valid for them.
    let small = read_blocks(media, first)?;
    let found = if small.any() {
        small
    } else {
        let other = read_blocks(media, second)?;
        // Neither kind: what is told of the blocks should be about the kind that they say they are.
        if other.any() || claims(media, second)? { other } else { small }
    };
    if !found.any() {
        // Lost bytes are not a blank area: who took them for one would serve the DIMM without its labels.
        for number in [0, 1] {
            read_block(media, &found.layout, number)?;
        }
    }
    Ok(found)
}

fn read_blocks<M: Media>(media: &M, version: Version) -> Result<Blocks> {
    let layout = layout(media, version)?;
    let ((first, first_lost), (second, second_lost)) =
        (parse_block(media, &layout, 0)?, parse_block(media, &layout, 1)?);
    Ok(Blocks { layout, blocks: [first, second], lost: [first_lost, second_lost] })
}

/// Lost bytes in one index block make it a bad one; the other still counts, for who only reads.
fn parse_block<M: Media>(
    media: &M,
    layout: &AreaLayout,
    number: usize,
) -> Result<(Result<Index, Invalid>, bool)> {
    match read_block(media, layout, number) {
        Ok(mut bytes) => {
            forgive(&mut bytes, Mutant::IndexChecksum, 64, None);
            Ok((Index::parse(&bytes, layout, number), false))
        }
        Err(e) if e.kind() == Kind::Poison => {
            Ok((Err(Invalid::new("label index block", "bytes", 0, e, "bytes that can be read")), true))
        }
        Err(e) => Err(e),
    }
}

/// Whether one of the index blocks says that it is of this version; with no say at all it counts as the newest.
fn claims<M: Media>(media: &M, version: Version) -> Result<bool> {
    let layout = layout(media, version)?;
    for number in [0, 1] {
        let header = match read_block(media, &layout, number) {
            Ok(bytes) => IndexHeader::decode(&bytes),
            Err(e) if e.kind() == Kind::Poison => None,
            Err(e) => return Err(e),
        };
        if let Some(header) = header.filter(|h| h.signature == nvstack_format::label::SIGNATURE) {
            return Ok(header.label_len == u64::from(version.label_len()));
        }
    }
    Ok(version == Version::V1_2)
}
