// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data, or a range of them, as a medium.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use nvstack_format::MediaOffset;
use nvstack_media::{Domain, Error, Extent, Kind, Media, Part, Result};

use crate::open::Shared;
use crate::pins::Pinned;

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
        let _ = len;
        if self.shared.read_only {
            return Err(Error::new(Kind::ReadOnly, operation)
                .path(&self.shared.name)
                .at(at.plus(self.part.base().0)));
        }
        change(&self.part)
    }

    fn look<T>(&self, at: MediaOffset, len: u64, look: Result<T>) -> Result<T> {
        let _ = (at, len);
        look
    }
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
        self.part.clear_poison(at, len)
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
