// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one error shape: a small stable kind, context, source. The one place that maps kinds to other worlds' codes.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use nvstack_format::{Invalid, Lba, MediaOffset};

/// Result of everything above `format`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a program needs to tell cases apart. Stable: kinds are added, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The caller asked for something that makes no sense: an option, a length, an alignment.
    Invalid,
    /// Outside the medium or the device. Nothing was moved.
    OutOfRange,
    /// The thing that was looked for is not there: a file, a namespace, an export.
    NotFound,
    /// It is there already, and is not overwritten.
    Exists,
    /// Somebody else holds it.
    Busy,
    /// The system refused access.
    Permission,
    /// Opened read-only, or in an error state that forbids writes.
    ReadOnly,
    /// What was asked is not offered by this object.
    Unsupported,
    /// The medium holds no structure of the wanted kind; another reader may find its own there.
    Unrecognised,
    /// The structure is of the wanted kind and is damaged or hostile.
    Corrupt,
    /// The medium reports lost bytes (poison, a bad block) at the wanted place.
    Poison,
    /// A system call failed.
    Io,
    /// The bytes under a mapping went away: the file shrank, or the device under it failed.
    Fault,
    /// No space left to do it.
    NoSpace,
    /// Not enough memory, or a bound on memory was reached.
    NoMemory,
    /// The device was removed while it was in use.
    Gone,
    /// No such device or address: the object has no such value yet, or no driver, or comes back as another.
    NoDevice,
}

impl Kind {
    /// The errno that Linux would give. Exit status of commands is its negation's low byte (`ndctl`'s way).
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Kind::Invalid => libc::EINVAL,
            Kind::OutOfRange => libc::EFAULT,
            Kind::NotFound => libc::ENOENT,
            Kind::Exists => libc::EEXIST,
            Kind::Busy => libc::EBUSY,
            Kind::Permission => libc::EACCES,
            Kind::ReadOnly => libc::EROFS,
            Kind::Unsupported => libc::EOPNOTSUPP,
            Kind::Unrecognised => libc::ENODEV,
            Kind::Corrupt | Kind::Gone | Kind::NoDevice => libc::ENXIO,
            Kind::Poison | Kind::Io | Kind::Fault => libc::EIO,
            Kind::NoSpace => libc::ENOSPC,
            Kind::NoMemory => libc::ENOMEM,
        }
    }

    /// The error number on the wire of the NBD protocol, which knows only these few.
    #[must_use]
    pub const fn nbd(self) -> u32 {
        match self {
            Kind::Permission | Kind::ReadOnly => 1, // EPERM
            Kind::NoMemory => 12,                   // ENOMEM
            Kind::Invalid | Kind::OutOfRange => 22, // EINVAL
            Kind::NoSpace => 28,                    // ENOSPC
            Kind::Unsupported => 95,                // ENOTSUP
            Kind::Gone => 108,                      // ESHUTDOWN
            Kind::NotFound
            | Kind::Exists
            | Kind::Busy
            | Kind::Unrecognised
            | Kind::Corrupt
            | Kind::Poison
            | Kind::Io
            | Kind::NoDevice
            | Kind::Fault => 5, // EIO
        }
    }

    /// The status byte of a virtio block request: 1 is an I/O error, 2 is unsupported.
    #[must_use]
    pub const fn virtio(self) -> u8 {
        match self {
            Kind::Unsupported => 2,
            _ => 1,
        }
    }
}

