// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of the verbs that are ndctl's: names, letters and defaults are its own.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use nvstack_ndctl::model::MapLocation;
use nvstack_ndctl::{Filter, Mode};
use uuid::Uuid;

use super::{LabelVersion, TargetArgs};
use crate::size;

fn uuid(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|e| format!("{e}; accepted such as 91755b80-2157-4923-b8f6-a1066974c539"))
}

fn mode(text: &str) -> Result<Mode, String> {
    Mode::parse(text)
        .ok_or_else(|| "accepted raw, sector (or safe), fsdax (or memory), devdax (or dax)".into())
}

fn map(text: &str) -> Result<MapLocation, String> {
    match text {
        "mem" => Ok(MapLocation::Memory),
        "dev" => Ok(MapLocation::Device),
        _ => Err("accepted mem or dev".into()),
    }
}

fn kind(text: &str) -> Result<String, String> {
    if ["pmem", "blk"].contains(&text) { Ok(text.into()) } else { Err("accepted pmem or blk".into()) }
}

fn align(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes >= 4096 && bytes.is_power_of_two() {
        return Ok(bytes);
    }
    Err("accepted a power of two, 4096 or more".into())
}

/// Which objects of a TARGET are meant.
#[derive(Args)]
pub(crate) struct Selected {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// More names, or all, beside the #NAME of TARGET.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,

    /// Only on this bus (number, provider or ndbusN).
    #[arg(short, long)]
    pub(crate) bus: Option<String>,

    /// More words.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl Selected {
    /// All names that were given.
    pub(crate) fn all(&self) -> Vec<String> {
        self.target.target.name.iter().chain(&self.names).cloned().collect()
    }
}

/// Which namespaces of a TARGET are meant.
#[derive(Args)]
pub(crate) struct Namespaces {
    #[command(flatten)]
    pub(crate) selected: Selected,

    /// Only in this region.
    #[arg(short, long)]
    pub(crate) region: Option<String>,
}

impl Namespaces {
    pub(crate) fn filter(&self) -> Filter {
        Filter { bus: self.selected.bus.clone(), region: self.region.clone(), ..Filter::default() }
    }
}

/// Makes a namespace, or with -e makes one anew.
///
/// Prints the new namespace. Without -s it takes the largest free piece of the first region that has one. An area of labels
/// that is blank is initialised first where that is needed (--no-autolabel forbids it).
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack create-namespace vm.img -m sector -s 64M          sector-atomic, 4096-byte sectors
  nvstack create-namespace lab.toml -r region1 -m fsdax -a 2M -n logs
  nvstack create-namespace vm.img -e namespace0.0 -m devdax -f
  nvstack create-namespace vm.img -m fsdax -s 1G --dry-run  where the space would come from, and what alignment loses")]
pub(crate) struct CreateNamespaceArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Make this namespace anew, in another mode, size or name; what it holds is lost.
    #[arg(short = 'e', long, value_name = "NAMESPACE")]
    pub(crate) reconfig: Option<String>,

    /// UUID of the namespace's label; random without this option.
    #[arg(short, long, value_parser = uuid)]
    pub(crate) uuid: Option<Uuid>,

    /// Name of the namespace, at most 63 bytes.
    #[arg(short, long)]
    pub(crate) name: Option<String>,

    /// Bytes; the largest free piece without this option.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) size: Option<u64>,

    /// raw, sector, fsdax or devdax; fsdax without this option.
    #[arg(short, long, value_parser = mode)]
    pub(crate) mode: Option<Mode>,

    /// Where the page map of fsdax and devdax is: mem or dev (dev without this option).
    #[arg(short = 'M', long, value_parser = map)]
    pub(crate) map: Option<MapLocation>,

    /// Bytes of a sector: 512, 520, 528, 4096, 4104, 4160 or 4224 in sector mode, 512 or 4096 otherwise.
    #[arg(short = 'l', long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) sector_size: Option<u64>,

    /// Alignment of fsdax and devdax: 4096, 2M or 1G.
    #[arg(short, long, value_name = "BYTES", value_parser = align)]
    pub(crate) align: Option<u64>,

    /// Also where the old namespace is active (with -e), or the place is not aligned.
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Type of region: pmem.
    #[arg(short = 't', long = "type", value_parser = kind)]
    pub(crate) kind: Option<String>,

    /// Go on until no space is left.
    #[arg(short, long = "continue")]
    pub(crate) continuous: bool,

    /// Initialise blank label areas where that is needed (this is the default).
    #[arg(short = 'L', long, overrides_with = "no_autolabel")]
    pub(crate) autolabel: bool,

    /// Never initialise label areas.
    #[arg(long, overrides_with = "autolabel")]
    pub(crate) no_autolabel: bool,

    /// Clean up after a namespace that could not be made (this is the default).
    #[arg(short = 'R', long, overrides_with = "no_autorecover")]
    pub(crate) autorecover: bool,

    /// Leave a namespace that could not be made as it is.
    #[arg(long, overrides_with = "autorecover")]
    pub(crate) no_autorecover: bool,

    /// Only on this bus.
    #[arg(short, long)]
    pub(crate) bus: Option<String>,

    /// Only in this region.
    #[arg(short, long)]
    pub(crate) region: Option<String>,

    /// Change nothing: print where the space would come from, and what alignment, info block and page map take.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Numbers for people (this is the default on a terminal).
    #[arg(long)]
    pub(crate) human: bool,

    /// More words.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// Destroys namespaces: their labels are removed, and the first bytes of each are wiped.
