// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking for a BTT, and attaching to one.

use nvstack_block::Geometry;
use nvstack_format::btt::{ARENA_MAX, INFO_LEN, Info, LbaSize, Rejected, Version};
use nvstack_format::{Invalid, MediaOffset};
use nvstack_media::{Domain, Error, Kind, Media, Result};
use uuid::Uuid;

use crate::arena::Arena;
use crate::audit::audit;
use crate::group::Group;
use crate::lanes::{Lanes, Slot};
use crate::mutants::{Mutant, keeps};
use crate::order;
use crate::recover::recover;
use crate::tracking::Tracking;

/// What stands where a BTT of a given version would begin.
#[derive(Debug)]
pub enum Probe {
    /// A BTT of this namespace; its first arena's info block.
    Found(Info),
    /// The first info block is no BTT's, but the backup at the end of the first arena is whole: reading is possible, from
    /// the backup. Linux serves such a namespace raw, every block in the wrong place.
    Damaged {
        /// What is wrong with the first info block.
        finding: Invalid,
        /// The backup.
        backup: Info,
    },
    /// A BTT of this namespace whose fields cannot be.
    Corrupt(Invalid),
    /// No BTT of this namespace.
    Absent(Invalid),
}

/// Looks for a BTT of `version` in a namespace of uuid `parent` (nil without labels). Reads one info block, and one more
/// at the place of the backup if the first is no good; writes nothing.
pub fn probe<M: Media>(media: &M, version: Version, parent: Uuid) -> Result<Probe> {
    let base = MediaOffset(version.start());
    let Some(room) = room(media, base) else {
        let found = format!("{} bytes", media.len());
        return Ok(Probe::Absent(Invalid::new("namespace", "size", 0, found, "room for an info block")));
    };
    match read_info(media, base, version, parent, room)? {
        Ok(info) => Ok(Probe::Found(info)),
        Err(Rejected::Corrupt(finding)) => Ok(Probe::Corrupt(finding)),
        Err(Rejected::NotBtt(finding)) => Ok(match backup(media, base, version, parent, room)? {
            Some(backup) => Probe::Damaged { finding, backup },
            None => Probe::Absent(finding),
        }),
    }
}

/// Bytes from an info block to the end of the namespace, if the block itself fits.
fn room<M: Media>(media: &M, base: MediaOffset) -> Option<u64> {
    let block = u64::try_from(INFO_LEN).ok()?;
    media.len().checked_sub(base.0).filter(|room| *room >= block)
}

fn read_info<M: Media>(
    media: &M,
    base: MediaOffset,
    version: Version,
    parent: Uuid,
    room: u64,
) -> Result<Result<Info, Rejected>> {
    let mut raw = [0u8; INFO_LEN];
    media.read(base, &mut raw)?;
    if !keeps(Mutant::ChecksumCheck)
        && let Some((rest, sum)) = raw.split_last_chunk_mut::<8>()
    {
        *sum = [0; 8];
        let at = rest.len();
        let found = nvstack_format::fletcher64_without(&raw, at).to_le_bytes();
        if let Some(sum) = raw.last_chunk_mut::<8>() {
            *sum = found;
        }
    }
    Ok(Info::parse(&raw, version, parent, room))
}

/// The backup info block of the arena at `base`: the last full 4 KiB of the arena, which reaches to the end of the
/// namespace or is as large as arenas get.
fn backup<M: Media>(
    media: &M,
    base: MediaOffset,
    version: Version,
    parent: Uuid,
    room: u64,
) -> Result<Option<Info>> {
    let end = room.min(ARENA_MAX) & !4095;
    let Some(info2off) = end.checked_sub(4096).filter(|o| *o > 0) else { return Ok(None) };
    let found = read_info(media, base.plus(info2off), version, parent, room)?;
    Ok(found.ok().filter(|info| info.layout.info2off == info2off))
}

/// When a write counts as durable on a plain file. Elsewhere every completed write is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// At the next flush, at FUA, or after a second: the device has a volatile write cache and says so.
    #[default]
    Writeback,
    /// When it completes.
    Writethrough,
}

/// How to attach.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The device's name: `pmem0s`.
    pub name: String,
    /// The version that this namespace can hold; it fixes where the BTT begins.
    pub version: Version,
    /// The namespace's uuid, nil without labels.
    pub parent: Uuid,
    /// Change no byte of the medium. Recovery is applied in memory.
    pub read_only: bool,
    /// Take arenas whose first info block is damaged from their backup. Read-only alone.
    pub from_backup: bool,
    /// On a plain file.
    pub cache: Cache,
    /// Discard and write-zeroes set zero entries. Linux (6.1 at least) misreads segments of several sectors that have one.
    pub zero_entries: bool,
    /// The sector size that the caller has configured; another one on the medium is refused.
    pub lbasize: Option<LbaSize>,
    /// The uuid that the caller has configured; another one on the medium is refused.
    pub uuid: Option<Uuid>,
}

