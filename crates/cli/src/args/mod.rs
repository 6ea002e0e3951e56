// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line. The words here are also the man pages.

mod crash_test;
mod verbs;

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use uuid::Uuid;

use crate::size;
use crate::target::Target;
pub(crate) use crash_test::CrashTestArgs;
pub(crate) use verbs::*;

/// The Linux NVDIMM stack as an ordinary program.
///
/// Creates, inspects and serves NVDIMM images and sector-atomic (BTT) block devices on any file or memory, without
/// NVDIMM hardware, kernel modules or root, and stays bit-compatible with Linux in both directions.
///
/// TARGET is IMAGE, LAB.toml, mem:SIZE or unix:SOCKET, optionally followed by #NAME (vm.img#namespace0.0). IMAGE is a file as
/// QEMU lays it out: persistent memory first, the label area in its last bytes. LAB.toml describes several DIMMs over files, and
/// how they are interleaved. unix:SOCKET is what a `serve --control SOCKET` has open. SIZE is a number of bytes, or one with
/// k, m, g or t.
///
/// What Linux keeps in memory (what is disabled or read-only, which bytes are lost) stands in TARGET.state beside the image.
#[derive(Parser)]
#[command(
    name = "nvstack",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    infer_long_args = true,
    disable_help_subcommand = true,
    after_help = "Examples:
  nvstack serve demo.img --create 256M         make an image and serve its sector-atomic device over NBD
  nvstack list vm.img -BDRN -u                 what is on an image
  nvstack read-labels vm.img -j                its namespace labels

Exit status: 0, or the low byte of the negative errno (EBUSY 240, EINVAL 234, ENXIO 250, EIO 251, ENOENT 254); 129 for a
command line that makes no sense."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Create(CreateArgs),
    List(ListArgs),
    CreateNamespace(CreateNamespaceArgs),
    DestroyNamespace(DestroyArgs),
    EnableNamespace(EnableNamespaceArgs),
    DisableNamespace(DisableNamespaceArgs),
    EnableRegion(EnableRegionArgs),
    DisableRegion(DisableRegionArgs),
    EnableDimm(EnableDimmArgs),
    DisableDimm(DisableDimmArgs),
    InitLabels(InitLabelsArgs),
    ReadLabels(LabelsArgs),
    CheckLabels(CheckLabelsArgs),
    ZeroLabels(ZeroLabelsArgs),
    WriteLabels(WriteLabelsArgs),
    ReadInfoblock(InfoblockArgs),
    WriteInfoblock(WriteInfoblockArgs),
    InjectError(InjectErrorArgs),
    ClearErrors(ClearErrorsArgs),
    Lab(LabArgs),
    Serve(ServeArgs),
    CrashTest(Box<CrashTestArgs>),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

