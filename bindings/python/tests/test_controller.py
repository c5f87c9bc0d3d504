"""The loop with stages in Python: what a stage that misbehaves does, which is nothing."""

from __future__ import annotations

import asyncio
import gc
import math
import pathlib
import resource
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import traflux
from traflux import Controller, policy

CONFIG = """
sources: [{ name: eu }]
services:
  - name: api
    endpoints:
      - { name: near, address: "10.0.0.1:80", capacity_rps: 100, service_time_ms: 20 }
      - { name: far, address: "10.0.0.2:80", capacity_rps: 100, service_time_ms: 20 }
state_file: null
"""

STEP = 5.0
BEGIN = 1_000.0


class Fleet:
    """Two endpoints, of which the near one is slow: the loop should move traffic away."""

    def __init__(self):
        self.shares = {"near": 0.5, "far": 0.5}
        self.calls = 0

    def collect(self, topology, at, window_s):
        self.calls += 1
        latency = {"near": 400.0, "far": 20.0}
        routes = {
            f"eu/{name}": {"throughput_rps": 80.0 * share, "latency_mean_ms": latency[name], "error_ratio": 0.0}
            for name, share in self.shares.items()
        }
        resources = {
            name: {"throughput_rps": 80.0 * share, "latency_mean_ms": latency[name], "error_ratio": 0.0}
            for name, share in self.shares.items()
        }
        return {"routes": routes, "resources": resources}

    def apply(self, plan):
        row = plan["weights"]["api"]["eu"]
        self.shares = {name: weight / sum(row.values()) for name, weight in row.items()}


def ticks(controller, count, begin=BEGIN):
    return [controller.tick(now=begin + STEP * ix) for ix in range(count)]


def test_the_loop_moves_traffic_with_stages_in_python():
    fleet = Fleet()
    controller = Controller(CONFIG, source=fleet, actuator=fleet)
    decisions = ticks(controller, 60)
    assert all(not d.failures for d in decisions), decisions[0].failures
    assert fleet.calls == 60 and any(d.pushed for d in decisions)
    assert decisions[-1].shares["eu/api"]["far"] > 0.6, decisions[-1].shares
    assert sum(decisions[-1].weights["eu/api"].values()) >= 100
    assert fleet.shares["far"] == pytest.approx(decisions[-1].shares["eu/api"]["far"], abs=1e-3)
    assert decisions[-1].to_dict()["rung"] == "normal"
    assert [flow["name"] for flow in controller.topology["flows"]] == ["eu/api"]


class Raises(Fleet):
    def collect(self, topology, at, window_s):
        raise RuntimeError("no network")


class Exits(Fleet):
    def collect(self, topology, at, window_s):
        raise SystemExit("out of here")


class Hangs(Fleet):
    def __init__(self):
        super().__init__()
        self.release = threading.Event()

    def collect(self, topology, at, window_s):
        self.release.wait(30)
        return {}


def saying(answer):
    class Says(Fleet):
        def collect(self, topology, at, window_s):
            return answer

    return Says