impl OpenOptions {
    /// Read-write, in groups on plain files, as whatever the medium holds.
    pub fn new(name: impl Into<String>, version: Version, parent: Uuid) -> OpenOptions {
        OpenOptions {
            name: name.into(),
            version,
            parent,
            read_only: false,
            from_backup: false,
            cache: Cache::default(),
            zero_entries: false,
            lbasize: None,
            uuid: None,
        }
    }
}

/// How sectors are written.
pub(crate) enum Mode {
    /// Not at all.
    ReadOnly,
    /// Each by itself: every completed write is durable.
    Direct(Lanes),
    /// In groups.
    Grouped(Group),
}

/// An attached BTT: a block device whose sectors never tear.
///
/// Dropping it commits nothing: what was written and not flushed may be lost, as a power cut would lose it, and as
/// little as that torn.
pub struct Btt<M> {
    pub(crate) media: M,
    pub(crate) name: String,
    pub(crate) arenas: Vec<Arena>,
    pub(crate) geometry: Geometry,
    pub(crate) mode: Mode,
    pub(crate) tracking: Tracking,
    pub(crate) zero_entries: bool,
    infos: Vec<Info>,
    recovered: u64,
}

impl<M: Media> Btt<M> {
    /// Attaches to the BTT in a namespace.
    ///
    /// [`Kind::Unrecognised`] if there is none, [`Kind::Corrupt`] if it can't be trusted. Read-write, the writes that a
    /// power cut kept from the map are completed, and the tables are proved one-to-one first.
    pub fn open(media: M, options: OpenOptions) -> Result<Btt<M>> {
        let place = media.name();
        open(media, options).map_err(|e| e.path(place))
    }

    /// The info block of each arena, in order.
    pub fn infos(&self) -> &[Info] {
        &self.infos
    }

    /// Writes that recovery completed, on the medium or, read-only, in memory.
    pub fn recovered(&self) -> u64 {
        self.recovered
    }

    /// The medium.
    pub fn media(&self) -> &M {
        &self.media
    }

    pub(crate) fn group(&self) -> Option<&Group> {
        match &self.mode {
            Mode::Grouped(group) => Some(group),
            _ => None,
        }
    }
}

fn open<M: Media>(media: M, options: OpenOptions) -> Result<Btt<M>> {
    let read_only = options.read_only || media.read_only();
    if options.from_backup && !read_only {
        return Err(Error::new(Kind::Invalid, "open BTT")
            .found("from_backup, read-write")
            .accepted("read-only"));
    }
    let infos = read_chain(&media, &options)?;
    check_configured(&infos, &options)?;
    attach(media, options, infos, read_only)
}

/// Attaches to arenas whose info blocks are known and agree.
pub(crate) fn attach<M: Media>(
    media: M,
    options: OpenOptions,
    infos: Vec<Info>,
    read_only: bool,
) -> Result<Btt<M>> {
    let mut arenas = Vec::with_capacity(infos.len());
    let mut slots: Vec<Vec<Slot>> = Vec::new();
    let mut base = MediaOffset(options.version.start());
    let mut first = 0u64;
    let mut recovered = 0u64;
    let mut named = Vec::with_capacity(infos.len());
    for (index, info) in infos.iter().enumerate() {
        let mut found = recover(&media, base, &info.layout)?;
        if read_only && !keeps(Mutant::RedoReadOnly) {
            found.redo.clear();
        }
        recovered = recovered.saturating_add(u64::try_from(found.redo.len()).unwrap_or(u64::MAX));
        // An arena in error state is not written, not even by recovery.
        if !read_only && !info.error() && keeps(Mutant::Audit) {
            audit(&media, base, &info.layout, &found.redo, &found.free)?;
        }
        let arena = Arena::new(index, base, first, info.layout, found.padding, found.redo);
        if info.error() {
            arena.freeze(&"the error flag (bit 0) is set in its info block");
        }
        named.push(found.named);
        slots.resize_with(found.slots.len().max(slots.len()), Vec::new);
        for (lane, slot) in slots.iter_mut().zip(found.slots) {
            lane.push(slot);
        }
        first = first.saturating_add(arena.sectors());
        base = base.plus(info.layout.nextoff);
        arenas.push(arena);
    }
    if !read_only {
        // All of recovery was decided before any of it is written: a medium that turns out corrupt stays as it is.
        for (arena, named) in arenas.iter().zip(&named).filter(|(a, _)| a.writable().is_ok()) {
            order::anchor(&media, arena, named)?;
        }
        if keeps(Mutant::AnchorDrain) {
            media.drain()?;
        }
        for arena in arenas.iter_mut().filter(|a| a.writable().is_ok()) {
            for (premap, entry) in std::mem::take(&mut arena.redo) {
                if keeps(Mutant::Redo) {
                    order::switch_entry(&media, arena, premap, entry)?;
                }
            }
        }
        if keeps(Mutant::RedoDrain) {
            media.drain()?;
        }
    }

    let grouped = media.domain() == Domain::PageCache;
    let sector_size = infos.first().map_or(0, |i| i.layout.lbasize.data());
    let geometry = Geometry {
        sectors: first,
        sector_size,
        preferred: sector_size.max(4096),
        read_only,
        volatile_cache: !read_only && grouped && options.cache == Cache::Writeback,
        atomic: true,
        discard: !read_only,
    };
    // Each lane has a place in the read table.
    let tracking = Tracking::new(slots.len());
    let mode = if read_only {
        Mode::ReadOnly
    } else if grouped {
        Mode::Grouped(Group::new(slots, arenas.len()))
    } else {
        Mode::Direct(Lanes::new(slots))
    };
    Ok(Btt {
        media,
        name: options.name,
        arenas,
        geometry,
        mode,
        tracking,
        zero_entries: options.zero_entries,
        infos,
        recovered,
    })
}

