// SPDX-License-Identifier: MIT OR Apache-2.0
//! Namespaces as exports, kept in step with the machine: what is enabled becomes one, what goes away ceases to be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use nvstack_media::{Error, Kind, Result};
use nvstack_nbd::Exports;
use nvstack_stack::{Action, Event, OpenOptions, Stack, Tree};

use super::COMMAND;
use crate::end::{note, warn};

/// An export, and what it is one of.
#[derive(Clone)]
struct Served {
    /// The device that has the namespace: itself or its claim.
    device: String,
    /// Its disk.
    disk: String,
}

/// The exports of a machine.
pub(super) struct Board {
    pub(super) stack: Stack,
    pub(super) exports: Arc<Exports>,
    pub(super) options: OpenOptions,
    /// Just this namespace.
    pub(super) only: Option<String>,
    /// Namespaces that were made raw, too.
    raw: bool,
    served: Mutex<BTreeMap<String, Served>>,
}

/// What is served first, for the line that tells of it.
pub(super) struct First {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) sector_size: u32,
}

impl Board {
    pub(super) fn new(
        stack: Stack,
        exports: Arc<Exports>,
        options: OpenOptions,
        only: Option<String>,
        raw: bool,
    ) -> Board {
        Board { stack, exports, options, only, raw, served: Mutex::default() }
    }

    /// The namespaces with bytes, by number.
    pub(super) fn namespaces(&self) -> Vec<String> {
        let tree = self.stack.tree();
        let mut names: Vec<String> = tree
            .list("bus/nd/devices")
            .unwrap_or_default()
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("namespace") && word(&tree, name, "size") != "0")
            .collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// Offers everything that can be. One that nothing else can stand in for must be.
    pub(super) fn fill(&self) -> Result<Option<First>> {
        let names = match &self.only {
            Some(name) => vec![name.clone()],
            None => self.namespaces(),
        };
        let alone = names.len() == 1;
        let mut first = None;
        for name in names {
            match self.offer(&name) {
                Ok(served) => {
                    first.get_or_insert(served);
                }
                Err(e) if alone => return Err(e),
                Err(e) => warn(COMMAND, format_args!("{name} is left out: {e}")),
            }
        }
        Ok(first)
    }

    fn offer(&self, name: &str) -> Result<First> {
        let tree = self.stack.tree();
        let device = match word(&tree, name, "holder").as_str() {
            "" => name.to_owned(),
            holder => holder.to_owned(),
        };
        let opened = self.stack.open_described(name, &self.options).map_err(|e| self.explain(name, e))?;
        let geometry = opened.device.geometry();
        if geometry.sectors == 0 {
            return Err(Error::new(Kind::Invalid, format!("serve {name}"))
                .found(format_args!("{} bytes", geometry.bytes()))
                .accepted("a sector or more"));
        }
        let disk = tree.list(&format!("{device}/block")).ok().and_then(|d| d.into_iter().next());
        let served = Served { device, disk: disk.map_or(String::new(), |(disk, _)| disk) };
        note(COMMAND, format_args!("{name}: {}", opened.note));
        self.exports.add(name, opened.note, opened.device)?;
        self.served.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), served);
        Ok(First { name: name.to_owned(), size: geometry.bytes(), sector_size: opened.sector_size })
    }

    /// Why a namespace can't be served, and what would be.
    fn explain(&self, name: &str, error: Error) -> Error {
        let why = word(&self.stack.tree(), name, "nvstack/error");
        if why.is_empty() {
            return error;
        }
        let accepted = if why.contains("backup info block that is whole") {
            "--read-only, which reads it with the help of the backup info block; or --raw, which serves its bytes as they are"
        } else {
            "--raw, which serves its bytes as they are"
        };
        Error::new(Kind::Corrupt, format!("serve {name}")).found(why).accepted(accepted)
    }

    /// Keeps step with an event.
    pub(super) fn follow(&self, event: &Event) {
        match event.action {
            Action::Unbind | Action::Remove => {
                let gone: Vec<String> = {
                    let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
                    let gone: Vec<String> = served
                        .iter()
                        .filter(|(name, s)| {
                            **name == event.name || s.device == event.name || s.disk == event.name
                        })
                        .map(|(name, _)| name.clone())
                        .collect();
                    for name in &gone {
                        served.remove(name);
                    }
                    gone
                };
                for name in gone {
                    drop(self.exports.remove(&name));
                    note(COMMAND, format_args!("{name}: no longer served"));
                }
            }
            Action::Bind => {
                let tree = self.stack.tree();
                let name = if event.name.starts_with("namespace") {
                    event.name.clone()
                } else {
                    word(&tree, &event.name, "namespace")
                };
                let wanted = self.only.as_ref().is_none_or(|only| *only == name);
                let known = self.served.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&name);
                // A verb that looks at the bytes of a namespace makes it raw for a moment: that is nothing for clients.
                let lent = !self.raw && word(&tree, &name, "force_raw") == "1";
                if name.is_empty() || known || !wanted || lent {
                    return;
                }
                // Somebody who binds a namespace for a moment to wipe it has unbound it again by now.
                if let Err(e) = self.offer(&name)
                    && e.kind() != Kind::NoDevice
                    && e.kind() != Kind::Gone
                {
                    warn(COMMAND, format_args!("{name} is left out: {e}"));
                }
            }
            _ => {}
        }
    }

    /// Whether clients use a disk.
    pub(super) fn in_use(&self, disk: &str) -> bool {
        let name = {
            let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
            served.iter().find(|(_, s)| s.disk == disk).map(|(name, _)| name.clone())
        };
        name.is_some_and(|name| self.exports.clients(&name) > 0)
    }
}

fn word(tree: &Tree, device: &str, attribute: &str) -> String {
    tree.read(&format!("{device}/{attribute}")).unwrap_or_default().trim().to_owned()
}

/// Makes a namespace raw, whatever holds it: what `--raw` asks for (`force_raw`).
pub(super) fn make_raw(stack: &Stack, name: &str) -> Result<()> {
    let tree = stack.tree();
    let holder = word(&tree, name, "holder");
    if !holder.is_empty() {
        let _ = tree.write(&format!("{holder}/driver/unbind"), &holder);
        tree.write(&format!("{holder}/namespace"), "")?;
    } else if tree.link(&format!("{name}/driver")).is_ok() {
        tree.write(&format!("{name}/driver/unbind"), name)?;
    }
    tree.write(&format!("{name}/force_raw"), "1")?;
    tree.write("bus/nd/drivers/nd_pmem/bind", name)
}
