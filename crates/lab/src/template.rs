// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lab file to begin with.

use std::fmt::Write;

use crate::model::Interleaving;

/// What a new lab file describes: one bus.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// Its DIMMs.
    pub dimms: Vec<TemplateDimm>,
    /// Interleave sets of them. A DIMM that is in none is a region of its own.
    pub sets: Vec<TemplateSet>,
}

/// A DIMM of a new lab file.
#[derive(Clone, Debug)]
pub struct TemplateDimm {
    /// Its file, as it is to be written: relative to the lab file, or absolute.
    pub file: String,
    /// Bytes of the file, if it must have as many.
    pub size: Option<u64>,
    /// Bytes of the label area; None to find it.
    pub label_size: Option<u64>,
}

/// A set of a new lab file.
#[derive(Clone, Debug)]
pub struct TemplateSet {
    /// Numbers of its DIMMs.
    pub dimms: Vec<usize>,
    /// How they make one range.
    pub interleaving: Interleaving,
}

const HEAD: &str = "\
#:schema ./lab.schema.json
# A lab: NVDIMMs over files, as one machine. Paths are relative to this file.
# Sizes are bytes, or a string such as \"64M\" (K M G T, powers of 1024).
# Keys that are commented out may be given; the rest of their line tells what holds without them, if it is something else.
version = 1

[[bus]]
#provider = \"ACPI.NFIT\"
";

const DIMM: &str = "\
#label-size = \"128K\"        # at the end of the file; 0 for none; found by its index block
#vendor = 0x8086            # Linux shows this and the serial with their bytes swapped
#flags = [\"not_armed\"]      # none
";

const REGION: &str = "\
#start = 0x100000000        # physical address; the next that is free, from 4 GiB on
#type = \"pmem\"              # or \"volatile\"
#read-only = false
#align = \"16M\"
#persistence = \"cpu_cache\"  # or \"memory_controller\", \"unknown\"; what the files give
#numa-node = 0
";

impl Template {
    /// The text, with what else can be set as comments. [`Lab::parse`](crate::Lab::parse) takes it if there is a DIMM, and
    /// the sets have each DIMM at most once.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = HEAD.to_owned();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        for (number, dimm) in self.dimms.iter().enumerate() {
            writeln!(text, "\n[[bus.dimm]]                # DIMM {number}")?;
            writeln!(text, "file = {}", quoted(&dimm.file))?;
            if let Some(size) = dimm.size {
                writeln!(text, "size = {}               # a file of another size is refused", bytes(size))?;
            }
            match dimm.label_size {
                Some(size) => {
                    writeln!(text, "label-size = {}", bytes(size))?;
                    DIMM.lines().skip(1).try_for_each(|line| writeln!(text, "{line}"))?;
                }
                None => text.push_str(DIMM),
            }
            let identity = crate::Identity::qemu(u32::try_from(number).unwrap_or(u32::MAX));
            writeln!(text, "#handle = {:#x}", identity.handle)?;
            writeln!(
                text,
                "#serial = {:#x}         # goes into every label: keep it once there are some",
                identity.serial
            )?;
        }
        let alone = |dimm: &usize| !self.sets.iter().any(|set| set.dimms.contains(dimm));
        if self.sets.is_empty() {
            writeln!(text, "\n# Without [[bus.region]] each DIMM is a region of its own. A set of two:")?;
            writeln!(text, "#[[bus.region]]\n#members = [0, 1]\n#interleave = 256")?;
            return Ok(());
        }
        for set in &self.sets {
            writeln!(text, "\n[[bus.region]]\nmembers = {:?}", set.dimms)?;
            match set.interleaving {
                Interleaving::Lines(lines) => writeln!(text, "interleave = {lines}")?,
                Interleaving::Concat => writeln!(text, "interleave = \"concat\"")?,
            }
            text.push_str(REGION);
        }
        for dimm in (0..self.dimms.len()).filter(alone) {
            writeln!(text, "\n[[bus.region]]\nmembers = [{dimm}]")?;
        }
        Ok(())
    }
}

/// Bytes in the largest unit that they are a multiple of.
fn bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
        let whole = bytes.checked_shr(shift).unwrap_or(0);
        if whole > 0 && whole.checked_shl(shift) == Some(bytes) {
            return format!("\"{whole}{unit}\"");
        }
    }
    bytes.to_string()
}

/// A string as TOML takes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
