"""Networks, matrices, paths, selectors and evaluations."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import traflux
from traflux import te
from traflux._traflux import te as _te


def square() -> te.Network:
    """A circle of four nodes, both ways: links 0 to 7."""
    return te.ring(4, seed=1)


def test_a_network_is_what_its_arrays_say_and_survives_pickle() -> None:
    network = te.Network(
        ["a", "b"],
        [0, 1],
        [1, 0],
        [1e9, 2e9],
        weight=[3.0, 4.0],
        delay_s=[0.01, 0.02],
        positions=[(0, 1), None],
    )
    again = pickle.loads(pickle.dumps(network))
    for one in (network, again):
        assert (one.nodes, one.node_count, one.link_count, one.pair_count) == (["a", "b"], 2, 2, 2)
        assert one.capacity.tolist() == [1e9, 2e9] and one.weight.tolist() == [3.0, 4.0]
        assert one.delay_s.tolist() == [0.01, 0.02] and one.positions == [[0.0, 1.0], None]
        assert one.pairs.tolist() == [[0, 1], [1, 0]]
    assert again == network and network != square()


def test_what_does_not_hold_together_is_refused_with_its_code() -> None:
    with pytest.raises(traflux.NetworkError) as length:
        te.Network(2, [0], [1], [1.0, 2.0])
    assert length.value.code == "network_length"
    with pytest.raises(traflux.NetworkError) as value:
        te.Network(2, [0], [1], [0.0])
    assert value.value.code == "network_link_value"
    with pytest.raises(traflux.NetworkError) as parameter:
        te.ring(2)
    assert parameter.value.code == "te_parameter"
    with pytest.raises(traflux.InputError, match="unknown field"):
        te.ring(5, colour="red")
    with pytest.raises(traflux.NetworkError) as size:
        te.Network(2**62, [], [], [])
    assert size.value.code == "network_too_large"
    for stack in (0, 2):
        matrices = np.zeros((stack, 4, 4))
        with pytest.raises(traflux.InputError) as shape:
            te.select(square(), matrices, count=1)
        assert shape.value.code == "input_shape"


def test_equal_paths_share_the_load_evenly() -> None:
    network = square()
    demands = np.zeros((4, 4))
    demands[0, 2] = 10e9
    loads = network.ecmp_loads(demands)
    assert loads.sum() == pytest.approx(20e9) and set(loads.tolist()) == {0.0, 5e9}
    assert network.max_utilization(loads) == pytest.approx(0.5)
    paths = network.shortest_paths(0, 2, 5)
    assert [length for length, _ in paths] == [2.0, 2.0]
    assert network.disjoint_paths(0, 2, 3) == paths
    broken = network.without_links(paths[0][1])
    assert broken.link_count == 6 and broken.ecmp_loads(demands).max() == pytest.approx(10e9)


def test_files_of_all_formats_are_read_as_they_were_written(tmp_path: Path) -> None:
    network = te.backbone(nodes=8, seed=3)
    demands = te.traffic(network, "exponential", mean=1e9, seed=4)
    for name in te.formats():
        path = tmp_path / name
        if name == "rows":
            te.write_matrices(path, network, demands, format=name)
            np.testing.assert_array_equal(te.read_matrices(path, network, format=name)[0], demands)
            continue
        te.write_network(path, network, format=name)
        file = te.read_network(path, format=name)
        np.testing.assert_allclose(file.network.capacity, network.capacity)
        assert file.format == name
    te.write_network(tmp_path / "both", network, demands=demands)
    np.testing.assert_array_equal(te.read_network(tmp_path / "both", format="node-link").demands, demands)
    with pytest.raises(traflux.TrafluxError) as missing:
        te.read_network(tmp_path / "nothing.json")
    assert missing.value.code == "format_io"


def test_traffic_repeats_with_its_seed_and_is_scaled_to_a_utilization() -> None:
    network = te.backbone(nodes=8, seed=3)
    first = te.traffic(network, "lognormal", mean=1e9, sigma=1.0, count=3, seed=5)
    np.testing.assert_array_equal(
        first, te.traffic(network, "lognormal", mean=1e9, sigma=1.0, count=3, seed=5)
    )
    assert first.shape == (3, 8, 8) and first[1].trace() == 0.0
    scaled = te.scale(network, first, 0.9)
    for matrix in scaled:
        assert network.max_utilization(network.ecmp_loads(matrix)) == pytest.approx(0.9)
    day = te.diurnal(first[0], 288, seed=6, noise_sigma=0.0, burst_probability=0.0, phase_spread=0.0)
    # Day and night cancel: the mean over a day is the mean that was asked for.
    np.testing.assert_allclose(day.mean(axis=0), first[0], rtol=1e-9)


def test_more_matrices_than_fit_are_refused_before_they_are_made() -> None:
    network = te.ring(4, seed=1)
    for make in (
        lambda: te.traffic(network, "exponential", mean=1e9, count=10**12, seed=1),
        lambda: te.diurnal(np.ones((4, 4)), count=10**12, seed=1),
    ):
        with pytest.raises(traflux.InputError, match="at most 16777216 matrices") as refused:
            make()
        assert refused.value.code == "input_value"


def test_networkx_and_back_is_the_same_network() -> None:
    networkx = pytest.importorskip("networkx")
    network = te.backbone(nodes=8, seed=3)
    graph = te.to_networkx(network)
    assert te.from_networkx(graph) == network
    line = networkx.Graph()
    line.add_edge("x", "y", capacity=1e9, weight=2.0)
    both = te.from_networkx(line)
    assert both.link_count == 2 and both.tail.tolist() == [0, 1] and both.weight.tolist() == [2.0, 2.0]
    hops = networkx.shortest_path_length(
        graph, graph.graph.get("s", "0") if "0" in graph else network.nodes[0]
    )
    assert max(hops.values()) < 8


@pytest.mark.parametrize("selector", te.selectors())
def test_no_selector_chooses_more_than_it_may_or_makes_things_worse(selector: str) -> None:
    network = te.backbone(nodes=8, seed=3)
    demands = te.traffic(network, "lognormal", mean=1e9, sigma=1.0, seed=5)
    chosen = te.select(network, demands, count=5, selector=selector)
    assert len(set(chosen.tolist())) == len(chosen) <= 5
    after = te.reroute(network, demands, chosen)
    assert after["optimal_max_utilization"] * (1 - 1e-9) <= after["max_utilization"]
    assert after["max_utilization"] <= after["ecmp_max_utilization"] * (1 + 1e-9)
    assert (selector == "ecmp") == (len(chosen) == 0)


def test_an_evaluation_becomes_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    network = te.backbone(nodes=8, seed=3)
    matrices = te.traffic(network, "lognormal", mean=1e9, sigma=1.0, count=4, seed=5)
    evaluation = te.evaluate(network, matrices, count=5, selectors=["ecmp", "top-k", "quick"])
    assert evaluation.names == ["ecmp", "top-k", "quick"]
    frame = evaluation.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 12
    means = frame.groupby("selector")["performance_ratio"].mean()
    assert means["ecmp"] < means["quick"] <= 1.0
    ecmp = frame[frame["selector"] == "ecmp"]["max_utilization"]
    plain = [network.max_utilization(network.ecmp_loads(matrix)) for matrix in matrices]
    np.testing.assert_allclose(ecmp, plain, rtol=1e-9)
    mean, low, high = evaluation.summary("quick") or (0.0, 0.0, 0.0)
    assert low <= mean <= high
    assert evaluation.arm("quick")["chosen"][0][1] <= 4 and "quick" in str(evaluation)
    with pytest.raises(traflux.InputError) as unknown:
        te.evaluate(network, matrices, count=5, selectors=["nobody"])
    assert unknown.value.code == "input_selector"


@pytest.mark.parametrize("what", ["network", "matrices"])
def test_writing_lets_other_threads_run(what: str) -> None:
    network = te.full_mesh(120, seed=1)
    matrix = 1e6 * (1.0 + np.arange(120.0 * 120).reshape(120, 120))
    np.fill_diagonal(matrix, 0.0)
    matrices = np.stack([matrix] * 10)
    inside = False

    def write() -> None:
        nonlocal inside
        inside = True
        if what == "network":
            _te.network_text(network, "sndlib", demands=matrix)
        else:
            _te.matrices_text(network, matrices, "rows")
        inside = False

    # A thread that has the lock keeps it, unless it gives it up by itself.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(30.0)
    try:
        writing = threading.Thread(target=write)
        writing.start()
        beats = 0
        while writing.is_alive():
            beats += inside
            time.sleep(0)
    finally:
        sys.setswitchinterval(interval)
    assert beats > 0
