"""Environments: the contract of Gymnasium, and that equal seeds are equal."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import traflux
from traflux import te

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from traflux import envs  # noqa: E402

FLUID = {"fidelity": "fluid", "random": {"duration_s": 900.0}}


def small(**options: Any) -> envs.TrafficEngineeringEnv:
    """A ring of six nodes with four matrices and episodes of five steps."""
    network = te.ring(6, seed=1)
    matrices = te.traffic(network, "lognormal", mean=1e9, sigma=1.0, count=4, seed=2)
    return envs.TrafficEngineeringEnv(network=network, matrices=matrices, count=3, steps=5, **options)


def played(env: Any, seed: int, steps: int) -> list[Any]:
    """All that an environment gives for a seed and actions of another."""
    env.action_space.seed(7)
    observation, _ = env.reset(seed=seed)
    out = [observation]
    for _ in range(steps):
        out.append(env.step(env.action_space.sample()))
    return out


def equal(first: Any, second: Any) -> bool:
    """Whether two nested values are bit-equal."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(np.array_equal(first, second))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("traflux/TrafficEngineering-v0", {}),
        ("traflux/TrafficEngineering-v0", {"action": "scores"}),
        ("traflux/Fleet-v0", {"random": {"duration_s": 900.0}}),
        ("traflux/Fleet-v0", FLUID),
        ("traflux/Fleet-v0", {"scenario": "demo", "fidelity": "fluid"}),
    ],
)
def test_the_checker_of_gymnasium_passes(name: str, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        # It would like bounds of observations, and actions around 0.
        warnings.simplefilter("ignore")
        check_env(gymnasium.make(name, **options).unwrapped, skip_render_check=True)


def test_equal_seeds_and_actions_are_bit_equal_and_so_is_a_copy() -> None:
    for env in (small(), small(action="scores", disturbance_price=0.1), envs.FleetEnv(**FLUID)):
        first = played(env, 3, 5)
        assert equal(first, played(env, 3, 5))
        assert equal(first, played(pickle.loads(pickle.dumps(env)), 3, 5))
        assert equal(first, played(copy.deepcopy(env), 3, 5))
        assert not equal(first, played(env, 4, 5))


def test_an_episode_is_truncated_and_never_terminated() -> None:
    env = small()
    steps = played(env, 1, 5)[1:]
    assert [step[2] for step in steps] == [False] * 5
    assert [step[3] for step in steps] == [False] * 4 + [True]
    with pytest.raises(traflux.SimulationError) as over:
        env.step(env.action_space.sample())
    assert over.value.code == "environment_needs_reset"


def test_the_reward_is_the_performance_ratio_of_the_pairs() -> None:
    env = small(start=2, stop=3)
    matrices = te.traffic(env.network, "lognormal", mean=1e9, sigma=1.0, count=4, seed=2)
    env.reset(seed=1)
    chosen = te.select(env.network, matrices[2], count=3, selector="top-k")
    _, reward, *_ = env.step(chosen)
    after = te.reroute(env.network, matrices[2], chosen)
    assert reward == pytest.approx(after["optimal_max_utilization"] / after["max_utilization"], abs=1e-9)


def test_a_wrong_action_is_refused() -> None:
    env = small()
    env.reset(seed=1)
    with pytest.raises(traflux.SimulationError) as many:
        env.step(np.arange(9))
    assert many.value.code == "environment_action"
    with pytest.raises(traflux.InputError):
        env.step(np.array([-1, 0, 0]))
    with pytest.raises(traflux.InputError):
        small(action="nothing")


def test_an_action_with_nan_is_refused() -> None:
    scores = small(action="scores")
    scores.reset(seed=1)
    fleet = envs.FleetEnv(**FLUID)
    fleet.reset(seed=1)
    sample = fleet.action_space.sample()
    wrong = [{**sample, name: np.full_like(sample[name], np.nan)} for name in ("headroom", "cost_multipliers")]
    given = np.full(scores.action_space.shape, np.nan, dtype=np.float32)
    for env, action in [(scores, given), *((fleet, action) for action in wrong)]:
        with pytest.raises(traflux.SimulationError) as refused:
            env.step(action)
        assert refused.value.code == "environment_action"
    fleet.step(sample)


@pytest.mark.parametrize("threads", [1, 3])
def test_many_environments_are_as_many_single_ones(threads: int) -> None:
    env = small()
    arguments = {key: value for key, value in env._arguments.items()}
    many = envs.TrafficEngineeringVectorEnv(4, threads=threads, **arguments)
    observations, _ = many.reset(seed=10)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 30, (5, 4, 3))
    singles = []
    for lane in range(4):
        first, _ = env.reset(seed=10 + lane)
        assert equal(first, {key: array[lane] for key, array in observations.items()})
        singles.append([env.step(actions[at, lane]) for at in range(5)])
    for at in range(5):
        _, rewards, terminated, truncated, _ = many.step(actions[at])
        assert rewards.tolist() == [singles[lane][at][1] for lane in range(4)]
        assert not terminated.any() and truncated.all() == (at == 4)
    # The step after the end begins another episode, whatever the action.
    _, rewards, _, truncated, _ = many.step(actions[0])
    assert rewards.tolist() == [0.0] * 4 and not truncated.any()
    assert equal(played(many, 3, 3), played(pickle.loads(pickle.dumps(many)), 3, 3))


def test_a_vector_of_fleets_has_the_shapes_of_its_spaces() -> None:
    many = gymnasium.make_vec(
        "traflux/Fleet-v0", num_envs=3, vectorization_mode="vector_entry_point", **FLUID
    )
    observations, _ = many.reset(seed=1)
    assert many.observation_space.contains(observations)
    observations, rewards, *_, terms = many.step(many.action_space.sample())
    assert many.observation_space.contains(observations)
    total = sum(terms[name] for name in ("latency", "errors", "price", "churn"))
    np.testing.assert_allclose(rewards, total)
    # Groups that are not there cannot be chosen and show nothing.
    closed = observations["mask"] == 0
    assert (observations["groups"][closed] == 0).all()
    assert observations["groups"].shape == (3, 10, len(many.group_features))


def test_fluid_and_requests_agree_about_a_quiet_fleet() -> None:
    rewards = {}
    for fidelity in ("requests", "fluid"):
        env = envs.FleetEnv(scenario="steady", fidelity=fidelity)
        env.reset(seed=1)
        nothing = {
            "critical": np.zeros(env.action_space["critical"].n, dtype=np.int8),
            "headroom": np.zeros(1),
            "cost_multipliers": np.ones(env.action_space["critical"].n),
        }
        rewards[fidelity] = np.mean([env.step(nothing)[1] for _ in range(8)])
    assert rewards["fluid"] == pytest.approx(rewards["requests"], rel=0.1)
