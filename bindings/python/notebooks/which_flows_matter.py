"""Which flows matter on this network?

    python bindings/python/notebooks/which_flows_matter.py [network file] [matrices file] [format of matrices]

Without files a generated backbone with a day of traffic is played.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from page import bars, lines, table, write

from traflux import lp, te

OUT = Path(__file__).parents[3] / "docs" / "answers" / "which-flows-matter.html"


def main() -> None:
    """Ask at every 6th matrix of a day, and write the page."""
    if len(sys.argv) > 2:
        network = te.read_network(sys.argv[1]).network
        matrices = te.read_matrices(sys.argv[2], network, format=sys.argv[3] if len(sys.argv) > 3 else None)[
            :288
        ]
    else:
        network = te.backbone(nodes=12, seed=4)
        mean = te.traffic(network, "lognormal", mean=1e9, sigma=1.2, seed=5)
        matrices = te.diurnal(mean, 288, seed=6)
    matrices = np.ascontiguousarray(matrices[::6])
    count = network.share_of_pairs(0.1)

    # How many pairs does it take? The curve of one matrix, the busiest.
    busiest = max(matrices, key=lambda matrix: network.max_utilization(network.ecmp_loads(matrix)))
    order = te.select(network, busiest, count=3 * count, selector="quick")
    solver = lp.NetworkSolver(network)
    curve = [
        (float(k), solver.solve(busiest, pairs=order[:k]).max_utilization) for k in range(len(order) + 1)
    ]
    optimum = solver.solve(busiest).max_utilization

    # Who is chosen over the day?
    times: Counter[int] = Counter()
    for matrix in matrices:
        times.update(te.select(network, matrix, count=count).tolist())
    evaluation = te.evaluate(
        network, matrices, count=count, selectors=["ecmp", "top-k", "top-k-critical", "quick"]
    )
    names = network.nodes

    def name(pair: int) -> str:
        source, target = network.pair(pair)
        return f"{names[source]} to {names[target]}"

    most = {name(pair): 100.0 * seen / len(matrices) for pair, seen in times.most_common(15)}
    always = sum(seen >= 0.8 * len(matrices) for seen in times.values())
    largest = set(te.select(network, busiest, count=count, selector="top-k").tolist())
    chosen = set(te.select(network, busiest, count=count).tolist())
    rows = []
    for arm in evaluation.names:
        told = evaluation.arm(arm)
        mean = evaluation.summary(arm)
        rows.append(
            [arm]
            + ([f"{mean[0]:.4f}", f"{mean[1]:.4f} to {mean[2]:.4f}"] if mean else ["", ""])
            + [f"{100 * told['rerouted_share'].mean():.1f} %", f"{np.median(told['selection_us']):.0f} µs"]
        )
    ecmp, best = curve[0][1], evaluation.summary("quick")
    answer = (
        f"{count} of {network.pair_count} pairs bring the fullest link to {100 * best[0] if best else 0:.1f} % of what rerouting everything could, "
        f"on average over the day; {always} of them are chosen at most hours. Only {len(largest & chosen)} of the {count} largest demands are among them."
    )
    write(
        OUT,
        "Which flows matter on this network?",
        answer,
        [
            f"<p>{network.node_count} nodes, {network.link_count} links, {len(matrices)} matrices of a day.</p>",
            "<h2>How many have to move, in the busiest hour?</h2>",
            lines(
                {"chosen by link prices": curve},
                x="pairs that may leave their shortest paths",
                y="maximum link utilisation",
                level=("everything may move", optimum),
            ),
            f"<p>Shortest paths alone reach {ecmp:.3f}; the optimum over all paths of all pairs is {optimum:.3f}.</p>",
            "<h2>Who is chosen, and how often?</h2>",
            bars(most, unit="% of matrices"),
            f"<h2>How do ways to choose {count} pairs compare?</h2>",
            table(["selector", "performance ratio", "95 %", "traffic that moves", "time to choose"], rows),
        ],
        "which_flows_matter.py",
    )


if __name__ == "__main__":
    main()
