// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data, or a range of them, as a medium.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use nvstack_format::MediaOffset;
use nvstack_format::pfn::PAGE;
use nvstack_media::{Domain, Error, Extent, Kind, Media, Part, Result};

use crate::open::Shared;
use crate::pins::Pinned;

/// Bytes of the unit that is lost or healed as a whole.
pub(crate) const UNIT: u64 = 512;

/// A range of the data. It takes no store where the namespace was opened read-only.
pub(crate) struct Data<M> {
    pub(crate) shared: Arc<Shared<M>>,
    part: Part<Arc<M>>,
}

impl<M> Clone for Data<M> {
    fn clone(&self) -> Data<M> {
        Data { shared: Arc::clone(&self.shared), part: self.part.clone() }
    }
}

impl<M: Media> Data<M> {
    /// `len` bytes of the data from `at` on; [`Kind::OutOfRange`] if they are not all there.
    pub(crate) fn new(shared: &Arc<Shared<M>>, at: u64, len: u64) -> Result<Data<M>> {
        if at.checked_add(len).is_none_or(|end| end > shared.len) {
            return Err(Error::new(Kind::OutOfRange, "map")
                .found(format_args!("{len} bytes from byte {at}"))
                .accepted(format_args!("bytes 0 to {} of the data", shared.len)));
        }
        let part = Part::new(Arc::clone(&shared.media), shared.start().plus(at), len)?;
        Ok(Data { shared: Arc::clone(shared), part })
    }

    /// Does what stores, if it may.
    fn change(
        &self,
        operation: &'static str,
        at: MediaOffset,
        len: u64,
        change: impl FnOnce(&Part<Arc<M>>) -> Result<()>,
    ) -> Result<()> {
        if self.shared.read_only {
            return Err(Error::new(Kind::ReadOnly, operation)
                .path(&self.shared.name)
                .at(at.plus(self.part.base().0)));
        }
        let lost = self.lost_edges(at, len);
        let done = change(&self.part);
        match &done {
            Ok(()) => self.note_healed(at, len, lost),
            // Some units were replaced all the same; what is left is lost as if a read had met it.
            Err(e) if e.kind() == Kind::Poison => {
                self.note_healed(at, len, lost);
                self.note_lost(at, len);
            }
            Err(_) => {}
        }
        done
    }

    /// Marks the pages of a read that met lost bytes.
    fn look<T>(&self, at: MediaOffset, len: u64, looked: Result<T>) -> Result<T> {
        if let Err(e) = &looked
            && e.kind() == Kind::Poison
        {
            self.note_lost(at, len);
        }
        looked
    }

    /// Bytes of this range as bytes of the data.
    fn in_data(&self, at: MediaOffset) -> u64 {
        self.part.base().0.saturating_sub(self.shared.start().0).saturating_add(at.0)
    }

    /// The pages that a store covers in part and that have lost bytes now.
    fn lost_edges(&self, at: MediaOffset, len: u64) -> [Option<u64>; 2] {
        if len == 0 || !self.part.is_poisoned(MediaOffset(0), self.part.len()) {
            return [None; 2];
        }
        let (touched, whole) = pages(self.in_data(at), len);
        let lost = |page: u64| {
            let partial = touched.contains(&page) && !whole.contains(&page);
            (partial && page < self.shared.npfns() && self.shared.page_is_lost(page)).then_some(page)
        };
        [lost(touched.start), lost(touched.end.saturating_sub(1))]
    }

    #[cold]
    fn note_lost(&self, at: MediaOffset, len: u64) {
        let shared = &*self.shared;
        let start = self.in_data(MediaOffset(0));
        for (unit, count) in self.part.badblocks(at, len) {
            let bad = start.saturating_add(unit.saturating_mul(UNIT));
            let (touched, _) = pages(bad, count.saturating_mul(UNIT));
            let inside = touched.start..touched.end.min(shared.npfns());
            shared.table.mark_lost(&shared.media, shared.read_only, inside, |page| shared.page_is_lost(page));
        }
    }

    fn note_healed(&self, at: MediaOffset, len: u64, edges: [Option<u64>; 2]) {
        let shared = &*self.shared;
        if len == 0 || !shared.table.may_have_lost() {
            return;
        }
        let (_, whole) = pages(self.in_data(at), len);
        for pages in edges.into_iter().flatten().map(|page| page..page.saturating_add(1)).chain([whole]) {
            shared.table.clear_lost(&shared.media, pages, |page| shared.page_is_lost(page));
        }
    }
}

