// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the protocol may leave out, to show that they would notice: each ordering point, lock, fence and check
//! by name. Without the feature `mutants` nothing can be left out, and the questions cost nothing: they are constant.

macro_rules! mutants {
    ($($variant:ident $name:literal $what:literal;)*) => {
        /// A part of the protocol that can be left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(not(feature = "mutants"), allow(unreachable_pub, dead_code))]
        pub enum Mutant {
            $(#[doc = $what] $variant,)*
        }

        #[cfg(feature = "sim")]
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
    DataDrain "data-drain" "Direct write: all drains between data and the commit point (the last of them alone would do for the data).";
    FlogFirst "flog-first" "Direct write: the persistence point between the halves of a flog record.";
    FlogSecond "flog-second" "Direct write: the persistence point between the flog record and the map entry.";
    MapPersist "map-persist" "Direct write: the persistence point after the map entry.";
    TwoFence "two-fence" "Direct write: both drains but those of data and flog, as in the naive two-fence order.";
    FlogSwapped "flog-swapped" "Direct write: the order of the two halves of a flog record.";
    MapBeforeFlog "map-before-flog" "Direct write: the order of flog record and map entry.";
    LaneRace "lane-race" "The lock of a lane: two tasks may be in it, as in Linux 6.6 to 2026.";
    MapLock "map-lock" "The lock of a map entry: each task has one of its own.";
    ZeroAgain "zero-again" "Write-zeroes: writing back an entry that another task has set to zero already.";
    ZeroDrain "zero-drain" "Write-zeroes: the drain after the entries, where each request is a promise.";
    ZeroPending "zero-pending" "Write-zeroes: the commit of what waits for the sector, which would undo it.";
    MarkLook "mark-look" "Lost bytes: looking at the map again before the sector is marked.";
    MarkDrain "mark-drain" "Lost bytes: the drain after the mark.";
    MarkAgain "mark-again" "Lost bytes: writing back a mark that another task has made, before anybody is told of it.";
    Freeze "freeze" "A commit that failed half-way: that the arena takes no more writes.";
    RttPublish "rtt-publish" "Read: the publication of the block that is being read.";
    RttFence "rtt-fence" "Read: the fence between the publication and the second look at the map.";
    RttLook "rtt-look" "Read: the second look at the map.";
    RttWait "rtt-wait" "Write: waiting for whoever reads the free block.";
    GroupData "group-data" "Group commit: the first drain, after data.";
    GroupFlog "group-flog" "Group commit: the second drain, after the flog records.";
    GroupMap "group-map" "Group commit: the third drain, after the map entries.";
    GroupSeal "group-seal" "Group commit: that a sealed sector's block is not overwritten any more.";
    GroupTurn "group-turn" "Group commit: that only one runs at a time.";
    GroupShare "group-share" "Group commit: the lock of readers against writers and commits.";
    GroupOrder "group-order" "Group commit: the order of the two halves of a flog record in their page.";
    GroupTorn "group-torn" "Group commit: that a waiting sector which a failed write left half overwritten is not committed.";
    SeqCheck "seq-check" "Recovery: that after sequence number 3 comes 1.";
    PairCheck "pair-check" "Recovery: that the two records of a lane tell which is newer.";
    PaddingCheck "padding-check" "Recovery: the detection of old flog padding.";
    RecordCheck "record-check" "Recovery: that records name sectors and blocks of the arena.";
    FreeCheck "free-check" "Recovery: that no two lanes own one block.";
    RedoOldCheck "redo-old-check" "Recovery: that the map still has the old block, before an entry is redone.";
    Redo "redo" "Recovery: writing the entries that a cut kept from the map.";
    RedoReadOnly "redo-read-only" "Recovery: applying those entries in memory when opened read-only.";
    RedoDrain "redo-drain" "Recovery: the drain after those entries.";
    Anchor "anchor" "Opening: writing back what a killed process may have left in caches, before anything is built on it.";
    AnchorSwitched "anchor-switched" "Opening: the same for zero and error entries, which no record names.";
    AnchorDrain "anchor-drain" "Opening: the drain between that and what recovery writes.";
    Audit "audit" "Opening: the proof that each block has one owner.";
    EntryCheck "entry-check" "Mapping: that an entry names a block of the arena.";
    KinCheck "kin-check" "Opening: that all arenas of a namespace are of one BTT.";
    ChecksumCheck "checksum-check" "Opening: the checksum of info blocks.";
    InfoFirst "info-first" "Creation: that info blocks come after map and flog.";
    BackupFirst "backup-first" "Creation: that the backup of an info block is durable before its primary.";
    MapZero "map-zero" "Creation over an old BTT: that its map is zeroed.";
    LayoutDrain "layout-drain" "Creation: the drain between map, flog and info blocks.";
    OldInfoDrain "old-info-drain" "Creation over an old BTT: the drain after its info block is gone.";
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
