"""How many steps a second do the environments make, from Python, on one core?

Run with the package installed and ``TRAFLUX_DATA`` set (without it, a generated network of Abilene's size is played)::

    python bindings/python/benches/envs.py

A step of :class:`FleetVectorEnv` holds an action for a learning step of the loop; with ``fidelity="fluid"`` the fleet in it
is simulated second by second, and each of these seconds is a fluid step, the real controller's ticks included.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from traflux import envs, te

ROUNDS = 5


def abilene() -> tuple[str, te.Network, np.ndarray]:
    """Abilene with a day of its matrices, or what is like it."""
    root = os.environ.get("TRAFLUX_DATA")
    if root is None:
        network = te.backbone(nodes=12, seed=1, mean_degree=2.5)
        mean = te.traffic(network, "lognormal", mean=1e9, sigma=1.0, seed=2)
        return "generated, 12 nodes (TRAFLUX_DATA is not set)", network, te.diurnal(mean, 288, seed=3)
    network = te.read_network(Path(root, "cfr-rl", "Abilene")).network
    matrices = te.read_matrices(Path(root, "cfr-rl", "AbileneTM"), network, format="cfr-rl")
    return "Abilene, 12 nodes, 30 links", network, np.ascontiguousarray(matrices[:288])


def rate(play: Callable[[], float]) -> str:
    """Units a second over rounds, by wall clock and by processor time: median, least and greatest."""
    wall, processor = [], []
    for _ in range(ROUNDS):
        began, worked = time.perf_counter(), time.process_time()
        done = play()
        wall.append(done / (time.perf_counter() - began))
        processor.append(done / (time.process_time() - worked))
    spread = f"{min(wall):,.0f} to {max(wall):,.0f}"
    return (
        f"{statistics.median(wall):>9,.0f}/s ({spread}); {statistics.median(processor):,.0f} per CPU second"
    )


def networks(action: str, threads: int) -> Callable[[], float]:
    """Steps of a vector of networks, with other pairs at every step."""
    _, network, matrices = abilene()
    many = envs.TrafficEngineeringVectorEnv(
        8, threads=threads, network=network, matrices=matrices, steps=256, action=action
    )
    many.reset(seed=1)
    rng = np.random.default_rng(1)

    def play() -> float:
        for _ in range(250):
            if action == "pairs":
                many.step(rng.integers(0, network.pair_count, (8, many.count)))
            else:
                many.step(rng.uniform(-1.0, 1.0, (8, network.pair_count)).astype(np.float32))
        return 250.0 * 8

    return play


def fleets(fidelity: str, threads: int, scenario: str | None) -> Callable[[], float]:
    """Seconds of virtual time of a vector of fleets."""
    many = envs.FleetVectorEnv(8, threads=threads, fidelity=fidelity, scenario=scenario)
    many.reset(seed=1)
    steps = 30 if fidelity == "fluid" else 3

    def play() -> float:
        seconds = 0.0
        for _ in range(steps):
            *_, terms = many.step(many.action_space.sample())
            # A step that begins another episode tells no terms.
            seconds += float(np.sum(terms.get("step_s", 0.0)))
        return seconds

    return play


def main() -> None:
    """Print the table."""
    name, network, _ = abilene()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {ROUNDS} rounds: median (least to greatest)"
    )
    print(f"network: {name}; {network.share_of_pairs(0.1)} of {network.pair_count} pairs at each step")
    for action in ("pairs", "scores"):
        print(f"TrafficEngineeringVectorEnv, {action:6}, 1 thread   steps        {rate(networks(action, 1))}")
    for scenario in ("demo", None):
        label = scenario or "random"
        print(
            f"FleetVectorEnv fluid, {label:6},    1 thread   fluid steps  {rate(fleets('fluid', 1, scenario))}"
        )
    print(f"FleetVectorEnv requests, demo,     1 thread   virtual s    {rate(fleets('requests', 1, 'demo'))}")
    print(
        "goals: 2,000 steps/s on Abilene, where the published implementation of CFR-RL was measured at "
        "7.7 to 13 rewards/s; 50,000 fluid steps/s"
    )


if __name__ == "__main__":
    main()
