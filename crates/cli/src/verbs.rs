// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs that are ndctl's: options in, words and JSON out. What they do stands in `nvstack-ndctl`, and works on nothing but the
//! tree.

use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use nvstack_media::{Access, Error, Kind, Result};
use nvstack_ndctl::list::ListOptions;
use nvstack_ndctl::{
    CreateOptions, DestroyOptions, EnableOptions, Filter, InitLabels, InjectError, LabelOptions, Outcome,
    ReadInfoblock, ReadLabels, Reporter, WriteInfoblock,
};

use crate::args::{
    ClearErrorsArgs, CreateNamespaceArgs, DestroyArgs, InfoblockArgs, InitLabelsArgs, InjectErrorArgs,
    LabelVersion, LabelsArgs, ListArgs, Namespaces, Selected, TargetArgs, WriteInfoblockArgs,
    WriteLabelsArgs, ZeroLabelsArgs,
};
use crate::end::{note, warn};
use crate::json::write_stdout;
use crate::machine::Machine;
use crate::output::write_out;
use crate::target::Place;

/// The words of a verb, on stderr.
struct Words {
    command: &'static str,
}

impl Reporter for Words {
    fn error(&mut self, text: &dyn Display) {
        note(self.command, text);
    }
    fn warning(&mut self, text: &dyn Display) {
        warn(self.command, text);
    }
    fn note(&mut self, text: &dyn Display) {
        note(self.command, text);
    }
    fn count(&mut self, text: &dyn Display) {
        note(self.command, text);
    }
}

/// Opens TARGET to change it, does the work, keeps the state; gives the exit status.
fn change(
    command: &'static str,
    target: &TargetArgs,
    work: impl FnOnce(&Machine, &mut Words) -> Result<Outcome>,
) -> Result<u8> {
    if let Place::Memory(_) = target.target.place {
        return Err(Error::new(Kind::Unsupported, "open target")
            .found("mem:SIZE, which starts empty and ends with the command")
            .accepted("IMAGE, LAB.toml or unix:SOCKET"));
    }
    let machine = Machine::open(target, Access::ReadWrite)?;
    let outcome = work(&machine, &mut Words { command });
    // What has been changed is kept, whatever became of the rest.
    machine.save()?;
    let outcome = outcome?;
    write_stdout(outcome.text().as_bytes())?;
    Ok(outcome.status)
}

/// Opens TARGET to look at it.
fn look(command: &'static str, target: &TargetArgs) -> Result<Machine> {
    if let Place::Memory(_) = target.target.place {
        return Err(Error::new(Kind::Unsupported, "open target")
            .found("mem:SIZE, which starts empty")
            .accepted("IMAGE, LAB.toml or unix:SOCKET"));
    }
    let machine = Machine::open(target, Access::ReadOnly)?;
    machine.tell(command);
    Ok(machine)
}

/// `list`.
pub(crate) fn list(args: &ListArgs) -> Result<u8> {
    let machine = look("list", &args.target)?;
    let mut filter = Filter {
        bus: args.bus.clone(),
        region: args.region.clone(),
        dimm: args.dimm.clone(),
        namespace: args.namespace.clone(),
        mode: args.mode.clone(),
        kind: args.kind.clone(),
        numa_node: args.numa_node.clone(),
    };
    if let Some(name) = &args.target.target.name {
        machine.find(name)?;
        let place = match name {
            n if n.starts_with("ndbus") => &mut filter.bus,
            n if n.starts_with("nmem") => &mut filter.dimm,
            n if n.starts_with("region") => &mut filter.region,
            _ => &mut filter.namespace,
        };
        *place = Some(name.clone());
    }
    // What is wrong with a namespace is told; that it is there is shown, too.
    let damaged = machine.has_damage();
    let options = ListOptions {
        filter,
        buses: args.buses,
        dimms: args.dimms,
        regions: args.regions,
        namespaces: args.namespaces,
        device_dax: args.device_dax,
        idle: args.idle,
        configured: args.configured || damaged,
        media_errors: args.media_errors,
        capabilities: args.capabilities,
        human: args.human,
        verbose: args.verbose,
    };
    let outcome = nvstack_ndctl::list::list(machine.sys(), &options)?;
    write_stdout(outcome.text().as_bytes())?;
    Ok(outcome.status)
}

