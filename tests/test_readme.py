"""The README's code runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_readme_has_code():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("block", BLOCKS, ids=["tour", "fitted", "comparison"])
def test_readme_code_runs_and_prints_finite_numbers(block, capsys):
    exec(compile(block, str(README), "exec"), {})
    numbers = re.findall(r"-?\d+\.\d+(?:e[+-]\d+)?", capsys.readouterr().out)
    assert len(numbers) >= 5
    assert np.isfinite([float(number) for number in numbers]).all()


WORDS = [
    README,
    *(ROOT / "docs").rglob("*.*"),
    *(ROOT / "examples").rglob("*.*"),
    *ROOT.glob("telescoping_sklearn/**/*"),
]
WORDS = [
    path for path in WORDS if path.suffix in {".md", ".rst", ".txt", ".html", ".py"} and "_build" not in path.parts
]
#: A ratio of stage means says nothing of single stages, and nothing of the error.
FALSE = re.compile(r"never\s+did\s+in\s+training|what\s+(it|they)\s+never|can\s+I\s+trust", re.IGNORECASE)


def test_nothing_says_more_of_the_kernel_norm_ratio_than_it_holds():
    assert len(WORDS) > 80
    text = {path: re.sub(r"\s*\n\s*(# |\"|f\")?", " ", path.read_text()) for path in WORDS}
    assert [path for path, words in text.items() if FALSE.search(words.replace('" "', ""))] == []
