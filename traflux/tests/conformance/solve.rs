//! Linear programs and files of networks.

use std::time::Duration;

use serde_json::{Value, json};
use traflux_core::{BitRate, Latency, Link, Network, Node, NodeIx, Objective, TrafficMatrix, TwoStage};
use traflux_lp::EndpointTable;
use traflux_lp::multicommodity::{FlowProblem, MinMaxSolver};
use traflux_te::format::{Format, RateUnit, ReadOptions};

use crate::case::{Fields, Gave};

macro_rules! coded {
    ($result:expr) => {
        $result.map_err(|error| (error.code(), error.is_transient()))?
    };
}

fn rows(numbers: &[f64], width: usize) -> Value {
    Value::Array(numbers.chunks(width.max(1)).map(|row| json!(row)).collect())
}

pub(crate) fn endpoints(input: &mut Fields<'_>) -> Gave {
    let [demand, capacity, delay] =
        ["demand_rps", "capacity_rps", "delay_s"].map(|key| input.numbers(key).unwrap());
    let optional = ["price_usd", "previous", "lower", "upper", "background_rps", "service_time_s", "servers"]
        .map(|key| input.numbers(key));
    let domains: Option<Vec<usize>> =
        input.numbers("domains").map(|numbers| numbers.iter().map(|number| *number as usize).collect());
    let (flows, resources) = (input.texts("flows"), input.texts("resources"));
    let goal: Option<TwoStage> =
        input.take("objective").map(|value| serde_json::from_value(value.clone()).unwrap());
    let objective = match input.numbers("route_costs") {
        Some(costs) => Objective::MinMaxWeightedCost { costs },
        None => Objective::TwoStage(goal.unwrap_or_default()),
    };
    let solver = input.text("solver").unwrap_or("transport");
    let deadline = Duration::from_secs_f64(input.number("deadline_s").unwrap_or(5.0));
    let [price, previous, lower, upper, background, service_time, servers] =
        optional.each_ref().map(|one| one.as_deref());
    let table = EndpointTable {
        price,
        previous,
        lower,
        upper,
        background,
        service_time,
        servers,
        domain: domains.as_deref(),
        ..EndpointTable::new(&demand, &capacity, &delay)
    };
    let tabled = coded!(table.problem(objective, deadline, flows.as_deref(), resources.as_deref()));
    let solution = coded!(coded!(traflux_lp::by_name(solver)).solve(tabled.problem()));
    Ok(json!({
        "shares": rows(&tabled.table(solution.split.shares(), 0.0), capacity.len()),
        "theta": solution.theta,
        "objective": solution.objective,
        "status": serde_json::to_value(solution.status).unwrap()["status"],
        "loads_rps": tabled.loads(&solution),
        "capacity_duals": solution.capacity_duals,
        "demand_duals": solution.demand_duals,
        "budget_dual": solution.budget_dual,
    }))
}

pub(crate) fn min_max_utilization(input: &mut Fields<'_>) -> Gave {
    let names = input.texts("nodes").unwrap();
    let links = input.take("links").unwrap().as_array().unwrap();
    let demands = input.take("demands_bps").unwrap().as_array().unwrap();
    let demands = demands.iter().flat_map(|row| row.as_array().unwrap()).map(|one| one.as_f64().unwrap());
    let background = input.numbers("background_bps");
    let node = |value: &Value| NodeIx(u32::try_from(value.as_u64().unwrap()).unwrap());
    let links = links.iter().map(|link| Link {
        tail: node(&link[0]),
        head: node(&link[1]),
        capacity: BitRate::new(link[2].as_f64().unwrap()).unwrap(),
        weight: 1.0,
        delay: Latency::ZERO,
    });
    let count = names.len();
    let nodes = names.into_iter().map(|name| Node { name, position: None }).collect();
    let network = coded!(Network::new(nodes, links.collect()));
    let demands = coded!(TrafficMatrix::from_rows(count, demands.collect()));
    let mut problem = coded!(FlowProblem::all(&network, &demands));
    if let Some(background) = background {
        coded!(problem.add_background(&background));
    }
    let solution = coded!(MinMaxSolver::new(&network).solve(&problem, None));
    Ok(json!({
        "utilization": solution.utilization,
        "lower_bound": solution.lower_bound,
        "loads_bps": solution.loads,
        "link_prices": solution.link_prices,
    }))
}

pub(crate) fn read_network(input: &mut Fields<'_>) -> Gave {
    let bytes: Vec<u8> = match (input.text("text"), input.numbers("bytes")) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(bytes)) => bytes.iter().map(|byte| *byte as u8).collect(),
        _ => panic!("either text or bytes"),
    };
    let format = input.text("format");
    let default_capacity = input.number("default_capacity_bps").map(|rate| BitRate::new(rate).unwrap());
    let unit = match input.text("unit") {
        Some(unit) => Some(coded!(unit.parse::<RateUnit>())),
        None => None,
    };
    let format = match format {
        Some(name) => coded!(name.parse::<Format>()),
        None => coded!(Format::of(None, &bytes)),
    };
    let options = ReadOptions { unit, default_capacity, ..ReadOptions::default() };
    let file = coded!(traflux_te::format::read_network(&bytes, format, &options));
    let nodes: Vec<&str> = file.network.nodes().iter().map(|node| node.name.as_str()).collect();
    let links: Vec<Value> = file
        .network
        .links()
        .iter()
        .map(|link| json!([link.tail.0, link.head.0, link.capacity.get(), link.weight, link.delay.as_secs()]))
        .collect();
    let demands = file.demands.map(|demands| rows(demands.as_slice(), nodes.len()));
    Ok(json!({"nodes": nodes, "links": links, "demands_bps": demands}))
}