/// The pages that bytes of the data touch, and those that they cover.
fn pages(at: u64, len: u64) -> (Range<u64>, Range<u64>) {
    let page = |byte: u64| byte.checked_div(PAGE).unwrap_or(0);
    let end = at.saturating_add(len);
    let whole = at.div_ceil(PAGE);
    // Inside one page none is covered.
    (page(at)..end.div_ceil(PAGE), whole..page(end).max(whole))
}

/// The length of a slice as the media count it.
pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl<M: Media> Media for Data<M> {
    fn len(&self) -> u64 {
        self.part.len()
    }

    fn read_only(&self) -> bool {
        self.shared.read_only
    }

    fn domain(&self) -> Domain {
        self.part.domain()
    }

    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        let len = length(into);
        self.look(at, len, self.part.read(at, into))
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.change("store", at, length(from), |part| part.store(at, from))
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.change("store", at, length(from), |part| part.stream(at, from))
    }

    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.change("zero", at, len, |part| part.zero(at, len))
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.look(at, 4, self.part.load_u32(at))
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.change("store", at, 4, |part| part.store_u32(at, value))
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.look(at, 8, self.part.load_u64(at))
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.change("store", at, 8, |part| part.store_u64(at, value))
    }

    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.part.flush(at, len)
    }

    fn drain(&self) -> Result<()> {
        self.part.drain()
    }

    fn persist(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.part.persist(at, len)
    }

    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.part.badblocks(at, len)
    }

    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.part.is_poisoned(at, len)
    }

    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.part.inject_poison(at, len)
    }

    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.change("clear poison", at, len, |part| part.clear_poison(at, len))
    }

    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        self.part.extent(at, len)
    }

    fn name(&self) -> String {
        self.part.name()
    }
}

/// A range of the data, straight onto the namespace's medium. Its pages are held until it is dropped; a clone holds them
/// as well.
pub struct Mapped<M> {
    data: Data<M>,
    pinned: Arc<Pinned>,
}

impl<M: Media> Mapped<M> {
    pub(crate) fn new(data: Data<M>, pinned: Pinned) -> Mapped<M> {
        Mapped { data, pinned: Arc::new(pinned) }
    }

    /// The pages that it holds, counted from the start of the data.
    #[must_use]
    pub fn pages(&self) -> Range<u64> {
        self.pinned.pages()
    }

    /// Where it begins on the namespace's medium.
    #[must_use]
    pub fn base(&self) -> MediaOffset {
        self.data.part.base()
    }
}

impl<M> Clone for Mapped<M> {
    fn clone(&self) -> Mapped<M> {
        Mapped { data: self.data.clone(), pinned: Arc::clone(&self.pinned) }
    }
}

impl<M: Media> fmt::Debug for Mapped<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({})", self.data.name())
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $result:ty;)*) => {
        impl<M: Media> Media for Mapped<M> {
            $(fn $name(&self, $($arg: $kind),*) -> $result { self.data.$name($($arg),*) })*
        }
    };
}

forward! {
    len() -> u64;
    read_only() -> bool;
    domain() -> Domain;
    read(at: MediaOffset, into: &mut [u8]) -> Result<()>;
    store(at: MediaOffset, from: &[u8]) -> Result<()>;
    stream(at: MediaOffset, from: &[u8]) -> Result<()>;
    zero(at: MediaOffset, len: u64) -> Result<()>;
    load_u32(at: MediaOffset) -> Result<u32>;
    store_u32(at: MediaOffset, value: u32) -> Result<()>;
    load_u64(at: MediaOffset) -> Result<u64>;
    store_u64(at: MediaOffset, value: u64) -> Result<()>;
    flush(at: MediaOffset, len: u64) -> Result<()>;
    drain() -> Result<()>;
    persist(at: MediaOffset, len: u64) -> Result<()>;
    badblocks(at: MediaOffset, len: u64) -> Vec<(u64, u64)>;
    is_poisoned(at: MediaOffset, len: u64) -> bool;
    inject_poison(at: MediaOffset, len: u64) -> Result<()>;
    clear_poison(at: MediaOffset, len: u64) -> Result<()>;
    extent(at: MediaOffset, len: u64) -> Result<Extent>;
    name() -> String;
}
