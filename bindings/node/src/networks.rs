//! How evenly can demands be spread over the links of a network, and how is one read?

use std::time::{Duration, Instant};

use napi::bindgen_prelude::{AsyncTask, Float64Array, Uint8Array, Uint32Array};
use napi::{Env, Result, Task};
use napi_derive::napi;
use traflux_core::{BitRate, Latency, Link, Network, NetworkError, Node, NodeIx, TrafficMatrix};
use traflux_lp::multicommodity::{FlowProblem, FlowStatus, MinMaxSolver};
use traflux_te::format::{Format, ReadOptions, read_network as read};

use crate::errors::{coded, guarded, input};

/// A network and its demands.
#[napi(object, object_to_js = false)]
pub struct FlowInput {
    /// Names of the nodes.
    pub nodes: Vec<String>,
    /// By link: position of the node that it leaves.
    pub tail: Uint32Array,
    /// By link: position of the node that it reaches.
    pub head: Uint32Array,
    /// By link, bit/s.
    pub capacity_bps: Float64Array,
    /// Nodes × nodes, row by row, bit/s.
    pub demands_bps: Float64Array,
    /// By link, bit/s that stay where they are.
    pub background_bps: Option<Float64Array>,
    /// Time limit in milliseconds; none where it is left out.
    pub deadline_ms: Option<f64>,
}

/// The answer.
#[napi(object, object_from_js = false)]
pub struct FlowOutput {
    /// Maximum link utilisation.
    pub utilization: f64,
    /// No flows have a lower one.
    pub lower_bound: f64,
    /// `optimal`, `deadline` or `stalled`.
    pub status: String,
    /// By link, bit/s.
    pub loads_bps: Float64Array,
    /// By link: what the utilisation falls by for each bit/s taken off.
    pub link_prices: Float64Array,
    /// By commodity: position of the pair's source.
    pub sources: Uint32Array,
    /// By commodity: position of the pair's target.
    pub targets: Uint32Array,
    /// By path: its commodity.
    pub path_commodity: Uint32Array,
    /// By path: its share of the commodity.
    pub path_share: Float64Array,
    /// By path: where its links begin in `path_links`; and their number at last.
    pub path_offsets: Uint32Array,
    /// Positions of links, path by path.
    pub path_links: Uint32Array,
    /// Pivots.
    pub iterations: u32,
}

/// The same off the main thread; arrays are copied on the way in.
pub struct FlowTask {
    nodes: Vec<String>,
    links: Vec<(u32, u32, f64)>,
    lengths: [usize; 2],
    demands: Vec<f64>,
    background: Option<Vec<f64>>,
    deadline_ms: Option<f64>,
}

impl FlowTask {
    fn solve(&self) -> Result<FlowOutput> {
        let deadline = match self.deadline_ms {
            None => None,
            Some(ms) => {
                let after = Duration::try_from_secs_f64(ms * 1e-3)
                    .map_err(|_| input("input_time", format!("deadlineMs is {ms}")))?;
                Instant::now().checked_add(after)
            }
        };
        let [tails, heads] = self.lengths;
        if let Some(got) = [tails, heads].into_iter().find(|length| *length != self.links.len()) {
            return Err(coded(NetworkError::Length {
                what: "ends of links",
                got,
                expected: self.links.len(),
            }));
        }
        let nodes = self.nodes.iter().map(|name| Node { name: name.clone(), position: None }).collect();
        let links = self.links.iter().map(|(tail, head, capacity)| {
            Ok(Link {
                tail: NodeIx(*tail),
                head: NodeIx(*head),
                capacity: BitRate::new(*capacity).map_err(|error| input("input_rate", error))?,
                weight: 1.0,
                delay: Latency::ZERO,
            })
        });
        let network = Network::new(nodes, links.collect::<Result<_>>()?).map_err(coded)?;
        let demands = TrafficMatrix::from_rows(self.nodes.len(), self.demands.clone()).map_err(coded)?;
        let mut problem = FlowProblem::all(&network, &demands).map_err(coded)?;
        if let Some(background) = &self.background {
            problem.add_background(background).map_err(coded)?;
        }
        let solution = MinMaxSolver::new(&network).solve(&problem, deadline).map_err(coded)?;
        let (mut path_commodity, mut path_share) = (Vec::new(), Vec::new());
        let (mut path_offsets, mut path_links) = (vec![0], Vec::new());
        for (commodity, paths) in solution.paths.iter().enumerate() {
            for path in paths {
                path_commodity.push(commodity as u32);
                path_share.push(path.share);
                path_links.extend(path.links.iter().map(|link| link.0));
                path_offsets.push(path_links.len() as u32);
            }
        }
        let status = match solution.status {
            FlowStatus::Optimal => "optimal",
            FlowStatus::Deadline => "deadline",
            FlowStatus::Stalled => "stalled",
        };
        Ok(FlowOutput {
            utilization: solution.utilization,
            lower_bound: solution.lower_bound,
            status: status.to_owned(),
            loads_bps: solution.loads.into(),
            link_prices: solution.link_prices.into(),
            sources: problem.commodities.iter().map(|c| c.source.0).collect::<Vec<u32>>().into(),
            targets: problem.commodities.iter().map(|c| c.target.0).collect::<Vec<u32>>().into(),
            path_commodity: path_commodity.into(),
            path_share: path_share.into(),
            path_offsets: path_offsets.into(),
            path_links: path_links.into(),
            iterations: u32::try_from(solution.iterations).unwrap_or(u32::MAX),
        })
    }
}

