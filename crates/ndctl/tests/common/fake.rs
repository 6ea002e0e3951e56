// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tree that reacts to stores as far as the verbs need it, and keeps them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use nvstack_media::{Error, Kind, Result};
use nvstack_ndctl::Sys;
use nvstack_ndctl::dump::{Dump, Entry};

const NODES: &str = "bus/nd/devices/";
const SIGNATURES: [(&[u8; 16], usize, &str); 4] = [
    (b"BTT_ARENA_INFO\0\0", 0, "btt"),
    (b"BTT_ARENA_INFO\0\0", 4096, "btt"),
    (b"NVDIMM_PFN_INFO\0", 4096, "pfn"),
    (b"NVDIMM_DAX_INFO\0", 4096, "dax"),
];

#[derive(Default)]
struct State {
    tree: Dump,
    stores: Vec<String>,
    /// Bytes of namespaces, by page.
    media: BTreeMap<(String, u64), Vec<u8>>,
    labels: BTreeMap<String, Vec<u8>>,
    /// Stores that fail, by the end of what is kept of them.
    fail: Vec<(String, Kind)>,
    busy: Vec<String>,
}

/// The tree.
pub(crate) struct Fake(RefCell<State>);

impl Fake {
    pub(crate) fn new(tree: Dump) -> Fake {
        let labels = [("nmem0", 128 << 10), ("nmem1", 128 << 10)];
        let labels = labels.into_iter().map(|(n, len)| (n.to_owned(), vec![0; len])).collect();
        Fake(RefCell::new(State { tree, labels, ..State::default() }))
    }

    /// What was stored since the last call, `node/attribute=text`; writes of devices and labels too.
    pub(crate) fn stores(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().stores)
    }

    pub(crate) fn fail(&self, store: &str, kind: Kind) {
        self.0.borrow_mut().fail.push((store.to_owned(), kind));
    }

    pub(crate) fn busy(&self, dev: &str) {
        self.0.borrow_mut().busy.push(dev.to_owned());
    }

    /// Gives a DIMM a blank label area of another size.
    pub(crate) fn resize_labels(&self, dimm: &str, len: usize) {
        self.0.borrow_mut().labels.insert(dimm.to_owned(), vec![0; len]);
    }

    pub(crate) fn labels(&self, dimm: &str) -> Vec<u8> {
        self.0.borrow().labels[dimm].clone()
    }

    pub(crate) fn set(&self, path: &str, text: &str) {
        self.0.borrow_mut().set(path, text);
    }

    /// Bytes of a namespace.
    pub(crate) fn media(&self, namespace: &str, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.borrow().read_media(namespace, at, &mut bytes);
        bytes
    }
}

impl State {
    fn real(&self, path: &str) -> String {
        match self.tree.find(path, true) {
            Ok((real, _)) => real,
            Err(_) => {
                let (parent, name) = path.rsplit_once('/').unwrap();
                format!("{}/{name}", self.tree.find(parent, true).unwrap().0)
            }
        }
    }

    fn set(&mut self, path: &str, text: &str) {
        let real = self.real(path);
        self.tree.insert(&real, Entry::Attribute(Ok(format!("{}\n", text.trim_end_matches('\n')))));
    }

    fn get(&self, path: &str) -> String {
        self.tree.read(path).unwrap_or_default().trim_end().to_owned()
    }

    fn node(&self, name: &str, attribute: &str) -> String {
        self.get(&format!("{NODES}{name}/{attribute}"))
    }

    fn set_node(&mut self, name: &str, attribute: &str, text: &str) {
        self.set(&format!("{NODES}{name}/{attribute}"), text);
    }

    fn region(name: &str) -> String {
        let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        format!("region{}", digits.split('.').next().unwrap())
    }

    fn choose(&mut self, name: &str, text: &str) {
        let list = self.node(name, "sector_size").replace(['[', ']'], "");
        let wanted = text.trim();
        let words: Vec<String> = list
            .split_whitespace()
            .map(|w| if w == wanted { format!("[{w}]") } else { w.to_owned() })
            .collect();
        self.set_node(name, "sector_size", &format!("{} ", words.join(" ")));
    }

