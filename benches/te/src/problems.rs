//! Which problems are solved?

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use traflux_core::{BaseRouting, BitRate, GroupIx, Network, Policy as _, TrafficMatrix};
use traflux_lp::multicommodity::FlowProblem;
use traflux_te::format::{Format, ReadOptions, read_matrices_file, read_network_file};
use traflux_te::generate::{self, BackboneConfig, Diurnal, DiurnalConfig, NodeMass, TrafficModel};
use traflux_te::{NetworkEncoder, TopKCritical, ecmp, share_of_pairs};

use crate::Outcome;

/// Part of all pairs that may leave the base: 13 of the 132 of Abilene.
const SHARE: f64 = 0.1;
/// From how many times as many pairs the critical ones are drawn where the rule of Top-K Critical names them.
const NAMED: usize = 3;
/// Matrices of five minutes in a week.
const WEEK: usize = 2016;

/// Where networks and traffic come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Files of `TRAFLUX_DATA`.
    Public,
    /// `traflux_te::generate`.
    Generated,
}

/// One problem after the other on one network.
pub(crate) struct Series {
    pub name: String,
    pub origin: Origin,
    network: Network,
    base: BaseRouting,
    matrices: Vec<TrafficMatrix>,
    /// The pairs that may leave the base, by matrix; all of them where there is no list.
    pub critical: Option<Vec<Vec<GroupIx>>>,
    /// The least maximum link utilisation that others published, by matrix.
    pub optima: Option<Vec<f64>>,
}

impl Series {
    pub(crate) fn len(&self) -> usize {
        self.matrices.len()
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn problem(&self, at: usize) -> Outcome<FlowProblem<'_>> {
        let matrix = &self.matrices[at];
        Ok(match &self.critical {
            Some(critical) => FlowProblem::critical(&self.network, &self.base, matrix, &critical[at])?,
            None => FlowProblem::all(&self.network, matrix)?,
        })
    }
}

/// Abilene with critical pairs, drawn from all and from those that Top-K Critical names first, then GEANT with
/// all pairs free; or generated networks of the same size.
pub(crate) fn all(folder: Option<&Path>, quick: bool) -> Outcome<Vec<Series>> {
    let small = match folder {
        Some(folder) => abilene(&folder.join("cfr-rl"))?,
        None => generated("12 generated nodes", 12, 2.5, WEEK, 1)?,
    };
    let large = match folder {
        Some(folder) => geant(&folder.join("geant"))?,
        None => generated("22 generated nodes", 22, 3.3, 100, 2)?,
    };
    let mut small = small;
    if quick {
        small.matrices.truncate(WEEK / 4);
    }
    let named = with_drawn(&small, true)?;
    let drawn = with_drawn(&small, false)?;
    Ok(vec![drawn, named, large])
}

fn abilene(folder: &Path) -> Outcome<Series> {
    let options = ReadOptions::default();
    let network = read_network_file(folder.join("Abilene"), Some(Format::CfrRl), &options)?.network;
    let matrices = read_matrices_file(folder.join("AbileneTM"), Some(Format::CfrRl), &network, &options)?;
    series("Abilene", Origin::Public, network, matrices)
}

fn geant(folder: &Path) -> Outcome<Series> {
    let options = ReadOptions::default();
    let network = read_network_file(folder.join("GEANT.json"), Some(Format::NodeLink), &options)?.network;
    let file = folder.join("geant_tm_first100.txt");
    let matrices = read_matrices_file(file, Some(Format::Rows), &network, &options)?;
    let text = std::fs::read_to_string(folder.join("geant_opt_first100.txt"))?;
    let optima: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    if optima.len() != matrices.len() {
        return Err(format!("{} matrices of GEANT, but {} optima", matrices.len(), optima.len()).into());
    }
    Ok(Series { optima: Some(optima), ..series("GEANT, all pairs", Origin::Public, network, matrices)? })
}

fn generated(name: &str, nodes: usize, mean_degree: f64, matrices: usize, seed: u64) -> Outcome<Series> {
    let network = generate::backbone(&BackboneConfig { nodes, mean_degree, ..Default::default() }, seed)?;
    let model = TrafficModel::Gravity {
        mass: NodeMass::Random,
        total: BitRate::gigabits_per_second(2.0 * nodes as f64),
    };
    let mean = model.matrix(&network, seed)?;
    let matrices = Diurnal::new(mean, DiurnalConfig::default(), seed)?.take(matrices).collect();
    series(name, Origin::Generated, network, matrices)
}

fn series(name: &str, origin: Origin, network: Network, matrices: Vec<TrafficMatrix>) -> Outcome<Series> {
    let base = ecmp(&network)?;
    Ok(Series { name: name.to_owned(), origin, network, base, matrices, critical: None, optima: None })
}

/// Other critical pairs for each matrix.
fn with_drawn(series: &Series, named: bool) -> Outcome<Series> {
    let (network, base) = (&series.network, &series.base);
    let count = share_of_pairs(network, SHARE);
    let mut encoder = NetworkEncoder::new(network, base);
    let mut rule = TopKCritical::new(network, base, NAMED * count);
    let mut random = ChaCha8Rng::seed_from_u64(u64::from(named));
    let mut critical = Vec::with_capacity(series.len());
    for matrix in &series.matrices {
        let mut pairs: Vec<GroupIx> = if named {
            rule.act(&encoder.encode(matrix)?)?.critical
        } else {
            (0..network.pair_count()).map(GroupIx::from).collect()
        };
        for at in 0..count.min(pairs.len()) {
            let other = random.random_range(at..pairs.len());
            pairs.swap(at, other);
        }
        pairs.truncate(count);
        critical.push(pairs);
    }
    let from = if named { format!("{} critical", NAMED * count) } else { "all".to_owned() };
    Ok(Series {
        name: format!("{}, {count} of {from} pairs", series.name),
        origin: series.origin,
        network: network.clone(),
        base: base.clone(),
        matrices: series.matrices.clone(),
        critical: Some(critical),
        optima: None,
    })
}

/// Writes the problems for the other side: commodities and background, with all digits.
pub(crate) fn write(series: &[Series], file: &Path) -> Outcome<()> {
    let mut all = Vec::new();
    for one in series {
        let links = one.network.links().iter();
        let links: Vec<_> = links.map(|l| json!([l.tail.ix(), l.head.ix(), l.capacity.get()])).collect();
        let mut problems = Vec::with_capacity(one.len());
        for at in 0..one.len() {
            let problem = one.problem(at)?;
            let commodities = problem.commodities.iter();
            let commodities: Vec<_> =
                commodities.map(|c| json!([c.source.ix(), c.target.ix(), c.demand])).collect();
            problems.push(json!({ "commodities": commodities, "background": problem.background }));
        }
        let network = json!({ "nodes": one.network.nodes().len(), "links": links });
        all.push(json!({ "name": one.name, "network": network, "problems": problems }));
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(file, serde_json::to_vec(&json!({ "series": all }))?)?)
}
