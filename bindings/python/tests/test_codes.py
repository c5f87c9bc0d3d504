"""Codes of errors that only Python can provoke: networks, environments and checkpoints.

`tests/conformance/codes.json` marks them, and names the class of each.
"""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from test_conformance import CODES

import traflux
from traflux import policy, te
from traflux._traflux.envs import Environments, Series

RING = te.ring(4, seed=1)
EVEN = 1e9 * (np.ones((4, 4)) - np.eye(4))
FLEET = {"random": None, "fidelity": "fluid", "count": 1, "threads": 1, "auto_reset": False}


def network_environment(stop=1):
    return Environments.network(
        Series(RING, np.array([EVEN, EVEN])),
        count=1,
        choose=1,
        start=0,
        stop=stop,
        steps=1,
        worth="performance_ratio",
        disturbance_price=0.0,
        stale=False,
        threads=1,
        auto_reset=False,
    )


def stepped(pair):
    environment = network_environment()
    environment.reset([1])
    environment.step_groups(np.array([[pair]]))


def checkpoint(change):
    return policy.Checkpoint.from_bytes(change(policy.Checkpoint.shipped().to_bytes()))


def with_version(data):
    return re.sub(rb'(version[\\"]*:)1', rb"\g<1>9", data, count=1)


def sized(folder):
    path = folder / "matrix"
    te.write_matrices(path, RING, EVEN)
    te.read_matrices(path, te.ring(3, seed=1))


PROVOKED = {
    "checkpoint_checksum": lambda _: checkpoint(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "checkpoint_malformed": lambda _: checkpoint(lambda data: bytes(64)),
    "checkpoint_truncated": lambda _: checkpoint(lambda data: data[:-5]),
    "checkpoint_version": lambda _: checkpoint(with_version),
    "environment_action": lambda _: stepped(99),
    "environment_needs_reset": lambda _: network_environment().step_groups(np.array([[0]])),
    "flow_pair": lambda _: RING.pair(99),
    "format_io": lambda folder: te.read_network(folder / "nothing"),
    "format_matrix_size": sized,
    "format_one_matrix": lambda folder: te.write_matrices(folder / "m", RING, np.array([EVEN, EVEN]), format="sndlib"),
    "network_too_large": lambda _: te.Network(10**9, [], [], []),
    "sim_scenario": lambda _: Environments.fleet(scenario="requests: 1", **FLEET),
    "sim_series": lambda _: network_environment(stop=0),
    "sim_syntax": lambda _: Environments.fleet(scenario="requests: [", **FLEET),
    "te_checkpoint": lambda _: te.evaluate(RING, EVEN, count=1, trained={"fleet": policy.Checkpoint.shipped()}),
    "te_no_load": lambda _: te.scale(RING, 0 * EVEN, 0.5),
    "te_parameter": lambda _: te.ring(1, seed=1),
    "te_too_few": lambda _: te.evaluate(RING, EVEN, count=1, history=1),
}


@pytest.mark.parametrize("code", PROVOKED)
def test_a_code_arrives_as_its_class(code, tmp_path: pathlib.Path):
    with pytest.raises(traflux.TrafluxError) as caught:
        PROVOKED[code](tmp_path)
    assert (caught.value.code, type(caught.value).__name__) == (code, CODES[code]["class"])
    assert not caught.value.is_transient and str(caught.value)


def test_every_code_that_is_left_to_python_is_provoked_here():
    assert set(PROVOKED) == {code for code, listed in CODES.items() if listed.get("python")}


def test_every_class_is_one_of_the_package():
    for code, listed in CODES.items():
        assert issubclass(getattr(traflux, listed["class"]), traflux.TrafluxError), code
