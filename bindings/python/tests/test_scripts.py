"""The scripts that people are shown run to their end, and say what the documents say they do."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent.parent
ANSWERS = pathlib.Path(os.environ.get("TRAFLUX_ANSWERS", HERE.parents[1] / "docs" / "answers"))
SCRIPTS = ["which_flows_matter", "what_would_a_price_change_cost", "is_my_limiter_leaking"]


def run(script, *arguments, cwd, timeout=240):
    ended = subprocess.run(
        [sys.executable, script, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def answer_of(page):
    return re.search(r'class="answer">([^<]*)<', page.read_text(encoding="utf-8")).group(1)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_gives_the_answer_that_is_in_the_documents(name, tmp_path):
    # Where it writes is told by where it lies.
    notebooks = tmp_path / "bindings" / "python" / "notebooks"
    shutil.copytree(HERE / "notebooks", notebooks)
    printed = run(notebooks / f"{name}.py", cwd=tmp_path)
    page = name.replace("_", "-") + ".html"
    written = tmp_path / "docs" / "answers" / page
    assert "<svg" in written.read_text(encoding="utf-8") and "nan" not in printed
    assert answer_of(written) == answer_of(ANSWERS / page)


needs = lambda module: pytest.mark.skipif(  # noqa: E731
    importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
)


@needs("ray")
def test_the_example_for_ray_learns_more_than_it_began_with(tmp_path):
    curve = tmp_path / "curve.html"
    printed = run(
        HERE / "examples" / "train_ray.py", "--seconds", "15", "--workers", "1", "--out", curve, cwd=tmp_path
    )
    ratios = [float(found) for found in re.findall(r"ratio ([0-9.]+)", printed)]
    plain = float(re.search(r"largest demands ([0-9.]+)", printed).group(1))
    assert ratios and max(ratios) > plain
    assert "<polyline" in curve.read_text(encoding="utf-8")


@needs("stable_baselines3")
def test_the_example_for_stable_baselines3_runs_to_its_curve(tmp_path):
    curve = tmp_path / "curve.png"
    printed = run(HERE / "examples" / "train_sb3.py", "--steps", "4096", "--out", curve, cwd=tmp_path)
    learned, ecmp = (float(re.search(rf"{name} ([0-9.]+)", printed).group(1)) for name in ("learned", "ecmp"))
    assert learned > ecmp
    assert curve.read_bytes().startswith(b"\x89PNG")