    fn add_driver(&mut self, name: &str, driver: &str) {
        let real = self.real(&format!("{NODES}{name}"));
        let up = "../".repeat(real.matches('/').count() + 1);
        self.tree.insert(&format!("{real}/driver"), Entry::Link(format!("{up}bus/nd/drivers/{driver}")));
    }

    fn add_disk(&mut self, name: &str, suffix: &str) {
        let index = name.rsplit('.').next().unwrap();
        let dot = if index == "0" { String::new() } else { format!(".{index}") };
        self.set_node(name, "block", "");
        let real = self.real(&format!("{NODES}{name}"));
        self.tree.remove(&format!("{real}/block"));
        self.tree.insert(&format!("{real}/block/pmem0{dot}{suffix}/ro"), Entry::Attribute(Ok("0\n".into())));
    }

    /// A seed that was used is replaced by the next one.
    fn next_seed(&mut self, name: &str, kind: &str) {
        let region = State::region(name);
        let attribute = format!("{kind}_seed");
        if self.node(&region, &attribute) != name {
            return;
        }
        let (stem, index) = name.rsplit_once('.').unwrap();
        let next = format!("{stem}.{}", index.parse::<u32>().unwrap() + 1);
        let parent = self.real(&format!("{NODES}{region}"));
        let copy: &[(&str, &str)] = match kind {
            "namespace" => &[
                ("uuid", ""),
                ("alt_name", ""),
                ("size", "0"),
                ("sector_size", "512 4096 "),
                ("holder", ""),
                ("holder_class", ""),
                ("mode", "raw"),
                ("nstype", "5"),
                ("force_raw", "0"),
            ],
            "btt" => &[("uuid", ""), ("namespace", ""), ("sector_size", "512 520 528 4096 4104 4160 4224 ")],
            _ => &[
                ("uuid", ""),
                ("namespace", ""),
                ("mode", "none"),
                ("align", "2097152"),
                ("supported_alignments", "4096 2097152 1073741824 "),
            ],
        };
        for (attribute, text) in copy {
            let path = format!("{parent}/{next}/{attribute}");
            self.tree.insert(&path, Entry::Attribute(Ok(format!("{text}\n"))));
        }
        self.tree.insert(&format!("bus/nd/devices/{next}"), Entry::Link(format!("../../../{parent}/{next}")));
        self.set_node(&region, &attribute, &next);
    }

    fn read_media(&self, namespace: &str, at: u64, into: &mut [u8]) {
        for (i, byte) in into.iter_mut().enumerate() {
            let place = at + i as u64;
            let page = self.media.get(&(namespace.to_owned(), place / 4096));
            *byte = page.map_or(0, |p| p[(place % 4096) as usize]);
        }
    }

    fn write_media(&mut self, namespace: &str, at: u64, from: &[u8]) {
        for (i, byte) in from.iter().enumerate() {
            let place = at + i as u64;
            let page =
                self.media.entry((namespace.to_owned(), place / 4096)).or_insert_with(|| vec![0; 4096]);
            page[(place % 4096) as usize] = *byte;
        }
    }

