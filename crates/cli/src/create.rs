// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack create`: a new image with one namespace over all of it.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvstack_btt::CreateOptions;
use nvstack_format::btt::{self, LbaSize};
use nvstack_format::label::{AreaLayout, Flags, Label, Name, Version};
use nvstack_format::pfn::{self, Place};
use nvstack_format::{Dpa, SetMember, cookies, guid};
use nvstack_label::LabelArea;
use nvstack_media::{Access, Error, Kind, LockMode, Mapping, Media, MediaOffset, Part, Result, lock};
use nvstack_ndctl::list::ListOptions;
use nvstack_stack::provider::QEMU_START;
use uuid::Uuid;

use crate::args::{CreateArgs, Mode};
use crate::json::write_stdout;
use crate::machine::Machine;
use crate::verbs::version;

/// The steps in which Linux gives out a region.
const REGION_ALIGN: u64 = 16 << 20;

/// What is made.
pub(crate) struct Recipe {
    /// Bytes of the whole file.
    pub(crate) size: u64,
    /// Bytes of the label area in it; 0 for none.
    pub(crate) label_size: u64,
    /// Version of the labels.
    pub(crate) version: Version,
    /// What the namespace is.
    pub(crate) mode: Mode,
    /// Its sectors, where the mode's default will not do.
    pub(crate) sector_size: Option<u64>,
    /// Its name.
    pub(crate) name: Option<String>,
    /// Its uuid.
    pub(crate) uuid: Option<Uuid>,
    /// Which nvdimm of a QEMU it is for, from 1.
    pub(crate) dimm: u32,
}

impl Recipe {
    /// What `serve --create` makes: labels as QEMU and Linux have them today, sector mode, 4096-byte sectors.
    pub(crate) fn standard(size: u64, label_size: Option<u64>) -> Recipe {
        Recipe {
            size,
            label_size: label_size.unwrap_or(128 << 10),
            version: Version::V1_2,
            mode: Mode::Sector,
            sector_size: None,
            name: None,
            uuid: None,
            dimm: 1,
        }
    }
}

/// `nvstack create IMAGE`.
pub(crate) fn run(args: &CreateArgs) -> Result<()> {
    let recipe = Recipe {
        size: args.size,
        label_size: args.label_size,
        version: version(args.label_version),
        mode: args.mode,
        sector_size: args.sector_size,
        name: args.name.clone(),
        uuid: args.uuid,
        dimm: args.dimm,
    };
    let mapping = make(&args.image, &recipe)?;
    let machine = Machine::of_mapping(mapping, &args.image, Some(recipe.label_size))?;
    // Like ndctl's create-namespace: numbers for people where one looks on.
    let human = std::io::stdout().is_terminal();
    let listed = nvstack_ndctl::list::list(machine.sys(), &ListOptions { human, ..ListOptions::default() })?;
    let made = listed.json.into_iter().next().and_then(|made| match made {
        serde_json::Value::Array(all) => all.into_iter().next(),
        one => Some(one),
    });
    match made {
        Some(made) => write_stdout(nvstack_ndctl::json::text(&made).as_bytes()),
        None => {
            Err(Error::new(Kind::Corrupt, "read back the new image").path(&args.image).found("no namespace"))
        }
    }
}

/// Makes an image, and gives it open and locked. [`Kind::Exists`] if there is a file; then nothing is changed.
pub(crate) fn make(path: &Path, recipe: &Recipe) -> Result<Arc<Mapping>> {
    let plan = Plan::of(recipe).map_err(|e| e.path(path))?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.map_err(|e| Error::os("make image", e).path(path))?;
    let unfinished = Unfinished(Some(path.to_path_buf()));
    let mapping = plan.carry_out(file, path).map_err(|e| e.path(path))?;
    unfinished.keep();
    Ok(mapping)
}

/// A file that is removed unless it is finished.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A recipe that makes sense.
struct Plan {
    size: u64,
    label_size: u64,
    version: Version,
    namespace: u64,
    /// Sector size and version of the BTT.
    btt: Option<(LbaSize, btt::Version)>,
    /// What has a page map.
    pages: Option<pfn::Kind>,
    label: Option<Label>,
}

