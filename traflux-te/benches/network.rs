//! What does a step cost: loads, an observation, a choice, paths?

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use traflux_core::{BitRate, Network, NodeIx, Observation, Policy, TrafficMatrix};
use traflux_te::generate::{BackboneConfig, TrafficModel, backbone};
use traflux_te::{
    GreedyRelief, NetworkEncoder, PathFinder, TeError, TopK, TopKCritical, TopKRelief, ecmp, ecmp_loads,
    share_of_pairs,
};

/// A backbone of the size of Abilene, of a national network, and of a large one.
const NODES: [usize; 3] = [12, 50, 200];

fn case(nodes: usize) -> Result<(Network, TrafficMatrix), TeError> {
    let network = backbone(&BackboneConfig { nodes, ..BackboneConfig::default() }, 1)?;
    let model = TrafficModel::Lognormal { mean: BitRate::gigabits_per_second(1.0), sigma: 1.0 };
    let demands = model.matrix(&network, 2)?;
    Ok((network, demands))
}

fn network(criterion: &mut Criterion) {
    for nodes in NODES {
        let (network, demands) = case(nodes).unwrap_or_else(|error| panic!("{error}"));
        let base = ecmp(&network).unwrap_or_else(|error| panic!("{error}"));
        let mut group = criterion.benchmark_group("te");
        group.sample_size(20);
        group.bench_function(BenchmarkId::new("ecmp_loads", nodes), |b| {
            b.iter(|| black_box(ecmp_loads(&network, &demands)));
        });
        let mut encoder = NetworkEncoder::new(&network, &base);
        let mut observation = Observation::default();
        group.bench_function(BenchmarkId::new("encode", nodes), |b| {
            b.iter(|| encoder.encode_into(black_box(&demands), &mut observation));
        });
        let count = share_of_pairs(&network, 0.1);
        let selectors: [(&str, Box<dyn Policy>); 4] = [
            ("top_k", Box::new(TopK::new(count))),
            ("top_k_critical", Box::new(TopKCritical::new(&network, &base, count))),
            ("top_k_relief", Box::new(TopKRelief::new(&network, &base, count))),
            ("greedy_relief", Box::new(GreedyRelief::new(&network, &base, count))),
        ];
        for (name, mut selector) in selectors {
            group.bench_function(BenchmarkId::new(name, nodes), |b| {
                b.iter(|| black_box(selector.act(&observation)));
            });
        }
        let mut finder = PathFinder::new(&network);
        let (source, target) = (NodeIx(0), NodeIx::from(nodes - 1));
        group.bench_function(BenchmarkId::new("k_shortest_8", nodes), |b| {
            b.iter(|| black_box(finder.k_shortest(source, target, 8)));
        });
        group.bench_function(BenchmarkId::new("disjoint_4", nodes), |b| {
            b.iter(|| black_box(finder.disjoint(source, target, 4)));
        });
        group.finish();
    }
}

criterion_group!(benches, network);
criterion_main!(benches);
