//! `traflux te convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use traflux_te::format::{
    Format, NetworkFile, RateUnit, WriteOptions, Written, read_matrices_file, write_matrices, write_network,
};

use super::input::{ReadArgs, format, matrix_format, save, say, show, unit};
use crate::cli::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Formats: node-link, graphml, gml, sndlib, sndlib-xml, repetita, cfr-rl, rows\n\n\
    Examples:\n  \
    traflux te convert Geant2012.graphml geant.json --capacity 10Gbit/s\n  \
    traflux te convert nobel-germany.txt nobel.graph\n  \
    traflux te convert AbileneTM abilene.rows --from cfr-rl --network Abilene\n\n\
    Where public topologies and matrices come from: docs/networks.md")]
pub(in crate::cli) struct ConvertArgs {
    /// What is read: a network, or with --network matrices for it.
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// What is written.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
    /// The file IN holds matrices for this network.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Format of OUT; told by its extension unless given.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    to: Option<Format>,
    /// Unit of the numbers in OUT, where the format leaves a choice.
    #[arg(long, value_name = "UNIT", value_parser = unit)]
    to_unit: Option<RateUnit>,
}

pub(super) fn convert(args: &ConvertArgs) -> Result<ExitCode, Failure> {
    let to = args.to.or_else(|| Format::from_extension(&args.output)).ok_or_else(|| {
        format!("the extension of {} tells no format; say it with --to", args.output.display())
    })?;
    let options = WriteOptions { unit: args.to_unit, ..WriteOptions::default() };
    let Written { text, warnings } = match &args.network {
        Some(path) => {
            let beside = ReadArgs { from: None, unit: None, demand_unit: None, ..args.read.clone() };
            let NetworkFile { network, format, .. } = beside.network(path)?;
            let unit = args.read.demand_unit.or(args.read.unit);
            let from = matrix_format(&args.input, args.read.from, format, unit);
            let matrices = read_matrices_file(&args.input, from, &network, &args.read.options())?;
            write_matrices(&network, &matrices, to, &options)?
        }
        None => {
            let file = args.read.network(&args.input)?;
            let options = WriteOptions { name: file.name.clone(), ..options };
            write_network(&file.network, file.demands.as_ref(), to, &options)?
        }
    };
    show(&args.output, &warnings);
    save(&args.output, &text)?;
    say(&format!(
        "{} as {}
",
        args.output.display(),
        to.name()
    ))?;
    Ok(ExitCode::SUCCESS)
}
