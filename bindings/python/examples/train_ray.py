"""Choose pairs on a network by evolution strategies on Ray: workers play the vectorised environment, one driver learns.

    pip install 'traflux[gym]' ray
    python train_ray.py --seconds 60 --out curve.html

A linear score of the features of each pair decides which are chosen. Each worker gets the weights and a seed, draws
directions, plays both ends of each and sends back one number for each; the driver steps along their mean (Salimans et al.,
"Evolution strategies as a scalable alternative to reinforcement learning", 2017). The curve is on matrices that were not
trained on, beside the plain rule of the largest demands.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import ray

from traflux import envs, te
from traflux.envs import TrafficEngineeringVectorEnv

TRAIN, TEST = (0, 192), (192, 288)
DIRECTIONS = 8
STEPS = 12


def problem() -> tuple[te.Network, np.ndarray]:
    """A small backbone with a day of traffic."""
    network = te.backbone(nodes=12, seed=4)
    mean = te.traffic(network, "lognormal", mean=1e9, sigma=1.2, seed=5)
    return network, te.diurnal(mean, 288, seed=6)


def make(lanes: int, span: tuple[int, int], steps: int) -> TrafficEngineeringVectorEnv:
    """Environments on a part of the day."""
    network, matrices = problem()
    return envs.TrafficEngineeringVectorEnv(
        lanes,
        network=network,
        matrices=matrices,
        start=span[0],
        stop=span[1],
        steps=steps,
        action="scores",
        count=6,
    )


def scores(observation: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The linear policy: ``(lanes, pairs, features) @ (lanes or 1, features, 1)``."""
    return np.tanh(
        np.einsum(
            "lpf,lf->lp",
            observation["groups"],
            np.broadcast_to(weights, (len(observation["groups"]), weights.shape[-1])),
        )
    ).astype(np.float32)


def mean_reward(
    env: TrafficEngineeringVectorEnv, weights: np.ndarray, seeds: list[int], steps: int
) -> np.ndarray:
    """Mean reward of each lane, ``(lanes,)``."""
    observation, _ = env.reset(seed=seeds)
    total = np.zeros(env.num_envs)
    for _ in range(steps):
        observation, reward, *_ = env.step(scores(observation, weights))
        total += reward
    return total / steps


@ray.remote(num_cpus=1)
class Worker:
    """Plays; it has environments of its own."""

    def __init__(self) -> None:
        self.env = make(2 * DIRECTIONS, TRAIN, STEPS)

    def play(self, weights: np.ndarray, seed: int, deviation: float) -> tuple[np.ndarray, int]:
        """The gradient that its directions suggest, and how many steps it took."""
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((DIRECTIONS, weights.size)).astype(np.float32)
        both = np.concatenate([weights + deviation * noise, weights - deviation * noise])
        starts = [int(start) for start in rng.integers(0, 1 << 40, DIRECTIONS)]
        rewards = mean_reward(self.env, both, starts + starts, STEPS)
        gain = rewards[:DIRECTIONS] - rewards[DIRECTIONS:]
        return noise.T @ (gain / (gain.std() + 1e-9)) / DIRECTIONS, 2 * DIRECTIONS * STEPS


def chart(points: list[tuple[float, float, float]], plain: float, best: float) -> str:
    """The curve as a page without anything from elsewhere."""
    low = min([plain] + [value for *_, value in points]) - 0.01
    high = max([best] + [value for *_, value in points]) + 0.01
    width, height, last = 760, 320, max(step for _, step, _ in points) or 1.0

    def place(step: float, value: float) -> str:
        return f"{60 + (width - 80) * step / last:.1f},{height - 40 - (height - 70) * (value - low) / (high - low):.1f}"

    line = " ".join(place(step, value) for _, step, value in points)
    rules = "".join(
        f'<polyline points="{place(0, value)} {place(last, value)}" stroke="{colour}" stroke-dasharray="5 4"/>'
        f'<text x="66" y="{float(place(0, value).split(",")[1]) - 5}" fill="{colour}">{name} {value:.3f}</text>'
        for name, value, colour in (("largest demands", plain, "#888"), ("quick rule", best, "#2a7"))
    )
    return (
        '<!doctype html><meta charset="utf-8"><title>Learning on Ray</title>'
        "<style>body{font:14px sans-serif;max-width:800px;margin:2em auto}svg text{font-size:12px}</style>"
        "<h1>Performance ratio on matrices that were not trained on</h1>"
        f'<svg viewBox="0 0 {width} {height}" fill="none" stroke-width="2">{rules}'
        f'<polyline points="{line}" stroke="#15c"/>'
        f'<text x="60" y="{height - 12}" fill="#000">steps: 0 to {last:,.0f}; {points[-1][0]:.0f} s</text></svg>'
    )


def main() -> None:
    """Learn, and write the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("train_ray.html"))
    options = parser.parse_args()

    ray.init(num_cpus=options.workers, include_dashboard=False, logging_level="ERROR")
    workers = [Worker.remote() for _ in range(options.workers)]
    network, matrices = problem()
    test = make(16, TEST, 6)
    starts = list(range(16))
    features = len(test.group_features)
    weights = np.zeros(features, dtype=np.float32)
    rows = te.evaluate(network, matrices[TEST[0] : TEST[1]], count=6, selectors=["top-k", "quick"])
    plain, quick = (float(rows.arm(name)["performance_ratio"].mean()) for name in ("top-k", "quick"))

    began, steps, update = time.monotonic(), 0, 0
    points = [(0.0, 0.0, float(mean_reward(test, weights, starts, 6).mean()))]
    while time.monotonic() - began < options.seconds:
        deviation, rate = 0.3, 0.3 / (1 + update / 30)
        seeds = [options.seed + 1_000_003 * (update + 1) + at for at in range(len(workers))]
        results = ray.get(
            [
                worker.play.remote(weights, seed, deviation)
                for worker, seed in zip(workers, seeds, strict=True)
            ]
        )
        weights = weights + rate * np.mean([gradient for gradient, _ in results], axis=0).astype(np.float32)
        steps += sum(count for _, count in results)
        update += 1
        if update % 5 == 0:
            value = float(mean_reward(test, weights, starts, 6).mean())
            points.append((time.monotonic() - began, float(steps), value))
            print(
                f"{points[-1][0]:5.0f} s  {steps:>8,} steps  ratio {value:.4f}  (largest demands {plain:.4f}, quick {quick:.4f})",
                flush=True,
            )
    options.out.write_text(chart(points, plain, quick), encoding="utf-8")
    print(
        f"{steps / (time.monotonic() - began):,.0f} steps/s with {options.workers} workers; curve in {options.out}"
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
