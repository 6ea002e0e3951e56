// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's first and only file system: busybox, the modules, ndctl, the tools of ext4, and their libraries. Made once
//! for a set of inputs and kept beside the kernel; each boot adds its own script behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cpio::Archive;
use super::kernel::{Kernel, cache};
use crate::process::{command, succeed};
use crate::report::{Context, Failure, Result, ensure};

const INIT: &str = include_str!("init.sh");
const HELPERS: &str = include_str!("helpers.sh");
const LIMIT: Duration = Duration::from_secs(60);

/// What is loaded at boot, in this order, each after what it depends on.
const MODULES: &[&str] =
    &["crc32c_generic", "ext4", "nfit", "nd_pmem", "nd_btt", "dax_pmem", "device_dax", "nd_e820", "nbd"];

/// Programs that busybox has not, or has less well: its `dd` may ignore `iflag=direct`.
const PROGRAMS: &[&str] = &[
    "/usr/bin/ndctl",
    "/usr/bin/daxctl",
    "/usr/bin/dd",
    "/usr/bin/cmp",
    "/usr/bin/sha256sum",
    "/usr/sbin/mkfs.ext4",
    "/usr/sbin/e2fsck",
    "/usr/sbin/blockdev",
    "/usr/sbin/nbd-client",
];

/// A merged `/usr`, as Debian has it.
const LINKS: &[(&str, &str)] =
    &[("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

/// The archive for this kernel, from the cache or made now.
pub(crate) fn base(kernel: &Kernel) -> Result<PathBuf> {
    let parts = Parts::gather(kernel)?;
    let path = cache()?.join(format!("initramfs-{:016x}.cpio", parts.fingerprint()));
    if !path.is_file() {
        let archive = parts.archive()?;
        let work = path.with_extension(format!("new-{}", std::process::id()));
        fs::write(&work, archive).context(work.display())?;
        fs::rename(&work, &path).context(path.display())?;
    }
    Ok(path)
}

/// Everything that goes in, by its path in the guest.
struct Parts {
    files: BTreeMap<String, (PathBuf, Vec<u8>)>,
    applets: Vec<String>,
    modules: Vec<String>,
}

impl Parts {
    fn gather(kernel: &Kernel) -> Result<Parts> {
        let mut parts = Parts { files: BTreeMap::new(), applets: Vec::new(), modules: Vec::new() };
        let busybox = find("/usr/bin/busybox")?;
        let list = succeed(&mut command(&busybox, ["--list"]), LIMIT)?;
        parts.applets = list.stdout.lines().map(str::to_owned).filter(|name| name != "busybox").collect();
        parts.add("/usr/bin/busybox", &busybox)?;
        for program in PROGRAMS {
            let path = find(program)?;
            parts.add(program, &path)?;
            for library in libraries(&path)? {
                parts.add(&merged(&library), Path::new(&library))?;
            }
        }
        let modules = kernel.root.join("lib/modules").join(&kernel.release);
        for module in load_order(kernel, &modules)? {
            let inside = format!("/usr/lib/modules/{module}");
            parts.add(&inside, &modules.join(&module))?;
            parts.modules.push(inside);
        }
        Ok(parts)
    }

    fn add(&mut self, inside: &str, path: &Path) -> Result<()> {
        if !self.files.contains_key(inside) {
            let content = fs::read(path).context(path.display())?;
            self.files.insert(inside.to_owned(), (path.to_path_buf(), content));
        }
        Ok(())
    }

    fn fingerprint(&self) -> u64 {
        let mut all = Fingerprint::default();
        for (name, (_, content)) in &self.files {
            all.take(name.as_bytes());
            all.take(content);
        }
        for text in self.applets.iter().chain(&self.modules).map(String::as_str).chain([INIT, HELPERS]) {
            all.take(text.as_bytes());
        }
        all.value()
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in
            ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "proc", "sys", "tmp", "mnt", "etc", "run"]
        {
            archive.folder(folder)?;
        }
        for (from, to) in LINKS {
            archive.link(from, to)?;
        }
        archive.device("dev/console", 5, 1)?;
        archive.link("etc/mtab", "/proc/self/mounts")?;
        archive.file("init", true, INIT.as_bytes())?;
        archive.file("helpers.sh", false, HELPERS.as_bytes())?;
        archive.file("modules", false, self.modules.join("\n").as_bytes())?;
        for (inside, (_, content)) in &self.files {
            archive.file(inside, true, content)?;
        }
        for applet in &self.applets {
            let taken = ["bin", "sbin"]
                .iter()
                .any(|folder| self.files.contains_key(&format!("/usr/{folder}/{applet}")));
            if !taken {
                archive.link(&format!("usr/bin/{applet}"), "/usr/bin/busybox")?;
            }
        }
        archive.finish()
    }
}

/// FNV-1a over all that something is made of: enough to tell one set of inputs from the next.
pub(super) struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn value(&self) -> u64 {
        self.0
    }
}

