// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the protocol may leave out, to show that they would notice: each ordering point, order and check
//! by name. Without the feature `mutants`, which only the package `nvstack-label-sim` has, nothing can be left out, and the
//! questions cost nothing: they are constant.

use nvstack_format::label::{Index, select};

macro_rules! mutants {
    ($($variant:ident $name:literal $what:literal;)*) => {
        /// A part of the protocol that can be left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(not(feature = "mutants"), allow(unreachable_pub, dead_code))]
        pub enum Mutant {
            $(#[doc = $what] $variant,)*
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$variant,)*];

            /// The name that a person types.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Mutant::$variant => $name,)* }
            }

            /// What is left out.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Mutant::$variant => $what,)* }
            }
        }
    };
}

mutants! {
    LabelDrain "label-drain" "Update: the drain between the label and the index block that publishes it.";
    IndexDrain "index-drain" "Update: the drain after the index block.";
    SlotReuse "slot-reuse" "Update: that a new label goes to a free slot, and not to the one that it replaces.";
    IndexInPlace "index-in-place" "Update: that the index blocks take turns; the current one is written over.";
    UsedFirst "used-first" "Update: that a slot is marked as used after its label is durable.";
    FreeFirst "free-first" "Update: that old labels are freed by the index block that publishes the new one, not before.";
    OldSlots "old-slots" "Update: freeing the slots of the labels that are replaced.";
    SeqStep "seq-step" "Update: the next sequence number; the new block has that of the old one.";
    SeqWrap "seq-wrap" "Update: that after sequence number 3 comes 1; it goes on with 4.";
    LocalChange "local-change" "Update after a failed one: reading the area anew, and making durable what was read.";
    UpdatingPass "updating-pass" "Set: the first pass, with UPDATING set.";
    FinalPass "final-pass" "Set: the second pass, which takes UPDATING away.";
    WriteOrder "write-order" "Set: that position 0 comes last when labels are written.";
    DeleteOrder "delete-order" "Set: that position 0 comes first when labels are deleted.";
    AdmitAll "admit-all" "Set: that all DIMMs can take a label, before the first one gets it.";
    SpaceCheck "space-check" "Admission: that there are free slots for both passes.";
    OverlapCheck "overlap-check" "Admission: that a label claims no bytes of another one.";
    SeqRule "seq-rule" "Reading: that of two index blocks the successor counts; the larger number does.";
    TieRule "tie-rule" "Reading: that of two index blocks with one number the second counts.";
    IndexChecksum "index-checksum" "Reading: the checksum of index blocks.";
    LabelChecksum "label-checksum" "Reading: the checksum of labels.";
    SlotCheck "slot-check" "Reading: that a label names the slot that it is in.";
    Contested "contested" "Assembly: that bytes which two labels claim are nobody's.";
    UpdatingCheck "updating-check" "Assembly: that a label with UPDATING set tells of a cut.";
    StandIn "stand-in" "Assembly: that a label of another uuid may stand in for one that it replaces.";
    Wipe "wipe" "Initialisation: zeroing the old index blocks first.";
    WipeOrder "wipe-order" "Initialisation: that the current block is zeroed after the other one.";
    WipeDrain "wipe-drain" "Initialisation: the drains between zeroed and new blocks.";
    WipeWhole "wipe-whole" "Initialisation: zeroing more of a block than its signature.";
    WipeVersions "wipe-versions" "Initialisation: zeroing where blocks of the other version may stand.";
    FreshDrain "fresh-drain" "Initialisation: the drains after new index blocks.";
    RestoreRest "restore-rest" "Restoring an area: that index blocks come after the labels.";
    RestoreOrder "restore-order" "Restoring an area: that the current block comes before the other one.";
    RestoreDrain "restore-drain" "Restoring an area: the drain between labels and index blocks.";
}

/// Whether a part of the protocol is in force: always, without the feature.
#[cfg(not(feature = "mutants"))]
#[inline]
pub(crate) const fn keeps(_: Mutant) -> bool {
    true
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static OUT: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether a part of the protocol is in force on this thread.
    #[inline]
    pub(crate) fn keeps(mutant: Mutant) -> bool {
        OUT.with(|out| out.get() != Some(mutant))
    }

    /// Leaves one part out on this thread, or none.
    pub fn leave_out(mutant: Option<Mutant>) {
        OUT.with(|out| out.set(mutant));
    }
}

#[cfg(feature = "mutants")]
pub(crate) use switch::keeps;
#[cfg(feature = "mutants")]
pub use switch::leave_out;

/// Which of two index blocks counts: see [`select`].
pub(crate) fn current(first: Option<&Index>, second: Option<&Index>) -> Option<usize> {
    if let (Some(a), Some(b)) = (first, second) {
        if !keeps(Mutant::SeqRule) && a.seq() != b.seq() {
            return Some(usize::from(b.seq() > a.seq()));
        }
        if !keeps(Mutant::TieRule) && a.seq() == b.seq() {
            return Some(0);
        }
    }
    select(first, second)
}

/// The bytes of a new index block.
pub(crate) fn encode(next: &Index) -> Vec<u8> {
    let mut bytes = next.encode();
    let wrapped = next.seq() == 1;
    if !keeps(Mutant::SeqStep) || wrapped && !keeps(Mutant::SeqWrap) {
        let seq: u32 = match next.seq() {
            _ if keeps(Mutant::SeqStep) => 4,
            1 => 3,
            seq => seq.saturating_sub(1),
        };
        if let Some(field) = bytes.get_mut(20..24) {
            field.copy_from_slice(&seq.to_le_bytes());
        }
        mend(&mut bytes, 64);
    }
    bytes
}

/// Makes the checksum right where it is not to be checked, and the slot's number.
pub(crate) fn forgive(bytes: &mut [u8], checksum: Mutant, at: usize, slot: Option<u32>) {
    if let Some(slot) = slot.filter(|_| !keeps(Mutant::SlotCheck))
        && let Some(field) = bytes.get_mut(120..124)
        && field != slot.to_le_bytes()
    {
        // The checksum has to agree with it; whether it did before is left out as well where it is too short for one.
        field.copy_from_slice(&slot.to_le_bytes());
        mend(bytes, at);
    }
    if !keeps(checksum) {
        mend(bytes, at);
    }
}

fn mend(bytes: &mut [u8], at: usize) {
    if bytes.len() < at.saturating_add(8) {
        return;
    }
    let sum = nvstack_format::fletcher64_without(bytes, at);
    if let Some(field) = bytes.get_mut(at..at.saturating_add(8)) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}