BROKEN = {
    "raises": (Raises, "observe_bad_answer", "no network"),
    "exits": (Exits, "observe_bad_answer", "out of here"),
    "hangs": (Hangs, "observe_timeout", "within 200 ms"),
    "a text": (saying("all well"), "observe_bad_answer", "telemetry"),
    "nothing": (saying(None), "observe_bad_answer", "telemetry"),
    "an unknown route": (saying({"routes": {"mars": {}}}), "observe_bad_answer", "no route `mars`"),
    "no number": (saying({"routes": {"eu/near": {"throughput_rps": math.nan}}}), "observe_bad_answer", ""),
    "a negative rate": (saying({"routes": {"eu/near": {"throughput_rps": -1}}}), "observe_bad_answer", "-1"),
    "a share of two": (saying({"routes": {"eu/near": {"error_ratio": 2}}}), "observe_bad_answer", "error_ratio"),
    "an object": (saying(object()), "observe_bad_answer", "object cannot be written"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_source_that_fails_holds_the_split_and_says_so(broken):
    make, code, words = BROKEN[broken]
    fleet = make()
    controller = Controller(CONFIG, source=fleet, actuator=fleet, deadline=0.2)
    began = time.perf_counter()
    decisions = ticks(controller, 3)
    assert time.perf_counter() - began < 5
    assert [decision.rung for decision in decisions[1:]] == ["hold", "hold"]
    for decision in decisions:
        assert [(stage, found) for stage, found, _ in decision.failures] == [("observe", code)]
        assert words in decision.failures[0][2]
        assert decision.shares["eu/api"] == {"near": 0.5, "far": 0.5}
    if isinstance(fleet, Hangs):
        fleet.release.set()


def test_a_source_that_comes_back_is_used_again():
    class Sometimes(Fleet):
        def collect(self, topology, at, window_s):
            if self.calls < 3:
                self.calls += 1
                time.sleep(0.4)
            return super().collect(topology, at, window_s)

    fleet = Sometimes()
    controller = Controller(CONFIG, source=fleet, actuator=fleet, deadline=0.1)
    assert controller.tick(now=BEGIN).failures[0][1] == "observe_timeout"
    end = time.monotonic() + 10
    at = BEGIN
    while time.monotonic() < end:
        at += STEP
        if not controller.tick(now=at).failures:
            return
        time.sleep(0.05)
    pytest.fail("it never came back")


class Policy:
    def __init__(self, answer):
        self.answer = answer
        self.seen = []

    def act(self, observation):
        self.seen.append(observation)
        return self.answer() if callable(self.answer) else self.answer


def slow():
    time.sleep(1.0)
    return [0]


def fail():
    raise ValueError("not today")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (fail, "ValueError: not today"),
        (slow, "within 100 ms"),
        ([7], "no group 7"),
        ([-1], "index or a name"),
        ([True], "index or a name"),
        (["mars"], "no group `mars`"),
        (None, "not an action"),
        (3.0, "not an action"),
        ({"critical": [0], "headroom": math.nan}, "Out of range"),
        ({"critical": [0], "weights": [1]}, "unknown field `weights`"),
        ({"critical": [0], "cost_multipliers": {"near": math.inf}}, "Out of range"),
    ],
)
def test_a_policy_that_fails_chooses_nothing_and_says_so(answer, words):
    fleet = Fleet()
    steady = {
        "routes": {
            f"eu/{name}": {"throughput_rps": 20.0, "latency_mean_ms": 20.0, "error_ratio": 0.0} for name in fleet.shares
        },
        "resources": {
            name: {"throughput_rps": 20.0, "latency_mean_ms": 20.0, "error_ratio": 0.0} for name in fleet.shares
        },
    }
    controller = Controller(CONFIG, source=saying(steady)(), policy=Policy(answer), deadline=0.1)
    for decision in ticks(controller, 3):
        stage, code, message = decision.failures[0]
        assert (stage, code) == ("act", "policy_failed")
        assert words in message or "still busy" in message
        assert not decision.acted and decision.to_dict()["action"]["chosen"] == []
        assert decision.shares["eu/api"] == {"near": 0.5, "far": 0.5}


def test_a_policy_sees_arrays_and_chooses_by_index_or_name():
    for answer in ([1], ["far"], np.array([1]), {"critical": ["far"], "headroom": 0.2}):
        policy, fleet = Policy(answer), Fleet()
        controller = Controller(CONFIG, source=fleet, actuator=fleet, policy=policy)
        decision = controller.tick(now=BEGIN)
        assert not decision.failures and decision.acted
        assert decision.to_dict()["action"]["chosen"] == ["far"]
        seen = policy.seen[0]
        assert seen.groups.dtype == np.float32 and seen.groups.shape == (2, len(seen.group_features))
        assert seen.context.shape == (len(seen.context_features),)
        assert seen.mask.dtype == np.bool_ and seen.group_names == ["near", "far"]


