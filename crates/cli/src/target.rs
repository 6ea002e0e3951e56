// SPDX-License-Identifier: MIT OR Apache-2.0
//! TARGET: what a command works on.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

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
    /// A description of several DIMMs, over files.
    Lab(PathBuf),
    /// What a running `serve --control` has open, by the path of its control socket.
    Running(PathBuf),
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
            None if place.is_empty() => {
                return Err("accepted IMAGE, LAB.toml, mem:SIZE or unix:SOCKET, and #NAME after it".into());
            }
            None => match place.strip_prefix(b"unix:") {
                Some(socket) => Place::Running(OsStr::from_bytes(socket).into()),
                None => {
                    let path = PathBuf::from(OsStr::from_bytes(place));
                    // An image that is called so is written ./x.toml with another name; its bytes are no TOML.
                    if path.extension().is_some_and(|e| e == "toml") {
                        Place::Lab(path)
                    } else {
                        Place::Image(path)
                    }
                }
            },
        };
        Ok(Target { place, name })
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
    fn a_lab_and_a_running_server_are_told_by_their_form() {
        let place = |s: &str| Target::parse(OsStr::new(s)).unwrap().place;
        assert_eq!(place("x/lab.toml#region0"), Place::Lab("x/lab.toml".into()));
        assert_eq!(place("unix:/run/x.sock"), Place::Running("/run/x.sock".into()));
        assert_eq!(place("./unix:/run/x.sock"), Place::Image("./unix:/run/x.sock".into()));
    }
}