impl Command {
    /// The verb, as messages begin.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Create(_) => "create",
            Command::List(_) => "list",
            Command::CreateNamespace(_) => "create-namespace",
            Command::DestroyNamespace(_) => "destroy-namespace",
            Command::EnableNamespace(_) => "enable-namespace",
            Command::DisableNamespace(_) => "disable-namespace",
            Command::EnableRegion(_) => "enable-region",
            Command::DisableRegion(_) => "disable-region",
            Command::EnableDimm(_) => "enable-dimm",
            Command::DisableDimm(_) => "disable-dimm",
            Command::InitLabels(_) => "init-labels",
            Command::ReadLabels(_) => "read-labels",
            Command::CheckLabels(_) => "check-labels",
            Command::ZeroLabels(_) => "zero-labels",
            Command::WriteLabels(_) => "write-labels",
            Command::ReadInfoblock(_) => "read-infoblock",
            Command::WriteInfoblock(_) => "write-infoblock",
            Command::InjectError(_) => "inject-error",
            Command::ClearErrors(_) => "clear-errors",
            Command::Lab(_) => "lab",
            Command::Serve(_) => "serve",
            Command::CrashTest(_) => "crash-test",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }

    /// What clap cannot tell of a command line: that a verb was given no object to work on, or options that exclude each other
    /// by their values.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let refuse = |kind, text: String| Err(Cli::command().error(kind, text));
        let (selected, what) = match self {
            Command::DestroyNamespace(args) => (&args.namespaces.selected, "namespace"),
            Command::EnableNamespace(args) => (&args.namespaces.selected, "namespace"),
            Command::DisableNamespace(args) => (&args.namespaces.selected, "namespace"),
            Command::ClearErrors(args) => (&args.namespaces.selected, "namespace"),
            Command::EnableRegion(args) => (&args.selected, "region"),
            Command::DisableRegion(args) => (&args.selected, "region"),
            Command::EnableDimm(args) => (&args.selected, "DIMM"),
            Command::DisableDimm(args) => (&args.selected, "DIMM"),
            Command::CreateNamespace(args) => {
                let mode = args.mode.filter(|mode| args.map.is_some() && !mode.mapped());
                return mode.map_or(Ok(()), |mode| {
                    let text = format!("--map in {} mode: accepted in fsdax and devdax mode", mode.name());
                    refuse(ErrorKind::ArgumentConflict, text)
                });
            }
            _ => return Ok(()),
        };
        if selected.all().is_empty() {
            let text = format!("no {what} is named: accepted TARGET#NAME of a {what}, more names, or all");
            return refuse(ErrorKind::MissingRequiredArgument, text);
        }
        Ok(())
    }
}

/// Where to work.
#[derive(Args)]
pub(crate) struct TargetArgs {
    /// IMAGE, LAB.toml, mem:SIZE or unix:SOCKET, optionally followed by #NAME.
    #[arg(value_parser = OsStringValueParser::new().try_map(Target::parse_os), value_hint = ValueHint::FilePath)]
    pub(crate) target: Target,

    /// Bytes of the label area at the end of the image; 0 for none. Without it the area is found by its index block.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) label_size: Option<u64>,
}

/// Makes a new image with one namespace over all of it.
///
/// IMAGE must not exist: nothing is ever overwritten. The file is sparse, and takes space as it is written. Prints the
/// namespace as `list` does. The namespace is what fits of the image in steps of 16 MiB, as Linux allocates it; without
/// labels it is the whole image.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack create vm.img --size 256M                       sector mode, 4096-byte sectors, v1.2 labels
  nvstack create vm.img -s 1G -m raw -n scratch           plain persistent memory, with a name
  nvstack create ram.img -s 64M --label-size 0 -l 512     no labels, as memmap= or truncate make it
  qemu-system-x86_64 ... -object memory-backend-file,id=m,share=on,mem-path=vm.img,size=256M \\
                         -device nvdimm,memdev=m,label-size=128K")]
pub(crate) struct CreateArgs {
    /// The file to make.
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub(crate) image: PathBuf,

    /// Bytes of the whole file, the label area included: the size that QEMU is told.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) size: u64,

    /// Bytes of the label area at its end; 0 for an image without labels.
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = size::parse)]
    pub(crate) label_size: u64,

    /// Version of the labels.
    #[arg(short = 'V', long, value_name = "VERSION", default_value = "1.2")]
    pub(crate) label_version: LabelVersion,

    /// What the namespace is.
    #[arg(short, long, default_value = "sector")]
    pub(crate) mode: Mode,

    /// Bytes of a sector: 512, 520, 528, 4096, 4104, 4160 or 4224 in sector mode (4096 without this option), 512 or 4096 in
    /// raw mode (512 without this option).
    #[arg(short = 'l', long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) sector_size: Option<u64>,

    /// Name of the namespace, at most 63 bytes.
    #[arg(short, long)]
    pub(crate) name: Option<String>,

    /// UUID of the namespace's label; random without this option.
    #[arg(short, long)]
    pub(crate) uuid: Option<Uuid>,

    /// Which nvdimm device of a QEMU the image is for, counted from 1: labels belong to a device's serial number, and Linux
    /// leaves out those of another.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) dimm: u32,
}

/// Versions of a label area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LabelVersion {
    #[value(name = "1.1")]
    V1_1,
    #[value(name = "1.2")]
    V1_2,
}