class Everything:
    """Policy, reward and recorder of one learner."""

    def __init__(self, reward=lambda: 1.5):
        self.answer, self.rewards, self.transitions = reward, 0, []

    def act(self, observation):
        return {"critical": [0, 1], "log_probability": -0.5, "value": 2.0}

    def reward(self, before, after):
        self.rewards += 1
        assert before["routes"]["eu/near"]["throughput_rps"] > 0
        return self.answer()

    def record(self, transition):
        self.transitions.append(transition)


def learner(reward):
    fleet, learner = Fleet(), Everything(reward)
    controller = Controller(
        CONFIG, source=fleet, actuator=fleet, policy=learner, reward=learner, recorder=learner, deadline=0.2
    )
    return controller, learner, ticks(controller, 120)


def test_a_reward_in_python_is_paid_and_recorded():
    controller, learned, decisions = learner(lambda: {"speed": 1.0, "price": 0.5})
    assert all(not d.failures for d in decisions)
    assert learned.rewards >= 1 and len(learned.transitions) == learned.rewards
    transition = learned.transitions[0]
    assert transition.reward == 1.5 and dict(transition.reward_terms) == {"speed": 1.0, "price": 0.5}
    assert transition.critical == [0, 1] and transition.log_probability == -0.5 and transition.value == 2.0
    assert transition.next_observation.groups.shape == transition.observation.groups.shape
    assert dict(controller.learning())["recorded"] == learned.rewards


def test_a_reward_without_a_recorder_is_paid_all_the_same():
    fleet, learned = Fleet(), Everything()
    controller = Controller(CONFIG, source=fleet, actuator=fleet, policy=learned, reward=learned)
    decisions = ticks(controller, 60)
    assert learned.rewards >= 1 and learned.transitions == []
    assert decisions[-1].to_dict()["reward"]["total"] == 1.5


@pytest.mark.parametrize(
    "answer",
    [fail, lambda: math.nan, lambda: "much", lambda: {"speed": math.inf}, lambda: None, lambda: time.sleep(0.5)],
    ids=["raises", "nan", "text", "infinite", "nothing", "hangs"],
)
def test_a_reward_that_fails_teaches_nothing_and_says_so(answer):
    _, learned, decisions = learner(answer)
    said = [failure for d in decisions for failure in d.failures]
    assert said and all((stage, code) == ("reward", "stage_failed") for stage, code, _ in said)
    assert learned.rewards >= 1 and learned.transitions == []
    assert decisions[-1].rung == "normal"


def test_an_actuator_that_fails_is_asked_again():
    class Stubborn(Fleet):
        applied = 0

        def apply(self, plan):
            self.applied += 1
            if self.applied < 3:
                raise OSError("no route to host")
            super().apply(plan)

    fleet = Stubborn()
    controller = Controller(CONFIG, source=fleet, actuator=fleet)
    decisions = ticks(controller, 5)
    assert [d.failures[0][:2] for d in decisions[:2]] == [("control", "actuate_unavailable")] * 2
    assert not decisions[0].pushed and decisions[2].pushed and not decisions[2].failures


def test_while_an_actuator_fails_shares_stay_and_then_move_by_one_step():
    class Down(Fleet):
        down = False

        def apply(self, plan):
            if self.down:
                raise OSError("no route to host")
            super().apply(plan)

    fleet = Down()
    controller = Controller(CONFIG, source=fleet, actuator=fleet)
    ticks(controller, 1)
    fleet.down = True
    for decision in ticks(controller, 10, BEGIN + STEP):
        assert [failure[:2] for failure in decision.failures] == [("control", "actuate_unavailable")]
        assert decision.shares["eu/api"] == fleet.shares == {"near": 0.5, "far": 0.5}
    # The first of them is when it failed; since then it says what it holds.
    assert decision.to_dict()["held_flows"] == ["eu/api"]
    fleet.down = False
    before = fleet.shares["far"]
    for ix in range(11, 15):
        decision = controller.tick(now=BEGIN + STEP * ix)
        assert decision.pushed and not decision.failures
        # Ticks are 5 s apart, and a share rises by 0.02 a second.
        assert 0.003 < fleet.shares["far"] - before <= 0.1 + 1e-3
        before = fleet.shares["far"]
    assert before > 0.7


