"""Plain column generation with HiGHS for the maximum link utilisation, to a gap of 1e-4.

    python large_network.py PROBLEM (pair | source)

PROBLEM is JSON: nodes, links [[tail, head, capacity], ...], demands [[source, target, demand], ...]. Columns are
paths of a pair, or trees of a source, which carry all of its demands. The master keeps its basis from round to
round, prices are its duals, SciPy finds shortest paths. A line a round, the last one is the end; who calls stops it.
"""

import json
import sys

import highspy
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

GAP = 1e-4


class Problem:
    def __init__(self, data):
        self.nodes = data["nodes"]
        self.tail, self.head = (np.array([link[end] for link in data["links"]]) for end in (0, 1))
        capacity = np.array([link[2] for link in data["links"]])
        self.unit = capacity.max()
        self.capacity = capacity / self.unit
        self.demand = np.zeros((self.nodes, self.nodes))
        for source, target, demand in data["demands"]:
            self.demand[source, target] += demand / self.unit
        self.sources = np.flatnonzero(self.demand.sum(axis=1))
        self.link = np.full((self.nodes, self.nodes), -1)
        # The graph would sum the lengths of parallel links.
        assert len(set(zip(self.tail, self.head))) == len(capacity), "parallel links"
        self.link[self.tail, self.head] = np.arange(len(capacity))

    def shortest(self, lengths):
        """Distances and predecessors from all sources; no length is zero."""
        graph = csr_array((lengths, (self.tail, self.head)), shape=(self.nodes, self.nodes))
        return dijkstra(graph, indices=self.sources, return_predecessors=True)

    def path(self, predecessors, source, target):
        links, at = [], target
        while at != source:
            links.append(self.link[predecessors[at], at])
            at = predecessors[at]
        return links


def columns_of(problem, by_source, distances, predecessors, price):
    """New columns: class and load of each link."""
    found = []
    for place, source in enumerate(problem.sources):
        targets = np.flatnonzero(problem.demand[source])
        demands = problem.demand[source, targets]
        if by_source:
            cost = float(demands @ distances[place, targets])
            if price is None or cost < price[place] - 1e-9:
                load = {}
                for target, demand in zip(targets, demands):
                    for link in problem.path(predecessors[place], source, target):
                        load[link] = load.get(link, 0.0) + demand
                found.append((place, load))
            continue
        classes = problem.first[place] + np.arange(len(targets))
        cost = demands * distances[place, targets]
        wanted = np.ones(len(targets), dtype=bool) if price is None else cost < price[classes] - 1e-9 * demands
        for at in np.flatnonzero(wanted):
            path = problem.path(predecessors[place], source, targets[at])
            found.append((classes[at], dict.fromkeys(path, demands[at])))
    return found


def main():
    with open(sys.argv[1]) as file:
        problem = Problem(json.load(file))
    by_source = sys.argv[2] == "source"
    counts = [len(np.flatnonzero(problem.demand[source])) for source in problem.sources]
    problem.first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    classes = len(problem.sources) if by_source else sum(counts)
    links = len(problem.capacity)

    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    infinity = highspy.kHighsInf
    nothing = np.array([], dtype=np.int32), np.array([])
    highs.addRows(
        links + classes,
        np.concatenate([np.full(links, -infinity), np.ones(classes)]),
        np.concatenate([np.zeros(links), np.ones(classes)]),
        0, np.zeros(links + classes, dtype=np.int32), *nothing,
    )
    highs.addCol(1.0, 0.0, infinity, links, np.arange(links, dtype=np.int32), -problem.capacity)

    weights, price, bound, best, known, rounds = np.full(links, 1.0 / links), None, 0.0, np.inf, 0, 0
    while True:
        rounds += 1
        lengths = (weights + 1e-9) / problem.capacity
        lengths /= lengths @ problem.capacity
        distances, predecessors = problem.shortest(lengths)
        reached = np.where(np.isfinite(distances), distances, 0.0)
        bound = max(bound, float((problem.demand[problem.sources] * reached).sum()))
        new = columns_of(problem, by_source, distances, predecessors, price)
        gap = (best - bound) / best if np.isfinite(best) else 1.0
        print(f"round {rounds}: utilisation {best:.8f}, bound {bound:.8f}, gap {gap:.1e}", flush=True)
        if gap <= GAP or not new:
            return
        starts, rows, values = [], [], []
        for column, load in new:
            starts.append(len(rows))
            rows.extend(load)
            values.extend(load.values())
            rows.append(links + column)
            values.append(1.0)
        count = len(new)
        highs.addCols(
            count, np.zeros(count), np.zeros(count), np.full(count, infinity), len(rows),
            np.array(starts, dtype=np.int32), np.array(rows, dtype=np.int32), np.array(values),
        )
        known += count
        highs.run()
        best = highs.getInfo().objective_function_value
        duals = np.array(highs.getSolution().row_dual)
        weights = np.maximum(-duals[:links], 0.0) * problem.capacity
        weights /= weights.sum()
        price = duals[links:]


main()
