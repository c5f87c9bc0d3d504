//! `traflux te generate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use traflux_core::{BitRate, Network, TrafficMatrix};
use traflux_te::format::{Format, RateUnit, WriteOptions, write_matrices, write_network};
use traflux_te::generate::{
    BackboneConfig, Diurnal, DiurnalConfig, LinkModel, NodeMass, Over, TrafficModel, WaxmanConfig,
    WeightRule, backbone, full_mesh, grid, ring, scaled_to, waxman,
};
use traflux_te::{TeError, ecmp_loads};

use super::input::{ReadArgs, format, matrices_text, rate, save, say, show, unit};
use super::least::Least;
use crate::cli::Failure;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum GenerateCommand {
    /// A network.
    Network(NetworkArgs),
    /// Traffic matrices for a network, one per row.
    Matrices(MatricesArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Topology {
    /// Sparse and survivable, as backbones are.
    Backbone,
    /// The random network of Waxman.
    Waxman,
    Ring,
    /// As square as the number of nodes allows.
    Grid,
    /// Every node joined with every other.
    Mesh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Weights {
    Hops,
    InverseCapacity,
    Distance,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux te generate network backbone.json --nodes 30 --seed 7\n  \
    traflux te generate network mesh.graph --topology mesh --nodes 8 --capacities 10Gbit/s,40Gbit/s")]
pub(in crate::cli) struct NetworkArgs {
    /// Where it goes.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// What it looks like.
    #[arg(long, value_enum, default_value_t = Topology::Backbone)]
    topology: Topology,
    /// How many nodes.
    #[arg(long, default_value_t = 20)]
    nodes: usize,
    /// Neighbours of a node on average, of a backbone.
    #[arg(long, default_value_t = 3.0)]
    degree: f64,
    /// Capacities to draw from.
    #[arg(long, value_name = "RATES", value_delimiter = ',', default_value = "10Gbit/s", value_parser = rate)]
    capacities: Vec<BitRate>,
    /// How link weights are set.
    #[arg(long, value_enum, default_value_t = Weights::Hops)]
    weights: Weights,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Format; told by the extension unless given.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    to: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Model {
    /// In proportion to the capacity at both ends: the network fixes it, so there is one matrix, or with --diurnal a
    /// sequence around it.
    Gravity,
    /// In proportion to random masses of both ends, drawn anew for each matrix.
    RandomGravity,
    Exponential,
    /// Around the mean by ± --half-width.
    Uniform,
    /// A few elephants among mice.
    Bimodal,
    Lognormal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// What routers do by themselves.
    Ecmp,
    /// The best possible routing.
    Optimal,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    traflux te generate matrices backbone.json week.rows --model gravity --diurnal --count 2016 --seed 3\n  \
    traflux te generate matrices backbone.json tm.rows --model exponential --count 50 --utilization 0.9 --of optimal")]
pub(in crate::cli) struct MatricesArgs {
    /// The network they are for.
    #[arg(value_name = "NETWORK")]
    network: PathBuf,
    /// Where they go.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
    /// How demands are drawn.
    #[arg(long, value_enum, default_value_t = Model::RandomGravity)]
    model: Model,
    /// How many; 100 unless given, of the model gravity without --diurnal 1.
    #[arg(long)]
    count: Option<usize>,
    /// Half-width relative to the mean, of the uniform model.
    #[arg(long, default_value_t = 0.5)]
    half_width: f64,
    /// Standard deviation of the logarithm, of the lognormal model.
    #[arg(long, default_value_t = 1.0)]
    sigma: f64,
    /// One after the other, every five minutes, by day and night, around one drawn mean.
    #[arg(long)]
    diurnal: bool,
    /// The busy hour follows the sun: positions of nodes are longitude and latitude.
    #[arg(long, requires = "diurnal")]
    time_zones: bool,
    /// Scales all by one factor, so that the fullest link of the fullest matrix has this utilisation.
    #[arg(long, default_value_t = 0.8)]
    utilization: f64,
    /// Under which routing it has it.
    #[arg(long, value_enum, default_value_t = Measure::Ecmp)]
    of: Measure,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Format; told by the extension unless given, rows otherwise.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    to: Option<Format>,
    /// Unit of the numbers written.
    #[arg(long, value_name = "UNIT", value_parser = unit)]
    to_unit: Option<RateUnit>,
}

pub(super) fn generate(command: &GenerateCommand) -> Result<ExitCode, Failure> {
    match command {
        GenerateCommand::Network(args) => network(args),
        GenerateCommand::Matrices(args) => matrices(args),
    }
}

fn network(args: &NetworkArgs) -> Result<ExitCode, Failure> {
    let links = LinkModel {
        capacities: args.capacities.clone(),
        weight: match args.weights {
            Weights::Hops => WeightRule::Hops,
            Weights::InverseCapacity => WeightRule::InverseCapacity,
            Weights::Distance => WeightRule::Distance,
        },
        ..LinkModel::default()
    };
    let (nodes, seed) = (args.nodes, args.seed);
    let network = match args.topology {
        Topology::Backbone => {
            let config =
                BackboneConfig { nodes, mean_degree: args.degree, links, ..BackboneConfig::default() };
            backbone(&config, seed)?
        }
        Topology::Waxman => waxman(&WaxmanConfig { nodes, links, ..WaxmanConfig::default() }, seed)?,
        Topology::Ring => ring(nodes, &links, seed)?,
        Topology::Mesh => full_mesh(nodes, &links, seed)?,
        Topology::Grid => {
            let rows = (1..=nodes.isqrt().max(1)).rev().find(|rows| nodes % rows == 0).unwrap_or(1);
            grid(rows, nodes / rows, &links, seed)?
        }
    };
    let to = args.to.or_else(|| Format::from_extension(&args.output)).unwrap_or(Format::NodeLink);
    let written = write_network(&network, None, to, &WriteOptions::default())?;
    show(&args.output, &written.warnings);
    save(&args.output, &written.text)?;
    say(&format!(
        "{}: {} nodes, {} links, {}\n",
        args.output.display(),
        network.nodes().len(),
        network.links().len(),
        to.name()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn matrices(args: &MatricesArgs) -> Result<ExitCode, Failure> {
    let fixed = args.model == Model::Gravity && !args.diurnal;
    let count = match args.count {
        Some(0) => return Err("--count is 0, must be at least 1".into()),
        Some(count) if count > 1 && fixed => {
            return Err(format!(
                "--model gravity follows the capacities, so that all {count} matrices would be the same: take \
                 --diurnal for a sequence around it, --model random-gravity for other masses each time, or --count 1"
            )
            .into());
        }
        Some(count) => count,
        None if fixed => 1,
        None => 100,
    };
    let network = args.read.network(&args.network)?.network;
    // Only ratios count here: what is drawn is scaled below.
    let mean = BitRate::bits_per_second(1e6);
    let total = BitRate::bits_per_second(1e6 * network.pair_count() as f64);
    let model = match args.model {
        Model::Gravity => TrafficModel::Gravity { mass: NodeMass::Capacity, total },
        Model::RandomGravity => TrafficModel::Gravity { mass: NodeMass::Random, total },
        Model::Exponential => TrafficModel::Exponential { mean },
        Model::Uniform => TrafficModel::UniformAround { mean, half_width: args.half_width },
        Model::Bimodal => TrafficModel::Bimodal {
            small: BitRate::bits_per_second(0.5e6),
            large: BitRate::bits_per_second(5.5e6),
            large_share: 0.1,
            deviation: 0.2,
        },
        Model::Lognormal => TrafficModel::Lognormal { mean, sigma: args.sigma },
    };
    let drawn = if args.diurnal {
        let mean = model.matrix(&network, args.seed)?;
        let mut sequence = Diurnal::new(mean, DiurnalConfig::default(), args.seed)?;
        if args.time_zones {
            check_longitudes(&network)?;
            sequence = sequence.with_time_zones(&network);
        }
        sequence.take(count).collect()
    } else {
        model.matrices(&network, count, args.seed)?
    };
    let mut least = Least::new(&network);
    let utilization = |demands: &TrafficMatrix| -> Result<f64, Problem> {
        match args.of {
            Measure::Ecmp => Ok(network.max_utilization(&ecmp_loads(&network, demands)?)),
            Measure::Optimal => least.of_all(&network, demands).map_err(Problem),
        }
    };
    let scaled = scaled_to(&drawn, args.utilization, Over::Max, utilization).map_err(|Problem(p)| p)?;
    let to = args.to.or_else(|| Format::from_extension(&args.output)).unwrap_or(Format::Rows);
    let options = WriteOptions { unit: args.to_unit, ..WriteOptions::default() };
    let written = write_matrices(&network, &scaled, to, &options)?;
    show(&args.output, &written.warnings);
    save(&args.output, &written.text)?;
    let total = scaled.iter().map(TrafficMatrix::total).sum::<f64>() / scaled.len() as f64;
    say(&format!(
        "{}: {} of {} nodes, {} in the mean, {}\n",
        args.output.display(),
        matrices_text(scaled.len()),
        network.nodes().len(),
        BitRate::saturating(total),
        to.name()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn check_longitudes(network: &Network) -> Result<(), Failure> {
    for node in network.nodes() {
        if let Some([x, y]) = node.position.filter(|[x, y]| x.abs() > 180.0 || y.abs() > 90.0) {
            return Err(format!(
                "--time-zones: node `{}` lies at ({x}, {y}), which is no longitude and latitude",
                node.name
            )
            .into());
        }
    }
    Ok(())
}

/// Any failure, so that the closure of the scaling has one type of error.
struct Problem(Failure);

impl From<TeError> for Problem {
    fn from(problem: TeError) -> Self {
        Self(problem.into())
    }
}

impl From<traflux_core::NetworkError> for Problem {
    fn from(problem: traflux_core::NetworkError) -> Self {
        Self(problem.into())
    }
}