#: The longest that a tick may take whose stages have 0.1 s, on a machine that is busy.
SOON = 1.0


def hangs(release):
    def call(*_):
        release.wait(30)

    return call


@pytest.fixture
def release():
    """Ends what hangs when the test has."""
    event = threading.Event()
    yield event
    event.set()


MISBEHAVES = {
    "raises": (lambda _: fail, "not today"),
    "hangs": (hangs, "100 ms"),
    "answers a word": (lambda _: lambda *_: "done", "gives nothing, it gave a str"),
    "answers an object": (lambda _: lambda *_: object(), "gives nothing, it gave a object"),
}


def timed(controller, count, begin=BEGIN):
    """Ticks, each of which keeps the deadlines of its stages."""
    decisions = []
    for ix in range(count):
        began = time.perf_counter()
        decisions.append(controller.tick(now=begin + STEP * ix))
        assert time.perf_counter() - began < SOON
    return decisions


class Calls:
    """A stage of one method."""

    def __init__(self, method, call):
        setattr(self, method, lambda *given: call(*given))


@pytest.mark.parametrize("how", MISBEHAVES)
def test_an_actuator_that_misbehaves_moves_nothing_and_says_so(how, release):
    make, words = MISBEHAVES[how]
    fleet, call = Fleet(), make(release)
    controller = Controller(
        CONFIG, source=fleet, actuator=Calls("apply", lambda *given: call()), deadline=0.1
    )
    for decision in timed(controller, 4):
        said = {(stage, code) for stage, code, _ in decision.failures}
        assert said == {("control", "actuate_unavailable")} and not decision.pushed
        assert all(words in message or "still busy" in message for *_, message in decision.failures)
        assert decision.shares["eu/api"] == {"near": 0.5, "far": 0.5}
    assert fleet.shares == {"near": 0.5, "far": 0.5}


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_an_estimator_that_misbehaves_holds_the_split_and_says_so(how, release):
    make, words = MISBEHAVES[how]
    fleet, call = Fleet(), make(release)
    controller = Controller(
        CONFIG, source=fleet, actuator=fleet, estimator=Calls("estimate", lambda *given: call()), deadline=0.1
    )
    for decision in timed(controller, 3):
        said = {code: message for stage, code, message in decision.failures if stage == "estimate"}
        assert len(said) == len(decision.failures) and "stage_failed" in said
        assert words in said["stage_failed"] or "still busy" in said["stage_failed"]
        assert decision.shares["eu/api"] == {"near": 0.5, "far": 0.5}
    assert fleet.shares == {"near": 0.5, "far": 0.5}


@pytest.mark.parametrize("how", MISBEHAVES)
def test_a_recorder_that_misbehaves_loses_its_steps_and_says_so(how, release):
    make, words = MISBEHAVES[how]
    fleet, learned, call = Fleet(), Everything(), make(release)
    recorder = Calls("record", lambda *given: call())
    controller = Controller(
        CONFIG, source=fleet, actuator=fleet, policy=learned, reward=learned, recorder=recorder, deadline=0.1
    )
    decisions = timed(controller, 60)
    said = [failure for decision in decisions for failure in decision.failures]
    assert said and {(stage, code) for stage, code, _ in said} == {("record", "stage_failed")}
    assert words in said[0][2] and all(words in one[2] or "still busy" in one[2] for one in said)
    # Control does not wait for what is learned.
    assert decisions[-1].rung == "normal" and fleet.shares["far"] > 0.6


