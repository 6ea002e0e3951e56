// SPDX-License-Identifier: MIT OR Apache-2.0
//! File systems across the border: made and filled in the guest and judged through our export; made here, filled through our
//! export, and mounted in the guest.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::combo::{Combo, Image, SMALL};
use super::ours::copy_out;
use super::qemu::Boot;
use crate::content::pattern;
use crate::process::{command, sha256, sha256_of, succeed};
use crate::report::{Context, Lane, Result, ensure};

const LIMIT: Duration = Duration::from_secs(120);

/// The files of a file system: names, and how many bytes each holds.
const FILES: &[(&str, usize)] = &[
    ("empty", 0),
    ("one", 1),
    ("sector", 512),
    ("odd", 70_001),
    ("deep/er/page", 4096),
    ("deep/er/large", 3 << 20),
    ("deep/block", 65_536),
];

/// What waits for the guest.
pub(super) struct Systems {
    from_us: Vec<Image>,
    from_guest: Vec<Image>,
    sums: String,
}

/// Makes the images and adds them to the boot, behind the `taken` DIMMs that it has.
pub(super) fn prepare(
    lane: &mut Lane,
    boot: &mut Boot,
    folder: &Path,
    bin: &Path,
    taken: usize,
) -> Result<Systems> {
    let tree = folder.join("tree");
    let sums = plant(&tree, boot)?;
    boot.file("data/sums", sums.as_bytes())?;
    let mut systems = Systems { from_us: Vec::new(), from_guest: Vec::new(), sums };
    let mut next = taken;
    for combo in Combo::all() {
        next += 1;
        lane.case(format!("{}.ext4-through-us", combo.name()), || {
            let image = Image::create(bin, folder, combo, next, SMALL)?;
            make_through_us(bin, folder, &tree, &image)?;
            image.plug(boot);
            let words = format!("Linux mounts it and all {} files are right", FILES.len());
            boot.script(format!("mounted {}.mounts '{words}' {} /data/sums", image.name, image.dimm));
            systems.from_us.push(image);
            Ok("ext4 copied into the device through the server")
        });
        next += 1;
        let image = Image::create(bin, folder, combo, next, SMALL)?;
        image.plug(boot);
        let words = format!("Linux made ext4 and {} files on it", FILES.len());
        boot.script(format!("filled {}.filled '{words}' {}", image.name, image.dimm));
        systems.from_guest.push(image);
    }
    Ok(systems)
}

impl Systems {
    /// The cases that the guest has to answer.
    pub(super) fn wanted(&self) -> Vec<String> {
        let mounts = self.from_us.iter().map(|image| format!("{}.mounts", image.name));
        mounts.chain(self.from_guest.iter().map(|image| format!("{}.filled", image.name))).collect()
    }

    /// Judges both kinds after the boot.
    pub(super) fn check(&self, lane: &mut Lane, bin: &Path, folder: &Path) {
        for (images, case) in [(&self.from_guest, "guest-ext4"), (&self.from_us, "our-ext4-after")] {
            for image in images {
                lane.case(format!("{}.{case}", image.name), || {
                    let raw = copy_out(bin, image, folder)?;
                    let said = judge(&raw, folder, &self.sums)?;
                    fs::remove_file(&raw).context(raw.display())?;
                    Ok(said)
                });
            }
        }
    }
}

/// Puts the files into a folder here and into the guest; gives their sums as sha256sum lists them.
fn plant(tree: &Path, boot: &mut Boot) -> Result<String> {
    let mut sums = String::new();
    for (seed, (name, length)) in (0x100..).zip(FILES) {
        let content: Vec<u8> = (0..).flat_map(|line| pattern(line, seed, 22)).take(*length).collect();
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap_or(tree)).context(path.display())?;
        fs::write(&path, &content).context(path.display())?;
        boot.file(&format!("data/tree/{name}"), &content)?;
        let _ = writeln!(sums, "{}  {name}", sha256_of(&content)?);
    }
    Ok(sums)
}

/// Makes a file system in a raw file and copies it into the device.
fn make_through_us(bin: &Path, folder: &Path, tree: &Path, image: &Image) -> Result<()> {
    let raw = folder.join("ext4.raw");
    let server = image.serve(bin, &[])?;
    let block = if image.combo.data_size() < 4096 { "1024" } else { "4096" };
    let mut mkfs = command("/usr/sbin/mkfs.ext4", ["-q", "-F", "-b", block, "-d"]);
    // Without a size, mke2fs takes the file's own.
    let file = fs::File::create(&raw).context(raw.display())?;
    file.set_len(server.size).context(raw.display())?;
    succeed(mkfs.arg(tree).arg(&raw), LIMIT)?;
    succeed(&mut command("nbdcopy", [raw.as_os_str(), server.uri.as_ref()]), LIMIT)?;
    server.stop()?;
    fs::remove_file(&raw).context(raw.display())
}

/// e2fsck finds nothing to say, and the files are those that were planted.
fn judge(raw: &Path, folder: &Path, sums: &str) -> Result<String> {
    succeed(&mut command("/usr/sbin/e2fsck", ["-f".as_ref(), "-n".as_ref(), raw.as_os_str()]), LIMIT)?;
    let out: PathBuf = folder.join("out");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).context(out.display())?;
    let request = format!("rdump / {}", out.display());
    succeed(&mut command("/usr/sbin/debugfs", ["-R".as_ref(), request.as_ref(), raw.as_os_str()]), LIMIT)?;
    for (line, (name, _)) in sums.lines().zip(FILES) {
        let found = sha256(&out.join(name))?;
        ensure(line.starts_with(&found), || format!("{name} has SHA-256 {found}, not {line}"))?;
    }
    Ok(format!("e2fsck -fn through our export finds nothing, and {} files are right", FILES.len()))
}
