// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Linux keeps in memory, kept beside the image: what is disabled, which regions are read-only, which bytes are lost.
//!
//! It stands in a file of the image's or lab's name with `.state` behind it, is read whenever the TARGET is opened, and written by
//! each verb that changes it. Where there is nothing to keep there is no file. With `serve` it lives with the server, who
//! writes it too.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use nvstack_media::{Error, Kind, Result};
use nvstack_stack::{BusSpec, NamespaceKey, Stack};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// More than any state of use has: a file that is larger is not ours.
const LIMIT: u64 = 64 << 20;

/// The state of a machine. Objects are told by what does not change from one opening to the next: DIMMs by their bus and NFIT
/// handle (or place), regions by their physical address, namespaces by the uuid in their label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct State {
    version: u32,
    #[serde(skip_serializing_if = "Disabled::is_empty")]
    disabled: Disabled,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read_only_regions: Vec<u64>,
    /// Lost units of 512 bytes: region, first unit, how many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    poison: Vec<(u64, u64, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Disabled {
    dimms: Vec<(usize, usize)>,
    regions: Vec<u64>,
    /// Uuids in text form.
    namespaces: Vec<String>,
    ranges: Vec<u64>,
}

impl Disabled {
    fn is_empty(&self) -> bool {
        *self == Disabled::default()
    }
}

impl State {
    /// The file of a TARGET's state.
    pub(crate) fn beside(target: &Path) -> PathBuf {
        let mut name = target.as_os_str().to_owned();
        name.push(".state");
        name.into()
    }

    /// Reads a state file; none is an empty state.
    pub(crate) fn load(path: &Path) -> Result<State> {
        let failed = |e| Error::os("read state file", e).path(path);
        match path.metadata() {
            Ok(found) if !found.is_file() || found.len() > LIMIT => {
                return Err(Error::new(Kind::Invalid, "read state file")
                    .path(path)
                    .found(format_args!("{} bytes", found.len()))
                    .accepted("a regular file such as a verb has written"));
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(State::default()),
            Err(e) => return Err(failed(e)),
        }
        State::parse(&std::fs::read_to_string(path).map_err(failed)?, path)
    }

    /// Reads the text of a state file.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<State> {
        let state: State = serde_json::from_str(text).map_err(|e| {
            Error::new(Kind::Invalid, "read state file")
                .path(format!("{}:{}:{}", path.display(), e.line(), e.column()))
                .because(e)
        })?;
        if state.version != 1 {
            return Err(Error::new(Kind::Unsupported, "read state file")
                .path(path)
                .found(format_args!("version {}", state.version))
                .accepted(1));
        }
        Ok(state)
    }

    /// Keeps down what is disabled.
    pub(crate) fn apply(&self, buses: &mut [BusSpec]) -> Result<()> {
        for (number, bus) in buses.iter_mut().enumerate() {
            let dimms = self.disabled.dimms.iter().filter(|(bus, _)| *bus == number);
            bus.idle.dimms.extend(dimms.map(|(_, dimm)| *dimm));
            for (n, region) in bus.regions.iter().enumerate() {
                if self.disabled.regions.contains(&region.start) {
                    bus.idle.regions.push(n);
                }
                if let Ok(media) = &region.media {
                    for (_, first, count) in self.poison.iter().filter(|(start, ..)| *start == region.start) {
                        let at = nvstack_media::MediaOffset(first.saturating_mul(512));
                        media.inject_poison(at, count.saturating_mul(512))?;
                    }
                }
            }
            let uuids = self.disabled.namespaces.iter().filter_map(|text| Uuid::try_parse(text).ok());
            let labels = uuids.map(NamespaceKey::Label);
            let ranges = self.disabled.ranges.iter().map(|start| NamespaceKey::Range(*start));
            bus.idle.namespaces.extend(labels.chain(ranges));
        }
        Ok(())
    }

    /// Sets again what is set while a machine is up.
    pub(crate) fn restore(&self, stack: &Stack) -> Result<()> {
        if self.read_only_regions.is_empty() {
            return Ok(());
        }
        let tree = stack.tree();
        for (name, _) in tree.list("bus/nd/devices")? {
            if name.starts_with("region")
                && number(&tree, &format!("{name}/resource"))
                    .is_some_and(|s| self.read_only_regions.contains(&s))
            {
                tree.write(&format!("{name}/read_only"), "1")?;
            }
        }
        Ok(())
    }

    /// The state of a machine that is up and settled.
    pub(crate) fn of(stack: &Stack) -> State {
        let tree = stack.tree();
        let mut state = State { version: 1, ..State::default() };
        let buses = tree.list("class/nd").unwrap_or_default();
        for (number_of_bus, (control, _)) in buses.iter().enumerate() {
            let bus = control.replacen("ndctl", "ndbus", 1);
            let mut dimm = 0;
            let mut children: Vec<String> =
                tree.list(&bus).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
            children.sort_by_key(|name| (name.len(), name.clone()));
            for name in children {
                let bound = tree.link(&format!("{name}/driver")).is_ok();
                let error = tree.read(&format!("{name}/nvstack/error")).unwrap_or_default();
                if name.starts_with("nmem") {
                    if !bound && error.trim().is_empty() {
                        state.disabled.dimms.push((number_of_bus, dimm));
                    }
                    dimm += 1;
                }
                if !name.starts_with("region") {
                    continue;
                }
                let Some(start) = number(&tree, &format!("{name}/resource")) else { continue };
                if !bound && error.trim().is_empty() {
                    state.disabled.regions.push(start);
                }
                if stack.is_read_only_by_choice(&name) {
                    state.read_only_regions.push(start);
                }
                for (first, count) in stack.badblocks(&name) {
                    state.poison.push((start, first, count));
                }
                for (ns, _) in tree.list(&name).unwrap_or_default() {
                    if ns.starts_with("namespace") && ns.contains('.') {
                        state.disabled.note(&tree, &ns, start);
                    }
                }
            }
        }
        state
    }

    /// Writes it, whole or not at all; removes the file where there is nothing to keep.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        if *self == (State { version: 1, ..State::default() }) {
            return match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::os("remove state file", e).path(path))
                }
                _ => Ok(()),
            };
        }
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::new(Kind::Io, "write state file").because(e))?;
        text.push('\n');
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let written = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        };
        written().map_err(|e| Error::os("write state file", e).path(path))
    }
}

impl Disabled {
    /// Notes a namespace that has bytes and neither a driver nor a reason for that.
    fn note(&mut self, tree: &nvstack_stack::Tree, ns: &str, region: u64) {
        let read = |attribute: &str| tree.read(&format!("{ns}/{attribute}")).unwrap_or_default();
        let holder = read("holder");
        let device = if holder.trim().is_empty() { ns } else { holder.trim() };
        let bound = tree.link(&format!("{device}/driver")).is_ok();
        let damaged = !read("nvstack/error").trim().is_empty();
        if bound || damaged || read("size").trim() == "0" {
            return;
        }
        match Uuid::try_parse(read("uuid").trim()) {
            Ok(uuid) => self.namespaces.push(uuid.to_string()),
            Err(_) if read("devtype").trim() == "nd_namespace_io" => self.ranges.push(region),
            Err(_) => {}
        }
    }
}

fn number(tree: &nvstack_stack::Tree, path: &str) -> Option<u64> {
    let text = tree.read(path).ok()?;
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