def test_an_estimator_changes_what_the_built_in_one_gave():
    class Doubtful:
        def __init__(self, change):
            self.change = change

        def estimate(self, topology, telemetry, estimate):
            return self.change(estimate)

    def worse(estimate):
        for place in estimate["resources"]:
            place["capacity"] *= 0.5
        return estimate

    def endpoint(change):
        fleet = Fleet()
        controller = Controller(CONFIG, source=fleet, actuator=fleet, estimator=Doubtful(change))
        decision = controller.tick(now=BEGIN)
        return decision, decision.to_dict()["endpoints"]

    plain, halved = endpoint(lambda estimate: estimate), endpoint(worse)
    assert halved[1][0]["capacity_rps"] == pytest.approx(0.5 * plain[1][0]["capacity_rps"])
    for nonsense in (lambda e: None, lambda e: {}, lambda e: {**e, "routes": []}):
        decision, endpoints = endpoint(nonsense)
        assert decision.rung == "normal" and endpoints == []
        assert {stage for stage, _, _ in decision.failures} == {"estimate"}
        assert decision.shares["eu/api"] == {"near": 0.5, "far": 0.5}


def test_a_loaded_checkpoint_acts_as_the_configured_one(tmp_path):
    path = tmp_path / "fleet.safetensors"
    policy.Checkpoint.shipped().save(path)

    def played(config, **stages):
        fleet = Fleet()
        decisions = ticks(Controller(config, source=fleet, actuator=fleet, **stages), 40)
        assert all(not d.failures for d in decisions), [d.failures for d in decisions]
        assert {d.to_dict()["mode"] for d in decisions} == {"frozen"}
        return [(d.to_dict()["action"], d.shares) for d in decisions]

    loaded = policy.load(path)
    by_object = played(CONFIG, policy=loaded)
    assert loaded.decisions >= 2 and by_object[-1][1]["eu/api"]["far"] > 0.6
    assert by_object == played(f"{CONFIG}policy: {{ mode: frozen, checkpoint: '{path}' }}")
    assert by_object == played(f"{CONFIG}policy: {{ mode: frozen }}")


def test_a_loaded_checkpoint_does_not_mind_signals_that_it_was_not_trained_on():
    signals = "metrics: { prometheus: { url: 'http://127.0.0.1:9090', signals: [{ name: gpu, query: gpu }] } }"
    fleet, shipped = Fleet(), policy.Policy(policy.Checkpoint.shipped())
    controller = Controller(CONFIG + signals, source=fleet, actuator=fleet, policy=shipped)
    assert not controller.tick(now=BEGIN).failures and shipped.decisions == 1


@pytest.mark.parametrize("given", [[1.0], [1.0, 1.0, 1.0], [1.0, math.inf], "much"])
def test_multipliers_that_are_not_one_for_each_group_are_refused(given):
    chosen = Policy({"critical": [0], "cost_multipliers": given})
    decision = Controller(CONFIG, source=Fleet(), policy=chosen).tick(now=BEGIN)
    assert [(stage, code) for stage, code, _ in decision.failures] == [("act", "policy_failed")]
    plain = Policy({"critical": [0], "cost_multipliers": np.array([1.5, 1.0])})
    decision = Controller(CONFIG, source=Fleet(), policy=plain).tick(now=BEGIN)
    assert not decision.failures and decision.to_dict()["action"]["cost_multipliers"] == [["near", 1.5]]


def test_what_a_recorder_learns_is_saved_by_its_owner():
    learned = Everything()
    config = f"{CONFIG}policy: {{ mode: learning, save_to: learned.safetensors }}"
    with pytest.raises(traflux.PolicyError) as caught:
        Controller(config, source=Fleet(), policy=learned, recorder=learned)
    assert caught.value.code == "run_learner" and "save_to" in str(caught.value)
    # Without a policy of the caller's the shipped one explores, and the recorder gets its steps.
    fleet = Fleet()
    config = f"{CONFIG}policy: {{ mode: learning, seed: 3 }}"
    ticks(Controller(config, source=fleet, actuator=fleet, recorder=learned), 60)
    assert learned.transitions and all(one.log_probability < 0.0 for one in learned.transitions)


