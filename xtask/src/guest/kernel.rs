// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's kernel: Debian's cloud kernel, unpacked into a cache that outlives the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::packages::{Packages, apt};
use crate::process::{command, run, succeed};
use crate::report::{Context, Failure, Result};
use crate::unit::target;

/// Debian 12's kernel line, on which the reference images were made.
const PREFIX: &str = "linux-image-6.1.";
const SUFFIX: &str = "-cloud-amd64";
const LIMIT: Duration = Duration::from_secs(300);

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` would say.
    pub(crate) release: String,
    /// The folder that holds `boot` and `lib`.
    pub(crate) root: PathBuf,
}

impl Kernel {
    /// The compressed image.
    pub(crate) fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Takes the newest kernel of the cache, or fetches one.
    pub(crate) fn provide(packages: &mut Packages) -> Result<Kernel> {
        let cache = cache()?;
        if let Some(name) = newest(names_in(&cache)) {
            return Ok(Kernel { release: release(&name), root: cache.join(name) });
        }
        packages.update()?;
        let name = candidate()?;
        fetch(&name, &cache)?;
        Ok(Kernel { release: release(&name), root: cache.join(name) })
    }
}

/// The folder for what is expensive to make again.
pub(crate) fn cache() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let cache = base.unwrap_or_else(target).join("nvstack/guest");
    fs::create_dir_all(&cache).context(cache.display())?;
    Ok(cache)
}

/// The name of the newest package: the one that the metapackage asks for, or the newest that exists.
fn candidate() -> Result<String> {
    let meta = run(&mut command("apt-cache", ["depends", "linux-image-cloud-amd64"]), LIMIT)?;
    let named = meta.stdout.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    if let Some(name) = newest(named.map(str::to_owned)) {
        return Ok(name);
    }
    let all = run(&mut command("apt-cache", ["pkgnames", PREFIX]), LIMIT)?;
    newest(all.stdout.lines().map(str::to_owned)).ok_or_else(|| {
        format!("apt knows no package {PREFIX}*{SUFFIX}; the guest needs Debian 12's package lists (apt-get update)").into()
    })
}

/// Downloads and unpacks a package so that it is in the cache wholly or not at all.
fn fetch(name: &str, cache: &Path) -> Result<()> {
    println!("      fetching the guest's kernel: apt-get download {name}");
    let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(cache).context(cache.display())?;
    succeed(apt().current_dir(work.path()).args(["download", name]), LIMIT)?;
    let entries = fs::read_dir(work.path()).context(work.path().display())?;
    let deb = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .ok_or_else(|| Failure::from(format!("apt-get download {name} left no .deb")))?;
    let root = work.path().join("root");
    succeed(&mut command("dpkg", ["-x".as_ref(), deb.as_os_str(), root.as_os_str()]), LIMIT)?;
    let kernel = Kernel { release: release(name), root };
    // An empty /usr/lib/modules would do no harm until the first boot; better said here.
    for part in [kernel.image(), kernel.root.join("lib/modules").join(&kernel.release)] {
        fs::metadata(&part).context(part.display())?;
    }
    fs::rename(&kernel.root, cache.join(name)).context(cache.join(name).display())
}

fn names_in(cache: &Path) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(cache).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

fn release(package: &str) -> String {
    package.trim_start_matches("linux-image-").to_owned()
}

/// The kernel package with the highest numbers among `names`. Debug and unsigned ones do not end as ours do.
fn newest(names: impl Iterator<Item = String>) -> Option<String> {
    names
        .filter(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
        .max_by_key(|name| name.split(['.', '-']).filter_map(|part| part.parse().ok()).collect::<Vec<u32>>())
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_cloud_kernel_is_chosen_by_number() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-41-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-unsigned",
            "linux-image-6.1.0-57-cloud-amd64-dbg",
            "linux-image-6.1.0-58-amd64",
            "linux-image-6.12.9-1-cloud-amd64",
            "linux-image-cloud-amd64",
        ];
        let newest = newest(names.iter().map(|name| (*name).to_owned()));
        assert_eq!(newest.as_deref(), Some("linux-image-6.1.0-41-cloud-amd64"));
    }
}
