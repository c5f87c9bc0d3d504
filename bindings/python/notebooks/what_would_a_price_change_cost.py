"""What would this price change cost?

    python bindings/python/notebooks/what_would_a_price_change_cost.py

A fleet of five endpoints in three clouds serves three regions; the price of the cheapest cloud rises step by step. At each
price the same solver that runs in the controller splits the traffic anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from page import lines, table, write

from traflux import lp

OUT = Path(__file__).parents[3] / "docs" / "answers" / "what-would-a-price-change-cost.html"
REGIONS = ["us", "eu", "asia"]
ENDPOINTS = ["aws us", "aws eu", "gcp eu", "gcp asia", "azure us"]
#: requests/s of each region, and of each endpoint at full use.
DEMAND = np.array([900.0, 700.0, 500.0])
CAPACITY = np.array([900.0, 600.0, 800.0, 700.0, 600.0])
#: Round trips, seconds, (regions, endpoints).
DELAY = np.array([[8, 90, 95, 160, 12], [90, 6, 9, 220, 95], [160, 220, 230, 5, 170]]) * 1e-3
#: Dollars per million requests.
PRICE = np.array([1.8, 1.75, 1.2, 1.2, 1.9])
CHEAP = np.array([False, False, True, True, False])
#: What a dollar is worth: 10 ms of one request cost as much as a dollar per million.
SECONDS_PER_DOLLAR = 1e4


def split(price: np.ndarray) -> lp.EndpointSolution:
    """The split at these prices (dollars per million requests, by endpoint)."""
    return lp.EndpointProblem(
        DEMAND,
        CAPACITY,
        DELAY,
        price_usd=np.tile(price * 1e-6, (len(REGIONS), 1)),
        service_time_s=np.full(5, 0.02),
        servers=CAPACITY * 0.02,
        flows=REGIONS,
        resources=ENDPOINTS,
        seconds_per_dollar=SECONDS_PER_DOLLAR,
    ).solve()


def bill(solution: lp.EndpointSolution, price: np.ndarray) -> float:
    """Dollars an hour."""
    return float(solution.loads_rps @ price) * 3600 / 1e6


def latency(shares: np.ndarray) -> float:
    """Mean round trip over requests, milliseconds."""
    return float((DEMAND[:, None] * shares * DELAY).sum() / DEMAND.sum() * 1e3)


def main() -> None:
    """Raise the price, and write the page."""
    before = split(PRICE)
    rises = np.linspace(0.0, 1.5, 31)
    follow, stay, near, share = [], [], [], []
    for rise in rises:
        price = PRICE * np.where(CHEAP, 1.0 + rise, 1.0)
        solution = split(price)
        at = 100.0 * rise
        follow.append((at, bill(solution, price)))
        stay.append((at, bill(before, price)))
        near.append((at, latency(solution.shares)))
        share.append((at, 100.0 * float(solution.loads_rps[CHEAP].sum() / DEMAND.sum())))
    price = PRICE * np.where(CHEAP, 2.0, 1.0)
    after = split(price)
    rows = [
        [
            region,
            *(f"{100 * a:.0f} → {100 * b:.0f} %" for a, b in zip(old, new, strict=True)),
            f"{1e3 * dual:.0f} ms",
        ]
        for region, old, new, dual in zip(
            REGIONS, before.shares, after.shares, after.demand_duals, strict=True
        )
    ]
    old, staying, moving = bill(before, PRICE), bill(before, price), bill(after, price)
    answer = (
        f"If GCP doubled its price, the bill would rise from ${old:.2f} to ${staying:.2f} an hour with today's split, and to "
        f"${moving:.2f} if traffic follows the price: that saves {100 * (staying - moving) / (staying - old):.0f} % of the rise and makes the mean "
        f"round trip {latency(after.shares) - latency(before.shares):+.1f} ms longer."
    )
    write(
        OUT,
        "What would this price change cost?",
        answer,
        [
            "<h2>The bill</h2>",
            lines(
                {"traffic follows": follow, "today's split": stay},
                x="rise of the price of GCP, %",
                y="dollars an hour",
                zero=False,
            ),
            "<h2>What clients notice</h2>",
            lines({"mean round trip": near}, x="rise of the price of GCP, %", y="ms", zero=False),
            lines({"GCP's share of requests": share}, x="rise of the price of GCP, %", y="% of requests"),
            "<h2>Who moves when it doubles?</h2>",
            table(["region", *ENDPOINTS, "one more request/s costs"], rows),
            "<p>In the solver's words: " + "; ".join(after.explain()) + ".</p>",
            f"<p>Prices of {', '.join(f'${p:.2f}' for p in PRICE)} per million requests; a dollar per million counts as 10 ms.</p>",
        ],
        "what_would_a_price_change_cost.py",
    )


if __name__ == "__main__":
    main()