def test_asynchronous_stages_run_in_the_callers_loop():
    class Async(Fleet):
        async def collect(self, topology, at, window_s):
            await asyncio.sleep(0)
            self.loop = asyncio.get_running_loop()
            return Fleet.collect(self, topology, at, window_s)

    async def go():
        fleet = Async()
        controller = Controller(CONFIG, source=fleet, actuator=fleet)
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        beating = asyncio.ensure_future(beat())
        decisions = [await controller.tick_async(now=BEGIN + STEP * ix) for ix in range(3)]
        beating.cancel()
        assert fleet.loop is asyncio.get_running_loop() and beats > 3
        return decisions

    decisions = asyncio.run(go())
    assert all(not d.failures for d in decisions), decisions[0].failures
    # Without a loop of the caller it has one of its own.
    assert not Controller(CONFIG, source=Async(), deadline=5).tick(now=BEGIN).failures


def test_an_asynchronous_stage_that_hangs_is_cancelled():
    class Hanging(Fleet):
        cancelled = False

        async def collect(self, topology, at, window_s):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise

    async def go():
        fleet = Hanging()
        controller = Controller(CONFIG, source=fleet, deadline=0.1)
        decision = await controller.tick_async(now=BEGIN)
        await asyncio.sleep(0.2)
        return fleet, decision

    fleet, decision = asyncio.run(go())
    assert decision.failures[0][0] == "observe" and fleet.cancelled


def test_a_tick_lets_other_threads_run():
    class Slow(Fleet):
        def collect(self, topology, at, window_s):
            time.sleep(0.2)
            return super().collect(topology, at, window_s)

    controllers = [Controller(CONFIG, source=Slow(), deadline=2) for _ in range(4)]
    began = time.perf_counter()
    threads = [threading.Thread(target=c.tick, kwargs={"now": BEGIN}) for c in controllers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.perf_counter() - began < 0.6, "four ticks of 0.2 s went one after another"


def test_a_stage_that_hangs_does_not_keep_the_process_from_ending_well():
    program = """
import time, traflux
class Hangs:
    def collect(self, topology, at, window_s):
        while True:
            time.sleep(0.01)
controller = traflux.Controller(%r, source=Hangs(), deadline=0.05)
print(controller.tick(now=1.0).failures[0][1])
""" % CONFIG
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "observe_timeout\n", "")


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="the memory in use is read from /proc")
def test_ticks_leave_nothing_behind():
    def resident_kib():
        gc.collect()
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024

    fleet, everything = Fleet(), Everything()
    everything.record = lambda transition: None
    controller = Controller(
        CONFIG, source=fleet, actuator=fleet, policy=everything, reward=everything, recorder=everything, deadline=5
    )
    ticks(controller, 500)
    before = resident_kib()
    ticks(controller, 2_000, BEGIN + 500 * STEP)
    assert resident_kib() - before < 2_048


@pytest.mark.parametrize(
    ("keywords", "error", "code"),
    [
        ({"config": "sources: ["}, traflux.ConfigError, "config_syntax"),
        ({"config": "sources: []\nservices: []"}, traflux.ConfigError, "config_key"),
        ({"mode": "wild"}, traflux.InputError, "input_mode"),
        ({"deadline": 0}, traflux.InputError, "input_deadline"),
        ({"deadline": math.inf}, traflux.InputError, "input_deadline"),
    ],
)
def test_what_is_wrong_is_said_at_once(keywords, error, code):
    config = keywords.pop("config", CONFIG)
    with pytest.raises(error) as caught:
        Controller(config, source=Fleet(), **keywords)
    assert caught.value.code == code
