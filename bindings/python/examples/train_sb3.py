"""Choose pairs on a network with Stable-Baselines3: PPO on `TrafficEngineeringEnv`.

    pip install 'traflux[gym]' stable-baselines3 matplotlib
    python train_sb3.py --steps 20000 --out curve.png

The action is a score of each pair; the environment takes the K highest. The curve is the mean reward of episodes while
learning; at the end the policy is judged on matrices that it has not seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import gymnasium
import matplotlib
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from traflux import envs, te

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

TRAIN, TEST = (0, 192), (192, 288)
#: What the policy sees of each pair.
FEATURES = ("demand", "worst_share", "relief", "fraction")


def problem() -> tuple[te.Network, np.ndarray]:
    """A small backbone with a day of traffic."""
    network = te.backbone(nodes=8, seed=4)
    mean = te.traffic(network, "lognormal", mean=1e9, sigma=1.2, seed=5)
    return network, te.diurnal(mean, 288, seed=6)


def make(span: tuple[int, int], steps: int = 32) -> gymnasium.Env:
    """An environment on a part of the day; the policy sees some features of every pair."""
    network, matrices = problem()
    env = envs.TrafficEngineeringEnv(
        network=network, matrices=matrices, start=span[0], stop=span[1], steps=steps, action="scores", count=4
    )
    columns = [env.group_features.index(name) for name in FEATURES]
    space = gymnasium.spaces.Box(
        -np.inf, np.inf, (env.observation_space["groups"].shape[0], len(columns)), np.float32
    )
    return gymnasium.wrappers.TransformObservation(env, lambda seen: seen["groups"][:, columns], space)


class Curve(BaseCallback):
    """Keeps the mean reward of each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rewards = self.model.rollout_buffer.rewards
        self.points.append((self.num_timesteps, float(rewards.mean())))
        print(f"{self.num_timesteps:>8,} steps  mean ratio {self.points[-1][1]:.4f}", flush=True)


def main() -> None:
    """Learn, judge, and write the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("train_sb3.png"))
    options = parser.parse_args()

    torch.set_num_threads(1)
    many = make_vec_env(lambda: make(TRAIN), n_envs=8, seed=options.seed)
    model = PPO(
        "MlpPolicy",
        many,
        n_steps=128,
        batch_size=256,
        n_epochs=8,
        gamma=0.0,
        gae_lambda=1.0,
        learning_rate=2e-3,
        policy_kwargs={"net_arch": [64, 64], "log_std_init": -1.0},
        seed=options.seed,
        device="cpu",
    )
    curve = Curve()
    began = time.monotonic()
    model.learn(options.steps, callback=curve)
    seconds = time.monotonic() - began

    env = make(TEST, steps=96)
    observation, _ = env.reset(seed=0)
    ratios, over = [], False
    while not over:
        action, _ = model.predict(observation, deterministic=True)
        observation, ratio, _, over, _ = env.step(action)
        ratios.append(float(ratio))
    network, matrices = problem()
    rows = te.evaluate(network, matrices[TEST[0] : TEST[1]], count=4, selectors=["ecmp", "top-k", "quick"])
    plain = {name: float(rows.arm(name)["performance_ratio"].mean()) for name in rows.names}
    print(
        f"{options.steps / seconds:,.0f} steps/s; on unseen matrices: learned {np.mean(ratios):.4f}",
        *[f"{name} {value:.4f}" for name, value in plain.items()],
    )

    figure, axes = pyplot.subplots(figsize=(8, 4))
    axes.plot(*zip(*curve.points, strict=True), label="PPO, while learning")
    for name, value in plain.items():
        axes.axhline(
            value,
            linestyle="--",
            label=f"{name}, unseen matrices",
            color={"ecmp": "grey", "top-k": "tan"}.get(name, "seagreen"),
        )
    axes.axhline(float(np.mean(ratios)), color="C0", linestyle=":", label="PPO, unseen matrices")
    axes.set(xlabel="steps", ylabel="performance ratio")
    axes.legend()
    figure.savefig(options.out, dpi=120, bbox_inches="tight")
    print(f"curve in {options.out}")


if __name__ == "__main__":
    main()