impl Plan {
    fn of(recipe: &Recipe) -> Result<Plan> {
        let refuse = |found: String, accepted: String| {
            Err(Error::new(Kind::Invalid, "make image").found(found).accepted(accepted))
        };
        let labelled = recipe.label_size > 0;
        if labelled {
            AreaLayout::compute(recipe.label_size, recipe.version)
                .map_err(|f| Error::new(Kind::Invalid, "make image").because(f))?;
        }
        let most = i64::MAX.unsigned_abs();
        if recipe.size > most {
            return refuse(format!("{} bytes", recipe.size), format!("at most {most}, as files have"));
        }
        let region = recipe.size.saturating_sub(recipe.label_size);
        if region == 0 || !region.is_multiple_of(4096) {
            return refuse(
                format!("{} bytes, {} of them for labels", recipe.size, recipe.label_size),
                "a multiple of 4096 bytes beside the labels".into(),
            );
        }
        // Linux gives out a region with labels in steps of its alignment; without labels it is all one namespace.
        let namespace =
            if labelled && region >= REGION_ALIGN { region / REGION_ALIGN * REGION_ALIGN } else { region };
        if !labelled && (recipe.name.is_some() || recipe.uuid.is_some()) {
            return refuse("--name or --uuid, and no labels".into(), "either: the label holds them".into());
        }

        let (default, sizes) = match recipe.mode {
            Mode::Sector => (4096, "512 520 528 4096 4104 4160 4224"),
            Mode::Raw | Mode::Fsdax | Mode::Devdax => (512, "512 4096"),
        };
        let sector_size = recipe.sector_size.unwrap_or(default);
        let lbasize = u32::try_from(sector_size).ok().and_then(|s| LbaSize::new(s).ok());
        let Some(lbasize) = lbasize.filter(|s| recipe.mode == Mode::Sector || s.metadata() == 0) else {
            return refuse(format!("sector size {sector_size}"), sizes.into());
        };
        // A BTT's place follows from the label: one of version 1.2 names the abstraction.
        let named = labelled && recipe.version == Version::V1_2;
        let btt_version = if named { btt::Version::V2_0 } else { btt::Version::V1_1 };
        let least = btt::ARENA_MIN + btt_version.start();
        if recipe.mode == Mode::Sector && namespace < least {
            return Err(Error::new(Kind::NoSpace, "make image")
                .found(format_args!("room for a namespace of {namespace} bytes"))
                .accepted(format_args!("{least} or more for sector mode")));
        }

        let pages = match recipe.mode {
            Mode::Fsdax => Some(pfn::Kind::Fsdax),
            Mode::Devdax => Some(pfn::Kind::Devdax),
            Mode::Sector | Mode::Raw => None,
        };
        if pages.is_some() && namespace < REGION_ALIGN {
            return Err(Error::new(Kind::NoSpace, "make image")
                .found(format_args!("room for a namespace of {namespace} bytes"))
                .accepted(format_args!("{REGION_ALIGN} or more for fsdax and devdax")));
        }
        let abstraction = match recipe.mode {
            Mode::Sector => guid::BTT2,
            Mode::Fsdax => guid::PFN,
            Mode::Devdax => guid::DAX,
            Mode::Raw => Uuid::nil(),
        };
        let label = Label {
            uuid: recipe.uuid.map_or_else(random_uuid, Ok)?,
            name: Name::new(recipe.name.as_deref().unwrap_or_default())
                .map_err(|f| Error::new(Kind::Invalid, "make image").because(f))?,
            flags: Flags::empty(),
            nlabel: 1,
            position: 0,
            isetcookie: cookie(recipe.dimm, recipe.version),
            // With metadata in the sectors the raw size has no meaning, and Linux stores none.
            lbasize: if lbasize.metadata() == 0 { sector_size } else { 0 },
            dpa: Dpa(0),
            rawsize: namespace,
            slot: 0,
            align: 0,
            type_guid: if named { guid::PERSISTENT_MEMORY } else { Uuid::nil() },
            abstraction: if named { abstraction } else { Uuid::nil() },
        };
        Ok(Plan {
            size: recipe.size,
            label_size: recipe.label_size,
            version: recipe.version,
            namespace,
            btt: (recipe.mode == Mode::Sector).then_some((lbasize, btt_version)),
            pages,
            label: labelled.then_some(label),
        })
    }

    /// Fills a new file. The label comes last: a cut before it leaves no namespace.
    fn carry_out(&self, file: File, path: &Path) -> Result<Arc<Mapping>> {
        lock(&file, path, LockMode::Exclusive)?;
        file.set_len(self.size).map_err(|e| Error::os("set the size of the image", e))?;
        let written = file.try_clone().map_err(|e| Error::os("make image", e))?;
        let mapping = Arc::new(Mapping::from_file(file, path, Access::ReadWrite)?);

        if let Some((lbasize, version)) = self.btt {
            let namespace = Part::new(Arc::clone(&mapping), MediaOffset(0), self.namespace)?;
            let parent = self.label.map_or(Uuid::nil(), |l| l.uuid);
            let options = CreateOptions { version, parent, uuid: random_uuid()?, lbasize, overwrite: false };
            nvstack_btt::create(&namespace, &options)?;
        }
        if let Some(kind) = self.pages {
            let namespace = Part::new(Arc::clone(&mapping), MediaOffset(0), self.namespace)?;
            let options = nvstack_pfn::CreateOptions {
                kind,
                uuid: random_uuid()?,
                parent: self.label.map_or(Uuid::nil(), |l| l.uuid),
                mode: pfn::Mode::Pmem,
                align: 2 << 20,
                place: Place { start: Some(QEMU_START), size: self.namespace },
                overwrite: false,
            };
            nvstack_pfn::create(&namespace, &options)?;
        }
        if let Some(label) = &self.label {
            let at = MediaOffset(self.size.saturating_sub(self.label_size));
            let area = Part::new(Arc::clone(&mapping), at, self.label_size)?;
            LabelArea::init(area, self.version)?.write_namespace(label)?;
        }
        mapping.drain()?;
        written.sync_all().map_err(|e| Error::os("sync the image", e))?;
        sync_directory(path)?;
        Ok(mapping)
    }
}

/// Makes the name of a new file as durable as its bytes.
fn sync_directory(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|d| d.sync_all());
    synced.map_err(|e| Error::os("sync the directory", e).path(directory))
}

/// The cookie of a QEMU's nvdimm, counted from 1.
fn cookie(dimm: u32, version: Version) -> u64 {
    let cookies = cookies(&[SetMember::qemu(dimm.saturating_sub(1))]);
    match version {
        Version::V1_1 => cookies.v1_1,
        Version::V1_2 => cookies.v1_2,
    }
}

/// A new uuid, version 4.
pub(crate) fn random_uuid() -> Result<Uuid> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(Kind::Io, "make a uuid").found(e))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