/// `create-namespace`.
pub(crate) fn create_namespace(args: &CreateNamespaceArgs) -> Result<u8> {
    let name = args.target.target.name.clone();
    let (region, reconfigure) = match (&args.region, &args.reconfig, name) {
        (region, Some(reconfig), _) => (region.clone(), Some(reconfig.clone())),
        (region, None, Some(name)) if name.starts_with("region") => {
            (Some(region.clone().unwrap_or(name)), None)
        }
        (_, None, Some(name)) => {
            return Err(Error::new(Kind::Invalid, "create namespace")
                .found(format_args!("#{name}"))
                .accepted("#regionN, or -e NAMESPACE to make one anew"));
        }
        (region, None, None) => (region.clone(), None),
    };
    let options = CreateOptions {
        filter: Filter { bus: args.bus.clone(), region, kind: args.kind.clone(), ..Filter::default() },
        reconfigure,
        uuid: args.uuid,
        name: args.name.clone(),
        size: args.size,
        mode: args.mode,
        map: args.map,
        sector_size: args.sector_size,
        align: args.align,
        force: args.force,
        autolabel: args.autolabel || !args.no_autolabel,
        continuous: args.continuous,
        autorecover: args.autorecover || !args.no_autorecover,
        dry_run: args.dry_run,
        // Like ndctl's: numbers for people where one looks on.
        human: args.human || std::io::stdout().is_terminal(),
        verbose: args.verbose,
    };
    if args.dry_run {
        // Where nothing could be written there is no plan: opened as for the real thing, and nothing is stored.
        let machine = Machine::open(&args.target, Access::ReadWrite)?;
        let outcome =
            nvstack_ndctl::create(machine.sys(), &options, &mut Words { command: "create-namespace" })?;
        write_stdout(outcome.text().as_bytes())?;
        return Ok(outcome.status);
    }
    change("create-namespace", &args.target, |machine, words| {
        nvstack_ndctl::create(machine.sys(), &options, words)
    })
}

/// `destroy-namespace`.
pub(crate) fn destroy_namespace(args: &DestroyArgs) -> Result<u8> {
    let selected = &args.namespaces.selected;
    let options =
        DestroyOptions { namespaces: selected.all(), filter: args.namespaces.filter(), force: args.force };
    change("destroy-namespace", &selected.target, |machine, words| {
        nvstack_ndctl::destroy(machine.sys(), &options, words)
    })
}

type Verb = fn(&dyn nvstack_ndctl::Sys, &EnableOptions, &mut dyn Reporter) -> Result<Outcome>;

/// `enable-namespace` and `disable-namespace`.
pub(crate) fn namespaces(command: &'static str, args: &Namespaces, verb: Verb) -> Result<u8> {
    let options = EnableOptions { names: args.selected.all(), filter: args.filter() };
    change(command, &args.selected.target, |machine, words| verb(machine.sys(), &options, words))
}

/// `enable-` and `disable-` of regions and DIMMs.
pub(crate) fn objects(command: &'static str, args: &Selected, verb: Verb) -> Result<u8> {
    let filter = Filter { bus: args.bus.clone(), ..Filter::default() };
    let options = EnableOptions { names: args.all(), filter };
    change(command, &args.target, |machine, words| verb(machine.sys(), &options, words))
}

/// The DIMMs that a label verb works on: all of them where none is named.
fn dimms(selected: &Selected, size: Option<u64>, offset: u64) -> LabelOptions {
    let mut dimms = selected.all();
    if dimms.is_empty() {
        dimms.push("all".to_owned());
    }
    LabelOptions { dimms, filter: Filter { bus: selected.bus.clone(), ..Filter::default() }, size, offset }
}

/// The label verbs need the regions on their DIMMs disabled, which on an image that nobody else has open is no more than a word.
fn release_dimms(machine: &Machine, command: &'static str, selected: &Selected) -> Result<()> {
    let quiet = &mut nvstack_ndctl::Lines::default();
    if machine.stack().is_err() {
        return Ok(());
    }
    let names: Vec<String> = selected.all().into_iter().filter(|name| name.starts_with("nmem")).collect();
    for region in machine.regions_of(&names)? {
        nvstack_ndctl::disable_regions(machine.sys(), &EnableOptions::named(&region), quiet)?;
        note(command, format_args!("disabled {region} for this"));
        machine.again(&region);
    }
    Ok(())
}

