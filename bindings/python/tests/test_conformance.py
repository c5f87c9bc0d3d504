"""The cases that Rust, Python and Node share: `tests/conformance` of the repository."""

from __future__ import annotations

import datetime
import json
import math
import os
import pathlib

import numpy as np
import pytest

import traflux
from traflux import gateway, lp, te

FOLDER = pathlib.Path(
    os.environ.get("TRAFLUX_CONFORMANCE", pathlib.Path(__file__).parents[3] / "tests" / "conformance")
)

FILES = [path for path in sorted(FOLDER.glob("*.json")) if path.name != "codes.json"]
#: What is known of every code: the class of its error, and who provokes it.
CODES = json.loads((FOLDER / "codes.json").read_text())
CASES = [case for path in FILES for case in json.loads(path.read_text())["cases"]]


class Read(dict):
    """A mapping that knows which of its keys were read."""

    def __init__(self, *given):
        super().__init__(*given)
        self.left = set(self)

    def __getitem__(self, key):
        self.left.discard(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.left.discard(key)
        return super().get(key, default)

    def rest(self):
        """All that was not read yet, which it then is."""
        rest = {key: super(Read, self).__getitem__(key) for key in self.left}
        self.left.clear()
        return rest


def same(found, expected, tolerance, where):
    """Compares only what `expected` has."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            same(found[key], value, tolerance, f"{where}.{key}")
    elif isinstance(expected, list):
        found = list(found)
        assert len(found) == len(expected), where
        for ix, (one, other) in enumerate(zip(found, expected)):
            same(one, other, tolerance, f"{where}[{ix}]")
    elif isinstance(expected, (int, float)) and not isinstance(expected, bool):
        assert abs(float(found) - expected) <= tolerance * max(1.0, abs(expected)), f"{where}: {found}, {expected}"
    else:
        assert found == expected and type(found) is type(expected), f"{where}: {found!r}, {expected!r}"


def table(rows):
    """Rows of numbers, infinite where there is none."""
    return np.array([[math.inf if value is None else value for value in row] for row in rows], dtype=np.float64)


def endpoints(given, _tolerance):
    demand, capacity = np.array(given["demand_rps"], dtype=float), np.array(given["capacity_rps"], dtype=float)
    delay, solver = table(given["delay_s"]), given.get("solver", "transport")
    deadline = datetime.timedelta(seconds=given.get("deadline_s", 5))
    keywords = dict(given.get("objective") or {})
    rows = {"price_usd", "previous", "lower", "upper"}
    keywords.update({key: table(value) if key in rows else value for key, value in given.rest().items()})
    solved = lp.EndpointProblem(demand, capacity, delay, deadline=deadline, **keywords).solve(solver)
    return {
        "shares": solved.shares,
        "theta": solved.max_utilization,
        "objective": solved.objective,
        "status": solved.status,
        "loads_rps": solved.loads_rps,
        "capacity_duals": solved.capacity_duals,
        "demand_duals": solved.demand_duals,
        "budget_dual": solved.budget_dual,
    }


def min_max_utilization(given, _tolerance):
    links = given["links"]
    tail, head, capacity = ([link[part] for link in links] for part in range(3))
    network = te.Network(given["nodes"], tail, head, np.array(capacity, dtype=float))
    demands, background = table(given["demands_bps"]), given.get("background_bps")
    solved = lp.NetworkSolver(network).solve(
        demands, background=None if background is None else np.array(background, dtype=float)
    )
    return {
        "utilization": solved.max_utilization,
        "lower_bound": solved.lower_bound,
        "loads_bps": solved.loads,
        "link_prices": solved.link_prices,
    }


def read_network(given, _tolerance, folder):
    path = folder / "network"
    content = given.get("bytes")
    path.write_bytes(given["text"].encode() if content is None else bytes(content))
    read = te.read_network(
        path,
        format=given.get("format"),
        unit=given.get("unit"),
        default_capacity=given.get("default_capacity_bps"),
    )
    network = read.network
    columns = (network.tail, network.head, network.capacity, network.weight, network.delay_s)
    return {
        "nodes": network.nodes,
        "links": [list(row) for row in zip(*columns)],
        "demands_bps": read.demands,
    }


def seconds(value):
    return None if value is None else value.total_seconds()


def told(decision, at):
    """What a decision says, by the names of the cases."""
    if isinstance(decision, gateway.Forward):
        keys = ("kind", "backend", "rule", "url", "algorithm", "attempt")
        return {key: getattr(decision, key) for key in keys}
    if isinstance(decision, gateway.Refuse):
        keys = ("kind", "reason", "rule", "status", "limit")
        return {key: getattr(decision, key) for key in keys} | {"retry_after_s": seconds(decision.retry_after)}
    if isinstance(decision, gateway.Later):
        keys = ("kind", "rule", "limit")
        return {key: getattr(decision, key) for key in keys} | {"due_in_s": seconds(decision.after(now=at))}
    return {"kind": decision.kind, "position": decision.position(now=at)}


def decisions(given, tolerance):
    steps = [Read(step) for step in given["steps"]]
    engine = gateway.Engine(
        given["plan"], seed=given.get("seed", 0), settings=given.get("settings"), now=steps[0]["at_s"]
    )
    named, counts = {}, {}
    tickets = {}

    def decided(name, decision, step, at, **more):
        named[name] = decision
        if isinstance(decision, gateway.Forward):
            counts[decision.backend] = counts.get(decision.backend, 0) + 1
        if isinstance(decision, gateway.Wait):
            tickets[decision.ticket] = name
        same(told(decision, at) | more, step.get("expect", {}), tolerance, name)

    for number, step in enumerate(steps):
        at = step["at_s"]
        end = {key: step.get(key) for key in ("input_tokens", "output_tokens", "headers") if key in step}
        end["cached_tokens"] = step.get("cached_tokens", 0)
        if "decide" in step:
            # Nothing but `named` may hold it: what is dropped ends.
            decided(step.get("as", str(number)), engine.decide(gateway.Request(**step["decide"]), now=at), step, at)
        elif "first_byte" in step:
            named[step["first_byte"]].first_byte(now=at)
        elif "drop" in step:
            del named[step["drop"]]
        elif "finish" in step:
            named.pop(step["finish"]).finish(step["outcome"], **end, now=at)
        elif "retry" in step:
            name = step["retry"]
            decided(name, named.pop(name).retry(step["outcome"], **end, now=at), step, at)
        elif "go_on" in step:
            name = step["go_on"]
            decided(name, named.pop(name).go_on(now=at), step, at)
        elif "take_ready" in step:
            assert step["take_ready"] is True
            ready = engine.take_ready()
            if ready is None:
                same({"of": None}, step.get("expect", {}), tolerance, str(number))
            else:
                name = tickets.pop(ready[0])
                decided(name, ready[1], step, at, of=name)
        elif "reload" in step:
            code = step.get("error")
            if code is None:
                engine.reload(step["reload"], now=at)
            else:
                with pytest.raises(traflux.TrafluxError) as caught:
                    engine.reload(step["reload"], now=at)
                assert caught.value.code == code
                step["reload"]
        else:
            assert step["upkeep"] is True
            engine.upkeep(now=at)
        assert not step.left, f"step {number} has {step.left}"
    return {"counts": counts}


def plan_error(given, _tolerance):
    gateway.Engine(given["plan"], settings=given.get("settings"))


def request_error(given, _tolerance):
    gateway.Request(body=given["body"].encode())


class Stage:
    """Source and policy of a case."""

    def __init__(self):
        self.tick = {}

    def collect(self, topology, at, window_s):
        telemetry = self.tick["telemetry"]
        if telemetry is None:
            raise RuntimeError("nothing could be had")
        return telemetry

    def act(self, observation):
        critical = self.tick["critical"]
        if critical is None:
            raise RuntimeError("no idea")
        return critical


def controller_ticks(given, _tolerance):
    stage, ticks = Stage(), [Read(tick) for tick in given["ticks"]]
    policy = stage if any("critical" in tick for tick in ticks) else None
    controller = traflux.Controller(given["config"], source=stage, policy=policy, deadline=5)
    found = []
    for tick in ticks:
        stage.tick = tick
        decision = controller.tick(now=tick["at_s"])
        told = decision.to_dict()
        flows = told["flows"]
        found.append(
            {
                "rung": decision.rung,
                "mode": told["mode"],
                "solver": told["solver"] and told["solver"]["name"],
                "chosen": told["action"] and told["action"]["chosen"],
                "pushed": decision.pushed,
                "shares": {f"{flow['source']}/{name}": share for flow in flows for name, share in flow["shares"]},
                "weights": {flow["source"]: dict(flow["weights"]) for flow in flows},
                "failures": [[stage, code] for stage, code, _ in decision.failures],
            }
        )
        tick.get("critical")
        assert not tick.left, tick.left
    return {"ticks": found}


def config_error(given, _tolerance):
    traflux.Controller(given["config"], source=Stage())


CALLS = {
    "lp.endpoints": endpoints,
    "lp.min_max_utilization": min_max_utilization,
    "te.read_network": read_network,
    "gateway.decisions": decisions,
    "gateway.plan_error": plan_error,
    "gateway.request_error": request_error,
    "controller.ticks": controller_ticks,
    "controller.config_error": config_error,
}


def class_of(code):
    """Name of the class that an error of a code has."""
    return "InputError" if code.startswith("input_") else CODES[code]["class"]


def test_there_are_cases():
    assert len(CASES) >= 10 and len({case["name"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_languages_agree(case, tmp_path):
    given, tolerance = Read(case["input"]), case.get("tolerance", 0)
    call = CALLS[case["call"]]
    more = (tmp_path,) if call is read_network else ()
    assert case.keys() & {"expected", "error"} or "steps" in given
    if "error" in case:
        with pytest.raises(traflux.TrafluxError) as caught:
            call(given, tolerance, *more)
        assert caught.value.code == case["error"]
        assert type(caught.value).__name__ == class_of(case["error"])
        assert caught.value.is_transient == case.get("transient", False)
    else:
        same(call(given, tolerance, *more), case.get("expected", {}), tolerance, "expected")
        assert not given.left, f"nobody read {given.left}"
