"""Trained policies: a checkpoint acts, and says when it does not trust itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import traflux
from traflux import policy


def observation(checkpoint: policy.Checkpoint, groups: int = 5) -> dict[str, np.ndarray]:
    """A state with features that rise from group to group."""
    features = len(checkpoint.group_features)
    rising = np.linspace(0.1, 0.9, groups, dtype=np.float32)
    return {
        "groups": np.repeat(rising[:, None], features, axis=1),
        "context": np.full(len(checkpoint.context_features), 0.5, dtype=np.float32),
        "mask": np.array([1, 1, 0, 1, 1], dtype=np.int8)[:groups],
    }


def test_a_checkpoint_survives_its_file_and_pickle(tmp_path: Path) -> None:
    checkpoint = policy.Checkpoint.shipped()
    path = tmp_path / "fleet.safetensors"
    checkpoint.save(path)
    again = policy.Checkpoint.load(path)
    assert again.to_bytes() == checkpoint.to_bytes() == pickle.loads(pickle.dumps(checkpoint)).to_bytes()
    assert "utilization" in checkpoint.group_features and "fleet_load" in checkpoint.context_features
    assert checkpoint.command and checkpoint.steps > 0


def test_it_chooses_at_most_k_open_groups_and_repeats_itself() -> None:
    checkpoint = policy.Checkpoint.shipped()
    for count in (1, 2, 4):
        actor = policy.Policy(checkpoint, count=count, fallback=False)
        state = observation(checkpoint)
        action = actor.act(state)
        critical = action["critical"].tolist()
        assert len(set(critical)) == len(critical) == min(count, 4)
        assert 2 not in critical
        again = actor.act(state["groups"], state["context"], state["mask"].astype(bool))
        assert again["critical"].tolist() == critical and again["headroom"] == action["headroom"]
        assert action["cost_multipliers"].shape == (5,) and action["log_probability"] <= 0.0
        assert (actor.decisions, actor.fallbacks, actor.count) == (2, 0, count)


def test_outside_the_range_of_training_a_plain_policy_acts_and_is_counted() -> None:
    checkpoint = policy.Checkpoint.shipped()
    actor = policy.Policy(checkpoint)
    state = observation(checkpoint)
    state["groups"][:] = 1e6
    actor.act(state)
    assert (actor.decisions, actor.fallbacks) == (1, 1)


def test_exploration_repeats_with_its_seed() -> None:
    checkpoint = policy.Checkpoint.shipped()
    state = observation(checkpoint)

    def draw(seed: int) -> list[float]:
        actor = policy.Policy(checkpoint, seed=seed, fallback=False)
        return [actor.act(state)["headroom"] for _ in range(5)]

    assert draw(1) == draw(1) != draw(2)


def test_broken_files_and_wrong_shapes_have_codes(tmp_path: Path) -> None:
    checkpoint = policy.Checkpoint.shipped()
    with pytest.raises(traflux.PolicyError) as missing:
        policy.load(tmp_path / "nothing")
    assert missing.value.code == "checkpoint_io"
    broken = bytearray(checkpoint.to_bytes())
    broken[-1] ^= 1
    with pytest.raises(traflux.PolicyError) as checksum:
        policy.Checkpoint.from_bytes(bytes(broken))
    assert checksum.value.code == "checkpoint_checksum"
    actor = policy.Policy(checkpoint)
    with pytest.raises(traflux.InputError) as shape:
        actor.act(np.zeros((3, 2)), np.zeros(1))
    assert shape.value.code == "input_shape"
    state = observation(checkpoint)
    with pytest.raises(traflux.InputError):
        actor.act(state["groups"], state["context"], np.ones(2))


def test_it_plays_the_environment_it_was_trained_for() -> None:
    pytest.importorskip("gymnasium")
    from traflux import envs

    env = envs.FleetEnv(fidelity="fluid", random={"duration_s": 900.0})
    actor = policy.Policy(policy.Checkpoint.shipped())
    assert actor.group_features == env.group_features and actor.context_features == env.context_features
    state, _ = env.reset(seed=5)
    for _ in range(3):
        action = actor.act(state)
        critical = np.zeros(len(state["mask"]), dtype=np.int8)
        critical[action["critical"]] = 1
        state, reward, *_ = env.step(
            {
                "critical": critical,
                "headroom": np.array([action["headroom"]]),
                "cost_multipliers": action["cost_multipliers"],
            }
        )
        assert np.isfinite(reward) and reward < 0.0
    assert actor.decisions == 3
