// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands on a namespace: the probe of Linux's `nd_pmem` driver, and what it should have told.
//!
//! The order is Linux's: BTT, fsdax, devdax, else raw. Where Linux falls back to raw although something is there (a
//! damaged info block, one in the wrong place, a label that announces what is missing), it shows bytes that mean
//! something else, and the first write to them destroys it. Here such a namespace is [`Personality::Damaged`].

use nvstack_btt::{Btt, OpenOptions, Probe};
use nvstack_format::btt::{self, Version};
use nvstack_format::guid::ClaimClass;
use nvstack_format::{Invalid, pfn};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};
use uuid::Uuid;

use super::model::{Pages, Personality, Sector};

/// The namespace to be probed, beside its bytes.
#[derive(Clone, Copy)]
pub(super) struct Subject {
    /// What its label allows.
    pub(super) claim: ClaimClass,
    /// Its uuid; nil without a label.
    pub(super) uuid: Uuid,
    /// Its first byte in the image.
    pub(super) start: u64,
}

/// An info block that was looked for and is not there.
struct Missing {
    at: u64,
    signature: [u8; 16],
    finding: Invalid,
}

/// Probes a namespace. It changes nothing; an error is one of reading the medium.
pub(super) fn probe<M: Media + Clone>(media: &M, subject: Subject) -> Result<Personality> {
    let mut missing = Vec::new();
    let mut backup = None;

    if let Some(version) = subject.claim.btt().filter(|_| media.len() >= btt::ARENA_MIN) {
        let at = version.start();
        match nvstack_btt::probe(media, version, subject.uuid)? {
            Probe::Found(_) => return Ok(attach(media, version, subject)),
            Probe::Corrupt(finding) => return Ok(lost(subject.cause("open BTT", at, finding))),
            Probe::Damaged { finding, .. } => backup = Some((version, finding)),
            Probe::Absent(finding) => missing.push(Missing { at, signature: btt::SIGNATURE, finding }),
        }
    }
    for kind in [pfn::Kind::Fsdax, pfn::Kind::Devdax] {
        if !subject.claim.holds(kind) {
            continue;
        }
        let at = pfn::INFO_OFFSET;
        match pages(media, kind, subject)? {
            Ok(pages) => return Ok(Personality::Pages(pages)),
            Err(pfn::Rejected::NotPfn(finding)) => {
                missing.push(Missing { at, signature: kind.signature(), finding });
            }
            Err(rejected) => return Ok(lost(subject.cause("open page map", at, rejected.invalid().clone()))),
        }
    }
    if let Some((version, finding)) = backup {
        let cause = subject.cause("open BTT", version.start(), finding);
        return Ok(from_backup(media, version, subject, cause));
    }
    unclaimed(media, subject, &missing)
}

/// Attaches to a BTT as a reader, which proves the rest of it: later arenas, flogs, maps.
fn attach<M: Media + Clone>(media: &M, version: Version, subject: Subject) -> Personality {
    let mut options = OpenOptions::new("probe", version, subject.uuid);
    options.read_only = true;
    match Btt::open(media.clone(), options) {
        Ok(device) => match sector(&device) {
            Some(sector) => Personality::Sector(sector),
            None => Personality::Raw,
        },
        Err(error) => from_backup(media, version, subject, in_image(error, subject.start)),
    }
}

/// A BTT that is readable from its backup info blocks, or not at all.
fn from_backup<M: Media + Clone>(media: &M, version: Version, subject: Subject, cause: Error) -> Personality {
    let mut options = OpenOptions::new("probe", version, subject.uuid);
    options.read_only = true;
    options.from_backup = true;
    let readable = Btt::open(media.clone(), options).is_ok_and(|device| sector(&device).is_some());
    Personality::Damaged { cause, from_backup: readable.then_some(version) }
}

/// What a list tells of an attached BTT.
fn sector<M: Media>(device: &Btt<M>) -> Option<Sector> {
    use nvstack_block::BlockDevice;
    let first = device.infos().first()?;
    Some(Sector {
        version: first.version,
        uuid: first.uuid,
        sector_size: first.layout.lbasize.external(),
        size: device.geometry().bytes(),
    })
}

