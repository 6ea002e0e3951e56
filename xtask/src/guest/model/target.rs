// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lab in our hands: its LAB.toml, and what `nvstack` makes of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::content::Content;
use crate::guest::describe::Lab;
use crate::guest::judge::parts;
use crate::process::{command, sha256_of, succeed};
use crate::report::{Context, Result};
use crate::server::{Server, nvstack};

/// A verb takes milliseconds, a copy of some megabytes a second.
const LIMIT: Duration = Duration::from_secs(120);

/// DIMMs as the guest has them and as a LAB.toml describes them.
pub(super) struct Target {
    bin: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) lab: Lab,
    /// In the order of the lab's DIMMs.
    pub(super) images: Vec<PathBuf>,
    /// The LAB.toml.
    pub(super) toml: PathBuf,
}

/// The uuid of a test's namespaces: from its number.
pub(super) fn uuid(n: usize) -> String {
    format!("{:08x}-0000-4000-8000-{n:012x}", 0x01ab_0000 + n)
}

/// A line with each `#N` and `@N` replaced by what `with` makes of the mark and the number.
pub(super) fn fill_in(line: &str, mut with: impl FnMut(char, usize) -> Result<String>) -> Result<String> {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once(['#', '@']) {
        let mark = if rest.as_bytes().get(before.len()) == Some(&b'@') { '@' } else { '#' };
        let digits = after.chars().take_while(char::is_ascii_digit).count();
        let (number, after) = after.split_at(digits);
        text.push_str(before);
        text.push_str(&with(mark, number.parse().context(line)?)?);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

impl Target {
    /// Images of zeros, and a LAB.toml. A plain lab's says no more than the files: the rest must be as QEMU has it.
    pub(super) fn blank(bin: &Path, folder: &Path, lab: Lab) -> Result<Target> {
        fs::create_dir_all(folder).context(folder.display())?;
        let images = lab.blank(folder)?;
        let toml = folder.join("lab.toml");
        fs::write(&toml, describe(&lab, &images)?).context(toml.display())?;
        Ok(Target { bin: bin.to_path_buf(), folder: folder.to_path_buf(), lab, images, toml })
    }

    /// Runs a verb on a target; the first word of `line` is the verb.
    pub(super) fn verb_on(&self, target: &Path, line: &str) -> Result<String> {
        let mut words = line.split_whitespace().map(OsStr::new);
        let mut verb = nvstack(&self.bin, words.next());
        verb.arg(target).args(words);
        Ok(succeed(&mut verb, LIMIT)?.stdout)
    }

    /// Runs a verb on the whole lab. In the line, `#N` is a uuid, and `@N` the namespace whose label has it.
    pub(super) fn verb(&self, line: &str) -> Result<String> {
        let name = |mark, n| if mark == '@' { self.called(&uuid(n)) } else { Ok(uuid(n)) };
        self.verb_on(&self.toml, &fill_in(line, name)?)
    }

    /// `nvstack list -BDRNX`.
    pub(super) fn list(&self) -> Result<Value> {
        self.list_of(&self.toml, "list -BDRNX")
    }

    pub(super) fn list_of(&self, target: &Path, line: &str) -> Result<Value> {
        let text = self.verb_on(target, line)?;
        serde_json::from_str(&text).context(format!("nvstack {line}: {text}"))
    }

    /// The name of the namespace whose label has this uuid.
    fn called(&self, uuid: &str) -> Result<String> {
        let known = self.namespaces("list -BDRNXvi")?;
        let found = known.into_iter().find(|namespace| namespace.key == uuid);
        found.map(|namespace| namespace.dev).ok_or_else(|| format!("no namespace has the uuid {uuid}").into())
    }

    fn namespaces(&self, line: &str) -> Result<Vec<Namespace>> {
        let list = self.list_of(&self.toml, line)?;
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let each = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let bus = list.get(0).ok_or("no bus")?;
        let mut handles = BTreeMap::new();
        for dimm in each(bus.get("dimms")) {
            handles.extend(text(&dimm, "dev").zip(dimm.get("handle").and_then(Value::as_u64)));
        }
        let mut all = Vec::new();
        for region in each(bus.get("regions")) {
            let mapping = region.pointer("/mappings/0/dimm").and_then(Value::as_str).ok_or("no mapping")?;
            let handle = handles.get(mapping).copied().ok_or("no such DIMM")?;
            let member = |range: &&crate::guest::describe::Range| {
                range.members.iter().any(|member| u64::from(member.handle) == handle)
            };
            let label_size = self.lab.dimm(u32::try_from(handle).context("a handle")?)?.label_size;
            for namespace in each(region.get("namespaces")) {
                let key = if label_size == 0 {
                    let range = self.lab.ranges.iter().find(member).ok_or("no range")?;
                    Some(format!("range-{}", range.index))
                } else {
                    text(&namespace, "raw_uuid").or_else(|| text(&namespace, "uuid"))
                };
                let number = |key: &str| namespace.get(key).and_then(Value::as_u64);
                all.push(Namespace {
                    dev: text(&namespace, "dev").ok_or("no dev")?,
                    // A DIMM whose label area is blank has one, which has no uuid.
                    key: key.unwrap_or_default(),
                    size: number("size").ok_or("no size")?,
                    sector_size: number("sector_size").unwrap_or(512),
                });
            }
        }
        Ok(all)
    }

    /// Writes to all namespaces, each with patterns of its own, through one server.
    pub(super) fn fill(&self) -> Result<()> {
        let namespaces = self.namespaces("list -BDRNXv")?;
        let server = Server::start(&self.bin, &self.toml, &[])?;
        let raw = self.folder.join("fill.raw");
        for (generation, namespace) in (1..).zip(namespaces) {
            let unit = crate::content::data_size(namespace.sector_size);
            let mut content = Content::new(unit, namespace.size / unit as u64);
            let last = content.last();
            for lbas in [0..=40, 300..=555, last / 2..=last / 2 + 99, last - 3..=last] {
                content.set(lbas, generation);
            }
            content.write_file(&raw)?;
            let uri = export(&server, &namespace.dev)?;
            succeed(&mut command("nbdcopy", [raw.as_os_str(), uri.as_ref()]), LIMIT)?;
        }
        server.stop()?;
        fs::remove_file(&raw).context(raw.display())
    }

    /// SHA-256 of the parts of all devices, by the names that [`crate::guest::judge::GuestView::contents`] has.
    pub(super) fn contents(&self) -> Result<BTreeMap<String, String>> {
        let server = Server::start(&self.bin, &self.toml, &["--read-only"])?;
        let raw = self.folder.join("out.raw");
        let mut contents = BTreeMap::new();
        for namespace in self.namespaces("list -BDRNXv")? {
            let _ = fs::remove_file(&raw);
            let uri = export(&server, &namespace.dev)?;
            succeed(&mut command("nbdcopy", [OsStr::new(&uri), raw.as_os_str()]), LIMIT)?;
            let file = File::open(&raw).context(raw.display())?;
            let mut all = Vec::new();
            for (at, len) in parts(file.metadata().context(raw.display())?.len()) {
                let mut bytes = vec![0; usize::try_from(len).context("a part")?];
                file.read_exact_at(&mut bytes, at).context(raw.display())?;
                all.append(&mut bytes);
            }
            contents.insert(namespace.key, sha256_of(&all)?);
        }
        server.stop()?;
        Ok(contents)
    }
}

struct Namespace {
    dev: String,
    key: String,
    size: u64,
    sector_size: u64,
}

/// The URI of another export of a server.
fn export(server: &Server, name: &str) -> Result<String> {
    let (_, query) = server.uri.split_once('?').ok_or("a URI without a socket")?;
    Ok(format!("nbd+unix:///{name}?{query}"))
}

/// The LAB.toml of these images.
fn describe(lab: &Lab, images: &[PathBuf]) -> Result<String> {
    let mut text = "version = 1\n\n[[bus]]\nprovider = \"ACPI.NFIT\"\n".to_owned();
    let ok = |written: std::fmt::Result| written.context("LAB.toml");
    for (dimm, image) in lab.dimms.iter().zip(images) {
        let file = image.file_name().unwrap_or_default().to_string_lossy();
        ok(write!(text, "\n[[bus.dimm]]\nfile = \"{file}\"\nlabel-size = {}\n", dimm.label_size))?;
        if lab.replaced {
            let keys = [
                ("handle", u64::from(dimm.handle)),
                ("phys-id", dimm.phys_id.into()),
                ("serial", dimm.serial.into()),
                ("vendor", dimm.vendor.into()),
                ("device", dimm.device.into()),
                ("revision", dimm.revision.into()),
                ("format", dimm.format.into()),
            ];
            let made = dimm.made.map(|made| [("location", made.location.into()), ("date", made.date.into())]);
            for (key, value) in keys.into_iter().chain(made.into_iter().flatten()) {
                ok(writeln!(text, "{key} = {value:#x}"))?;
            }
        }
    }
    for range in lab.ranges.iter().filter(|_| lab.replaced) {
        let domain = if lab.capabilities == Some(2) { "memory_controller" } else { "unknown" };
        ok(write!(text, "\n[[bus.region]]\nrange-index = {}\nstart = {}\n", range.index, range.address))?;
        ok(writeln!(text, "persistence = \"{domain}\"\ninterleave = {}\nmembers = [", range.line_size))?;
        for member in &range.members {
            let place = lab.dimms.iter().position(|dimm| dimm.handle == member.handle).ok_or("no DIMM")?;
            let (dpa, size, offset) = (member.dpa, range.share(), member.offset);
            ok(writeln!(
                text,
                "    {{ dimm = {place}, offset = {dpa}, size = {size}, region-offset = {offset} }},"
            ))?;
        }
        text.push_str("]\n");
    }
    Ok(text)
}
