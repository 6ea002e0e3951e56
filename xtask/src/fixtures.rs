// SPDX-License-Identifier: MIT OR Apache-2.0
//! The images that Linux wrote, from the project's fixtures, unpacked sparse.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use crate::report::{Context, Failure, Result, ensure};
use crate::unit::workspace;

/// What is recorded about an image with one BTT namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    /// The place among QEMU's DIMMs whose serial its labels know.
    pub(crate) dimm: usize,
    pub(crate) label_size: u64,
    pub(crate) sector_size: u64,
    pub(crate) sectors: u64,
}

/// Looks an image up in `fixtures/golden.json`.
pub(crate) fn recorded(name: &str) -> Result<Recorded> {
    let path = workspace().join("fixtures/golden.json");
    let text = std::fs::read_to_string(&path).context(path.display())?;
    let all: Value = serde_json::from_str(&text).context(path.display())?;
    let number = |pointer: &str| {
        let found = all.pointer(&format!("/{name}/{pointer}")).and_then(Value::as_u64);
        found.ok_or_else(|| Failure::from(format!("{}: {name} has no number {pointer}", path.display())))
    };
    Ok(Recorded {
        dimm: usize::try_from(number("dimm")?).context(name)?,
        label_size: number("label_size")?,
        sector_size: number("namespaces/0/btt/0/ext_lbasize")?,
        sectors: number("namespaces/0/btt/0/ext_nlba")?,
    })
}

/// Unpacks `fixtures/NAME.img.zst` (a NAME as `golden/sec512-v1.1`) to `to`, leaving holes where it holds zeros, and gives its length.
pub(crate) fn unpack(name: &str, to: &Path) -> Result<u64> {
    let from = workspace().join("fixtures").join(format!("{name}.img.zst"));
    let packed = File::open(&from).context(from.display())?;
    let mut image = ruzstd::decoding::StreamingDecoder::new(packed).context(from.display())?;
    let out = File::create(to).context(to.display())?;
    let mut length = 0_u64;
    let mut page = Vec::with_capacity(4096);
    loop {
        page.clear();
        let n = image.by_ref().take(4096).read_to_end(&mut page).context(from.display())?;
        if n == 0 {
            break;
        }
        if page.iter().any(|byte| *byte != 0) {
            out.write_all_at(&page, length).context(to.display())?;
        }
        length += n as u64;
    }
    out.set_len(length).context(to.display())?;
    ensure(length > 0, || format!("{} is empty", from.display()))?;
    Ok(length)
}