/// An error with its context. Cheap to move; all of it lives behind one box.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    operation: Cow<'static, str>,
    path: Option<PathBuf>,
    lba: Option<Lba>,
    offset: Option<MediaOffset>,
    found: Option<String>,
    accepted: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation`: a few words, present tense, no capital ("open image", "read LBA 7").
    pub fn new(kind: Kind, operation: impl Into<Cow<'static, str>>) -> Error {
        Error(Box::new(Inner {
            kind,
            operation: operation.into(),
            path: None,
            lba: None,
            offset: None,
            found: None,
            accepted: None,
            source: None,
        }))
    }

    /// A system call's failure, with the kind that its errno tells.
    pub fn os(operation: impl Into<Cow<'static, str>>, source: std::io::Error) -> Error {
        let kind = match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Kind::NotFound,
            Some(libc::EEXIST | libc::EADDRINUSE) => Kind::Exists,
            Some(libc::EACCES | libc::EPERM) => Kind::Permission,
            Some(libc::EROFS) => Kind::ReadOnly,
            Some(libc::EBUSY | libc::ETXTBSY | libc::EAGAIN) => Kind::Busy,
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Kind::NoSpace,
            Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE) => Kind::NoMemory,
            Some(libc::EINVAL | libc::EISDIR | libc::ENAMETOOLONG) => Kind::Invalid,
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Kind::Unsupported,
            _ => Kind::Io,
        };
        Error::new(kind, operation).because(source)
    }

    /// A structure at `at` that does not hold what it must; the finding's own offset is added.
    pub fn invalid(
        kind: Kind,
        operation: impl Into<Cow<'static, str>>,
        at: MediaOffset,
        finding: Invalid,
    ) -> Error {
        Error::new(kind, operation).at(at.plus(finding.offset)).because(finding)
    }

    /// Adds the place on the medium, unless a deeper layer has already told it.
    #[must_use]
    pub fn at(mut self, offset: MediaOffset) -> Error {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Adds the file, unless a deeper layer has already told it.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<Path>) -> Error {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Adds the sector of the device that was asked for, unless a deeper layer has already told it.
    #[must_use]
    pub fn lba(mut self, lba: Lba) -> Error {
        self.0.lba.get_or_insert(lba);
        self
    }

    /// Adds what was found there.
    #[must_use]
    pub fn found(mut self, found: impl fmt::Display) -> Error {
        self.0.found = Some(found.to_string());
        self
    }

    /// Adds what would have been accepted.
    #[must_use]
    pub fn accepted(mut self, accepted: impl fmt::Display) -> Error {
        self.0.accepted = Some(accepted.to_string());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Moves every offset of this error by `base`: a part of a medium tells its parent's offsets.
    #[must_use]
    pub fn rebased(mut self, base: u64) -> Error {
        self.0.offset = self.0.offset.map(|o| o.plus(base));
        self
    }

    /// The same finding, under the kind that a closer look has shown.
    pub(crate) fn with_kind(mut self, kind: Kind) -> Error {
        self.0.kind = kind;
        self
    }

    /// Whether a cause is told.
    pub(crate) fn has_cause(&self) -> bool {
        self.0.source.is_some()
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The place on the medium, if the error has one.
    #[must_use]
    pub fn offset(&self) -> Option<MediaOffset> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        if let Some(path) = &e.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&e.operation)?;
        if let Some(lba) = e.lba {
            write!(f, " of LBA {lba}")?;
        }
        if let Some(offset) = e.offset {
            write!(f, " at offset {offset}")?;
        }
        if let Some(found) = &e.found {
            write!(f, ": found {found}")?;
        }
        if let Some(accepted) = &e.accepted {
            write!(f, "{} accepted {accepted}", if e.found.is_some() { "," } else { ":" })?;
        }
        if let Some(source) = &e.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl StdError for Error {
    // The source's text is part of `Display` already; giving it again here would print it twice in every report.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().and_then(StdError::source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_file_offset_found_and_accepted() {
        let e = Error::new(Kind::Corrupt, "open BTT")
            .path("/x/vm.img")
            .at(MediaOffset(4096))
            .found(0)
            .accepted(256);
        assert_eq!(e.to_string(), "/x/vm.img: open BTT at offset 0x1000: found 0, accepted 256");
        let e = Error::new(Kind::Corrupt, "open BTT").at(MediaOffset(1)).rebased(2).path("a").path("b");
        assert_eq!(e.to_string(), "a: open BTT at offset 0x3");
    }

    #[test]
    fn every_kind_has_a_code_in_every_world() {
        assert_eq!(Kind::Busy.errno(), libc::EBUSY);
        assert_eq!(Kind::ReadOnly.nbd(), 1);
        assert_eq!(Kind::Poison.nbd(), 5);
        assert_eq!(Kind::Unsupported.virtio(), 2);
        assert_eq!(Kind::Poison.virtio(), 1);
    }
}