fn pages<M: Media>(media: &M, kind: pfn::Kind, subject: Subject) -> Result<Result<Pages, pfn::Rejected>> {
    let mut raw = [0u8; pfn::INFO_LEN];
    if media.len() < pfn::RESERVE {
        let found = format!("{} bytes", media.len());
        let finding = Invalid::new("namespace", "size", 0, found, "room for an info block");
        return Ok(Err(pfn::Rejected::NotPfn(finding)));
    }
    media.read(MediaOffset(pfn::INFO_OFFSET), &mut raw)?;
    let place = |start| pfn::Place { start, size: media.len() };
    let parse = |start| pfn::Info::parse(&raw, kind, subject.uuid, place(start));
    let info = match parse(None) {
        // Linux maps persistent memory in steps of 2 MiB, so a region starts at a multiple of that; of no more.
        Ok(info) if u64::from(info.geometry.align) <= pfn::COMPAT => parse(Some(subject.start)),
        other => other,
    };
    Ok(info.map(|info| Pages {
        devdax: kind == pfn::Kind::Devdax,
        map_on_media: info.mode == pfn::Mode::Pmem,
        uuid: info.uuid,
        start: info.geometry.data_start(),
        size: info.geometry.data_len(media.len()),
        align: info.geometry.align.into(),
    }))
}

/// No driver claims the namespace: raw, unless something shows that one should have.
fn unclaimed<M: Media>(media: &M, subject: Subject, missing: &[Missing]) -> Result<Personality> {
    const OPERATION: &str = "probe namespace";
    let start = MediaOffset(subject.start);
    for (at, signature, what) in [
        (0, btt::SIGNATURE, "a BTT info block"),
        (4096, btt::SIGNATURE, "a BTT info block"),
        (pfn::INFO_OFFSET, pfn::Kind::Fsdax.signature(), "an fsdax info block"),
        (pfn::INFO_OFFSET, pfn::Kind::Devdax.signature(), "a devdax info block"),
    ] {
        let mut found = [0u8; 16];
        if media.len() < at + 4096 {
            continue;
        }
        media.read(MediaOffset(at), &mut found)?;
        if found != signature {
            continue;
        }
        let reason = missing.iter().find(|m| m.at == at && m.signature == signature);
        return Ok(lost(match reason {
            Some(m) => subject.cause(OPERATION, at, m.finding.clone()),
            None => Error::new(Kind::Corrupt, OPERATION).at(start.plus(at)).found(what).accepted(match subject.claim {
                ClaimClass::None => "BTT 1.1, fsdax or devdax at 4096: what a namespace without a type in its label can hold",
                ClaimClass::Btt => "BTT 1.1 at 4096, which the label tells",
                ClaimClass::Btt2 => "BTT 2.0 at 0, which the label tells",
                ClaimClass::Pfn => "fsdax at 4096, which the label tells",
                ClaimClass::Dax => "devdax at 4096, which the label tells",
                ClaimClass::Unknown(_) => "nothing of this kind: the label names a type unknown here",
            }),
        }));
    }
    let announced = match subject.claim {
        ClaimClass::None => return Ok(Personality::Raw),
        ClaimClass::Unknown(guid) => {
            let cause = Error::new(Kind::Unsupported, OPERATION).at(start);
            return Ok(lost(
                cause
                    .found(format_args!("abstraction guid {guid} in the label"))
                    .accepted("none, BTT, fsdax or devdax"),
            ));
        }
        ClaimClass::Btt | ClaimClass::Btt2 => "probe namespace that the label calls sector mode",
        ClaimClass::Pfn => "probe namespace that the label calls fsdax",
        ClaimClass::Dax => "probe namespace that the label calls devdax",
    };
    Ok(lost(match missing.first() {
        Some(m) => subject.cause(announced, m.at, m.finding.clone()),
        None => {
            let found = format!("{} bytes", media.len());
            Error::new(Kind::Corrupt, announced)
                .at(start)
                .found(found)
                .accepted(format_args!("{} or more", btt::ARENA_MIN))
        }
    }))
}

/// Nothing of it can be used but its bytes.
fn lost(cause: Error) -> Personality {
    Personality::Damaged { cause, from_backup: None }
}

impl Subject {
    /// A finding about a structure at `at`, with its place in the image.
    fn cause(&self, operation: &'static str, at: u64, finding: Invalid) -> Error {
        Error::invalid(Kind::Corrupt, operation, MediaOffset(self.start).plus(at), finding)
    }
}

/// An engine tells offsets of the namespace, a medium those of the image. What an engine finds wrong is of these kinds.
fn in_image(error: Error, start: u64) -> Error {
    match error.kind() {
        Kind::Corrupt | Kind::Unrecognised | Kind::Invalid => error.rebased(start),
        _ => error,
    }
}
