"""The lines that the README shows, run from an empty folder."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(os.environ.get("TRAFLUX_README", pathlib.Path(__file__).parents[3] / "README.md"))


def blocks():
    text = README.read_text()
    section = text[text.index("## Python") :]
    end = section.find("\n## ", 1)
    return re.findall(r"```python\n(.*?)```", section[: end if end > 0 else None], re.DOTALL)


def test_the_readme_has_lines_for_first_use():
    assert blocks()
    for block in blocks():
        assert len([line for line in block.splitlines() if line.strip()]) <= 5


@pytest.mark.parametrize("block", blocks())
def test_the_lines_of_the_readme_print_a_result(block, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