/// `init-labels`.
pub(crate) fn init_labels(args: &InitLabelsArgs) -> Result<u8> {
    let options = dimms(&args.selected, None, 0);
    let how = InitLabels { version: version(args.label_version), force: args.force };
    labels("init-labels", &args.selected, |machine, words| {
        nvstack_ndctl::init_labels(machine.sys(), &options, how, words)
    })
}

/// A verb that writes label areas: the regions on the DIMMs go down before, and come up again with what is there afterwards.
fn labels(
    command: &'static str,
    selected: &Selected,
    work: impl FnOnce(&Machine, &mut Words) -> Result<Outcome>,
) -> Result<u8> {
    change(command, &selected.target, |machine, words| {
        release_dimms(machine, command, selected)?;
        let outcome = work(machine, words);
        machine.bring_up_again();
        outcome
    })
}

pub(crate) fn version(version: LabelVersion) -> nvstack_format::label::Version {
    match version {
        LabelVersion::V1_1 => nvstack_format::label::Version::V1_1,
        LabelVersion::V1_2 => nvstack_format::label::Version::V1_2,
    }
}

/// `check-labels`.
pub(crate) fn check_labels(selected: &Selected) -> Result<u8> {
    let machine = look("check-labels", &selected.target)?;
    let options = dimms(selected, None, 0);
    Ok(nvstack_ndctl::check_labels(machine.sys(), &options, &mut Words { command: "check-labels" })?.status)
}

/// `zero-labels`.
pub(crate) fn zero_labels(args: &ZeroLabelsArgs) -> Result<u8> {
    let options = dimms(&args.selected, args.size, args.offset);
    labels("zero-labels", &args.selected, |machine, words| {
        nvstack_ndctl::zero_labels(machine.sys(), &options, words)
    })
}

/// `write-labels`.
pub(crate) fn write_labels(args: &WriteLabelsArgs) -> Result<u8> {
    let bytes = match &args.input {
        Some(path) => std::fs::read(path).map_err(|e| Error::os("read labels", e).path(path))?,
        None => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Error::os("read stdin", e))?;
            bytes
        }
    };
    let options = dimms(&args.selected, args.size, args.offset);
    labels("write-labels", &args.selected, |machine, words| {
        nvstack_ndctl::write_labels(machine.sys(), &options, &bytes, words)
    })
}

/// `read-labels`.
pub(crate) fn read_labels(args: &LabelsArgs) -> Result<u8> {
    let machine = look("read-labels", &args.target)?;
    let mut dimms: Vec<String> = args.target.target.name.iter().cloned().collect();
    for name in &dimms {
        machine.find(name)?;
    }
    if dimms.is_empty() {
        dimms.push("all".to_owned());
    }
    let options =
        LabelOptions { dimms, filter: Filter::default(), size: args.size, offset: args.offset.unwrap_or(0) };
    let how = ReadLabels { json: args.json, human: args.human, index: args.index };
    machine.needs_labels()?;
    let outcome =
        nvstack_ndctl::read_labels(machine.sys(), &options, how, &mut Words { command: "read-labels" })?;
    deliver(&outcome, args.output.as_deref())
}

/// Puts what a verb has to say where it belongs.
fn deliver(outcome: &Outcome, output: Option<&Path>) -> Result<u8> {
    match &outcome.bytes {
        Some(bytes) => write_out(output, bytes)?,
        None => write_out(output, outcome.text().as_bytes())?,
    }
    Ok(outcome.status)
}