    fn found(&self, namespace: &str) -> Option<&'static str> {
        SIGNATURES.into_iter().find_map(|(signature, at, kind)| {
            let mut bytes = [0; 16];
            self.read_media(namespace, at as u64, &mut bytes);
            (bytes == *signature).then_some(kind)
        })
    }

    fn bind(&mut self, driver: &str, name: &str) -> Result<()> {
        let refuse = |kind| Err(Error::new(kind, format!("bind {name} to {driver}")));
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        let fits = match kind {
            "nmem" => "nvdimm",
            "region" => "nd_region",
            "dax" => "dax_pmem",
            _ => "nd_pmem",
        };
        if fits != driver {
            return refuse(Kind::Unrecognised);
        }
        match kind {
            "nmem" => {
                self.add_driver(name, driver);
                let labelled = self.labels[name].starts_with(b"NAMESPACE_INDEX");
                self.set_node(name, "flags", if labelled { "label " } else { "" });
            }
            "region" => {
                self.add_driver(name, driver);
                let dimm = self.node(name, "mapping0").split(',').next().unwrap().to_owned();
                if self.node(&dimm, "flags").contains("label") {
                    self.set_node(name, "nstype", "5");
                    self.set_node(name, "available_size", "251658240");
                    self.set_node(name, "max_available_extent", "251658240");
                    let id = name.trim_start_matches("region");
                    for (attribute, text) in [("nstype", "5"), ("size", "0"), ("uuid", ""), ("alt_name", "")]
                    {
                        self.set_node(&format!("namespace{id}.0"), attribute, text);
                    }
                    self.set_node(&format!("namespace{id}.0"), "sector_size", "512 4096 ");
                }
            }
            "namespace" => {
                if self.node(name, "size") == "0" {
                    return refuse(Kind::Gone);
                }
                if self.node(name, "force_raw") != "1"
                    && let Some(found) = self.found(name)
                {
                    let seed = self.node(&State::region(name), &format!("{found}_seed"));
                    self.write_node(&seed, "namespace", name)?;
                    self.bind(if found == "dax" { "dax_pmem" } else { "nd_pmem" }, &seed)?;
                    return refuse(Kind::Gone);
                }
                self.add_driver(name, driver);
                self.add_disk(name, "");
                self.next_seed(name, "namespace");
            }
            _ => {
                let namespace = self.node(name, "namespace");
                if namespace.is_empty() {
                    return refuse(Kind::Unrecognised);
                }
                let (signature, at, _) = SIGNATURES.into_iter().rev().find(|(_, _, k)| *k == kind).unwrap();
                self.write_media(&namespace, at as u64, signature);
                self.add_driver(name, driver);
                match kind {
                    "btt" => self.add_disk(name, "s"),
                    "pfn" => self.add_disk(name, ""),
                    _ => {}
                }
                self.set_node(name, "size", "65011712");
                self.next_seed(name, kind);
                self.next_seed(&namespace, "namespace");
            }
        }
        Ok(())
    }

    fn unbind(&mut self, name: &str) {
        let real = self.real(&format!("{NODES}{name}"));
        self.tree.remove(&format!("{real}/driver"));
        self.tree.remove(&format!("{real}/block"));
        if name.starts_with("region") {
            for i in 0.. {
                let dimm = self.node(name, &format!("mapping{i}")).split(',').next().unwrap().to_owned();
                if dimm.is_empty() {
                    break;
                }
                // A test says so of a DIMM that a region it does not have uses too.
                if self.node(&dimm, "used_elsewhere").is_empty() {
                    self.set_node(&dimm, "state", "idle");
                }
            }
        }
    }

    fn write_node(&mut self, name: &str, attribute: &str, text: &str) -> Result<()> {
        let trimmed = text.trim();
        let claim = ["btt", "pfn", "dax"].into_iter().find(|k| name.starts_with(k));
        match (attribute, claim) {
            ("driver/unbind", _) => self.unbind(name),
            ("namespace", Some(kind)) if trimmed.is_empty() => {
                let held = self.node(name, "namespace");
                self.set_node(&held, "holder", "");
                self.set_node(&held, "mode", "raw");
                self.set_node(name, "namespace", "");
                if self.node(&State::region(name), &format!("{kind}_seed")) != name {
                    let real = self.real(&format!("{NODES}{name}"));
                    self.tree.remove(&real);
                    self.tree.remove(&format!("bus/nd/devices/{name}"));
                }
            }
            ("namespace", Some(kind)) => {
                self.set_node(name, "namespace", trimmed);
                self.set_node(trimmed, "holder", name);
                let mode = match kind {
                    "btt" => "safe",
                    "pfn" => "memory",
                    _ => "dax",
                };
                self.set_node(trimmed, "mode", mode);
            }
            ("sector_size", _) => self.choose(name, text),
            ("size", None) => {
                let bytes = u64::from_str_radix(trimmed.trim_start_matches("0x"), 16).unwrap();
                let region = State::region(name);
                let free: u64 = self.node(&region, "available_size").parse().unwrap();
                let had: u64 = self.node(name, "size").parse().unwrap();
                for attribute in ["available_size", "max_available_extent"] {
                    self.set_node(&region, attribute, &(free + had - bytes).to_string());
                }
                self.set_node(name, "size", &bytes.to_string());
                if bytes == 0 {
                    self.set_node(name, "uuid", "");
                }
            }
            _ => self.set_node(name, attribute, text),
        }
        Ok(())
    }
}