/// Modes of a namespace that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Sector-atomic: a Block Translation Table.
    Sector,
    /// Plain persistent memory.
    Raw,
    /// A disk whose file systems can map it (DAX).
    Fsdax,
    /// Memory that is mapped as a whole.
    Devdax,
}

/// Lists what is on an image, as JSON.
///
/// Prints nothing where there is nothing. What is wrong with an image is said on stderr; a namespace that is damaged is
/// listed as a disabled one. Nothing is written, whatever is found.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack list vm.img                          the namespaces
  nvstack list lab.toml -BDRN -u               everything, for people
  nvstack list vm.img#namespace0.1 -v          one namespace, with the uuid of its label")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Include buses.
    #[arg(short = 'B', long)]
    pub(crate) buses: bool,

    /// Include DIMMs.
    #[arg(short = 'D', long)]
    pub(crate) dimms: bool,

    /// Include regions.
    #[arg(short = 'R', long)]
    pub(crate) regions: bool,

    /// Include namespaces (this is the default).
    #[arg(short = 'N', long)]
    pub(crate) namespaces: bool,

    /// Include the device-dax details of namespaces.
    #[arg(short = 'X', long)]
    pub(crate) device_dax: bool,

    /// Include what is idle or disabled.
    #[arg(short, long)]
    pub(crate) idle: bool,

    /// Include what is configured, enabled or not.
    #[arg(short, long)]
    pub(crate) configured: bool,

    /// Include lost bytes.
    #[arg(short = 'M', long)]
    pub(crate) media_errors: bool,

    /// Include what a region can hold.
    #[arg(short = 'C', long)]
    pub(crate) capabilities: bool,

    /// Numbers for people: units and hexadecimal; one object alone without its brackets.
    #[arg(short = 'u', long)]
    pub(crate) human: bool,

    /// More detail, with each one more: the uuid of the label beside that of the claim, NUMA nodes; everything.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Only this bus (number, provider or ndbusN).
    #[arg(short, long)]
    pub(crate) bus: Option<String>,

    /// Only this region.
    #[arg(short, long)]
    pub(crate) region: Option<String>,

    /// Only what is on this DIMM.
    #[arg(short, long)]
    pub(crate) dimm: Option<String>,

    /// Only this namespace.
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,

    /// Only namespaces of this mode: fsdax, devdax, sector or raw.
    #[arg(short, long)]
    pub(crate) mode: Option<String>,

    /// Only regions of this type: pmem.
    #[arg(short = 't', long = "type")]
    pub(crate) kind: Option<String>,

    /// Only this NUMA node.
    #[arg(short = 'U', long)]
    pub(crate) numa_node: Option<String>,
}

/// Reads the info blocks of namespaces.
///
/// Without -j it writes the first 8 KiB of each namespace.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack read-infoblock vm.img -j                        those of all namespaces
  nvstack read-infoblock vm.img#namespace0.0 -o info.bin  the bytes of one
  nvstack read-infoblock -i info.bin -j                   from a file that begins with them")]
pub(crate) struct InfoblockArgs {
    #[command(flatten)]
    pub(crate) target: Option<TargetArgs>,

    /// Take FILE as the start of a namespace, instead of a TARGET.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "target")]
    pub(crate) input: Option<PathBuf>,

    /// Write to FILE instead of stdout. FILE must not exist.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,

    /// Print the fields as JSON.
    #[arg(short, long)]
    pub(crate) json: bool,

    /// As -j, with offsets in hexadecimal.
    #[arg(short = 'u', long)]
    pub(crate) human: bool,

    /// Only info blocks that belong to their namespace, with a good checksum.
    #[arg(short = 'V', long)]
    pub(crate) verify: bool,
}

/// Reads the label area.
///
/// Without -j it writes the bytes of the area.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack read-labels vm.img -j                both index blocks and every label
  nvstack read-labels vm.img -I -u             the index blocks alone, for people
  nvstack read-labels vm.img -o labels.bin     the bytes")]
