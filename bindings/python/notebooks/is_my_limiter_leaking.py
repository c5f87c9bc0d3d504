"""Is my limiter leaking?

    python bindings/python/notebooks/is_my_limiter_leaking.py

A limit on tokens per minute is asked for five minutes by a client that would take five times as much. Requests reserve what
they may use at most and settle with what they did use. What was really used in every span of 60 s is compared with the limit:
with honest settling, without any settling, and with a client that says it used nothing.
"""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

from page import lines, table, write

from traflux.gateway import Engine, Forward, Request

OUT = Path(__file__).parents[3] / "docs" / "answers" / "is-my-limiter-leaking.html"
AMOUNT, PERIOD_S, LENGTH_S = 60_000, 60.0, 300.0
PLAN = {
    "routing": {"default": {"backend": "model"}},
    "limits": [{"name": "tpm", "unit": "tokens", "amount": AMOUNT, "by": "tenant"}],
}


def play(report: str) -> tuple[list[tuple[float, float]], int, int, float]:
    """Tokens really used in the last minute, by second; how many were served and refused; tokens used after the first minute."""
    rng = random.Random(7)
    engine = Engine(PLAN, now=0.0, seed=1)
    running: list[tuple[float, int, int, Forward]] = []
    used: deque[tuple[float, int]] = deque()
    curve, served, refused, total, at, second = [], 0, 0, 0, 0.0, 1.0
    while at < LENGTH_S:
        at += rng.expovariate(10.0)
        while second <= at:
            while used and used[0][0] <= second - PERIOD_S:
                used.popleft()
            curve.append((second, float(sum(tokens for _, tokens in used))))
            second += 1.0
        for ended in [entry for entry in running if entry[0] <= at]:
            running.remove(ended)
            when, prompt, answer, forward = ended
            if report == "settled":
                forward.finish("success", input_tokens=prompt, output_tokens=answer, now=when)
            elif report == "not settled":
                forward.finish("success", now=when)
            else:
                forward.finish("success", input_tokens=0, output_tokens=0, now=when)
        prompt = rng.randint(50, 450)
        decision = engine.decide(
            Request(path="/v1/chat", tenant="acme", input_tokens=prompt, output_tokens=500), now=at
        )
        if isinstance(decision, Forward):
            answer = rng.randint(50, 450)
            served += 1
            total += prompt + answer if at > PERIOD_S else 0
            used.append((at, prompt + answer))
            running.append((at + 0.5 + rng.random() * 3.0, prompt, answer, decision))
        else:
            refused += 1
    return curve, served, refused, float(total)


def main() -> None:
    """Play three clients, and write the page."""
    ways = {"settled": "settled", "not settled": "not settled", "says nothing was used": "nothing"}
    curves, rows, peaks = {}, [], {}
    for name, report in ways.items():
        curve, served, refused, total = play(report)
        curves[name] = curve
        peaks[name] = max(value for _, value in curve)
        rate = 60.0 * total / (LENGTH_S - PERIOD_S)
        rows.append(
            [
                name,
                f"{served:,}",
                f"{refused:,}",
                f"{rate:,.0f}",
                f"{100 * rate / AMOUNT:.0f} %",
                f"{peaks[name]:,.0f}",
            ]
        )
    allowed = 2.0 * AMOUNT
    leak = "does not leak" if peaks["settled"] <= allowed else "leaks"
    answer = (
        f"The limiter {leak}: with settled use no minute saw more than {peaks['settled']:,.0f} tokens of a bucket that lets a burst of {AMOUNT:,} and a "
        f"minute's refill pass ({allowed:,.0f}), and {float(rows[0][4].split()[0]):.0f} % of the limit was used from the second minute on. "
        f"Without settling, reservations stay and {rows[1][4]} of the limit reaches anybody; a client whose report is believed blindly takes {rows[2][4]}."
    )
    write(
        OUT,
        "Is my limiter leaking?",
        answer,
        [
            f"<p>{AMOUNT:,} tokens a minute; ten requests a second of 100 to 900 tokens, each reserved with its prompt and 500 tokens of answer.</p>",
            "<h2>Tokens really used in the last minute</h2>",
            lines(curves, x="seconds", y="tokens in the last 60 s", level=("limit", float(AMOUNT))),
            "<p>The first minute may use the full bucket beside its refill; from then on the limit is the rate.</p>",
            table(
                [
                    "reports",
                    "served",
                    "refused",
                    "tokens a minute, from the second",
                    "of the limit",
                    "fullest minute",
                ],
                rows,
            ),
            "<p>What to look for at home: a line above the limit for longer than a period is a leak; one far below it while requests are refused is reservations that nobody settles.</p>",
        ],
        "is_my_limiter_leaking.py",
    )


if __name__ == "__main__":
    main()
