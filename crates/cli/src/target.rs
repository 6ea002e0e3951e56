// SPDX-License-Identifier: MIT OR Apache-2.0
//! TARGET: what a command works on.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nvstack_media::{Error, Kind, Result};

use crate::size;

/// `IMAGE | mem:SIZE`, and after a `#` the one object in it that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where the bytes are.
    pub(crate) place: Place,
    /// `namespace0.0`, `nmem0` ...; without it everything is meant.
    pub(crate) name: Option<String>,
}

/// Where the bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file: persistent memory first, then the label area if there is one.
    Image(PathBuf),
    /// Memory of this process, gone with it.
    Memory(u64),
}

impl Target {
    /// Reads a TARGET. The last `#` starts the name, so a path with a `#` in it is written with one more at its end.
    pub(crate) fn parse(text: &OsStr) -> Result<Target, String> {
        let bytes = text.as_bytes();
        let (place, name) = match bytes.iter().rposition(|&b| b == b'#') {
            Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default()),
            None => (bytes, &[][..]),
        };
        let name = match std::str::from_utf8(name) {
            Ok("") => None,
            Ok(name) => Some(name.to_string()),
            Err(_) => return Err("accepted a name such as namespace0.0 after the #".into()),
        };
        let place = match place.strip_prefix(b"mem:") {
            Some(bytes) => Place::Memory(size::parse(&String::from_utf8_lossy(bytes))?),
            None if place.is_empty() => return Err("accepted IMAGE or mem:SIZE, and #NAME after it".into()),
            None => Place::Image(OsStr::from_bytes(place).into()),
        };
        Ok(Target { place, name })
    }

    /// The file, for a command that works on files alone.
    pub(crate) fn image(&self) -> Result<&PathBuf> {
        match &self.place {
            // A lab names its files in TOML; taking it for persistent memory would show its text as a namespace.
            Place::Image(path) if path.extension().is_some_and(|e| e == "toml") => {
                Err(Error::new(Kind::Unsupported, "open target")
                    .path(path)
                    .found("a lab description")
                    .accepted("an image file"))
            }
            Place::Image(path) => Ok(path),
            Place::Memory(_) => Err(Error::new(Kind::Unsupported, "open target")
                .found("mem:SIZE, which starts empty")
                .accepted("an image file")),
        }
    }

    /// As a value parser for the command line.
    pub(crate) fn parse_os(text: OsString) -> Result<Target, String> {
        Target::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &str, name: Option<&str>) -> Result<Target, String> {
        Ok(Target { place: Place::Image(path.into()), name: name.map(str::to_string) })
    }

    #[test]
    fn a_target_is_a_place_and_perhaps_a_name() {
        let parse = |s: &str| Target::parse(OsStr::new(s));
        assert_eq!(parse("vm.img"), image("vm.img", None));
        assert_eq!(parse("vm.img#namespace0.1"), image("vm.img", Some("namespace0.1")));
        assert_eq!(parse("a#b.img#"), image("a#b.img", None));
        assert_eq!(parse("./mem:1"), image("./mem:1", None));
        assert_eq!(parse("mem:64M#x"), Ok(Target { place: Place::Memory(64 << 20), name: Some("x".into()) }));
        for bad in ["", "#namespace0.0", "mem:", "mem:1Q"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lab_is_refused_by_name() {
        let e = Target::parse(OsStr::new("x/lab.toml")).unwrap().image().unwrap_err();
        assert_eq!(e.to_string(), "x/lab.toml: open target: found a lab description, accepted an image file");
    }
}