/// A program of the host, in the folder that the package uses or used before `/usr` was merged.
fn find(program: &str) -> Result<PathBuf> {
    let old = program.trim_start_matches("/usr");
    [program, old].iter().map(PathBuf::from).find(|path| path.is_file()).ok_or_else(|| {
        format!("{program} is not there, although its package is installed; the guest needs it").into()
    })
}

pub(super) fn merged(path: &str) -> String {
    if path.starts_with("/usr/") { path.to_owned() } else { format!("/usr{path}") }
}

/// The libraries of a program with their paths, the loader too.
pub(super) fn libraries(program: &Path) -> Result<BTreeSet<String>> {
    let ran = succeed(&mut command("ldd", [program]), LIMIT)?;
    ensure(!ran.stdout.contains("not found"), || format!("ldd {}: {}", program.display(), ran.stdout))?;
    Ok(ran.stdout.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

/// The files of the wanted modules, each after what it depends on, relative to the modules' folder.
fn load_order(kernel: &Kernel, modules: &Path) -> Result<Vec<String>> {
    let depmod = find("/usr/sbin/depmod")?;
    succeed(&mut command(depmod, ["-b".as_ref(), kernel.root.as_os_str(), kernel.release.as_ref()]), LIMIT)?;
    let read = |name: &str| fs::read_to_string(modules.join(name)).context(modules.join(name).display());
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    order(&dependencies, &builtin, MODULES)
}

fn order(dependencies: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let name_of = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split('.').next().unwrap_or(file).replace('-', "_")
    };
    let mut order: Vec<String> = Vec::new();
    for module in wanted {
        let line = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| name_of(path) == *module);
        let Some((path, needs)) = line else {
            let inside = builtin.lines().any(|path| name_of(path) == *module);
            ensure(inside, || format!("the kernel has no module {module}"))?;
            continue;
        };
        // modules.dep lists a module's needs nearest first, all of them.
        for file in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|have| have == file) {
                order.push(file.to_owned());
            }
        }
    }
    match order.iter().find(|path| !path.ends_with(".ko")) {
        None => Ok(order),
        Some(path) => Err(Failure::from(format!("{path} is compressed, which the guest cannot load"))),
    }
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko\n\
            kernel/lib/crc16.ko:\nkernel/fs/mbcache.ko:\n\
            kernel/drivers/nvdimm/nd_btt.ko: kernel/drivers/nvdimm/libnvdimm.ko\n\
            kernel/drivers/nvdimm/libnvdimm.ko:\n\
            kernel/drivers/acpi/nfit/nfit.ko: kernel/drivers/nvdimm/libnvdimm.ko\n";
        let builtin = "kernel/crypto/crc32c-generic.ko\n";
        let found =
            order(dependencies, builtin, &["crc32c_generic", "ext4", "nfit", "nd_btt"]).expect("all there");
        let names: Vec<&str> = found.iter().filter_map(|path| path.rsplit('/').next()).collect();
        assert_eq!(names, ["mbcache.ko", "crc16.ko", "ext4.ko", "libnvdimm.ko", "nfit.ko", "nd_btt.ko"]);
        assert!(
            order(dependencies, builtin, &["ublk_drv"]).expect_err("absent").to_string().contains("ublk_drv")
        );
        assert!(
            order("kernel/a.ko.xz:\n", "", &["a"])
                .expect_err("compressed")
                .to_string()
                .contains("compressed")
        );
    }
}