pub(crate) struct LabelsArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Print the fields as JSON.
    #[arg(short, long, conflicts_with_all = ["size", "offset"])]
    pub(crate) json: bool,

    /// As -j, with addresses in hexadecimal and large sizes with units.
    #[arg(short = 'u', long, conflicts_with_all = ["size", "offset"])]
    pub(crate) human: bool,

    /// Only the index blocks.
    #[arg(short = 'I', long)]
    pub(crate) index: bool,

    /// Write to FILE instead of stdout. FILE must not exist.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,

    /// How many bytes.
    #[arg(short, long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) size: Option<u64>,

    /// From which byte of the area on.
    #[arg(short = 'O', long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) offset: Option<u64>,
}

/// Serves namespaces as block devices over NBD.
///
/// Every healthy namespace of TARGET is an export by its name (namespace0.0), and the first of them the default export;
/// with #NAME that one alone is served. When it is ready it prints one JSON line with the URI, and says on stderr which
/// persistence the devices really have. It ends on SIGTERM, SIGINT or with the command of --run, after what was written is
/// durable.
#[derive(Args)]
#[command(after_help = "Examples:
  nvstack serve demo.img --create 256M                    make the image if it is not there
  nvstack serve demo.img --nbd unix:/run/demo.sock        where to listen
  nvstack serve demo.img --run 'nbdinfo $uri'             serve as long as a command runs, end with its status
  nvstack serve vm.img#namespace0.1 --read-only           one namespace, recovered in memory only
  nvstack serve mem:1G --nbd tcp:127.0.0.1:10809          a sector-atomic device in memory
  nvstack serve lab.toml --control lab.sock               and nvstack create-namespace unix:lab.sock ... meanwhile")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Make the image if it is not there: SIZE bytes, a label area of 128K, one namespace in sector mode with 4096-byte
    /// sectors. An image that is there is never touched.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) create: Option<u64>,

    /// Where to listen: unix:PATH or tcp:HOST:PORT. Without it, a socket in a directory of its own; a socket passed by the
    /// service manager (LISTEN_FDS) is taken first.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) nbd: Option<String>,

    /// Refuse writes and change no byte of the image; an unfinished write is recovered in memory only.
    #[arg(short, long)]
    pub(crate) read_only: bool,

    /// Serve the bytes of the namespaces, whatever stands on them (force_raw). Writing so can destroy what it holds.
    #[arg(long)]
    pub(crate) raw: bool,

    /// When a write is durable on a plain file: after a flush (writeback), or when it is acknowledged (writethrough).
    #[arg(long, value_name = "MODE", default_value = "writeback")]
    pub(crate) cache: Cache,

    /// Let write-zeroes and trim mark sectors as zero in the map instead of writing zeros. Linux 6.1 misreads such
    /// sectors when they are smaller than 4096 bytes, so do not use it on an image that goes back to it.
    #[arg(long)]
    pub(crate) zero_entries: bool,

    /// Offer the tree of what is served on a socket at PATH: the TARGET unix:PATH then works on it with every verb. Namespaces
    /// that are enabled become exports, those that are disabled or destroyed cease to be.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) control: Option<PathBuf>,

    /// Run CMD with sh -c and end with its status. It finds $uri, and $unixsocket or $port. Nothing else is printed on stdout.
    #[arg(long, value_name = "CMD")]
    pub(crate) run: Option<String>,

    /// Write the JSON line also to file descriptor N, a pipe or a file.
    #[arg(long, value_name = "N")]
    pub(crate) ready_fd: Option<RawFd>,
}

/// What an acknowledged write promises on a plain file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cache {
    /// Durable after a flush.
    Writeback,
    /// Durable when acknowledged.
    Writethrough,
}

/// Prints a completion script for a shell.
#[derive(Args)]
#[command(after_help = "Example:
  nvstack completions bash > ~/.local/share/bash-completion/completions/nvstack")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: Shell,
}

/// Writes the man pages into a directory.
#[derive(Args)]
#[command(after_help = "Example:
  nvstack man ~/.local/share/man/man1 && man nvstack-serve")]
pub(crate) struct ManArgs {
    /// The directory; it is made if it is not there.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
}
