// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the protocol may leave out, to show that they would notice: each ordering point and order by name.
//! Without the feature `mutants`, which only the package `nvstack-pfn-sim` has, nothing can be left out, and the questions
//! cost nothing: they are constant.

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
    OldBlock "old-block" "Creation: zeroing the old info block first.";
    OldBlockDrain "old-block-drain" "Creation: the drain after the old info block is gone.";
    TableFirst "table-first" "Creation: that descriptors are initialised before there is an info block.";
    BlockDrain "block-drain" "Creation: the drain between the info block and its signature.";
    SignatureDrain "signature-drain" "Creation: the drain after the signature.";
    BlockAnchor "block-anchor" "Opening: making sure of an info block that a killed process may have left in caches.";
    DescriptorAnchor "descriptor-anchor" "Descriptor: the same for the one that is changed.";
    VersionDrain "version-drain" "Descriptor: the drain between the new version and the word that says that it counts.";
    VersionFirst "version-first" "Descriptor: that the word comes after the new version.";
    WordDrain "word-drain" "Descriptor: the drain after the word.";
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
