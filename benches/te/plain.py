"""What the problems of the bench cost by the means most people would take.

Reads the problems that the bench wrote, then answers one request a line on standard input:

    {"method": "pulp_glpk", "series": 0, "problems": [168, 169, 170], "before": 167}

with the seconds, the seconds of CPU time and the maximum link utilisation of each. Problem `before` is solved first
and not timed: libraries are loaded then, and a method that keeps its model stands where a sequence would have left
it. Models are built from commodities and background loads that are given, so that the base routing costs nothing
here. The parts that do not change from problem to problem are prepared once and not timed. One thread throughout.
"""

import json
import os
import resource
import sys
import tempfile
import time

import highspy
import numpy as np
import pulp
from scipy.optimize import linprog
from scipy.sparse import csc_array


class Network:
    """Nodes, links and what all models share."""

    def __init__(self, data):
        self.nodes = data["nodes"]
        self.tail = np.array([link[0] for link in data["links"]], dtype=np.int32)
        self.head = np.array([link[1] for link in data["links"]], dtype=np.int32)
        self.capacity = np.array([link[2] for link in data["links"]])
        self.links = len(self.capacity)
        # Flows are counted in units of this, utilisation in that of a link of the greatest capacity.
        self.greatest = self.capacity.max()
        self.pattern = {}

    def columns(self, commodities):
        """Structure of a model with this many commodities: one column a commodity and link, the last one is θ.

        Rows: conservation at each node by commodity, then the links. Column starts, rows and coefficients.
        """
        if commodities not in self.pattern:
            flows = commodities * self.links
            first = commodities * self.nodes
            commodity = np.repeat(np.arange(commodities, dtype=np.int32), self.links)
            link = np.tile(np.arange(self.links, dtype=np.int32), commodities)
            rows = np.empty((flows, 3), dtype=np.int32)
            rows[:, 0] = commodity * self.nodes + self.tail[link]
            rows[:, 1] = commodity * self.nodes + self.head[link]
            rows[:, 2] = first + link
            values = np.tile(np.array([1.0, -1.0, 1.0]), flows)
            starts = np.arange(flows + 2, dtype=np.int32) * 3
            starts[-1] = flows * 3 + self.links
            rows = np.concatenate([rows.ravel(), first + np.arange(self.links, dtype=np.int32)])
            values = np.concatenate([values, -self.capacity / self.greatest])
            cost = np.zeros(flows + 1)
            cost[-1] = 1.0
            self.pattern[commodities] = starts, rows, values, cost
        return self.pattern[commodities]


def unit_of(problem):
    return max((demand for _, _, demand in problem["commodities"]), default=1.0)


def balance_by_pair(network, problem, unit):
    """Net outflow of each commodity at each node."""
    balance = np.zeros((len(problem["commodities"]), network.nodes))
    for at, (source, target, demand) in enumerate(problem["commodities"]):
        balance[at, source] = demand / unit
        balance[at, target] = -demand / unit
    return balance


def balance_by_target(network, problem, unit):
    """The same with all that goes to one node as one commodity."""
    balance = np.zeros((network.nodes, network.nodes))
    for source, target, demand in problem["commodities"]:
        balance[target, source] += demand / unit
        balance[target, target] -= demand / unit
    return balance


def quiet_highs():
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    return solver


def pass_model(solver, network, balance, background):
    starts, rows, values, cost = network.columns(len(balance))
    model = highspy.HighsLp()
    model.num_col_ = len(cost)
    model.num_row_ = balance.size + network.links
    model.col_cost_ = cost
    model.col_lower_ = np.zeros(len(cost))
    model.col_upper_ = np.full(len(cost), highspy.kHighsInf)
    model.row_lower_ = np.concatenate([balance.ravel(), np.full(network.links, -highspy.kHighsInf)])
    model.row_upper_ = np.concatenate([balance.ravel(), -background])
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = starts
    model.a_matrix_.index_ = rows
    model.a_matrix_.value_ = values
    solver.passModel(model)


def optimum(solver):
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"HiGHS ended with {solver.getModelStatus()}")
    return solver.getInfo().objective_function_value


def highs_cold(balance_of):
    def solve(network, problem):
        unit = unit_of(problem)
        solver = quiet_highs()
        background = np.array(problem["background"]) / unit
        pass_model(solver, network, balance_of(network, problem, unit), background)
        return optimum(solver) * unit / network.greatest

    return lambda: solve


