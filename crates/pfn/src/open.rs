// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaching to an fsdax or devdax.

use std::ops::Range;
use std::sync::Arc;

use nvstack_format::MediaOffset;
use nvstack_format::pfn::{Descriptor, INFO_OFFSET, Info, Kind, Mode, PAGE, Place, RESERVE};
use nvstack_media::{Error, Kind as ErrorKind, Media, Result};
use uuid::Uuid;

use crate::data::{Data, Mapped};
use crate::disk::Disk;
use crate::mutants::{Mutant, keeps};
use crate::pins::{Pinned, Pins};
use crate::probe::{Probe, probe, word};
use crate::table::{Recorded, Table};

/// How to attach.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The device's name: `pmem0`, `dax0.0`.
    pub name: String,
    /// What the namespace is taken for.
    pub kind: Kind,
    /// The namespace's uuid, nil without labels.
    pub parent: Uuid,
    /// Where the namespace lies.
    pub place: Place,
    /// Change no byte of the medium.
    pub read_only: bool,
    /// Bytes of a sector of the disk of an fsdax: 512 or 4096.
    pub sector_size: u32,
    /// The uuid that the caller has configured; another one on the medium is refused.
    pub uuid: Option<Uuid>,
    /// The alignment that the caller has configured; another one on the medium is refused.
    pub align: Option<u32>,
    /// The place of the descriptors that the caller has configured; another one on the medium is refused.
    pub mode: Option<Mode>,
}

impl OpenOptions {
    /// Read-write, in sectors of 512 bytes, as whatever the medium holds.
    pub fn new(name: impl Into<String>, kind: Kind, parent: Uuid, place: Place) -> OpenOptions {
        OpenOptions {
            name: name.into(),
            kind,
            parent,
            place,
            read_only: false,
            sector_size: 512,
            uuid: None,
            align: None,
            mode: None,
        }
    }
}

/// What an attached namespace and all that was taken of it share.
pub(crate) struct Shared<M> {
    pub(crate) media: Arc<M>,
    pub(crate) name: String,
    pub(crate) info: Info,
    pub(crate) read_only: bool,
    /// Bytes of data.
    pub(crate) len: u64,
    pub(crate) pins: Arc<Pins>,
    pub(crate) table: Table,
}

impl<M> Shared<M> {
    /// Where the data begin on the medium.
    pub(crate) fn start(&self) -> MediaOffset {
        MediaOffset(self.info.geometry.data_start())
    }

    pub(crate) fn npfns(&self) -> u64 {
        self.len.checked_div(PAGE).unwrap_or(0)
    }
}

impl<M: Media> Shared<M> {
    /// Whether the medium has lost bytes of a page of the data.
    pub(crate) fn page_is_lost(&self, page: u64) -> bool {
        let at = page.saturating_mul(PAGE);
        self.media.is_poisoned(self.start().plus(at), PAGE.min(self.len.saturating_sub(at)))
    }
}

/// An attached fsdax or devdax. Clones are the same one.
pub struct Pages<M> {
    shared: Arc<Shared<M>>,
    sector_size: u32,
}

impl<M> Clone for Pages<M> {
    fn clone(&self) -> Pages<M> {
        Pages { shared: Arc::clone(&self.shared), sector_size: self.sector_size }
    }
}

impl<M: Media> Pages<M> {
    /// Attaches to the fsdax or devdax in a namespace.
    ///
    /// [`Unrecognised`](ErrorKind::Unrecognised) if there is none of that kind or uuid, [`Unsupported`](ErrorKind::Unsupported)
    /// if it cannot be honoured here or is not as configured, [`Corrupt`](ErrorKind::Corrupt) if its fields cannot be,
    /// [`Poison`](ErrorKind::Poison) if its info block is lost.
    pub fn open(media: M, options: OpenOptions) -> Result<Pages<M>> {
        let place = media.name();
        open(media, options).map_err(|e| e.path(place))
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The info block. Its count of pages is the medium's, [`Pages::npfns`] the one that holds.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.shared.info
    }

