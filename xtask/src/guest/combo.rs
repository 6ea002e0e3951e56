// SPDX-License-Identifier: MIT OR Apache-2.0
//! The twelve kinds of image that every check of this lane is made for: without labels, with labels 1.1 and 1.2, each in four
//! sector sizes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::content::{Content, data_size};
use crate::layout::Geometry;
use crate::process::succeed;
use crate::report::{Context, Result, ensure};
use crate::server::{Server, nvstack};

use super::qemu::Boot;

const LABEL_AREA: u64 = 128 << 10;
const MIB: u64 = 1 << 20;

/// The namespace of a small image.
pub(super) const SMALL: u64 = 32 * MIB;
/// One that needs a second arena: an arena ends at 512 GiB, and a rest of 16 MiB or more is one more.
pub(super) const TWO_ARENAS: u64 = (512 << 30) + 32 * MIB;

/// Making an image takes milliseconds, whatever its size.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Labels {
    None,
    V1_1,
    V1_2,
}

impl Labels {
    /// As options of nvstack and ndctl have it; nothing for none.
    pub(super) fn version(self) -> &'static str {
        match self {
            Labels::None => "",
            Labels::V1_1 => "1.1",
            Labels::V1_2 => "1.2",
        }
    }
}

/// One kind of image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Combo {
    pub(super) labels: Labels,
    pub(super) sector_size: u64,
}

/// An image of a kind, in a place among the guest's DIMMs.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) combo: Combo,
    /// In names of cases.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The number of the DIMM, from 1.
    pub(super) dimm: usize,
    namespace: u64,
}

impl Combo {
    /// All twelve.
    pub(super) fn all() -> Vec<Combo> {
        let kinds = [Labels::None, Labels::V1_1, Labels::V1_2];
        kinds.iter().flat_map(|labels| [512, 520, 4096, 4104].map(|size| Combo::new(*labels, size))).collect()
    }

    pub(super) const fn new(labels: Labels, sector_size: u64) -> Combo {
        Combo { labels, sector_size }
    }

    pub(super) fn name(self) -> String {
        match self.labels {
            Labels::None => format!("nolabel-{}", self.sector_size),
            labels => format!("v{}-{}", labels.version(), self.sector_size),
        }
    }

    pub(super) fn data_size(self) -> usize {
        data_size(self.sector_size)
    }

    fn label_size(self) -> u64 {
        if self.labels == Labels::None { 0 } else { LABEL_AREA }
    }
}

impl Image {
    /// Has `nvstack create` make an image with a namespace of this many bytes, for the `dimm`-th nvdimm of a QEMU.
    pub(super) fn create(
        bin: &Path,
        folder: &Path,
        combo: Combo,
        dimm: usize,
        namespace: u64,
    ) -> Result<Image> {
        let name = combo.name();
        let image = Image { combo, path: folder.join(format!("{name}-{dimm}.img")), name, dimm, namespace };
        let mut create = nvstack(bin, ["create".as_ref(), image.path.as_os_str()]);
        create.args(["--size", &(namespace + combo.label_size()).to_string()]);
        create.args(["--label-size", &combo.label_size().to_string(), "--dimm", &dimm.to_string()]);
        create.args(["-m", "sector", "-l", &combo.sector_size.to_string()]);
        if combo.labels != Labels::None {
            create.args(["--label-version", combo.labels.version()]);
        }
        succeed(&mut create, LIMIT)?;
        Ok(image)
    }

    /// A copy of it in another file.
    pub(super) fn copied(&self, path: PathBuf) -> Result<Image> {
        std::fs::copy(&self.path, &path).context(self.path.display())?;
        Ok(Image { path, ..self.clone() })
    }

    /// An image of zeros, for ndctl to make a namespace of all of it.
    pub(super) fn blank(folder: &Path, combo: Combo, namespace: u64) -> Result<Image> {
        let name = combo.name();
        let path = folder.join(format!("{name}-blank.img"));
        let file = std::fs::File::create(&path).context(path.display())?;
        file.set_len(namespace + combo.label_size()).context(path.display())?;
        Ok(Image { combo, path, name, dimm: 1, namespace })
    }

    /// The arenas that the format prescribes for it: labels 1.2 have BTT 2.0 at the namespace's start, all others BTT 1.1 at 4096.
    pub(super) fn geometry(&self) -> Geometry {
        let start = if self.combo.labels == Labels::V1_2 { 0 } else { 4096 };
        Geometry::of(self.namespace - start, self.combo.sector_size)
    }

    /// The device's contents before anything is written.
    pub(super) fn content(&self) -> Content {
        Content::new(self.combo.data_size(), self.geometry().sectors())
    }

    /// Plugs it into a boot.
    pub(super) fn plug(&self, boot: &mut Boot) {
        boot.dimm(self.dimm, &self.path, self.combo.label_size());
    }

    /// Serves it; the device must have the size that the format prescribes, and the sector size that was asked for.
    pub(super) fn serve(&self, bin: &Path, args: &[&str]) -> Result<Server> {
        let server = Server::start(bin, &self.path, args)?;
        let (found, wanted) =
            ((server.size, server.sector_size), (self.content().size(), self.combo.sector_size));
        ensure(found == wanted, || format!("{}: (size, sector size) {found:?}, not {wanted:?}", self.name))?;
        Ok(server)
    }

    /// Bytes of the file system that the image really takes.
    pub(super) fn disk_use(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(std::fs::metadata(&self.path).context(self.path.display())?.blocks() * 512)
    }
}