def highs_kept():
    """One model for all problems; only its right-hand side changes, so that the dual simplex starts warm."""
    solver = None
    unit = 1.0
    rows = None

    def solve(network, problem):
        nonlocal solver, unit, rows
        background = np.array(problem["background"])
        if solver is None:
            unit = unit_of(problem)
            solver = quiet_highs()
            balance = balance_by_target(network, problem, unit)
            pass_model(solver, network, balance, background / unit)
            rows = np.arange(balance.size + network.links, dtype=np.int32)
        else:
            balance = balance_by_target(network, problem, unit).ravel()
            lower = np.concatenate([balance, np.full(network.links, -highspy.kHighsInf)])
            upper = np.concatenate([balance, -background / unit])
            solver.changeRowsBounds(len(rows), rows, lower, upper)
        return optimum(solver) * unit / network.greatest

    return solve


def scipy_by_pair(network, problem):
    unit = unit_of(problem)
    balance = balance_by_pair(network, problem, unit)
    starts, rows, values, cost = network.columns(len(balance))
    matrix = csc_array((values, rows, starts), shape=(balance.size + network.links, len(cost))).tocsr()
    found = linprog(
        cost,
        A_ub=matrix[balance.size :],
        b_ub=-np.array(problem["background"]) / unit,
        A_eq=matrix[: balance.size],
        b_eq=balance.ravel(),
        method="highs",
    )
    if found.status != 0:
        raise RuntimeError(f"linprog: {found.message}")
    return found.fun * unit / network.greatest


def pulp_by_pair(network, problem, options=()):
    """Fractions of each demand on each link, as in the literature on critical flows; GLPK as a program."""
    commodities = problem["commodities"]
    background = problem["background"]
    model = pulp.LpProblem("utilization", pulp.LpMinimize)
    theta = pulp.LpVariable("theta", 0)
    keys = [(at, link) for at in range(len(commodities)) for link in range(network.links)]
    share = pulp.LpVariable.dicts("share", keys, 0, 1)
    model += theta
    for at, (source, target, _) in enumerate(commodities):
        for node in range(network.nodes):
            model += (
                pulp.lpSum(share[at, link] for link in network.out_of[node])
                - pulp.lpSum(share[at, link] for link in network.into[node])
                == int(node == source) - int(node == target)
            )
    for link in range(network.links):
        capacity = network.capacity[link]
        load = pulp.lpSum(
            float(demand / capacity) * share[at, link] for at, (_, _, demand) in enumerate(commodities)
        )
        model += load - theta <= float(-background[link] / capacity)
    model.solve(pulp.GLPK_CMD(path=os.environ["GLPSOL"], msg=False, options=list(options)))
    if model.status != pulp.LpStatusOptimal:
        raise RuntimeError(f"GLPK ended with {pulp.LpStatus[model.status]}")
    return pulp.value(theta)


def glpk_all_digits(network, problem):
    """PuLP reads six digits of what GLPK finds; GLPK can write them all into another file."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "solution")
        pulp_by_pair(network, problem, ["-w", file])
        with open(file, encoding="ascii") as lines:
            # s bas <rows> <columns> <primal status> <dual status> <objective>
            words = next(line for line in lines if line.startswith("s ")).split()
        return float(words[6])


# What makes the function that is timed, and what solves the problem before if not the same.
METHODS = {
    "pulp_glpk": (lambda: pulp_by_pair, glpk_all_digits),
    "highs_by_pair": (highs_cold(balance_by_pair), None),
    "scipy_by_pair": (lambda: scipy_by_pair, None),
    "highs_by_target": (highs_cold(balance_by_target), None),
    "highs_by_target_kept": (highs_kept, None),
}


def cpu_seconds():
    """Of this process and of the programs that it started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def versions():
    from importlib.metadata import version

    return {name: version(name) for name in ("PuLP", "highspy", "scipy", "numpy")}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        series = json.load(file)["series"]
    networks = []
    for one in series:
        network = Network(one["network"])
        network.out_of = [np.flatnonzero(network.tail == node).tolist() for node in range(network.nodes)]
        network.into = [np.flatnonzero(network.head == node).tolist() for node in range(network.nodes)]
        networks.append(network)
    solvers = {}
    print(json.dumps(versions()), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        key = request["method"], request["series"]
        make, check = METHODS[request["method"]]
        solve = solvers.setdefault(key, make())
        network, problems = networks[request["series"]], series[request["series"]]["problems"]
        before = (check or solve)(network, problems[request["before"]])
        seconds, cpu, utilizations = [], [], []
        for at in request["problems"]:
            cpu_before, started = cpu_seconds(), time.perf_counter()
            utilizations.append(float(solve(network, problems[at])))
            seconds.append(time.perf_counter() - started)
            cpu.append(cpu_seconds() - cpu_before)
        answer = {"seconds": seconds, "cpu_seconds": cpu, "utilizations": utilizations, "before": float(before)}
        print(json.dumps(answer), flush=True)


main()