/// `read-infoblock`.
pub(crate) fn read_infoblock(args: &InfoblockArgs) -> Result<u8> {
    const COMMAND: &str = "read-infoblock";
    let words = &mut Words { command: COMMAND };
    let options = |namespaces| ReadInfoblock {
        namespaces,
        filter: Filter::default(),
        json: args.json,
        human: args.human,
        verify: args.verify,
    };
    let outcome = match (&args.input, &args.target) {
        (Some(file), _) => {
            let failed = |e| Error::os("read info blocks", e).path(file);
            let mut head = Vec::new();
            File::open(file).map_err(failed)?.take(8192).read_to_end(&mut head).map_err(failed)?;
            nvstack_ndctl::read_infoblock_of(&file.display().to_string(), &head, &options(Vec::new()), words)?
        }
        (None, Some(target)) => {
            let machine = look(COMMAND, target)?;
            let named = target.target.name.clone();
            if let Some(name) = &named {
                machine.find(name)?;
            }
            let all = vec![named.unwrap_or_else(|| "all".to_owned())];
            if machine.stack().is_ok() {
                // Here the machine is ours alone, opened to be looked at: nobody is disturbed.
                let quiet = &mut nvstack_ndctl::Lines::default();
                let which = EnableOptions { names: all.clone(), filter: Filter::default() };
                nvstack_ndctl::disable_namespaces(machine.sys(), &which, quiet)?;
            }
            nvstack_ndctl::read_infoblocks(machine.sys(), &options(all), words)?
        }
        (None, None) => {
            return Err(Error::new(Kind::Invalid, "read info blocks")
                .found("neither")
                .accepted("TARGET or --input FILE"));
        }
    };
    if (args.json || args.human) && outcome.json.is_empty() && outcome.status == 0 {
        warn(COMMAND, "no info block found");
        write_out(args.output.as_deref(), b"[\n]\n")?;
        return Ok(0);
    }
    deliver(&outcome, args.output.as_deref())
}

/// `write-infoblock`.
pub(crate) fn write_infoblock(args: &WriteInfoblockArgs) -> Result<u8> {
    const COMMAND: &str = "write-infoblock";
    let options = WriteInfoblock {
        mode: args.mode,
        map: args.map,
        size: args.size,
        align: args.align,
        sector_size: args.sector_size,
        uuid: args.uuid,
        parent: args.parent_uuid,
        offset: args.offset,
    };
    if args.stdout || args.output.is_some() {
        let outcome = nvstack_ndctl::infoblock_template(&options, &mut Words { command: COMMAND })?;
        return deliver(&outcome, args.output.as_deref());
    }
    let named = args.target.as_ref().and_then(|t| t.target.name.clone().map(|name| (t, name)));
    let Some((target, name)) = named else {
        return Err(Error::new(Kind::Invalid, COMMAND)
            .found("no namespace")
            .accepted("TARGET#NAMESPACE, or -c or -o with --size"));
    };
    change(COMMAND, target, |machine, words| {
        nvstack_ndctl::write_infoblock(machine.sys(), &name, &Filter::default(), &options, words)
    })
}

/// `inject-error`.
pub(crate) fn inject_error(args: &InjectErrorArgs) -> Result<u8> {
    const COMMAND: &str = "inject-error";
    let Some(name) = args.target.target.name.clone() else {
        return Err(Error::new(Kind::Invalid, COMMAND).found("no namespace").accepted("TARGET#NAMESPACE"));
    };
    if args.status {
        let machine = look(COMMAND, &args.target)?;
        let (filter, words) = (Filter::default(), &mut Words { command: COMMAND });
        let outcome = nvstack_ndctl::inject_error(
            machine.sys(),
            &name,
            &filter,
            InjectError::Status,
            args.human,
            words,
        )?;
        return deliver(&outcome, None);
    }
    let what =
        InjectError::Blocks { block: args.block.unwrap_or(0), count: args.count, uninject: args.uninject };
    change(COMMAND, &args.target, |machine, words| {
        nvstack_ndctl::inject_error(machine.sys(), &name, &Filter::default(), what, args.human, words)
    })
}

/// `clear-errors`.
pub(crate) fn clear_errors(args: &ClearErrorsArgs) -> Result<u8> {
    let selected = &args.namespaces.selected;
    let names = selected.all();
    let human = std::io::stdout().is_terminal();
    change("clear-errors", &selected.target, |machine, words| {
        nvstack_ndctl::clear_errors(machine.sys(), &names, &args.namespaces.filter(), human, words)
    })
}
