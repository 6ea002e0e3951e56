// SPDX-License-Identifier: MIT OR Apache-2.0
//! A label area as bytes: checked, zeroed, overwritten.

use nvstack_format::Invalid;
use nvstack_format::label::{AreaLayout, Index, Version};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result, check_range};

use crate::LabelArea;
use crate::mutants::{Mutant, current, keeps};
use crate::update::{put, wipe};

/// What a check of an area has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaCheck {
    /// The index block that counts, 0 or 1.
    pub current: usize,
    /// What is wrong with the other one: a power cut leaves one bad block, and the next update mends it.
    pub other: Option<Invalid>,
    /// Slots in use that hold no valid label, with what is wrong. They stay in use until the area is made anew.
    pub slots: Vec<(u32, Invalid)>,
    /// Slots of the area.
    pub slot_count: u32,
}

impl<M: Media> LabelArea<M> {
    /// Checks the area as `ndctl check-labels` does: whether there is an index block that can be used. What is wrong
    /// besides is told and is no error.
    ///
    /// [`Kind::Unrecognised`] if neither block can be used, with what is wrong with both.
    pub fn check(&self) -> Result<AreaCheck> {
        let [first, second] = self.blocks();
        let Some(current) = current(first.as_ref().ok(), second.as_ref().ok()) else {
            let error = Error::new(Kind::Unrecognised, "check labels").at(MediaOffset(0));
            let said: Vec<String> =
                self.blocks().iter().filter_map(|b| b.as_ref().err().map(ToString::to_string)).collect();
            return Err(error.found(said.join("; ")).accepted("one valid index block"));
        };
        let other = if current == 0 { second } else { first };
        let bad = |slot: crate::Slot| slot.label.err().map(|finding| (slot.number, finding));
        Ok(AreaCheck {
            current,
            other: other.as_ref().err().cloned(),
            slots: self.slots()?.into_iter().filter_map(bad).collect(),
            slot_count: self.slot_count(),
        })
    }

    /// Zeroes bytes of the area, and reads it again. With all of its index blocks in the range a cut leaves the old labels
    /// or none, never those of an older state; over less the bytes are zeroed just as they are asked for.
    ///
    /// [`Kind::OutOfRange`] for bytes outside the area.
    pub fn zero(&mut self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.media().len(), "zero labels", at, len)?;
        if len == 0 {
            return Ok(());
        }
        let done = self.zero_bytes(at, len);
        self.end(done)
    }

    fn zero_bytes(&self, at: MediaOffset, len: u64) -> Result<()> {
        if self.holds_indexes(at, len)? {
            wipe(self.media())?;
        }
        self.media().zero(at, len)?;
        self.media().drain().map_err(|e| e.at(at))
    }

    /// Reads the area again after it was written past its index blocks' order, be it in part.
    fn end(&mut self, done: Result<()>) -> Result<()> {
        done.and_then(|()| self.reload()).inspect_err(|_| self.failed())
    }

    /// Overwrites bytes of the area, and reads it again. Nothing in them is checked: it is for putting back what was
    /// read from the area before.
    ///
    /// With all index blocks in the range they go first and come last, the current one before the other, so that a cut
    /// leaves the old labels, none, or the new ones.
    ///
    /// [`Kind::OutOfRange`] for bytes outside the area.
    pub fn write_bytes(&mut self, at: MediaOffset, bytes: &[u8]) -> Result<()> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        check_range(self.media().len(), "write labels", at, len)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let done = self.put_bytes(at, bytes, len);
        self.end(done)
    }

    fn put_bytes(&self, at: MediaOffset, bytes: &[u8], len: u64) -> Result<()> {
        if self.holds_indexes(at, len)? {
            wipe(self.media())?;
            // All blocks lie in the range and the range begins with them.
            let (head, parts) = head_parts(self.media().len(), bytes);
            let (head, rest) = bytes.split_at_checked(head).unwrap_or((bytes, &[]));
            // Zeros before anything else: bytes that were lost are healed only by whole units of 512.
            let rest_at = at.plus(u64::try_from(head.len()).unwrap_or(u64::MAX));
            if self.media().is_poisoned(at, len) {
                self.media().zero(at, len)?;
                self.media().drain()?;
            }
            if !rest.is_empty() && keeps(Mutant::RestoreRest) {
                put(self.media(), rest_at, rest, Mutant::RestoreDrain)?;
            }
            for (from, part) in parts.iter().filter_map(|&(a, b)| Some((a, head.get(a..b)?))) {
                put(
                    self.media(),
                    at.plus(u64::try_from(from).unwrap_or(u64::MAX)),
                    part,
                    Mutant::FreshDrain,
                )?;
            }
            if !rest.is_empty() && !keeps(Mutant::RestoreRest) {
                put(self.media(), rest_at, rest, Mutant::RestoreDrain)?;
            }
        } else {
            put(self.media(), at, bytes, Mutant::FreshDrain)?;
        }
        Ok(())
    }

    /// Whether a range has every byte where an index block of either version may stand.
    fn holds_indexes(&self, at: MediaOffset, len: u64) -> Result<bool> {
        let mut end = 0;
        for version in Version::ALL {
            end = end.max(crate::area::layout(self.media(), version)?.labeloff());
        }
        Ok(at.0 == 0 && len >= end)
    }
}

/// How the first bytes of an area are to be written: how many belong to its index blocks, and their parts in order.
fn head_parts(size: u64, bytes: &[u8]) -> (usize, Vec<(usize, usize)>) {
    for version in Version::ALL {
        let Ok(layout) = AreaLayout::compute(size, version) else { continue };
        let Some(len) = usize::try_from(layout.index_len).ok().filter(|len| len.checked_mul(2).is_some())
        else {
            continue;
        };
        let head = len.saturating_mul(2);
        let block = |number: usize, range| {
            bytes.get(range).and_then(|bytes| Index::parse(bytes, &layout, number).ok())
        };
        let (first, second) = (block(0, 0..len), block(1, len..head));
        if let Some(current) = current(first.as_ref(), second.as_ref()) {
            let mut parts = vec![(0, len), (len, head)];
            if (current == 1) == keeps(Mutant::RestoreOrder) {
                parts.reverse();
            }
            return (head, parts);
        }
    }
    (0, Vec::new())
}