impl Sys for Fake {
    fn read(&self, path: &str) -> Result<String> {
        self.0.borrow().tree.read(path)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let mut state = self.0.borrow_mut();
        let short = path.strip_prefix(NODES).or(path.strip_prefix("bus/nd/drivers/")).unwrap_or(path);
        let kept = format!("{short}={}", text.replace('\n', "\\n"));
        let failing = state.fail.iter().find(|(end, _)| kept.ends_with(end.as_str())).map(|(_, k)| *k);
        state.stores.push(kept);
        if let Some(kind) = failing {
            return Err(Error::new(kind, format!("store into {path}")));
        }
        if let Some(rest) = path.strip_prefix("bus/nd/drivers/") {
            let driver = rest.strip_suffix("/bind").unwrap();
            if driver == "nd_bus" {
                return Err(Error::new(Kind::NotFound, "bind"));
            }
            return state.bind(driver, text);
        }
        let (name, attribute) = short.split_once('/').unwrap();
        state.write_node(name, attribute, text)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.0.borrow().tree.list(path)
    }

    fn link(&self, path: &str) -> Result<String> {
        self.0.borrow().tree.link(path)
    }

    fn read_dev(&self, dev: &str, at: u64, into: &mut [u8]) -> Result<()> {
        let state = self.0.borrow();
        state.read_media(&namespace_of(dev), at, into);
        Ok(())
    }

    fn write_dev(&self, dev: &str, at: u64, from: &[u8]) -> Result<()> {
        let mut state = self.0.borrow_mut();
        state.stores.push(format!("{dev}@{at}+{}", from.len()));
        state.write_media(&namespace_of(dev), at, from);
        Ok(())
    }

    fn label_size(&self, dimm: &str) -> Result<u64> {
        Ok(self.0.borrow().labels[dimm].len() as u64)
    }

    fn label_read(&self, dimm: &str, at: u64, into: &mut [u8]) -> Result<()> {
        let at = at as usize;
        into.copy_from_slice(&self.0.borrow().labels[dimm][at..at + into.len()]);
        Ok(())
    }

    fn label_write(&self, dimm: &str, at: u64, from: &[u8]) -> Result<()> {
        let mut state = self.0.borrow_mut();
        state.stores.push(format!("{dimm}@{at}+{}", from.len()));
        let at = at as usize;
        state.labels.get_mut(dimm).unwrap()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn inject_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        self.0.borrow_mut().stores.push(format!("inject {region}@{at}+{len}"));
        Ok(())
    }

    fn clear_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        self.0.borrow_mut().stores.push(format!("clear {region}@{at}+{len}"));
        Ok(())
    }

    fn idle_dev(&self, dev: &str) -> Result<()> {
        if self.0.borrow().busy.iter().any(|b| b == dev) {
            return Err(Error::new(Kind::Busy, format!("open /dev/{dev}")));
        }
        Ok(())
    }
}

fn namespace_of(dev: &str) -> String {
    let index = dev.strip_prefix("pmem0.").map_or("0", |i| i.trim_end_matches('s'));
    format!("namespace0.{index}")
}