impl Task for FlowTask {
    type Output = FlowOutput;
    type JsValue = FlowOutput;

    fn compute(&mut self) -> Result<Self::Output> {
        guarded(|| self.solve())
    }

    fn resolve(&mut self, _: Env, output: Self::Output) -> Result<Self::JsValue> {
        Ok(output)
    }
}

/// The least maximum utilisation of all flows of these demands.
#[napi]
pub fn min_max_utilization(given: FlowInput) -> Result<AsyncTask<FlowTask>> {
    guarded(|| {
        let ends = given.tail.iter().zip(given.head.iter()).zip(given.capacity_bps.iter());
        let links = ends.map(|((tail, head), capacity)| (*tail, *head, *capacity)).collect();
        Ok(AsyncTask::new(FlowTask {
            nodes: given.nodes,
            links,
            lengths: [given.tail.len().max(given.capacity_bps.len()), given.head.len()],
            demands: given.demands_bps.to_vec(),
            background: given.background_bps.map(|background| background.to_vec()),
            deadline_ms: given.deadline_ms,
        }))
    })
}

/// What a file says about a network.
#[napi(object, object_from_js = false)]
pub struct NetworkOutput {
    /// The format it was in.
    pub format: String,
    /// Its name.
    pub name: Option<String>,
    /// Names of the nodes.
    pub nodes: Vec<String>,
    /// By link: position of the node that it leaves.
    pub tail: Uint32Array,
    /// By link: position of the node that it reaches.
    pub head: Uint32Array,
    /// By link, bit/s.
    pub capacity_bps: Float64Array,
    /// By link.
    pub weight: Float64Array,
    /// By link, seconds.
    pub delay_s: Float64Array,
    /// Nodes × nodes, row by row, bit/s.
    pub demands_bps: Option<Float64Array>,
    /// What may not be meant so.
    pub warnings: Vec<String>,
}

/// Reads a network in any of the formats of `traflux-te`.
#[napi]
pub fn read_network(
    bytes: Uint8Array,
    format: Option<String>,
    default_capacity_bps: Option<f64>,
    unit: Option<String>,
) -> Result<NetworkOutput> {
    guarded(|| {
        let format = match format {
            Some(name) => name.parse::<Format>().map_err(coded)?,
            None => Format::of(None, &bytes).map_err(coded)?,
        };
        let default_capacity = default_capacity_bps
            .map(|rate| BitRate::new(rate).map_err(|error| input("input_rate", error)))
            .transpose()?;
        let unit = unit.map(|unit| unit.parse().map_err(coded)).transpose()?;
        let file = read(&bytes, format, &ReadOptions { unit, default_capacity, ..ReadOptions::default() })
            .map_err(coded)?;
        let links = file.network.links();
        Ok(NetworkOutput {
            format: file.format.name().to_owned(),
            name: file.name,
            nodes: file.network.nodes().iter().map(|node| node.name.clone()).collect(),
            tail: links.iter().map(|link| link.tail.0).collect::<Vec<_>>().into(),
            head: links.iter().map(|link| link.head.0).collect::<Vec<_>>().into(),
            capacity_bps: links.iter().map(|link| link.capacity.get()).collect::<Vec<_>>().into(),
            weight: links.iter().map(|link| link.weight).collect::<Vec<_>>().into(),
            delay_s: links.iter().map(|link| link.delay.as_secs()).collect::<Vec<_>>().into(),
            demands_bps: file.demands.map(|demands| demands.as_slice().to_vec().into()),
            warnings: file.warnings.iter().map(ToString::to_string).collect(),
        })
    })
}