    /// The medium of the namespace.
    #[must_use]
    pub fn media(&self) -> &M {
        &self.shared.media
    }

    /// Whether no byte of the medium is changed.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.shared.read_only
    }

    /// Where the data lie, in bytes from the start of the namespace.
    #[must_use]
    pub fn data_range(&self) -> Range<u64> {
        let start = self.shared.start();
        start.0..start.plus(self.shared.len).0
    }

    /// Whole pages of data, by the geometry and the size of the namespace.
    #[must_use]
    pub fn npfns(&self) -> u64 {
        self.shared.npfns()
    }

    /// The count of pages on the medium, if it is larger than there are; it counts for nothing (Linux says "number of pfns
    /// truncated", for map "dev" alone).
    #[must_use]
    pub fn truncated(&self) -> Option<u64> {
        Some(self.shared.info.geometry.npfns).filter(|claimed| *claimed > self.npfns())
    }

    /// The unit of [`Pages::map`], in bytes: the alignment of a devdax, a page of an fsdax.
    #[must_use]
    pub fn map_unit(&self) -> u64 {
        match self.shared.info.kind {
            Kind::Fsdax => PAGE,
            Kind::Devdax => self.shared.info.geometry.align.into(),
        }
    }

    /// A range of the data as a medium, straight onto the namespace's. `at` counts bytes from the start of the data. Its
    /// pages are held until it is dropped.
    ///
    /// [`Invalid`](ErrorKind::Invalid) unless both are multiples of [`Pages::map_unit`] and there is something to map,
    /// [`OutOfRange`](ErrorKind::OutOfRange) if it does not lie wholly inside.
    pub fn map(&self, at: u64, len: u64) -> Result<Mapped<M>> {
        let unit = self.map_unit();
        if !at.is_multiple_of(unit) || !len.is_multiple_of(unit) || len == 0 {
            return Err(Error::new(ErrorKind::Invalid, format!("map {}", word(self.shared.info.kind)))
                .path(&self.shared.name)
                .found(format_args!("{len} bytes from byte {at}"))
                .accepted(format_args!("offset and length in multiples of {unit}, 1 or more")));
        }
        let page = |byte: u64| byte.checked_div(PAGE).unwrap_or(0);
        let data = Data::new(&self.shared, at, len).map_err(|e| e.path(&self.shared.name))?;
        Ok(Mapped::new(data, self.shared.pins.pin(page(at)..page(at.saturating_add(len)))))
    }

    /// Holds pages until the guard is dropped. [`OutOfRange`](ErrorKind::OutOfRange) for those that are not there.
    pub fn pin(&self, pages: Range<u64>) -> Result<Pinned> {
        if pages.is_empty() || pages.end > self.npfns() {
            return Err(self.no_page("hold pages", format_args!("pages {} to {}", pages.start, pages.end)));
        }
        Ok(self.shared.pins.pin(pages))
    }

    /// How many holds a page is under.
    #[must_use]
    pub fn pins(&self, page: u64) -> u64 {
        self.shared.pins.of(page)
    }

    /// Whether any page is held: who would detach the namespace waits, or is refused, until none is.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        !self.shared.pins.is_empty()
    }

    /// What is recorded of a page, counted from the start of the data. On the medium for map "dev"; in memory, and gone
    /// when the namespace is closed, for map "mem".
    ///
    /// [`Recorded::Unknown`] where the medium holds none of ours, as after Linux used the namespace.
    /// [`Poison`](ErrorKind::Poison) if the descriptor is lost, [`OutOfRange`](ErrorKind::OutOfRange) for a page that is
    /// not there.
    pub fn descriptor(&self, page: u64) -> Result<Recorded> {
        self.check_page("read page descriptor", page)?;
        let shared = &*self.shared;
        shared.table.get(&shared.media, page).map_err(|e| e.path(&shared.name))
    }

    /// Records a page's state, whatever is recorded now; `generation` alone is counted on from there. Durable when the
    /// call returns; a power cut leaves the old descriptor or the new one.
    ///
    /// [`ReadOnly`](ErrorKind::ReadOnly) where the descriptors are on a medium that is not to be changed.
    pub fn set_descriptor(&self, page: u64, descriptor: Descriptor) -> Result<()> {
        self.check_page("set page descriptor", page)?;
        let shared = &*self.shared;
        shared
            .table
            .update(&shared.media, shared.read_only, page, |_| Some(descriptor))
            .map_err(|e| e.path(&shared.name))
    }

    fn check_page(&self, operation: &'static str, page: u64) -> Result<()> {
        if page < self.npfns() {
            return Ok(());
        }
        Err(self.no_page(operation, format_args!("page {page}")))
    }

    /// The data of an fsdax as a block device. [`Unsupported`](ErrorKind::Unsupported) for a devdax, which is only mapped.
    pub fn disk(&self) -> Result<Disk<M>> {
        if self.shared.info.kind == Kind::Devdax {
            return Err(Error::new(ErrorKind::Unsupported, "open disk")
                .path(&self.shared.name)
                .found("a devdax, which has none")
                .accepted("an fsdax"));
        }
        Disk::new(Data::new(&self.shared, 0, self.shared.len)?, self.sector_size)
    }

    pub(crate) fn no_page(&self, operation: &'static str, found: std::fmt::Arguments<'_>) -> Error {
        Error::new(ErrorKind::OutOfRange, operation)
            .path(&self.shared.name)
            .found(found)
            .accepted(format_args!("pages 0 to {}", self.npfns()))
    }
}

