//! `traflux te convert`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use traflux_core::TrafficMatrix;
use traflux_te::format::{
    Format, MatrixFile, NetworkFile, RateUnit, WriteOptions, Written, matrices_in_file, write_matrices,
    write_network,
};

use super::input::{ReadArgs, format, matrices_text, matrix_format, save, say, show, unit};
use crate::cli::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Formats: node-link, graphml, gml, sndlib, sndlib-xml, repetita, cfr-rl, rows\n\n\
    Examples:\n  \
    traflux te convert Geant2012.graphml geant.json --capacity 10Gbit/s\n  \
    traflux te convert nobel-germany.txt nobel.graph\n  \
    traflux te convert AbileneTM abilene.rows --from cfr-rl --network Abilene\n  \
    traflux te convert AbileneTM noon.demands --from cfr-rl --network Abilene --matrix 144\n\n\
    rows and cfr-rl hold any number of matrices, the others one: --matrix says which.\n\
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
    /// Of the matrices only this one, by its position in IN from 0.
    #[arg(long, value_name = "N", requires = "network")]
    matrix: Option<usize>,
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
            let matrices = matrices_in_file(&args.input, from, &network, &args.read.options())?;
            show(&args.input, &matrices.warnings);
            let matrices = match args.matrix {
                None => matrices.collect::<Result<Vec<_>, _>>()?,
                Some(wanted) => vec![one(matrices, wanted, &args.input)?],
            };
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

/// The matrix at a position; what comes before it must be readable.
fn one(matrices: MatrixFile, wanted: usize, path: &Path) -> Result<TrafficMatrix, Failure> {
    let mut found = 0;
    for matrix in matrices {
        let matrix = matrix?;
        if found == wanted {
            return Ok(matrix);
        }
        found += 1;
    }
    let held = matrices_text(found);
    Err(format!("--matrix {wanted}: {} holds {held}, counted from 0", path.display()).into())
}