/// Reads the chain of info blocks. It ends: each step forward was checked to be at least an arena.
fn read_chain<M: Media>(media: &M, options: &OpenOptions) -> Result<Vec<Info>> {
    let mut infos: Vec<Info> = Vec::new();
    let mut base = MediaOffset(options.version.start());
    loop {
        let what = format!("open BTT arena {}", infos.len());
        let Some(room) = room(media, base) else {
            let kind = if infos.is_empty() { Kind::Unrecognised } else { Kind::Corrupt };
            return Err(Error::new(kind, what)
                .at(base)
                .found(format_args!("a namespace of {} bytes", media.len()))
                .accepted("room for an info block"));
        };
        let info = match read_info(media, base, options.version, options.parent, room)? {
            Ok(info) => info,
            Err(rejected) => {
                let backup = if options.from_backup {
                    backup(media, base, options.version, options.parent, room)?
                } else {
                    None
                };
                // The first block decides whether there is a BTT at all; in the chain one was announced.
                let kind = match &rejected {
                    Rejected::NotBtt(_) if infos.is_empty() => Kind::Unrecognised,
                    _ => Kind::Corrupt,
                };
                backup.ok_or_else(|| Error::invalid(kind, what.clone(), base, rejected.invalid().clone()))?
            }
        };
        if let Some(head) = infos.first()
            && keeps(Mutant::KinCheck)
        {
            check_kin(head, &info).map_err(|f| Error::invalid(Kind::Corrupt, what, base, f))?;
        }
        let nextoff = info.layout.nextoff;
        infos.push(info);
        if nextoff == 0 {
            return Ok(infos);
        }
        base = base.plus(nextoff);
    }
}

/// UEFI: all arenas of a namespace agree on these.
fn check_kin(head: &Info, info: &Info) -> Result<(), Invalid> {
    let wrong = |field, offset, found: String, accepted: String| {
        Err(Invalid::new(
            "BTT info block",
            field,
            offset,
            found,
            format!("{accepted}, as in the first arena"),
        ))
    };
    let (a, b) = (&head.layout, &info.layout);
    if info.uuid != head.uuid {
        return wrong("uuid", 16, info.uuid.to_string(), head.uuid.to_string());
    }
    if b.lbasize != a.lbasize {
        return wrong(
            "external_lbasize",
            56,
            b.lbasize.external().to_string(),
            a.lbasize.external().to_string(),
        );
    }
    if b.nfree != a.nfree {
        return wrong("nfree", 72, b.nfree.to_string(), a.nfree.to_string());
    }
    Ok(())
}

/// What was configured must be what is there (Linux adopts the layout and then uses the configured size on it).
fn check_configured(infos: &[Info], options: &OpenOptions) -> Result<()> {
    let Some(info) = infos.first() else { return Ok(()) };
    let at = MediaOffset(options.version.start());
    let on_media = info.layout.lbasize;
    if let Some(lbasize) = options.lbasize
        && lbasize != on_media
    {
        return Err(Error::new(Kind::Invalid, "open BTT")
            .at(at.plus(56))
            .found(format_args!("sector size {} on the medium", on_media.external()))
            .accepted(format_args!("the configured {}", lbasize.external())));
    }
    if let Some(uuid) = options.uuid
        && uuid != info.uuid
    {
        return Err(Error::new(Kind::Invalid, "open BTT")
            .at(at.plus(16))
            .found(format_args!("uuid {} on the medium", info.uuid))
            .accepted(format_args!("the configured {uuid}")));
    }
    Ok(())
}