fn open<M: Media>(media: M, options: OpenOptions) -> Result<Pages<M>> {
    let operation = match options.kind {
        Kind::Fsdax => "open fsdax",
        Kind::Devdax => "open devdax",
    };
    let block = MediaOffset(INFO_OFFSET);
    let refused = |kind, finding| Err(Error::invalid(kind, operation, block, finding));
    let info = match probe(&media, options.kind, options.parent, options.place)? {
        Probe::Found(info) => info,
        Probe::Absent(finding) => return refused(ErrorKind::Unrecognised, finding),
        Probe::Unsupported(finding) => return refused(ErrorKind::Unsupported, finding),
        Probe::Corrupt(finding) => return refused(ErrorKind::Corrupt, finding),
    };
    check_configured(&info, &options, operation)?;
    let len = info.geometry.data_len(media.len());
    let read_only = options.read_only || media.read_only();
    let table = match info.mode {
        Mode::Ram => Table::in_memory(),
        Mode::Pmem => Table::on_medium(&media, &info, len, read_only, operation)?,
    };
    if !read_only && keeps(Mutant::BlockAnchor) {
        // Whoever wrote it may have been killed before it was durable, and what is stored from now on is found by it alone.
        media.persist(block, RESERVE.saturating_sub(INFO_OFFSET))?;
    }
    let (media, name) = (Arc::new(media), options.name);
    let shared = Shared { media, name, info, read_only, len, pins: Arc::default(), table };
    Ok(Pages { shared: Arc::new(shared), sector_size: options.sector_size })
}

/// What was configured must be what is there.
fn check_configured(info: &Info, options: &OpenOptions, operation: &'static str) -> Result<()> {
    let differs = |kind, offset, what: &str, found: String, accepted: String| {
        Err(Error::new(kind, operation)
            .at(MediaOffset(INFO_OFFSET).plus(offset))
            .found(format_args!("{what} {found} on the medium"))
            .accepted(format_args!("the configured {accepted}")))
    };
    if let Some(uuid) = options.uuid.filter(|uuid| *uuid != info.uuid) {
        return differs(ErrorKind::Unrecognised, 16, "uuid", info.uuid.to_string(), uuid.to_string());
    }
    if let Some(align) = options.align.filter(|align| *align != info.geometry.align) {
        let found = info.geometry.align.to_string();
        return differs(ErrorKind::Unsupported, 84, "align", found, align.to_string());
    }
    if let Some(mode) = options.mode.filter(|mode| *mode != info.mode) {
        return differs(ErrorKind::Unsupported, 72, "map", info.mode.to_string(), mode.to_string());
    }
    Ok(())
}