///
/// An active namespace is left alone without -f.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack destroy-namespace vm.img#namespace0.1 -f
  nvstack destroy-namespace lab.toml all -f -r region1")]
pub(crate) struct DestroyArgs {
    #[command(flatten)]
    pub(crate) namespaces: Namespaces,

    /// Also those that are active.
    #[arg(short, long)]
    pub(crate) force: bool,
}

macro_rules! selection {
    ($(#[$meta:meta])* $name:ident, $inner:ident, $type:ty) => {
        #[derive(Args)]
        $(#[$meta])*
        pub(crate) struct $name {
            #[command(flatten)]
            pub(crate) $inner: $type,
        }
    };
}

selection! {
    /// Enables namespaces: what stands on each is found and attached.
    #[command(after_help = "Example:\n  nvstack enable-namespace vm.img#namespace0.0")]
    EnableNamespaceArgs, namespaces, Namespaces
}
selection! {
    /// Disables namespaces, until they are enabled again: TARGET.state remembers it.
    #[command(after_help = "Example:\n  nvstack disable-namespace vm.img all")]
    DisableNamespaceArgs, namespaces, Namespaces
}
selection! {
    /// Enables regions.
    #[command(after_help = "Example:\n  nvstack enable-region lab.toml#region1")]
    EnableRegionArgs, selected, Selected
}
selection! {
    /// Disables regions with all that is on them, until they are enabled again.
    #[command(after_help = "Example:\n  nvstack disable-region lab.toml all")]
    DisableRegionArgs, selected, Selected
}
selection! {
    /// Enables DIMMs: their label areas are read.
    #[command(after_help = "Example:\n  nvstack enable-dimm lab.toml nmem0 nmem1")]
    EnableDimmArgs, selected, Selected
}
selection! {
    /// Disables DIMMs. One that an enabled region uses is skipped.
    #[command(after_help = "Example:\n  nvstack disable-dimm lab.toml#nmem3")]
    DisableDimmArgs, selected, Selected
}
selection! {
    /// Checks label areas: that an index block is valid, and the labels that it counts.
    #[command(after_help = "Example:\n  nvstack check-labels lab.toml all")]
    CheckLabelsArgs, selected, Selected
}

/// Makes label areas without labels. Regions on the DIMMs must be disabled.
#[derive(Args)]
#[command(after_help = "Example:
  nvstack init-labels vm.img#nmem0 -V 1.2 -f")]
pub(crate) struct InitLabelsArgs {
    #[command(flatten)]
    pub(crate) selected: Selected,

    /// Version of the labels. Those of 1.2 can name what stands on a namespace.
    #[arg(short = 'V', long, value_name = "VERSION", default_value = "1.1")]
    pub(crate) label_version: LabelVersion,

    /// Also over labels that are there: their namespaces are lost.
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Zeroes label areas, or a range of each. Regions on the DIMMs must be disabled.
#[derive(Args)]
#[command(after_help = "Example:
  nvstack zero-labels lab.toml#nmem0")]
pub(crate) struct ZeroLabelsArgs {
    #[command(flatten)]
    pub(crate) selected: Selected,

    /// How many bytes.
    #[arg(short, long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) size: Option<u64>,

    /// From which byte of the area on.
    #[arg(short = 'O', long, value_name = "BYTES", value_parser = size::parse, default_value = "0")]
    pub(crate) offset: u64,
}

/// Writes bytes into the label area of one DIMM. Regions on it must be disabled.
#[derive(Args)]
#[command(after_help = "Example:
  nvstack write-labels vm.img#nmem0 -i labels.bin")]
pub(crate) struct WriteLabelsArgs {
    #[command(flatten)]
    pub(crate) selected: Selected,

    /// Where the bytes come from; stdin without this option.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,

    /// How many bytes.
    #[arg(short, long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) size: Option<u64>,

    /// From which byte of the area on.
    #[arg(short = 'O', long, value_name = "BYTES", value_parser = size::parse, default_value = "0")]
    pub(crate) offset: u64,
}

/// Writes the info block of a disabled namespace, or makes one as bytes (-c, -o).
///
/// In sector mode a whole BTT is laid out. What the namespace held at those places is lost.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack write-infoblock vm.img#namespace0.0 -m sector -l 512
  nvstack write-infoblock -c -s 1G -m fsdax -a 2M > head.bin")]
pub(crate) struct WriteInfoblockArgs {
    #[command(flatten)]
    pub(crate) target: Option<TargetArgs>,

    /// fsdax, devdax or sector; fsdax without this option.
    #[arg(short, long, value_parser = mode)]
    pub(crate) mode: Option<Mode>,

    /// Bytes of the namespace; needed where there is none.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) size: Option<u64>,

    /// Alignment of fsdax and devdax: 4096, 2M or 1G.
    #[arg(short, long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) align: Option<u64>,

    /// Bytes of a sector in sector mode.
    #[arg(short = 'l', long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) sector_size: Option<u64>,

    /// UUID of what the info block describes; random without this option.
    #[arg(short, long, value_parser = uuid)]
    pub(crate) uuid: Option<Uuid>,

    /// UUID of the namespace.
    #[arg(short, long, value_parser = uuid)]
    pub(crate) parent_uuid: Option<Uuid>,

    /// Where the page map is: mem or dev.
    #[arg(short = 'M', long, value_parser = map)]
    pub(crate) map: Option<MapLocation>,

    /// Physical address at which the namespace begins.
    #[arg(short = 'O', long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) offset: Option<u64>,

    /// Write the bytes to a new FILE.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,

    /// Write the bytes to stdout.
    #[arg(short = 'c', long, conflicts_with = "output")]
    pub(crate) stdout: bool,
}

/// Marks blocks of a namespace as lost, as worn-out media would be, or finds them again.
///
/// TARGET.state keeps the list.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack inject-error vm.img#namespace0.0 -B 16 -n 8       lose 8 blocks of 512 bytes
  nvstack inject-error vm.img#namespace0.0 -t               which are lost")]
pub(crate) struct InjectErrorArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// First block, in units of 512 bytes from where the data of the namespace begins.
    #[arg(short = 'B', long, value_name = "BLOCK", required_unless_present = "status")]
    pub(crate) block: Option<u64>,

    /// How many blocks.
    #[arg(short = 'n', long, default_value_t = 1)]
    pub(crate) count: u64,

    /// Find them again.
    #[arg(short = 'd', long)]
    pub(crate) uninject: bool,

    /// Only tell which blocks are lost.
    #[arg(short = 't', long)]
    pub(crate) status: bool,

    /// Numbers for people.
    #[arg(short = 'u', long)]
    pub(crate) human: bool,
}

/// Heals all that is lost in namespaces. What stood there is not what it was.
#[derive(Args)]
#[command(after_help = "Example:
  nvstack clear-errors vm.img#namespace0.0")]
pub(crate) struct ClearErrorsArgs {
    #[command(flatten)]
    pub(crate) namespaces: Namespaces,

    /// Look for errors first; here they are always known.
    #[arg(short, long)]
    pub(crate) scrub: bool,
}

/// Works on descriptions of labs.
#[derive(Args)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    pub(crate) chore: LabChore,
}

#[derive(Subcommand)]
pub(crate) enum LabChore {
    /// Writes a description to begin with, for image files that are there or are yet to be made.
    Init(LabInitArgs),
}

/// Writes a description to begin with.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack lab init lab.toml dimm0.img dimm1.img --size 256M --interleave 256
  nvstack lab init lab.toml a.img b.img                  a region for each of two images that are there")]
pub(crate) struct LabInitArgs {
    /// The description to make.
    #[arg(value_name = "LAB.toml", value_hint = ValueHint::FilePath)]
    pub(crate) lab: PathBuf,

    /// The DIMMs' files.
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,

    /// Make files that are not there, of this size.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) size: Option<u64>,

    /// Bytes of the label area at the end of each file that is made.
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = size::parse)]
    pub(crate) label_size: u64,

    /// Version of the labels of files that are made; none leaves their label areas blank.
    #[arg(short = 'V', long, value_name = "VERSION")]
    pub(crate) label_version: Option<LabelVersion>,

    /// Make one interleave set of all DIMMs, in lines of so many bytes.
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) interleave: Option<u64>,
}
