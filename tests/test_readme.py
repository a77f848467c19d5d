"""The README's code runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_readme_has_code():
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS, ids=["tour", "comparison"])
def test_readme_code_runs_and_prints_finite_numbers(block, capsys):
    exec(compile(block, str(README), "exec"), {})
    numbers = re.findall(r"-?\d+\.\d+(?:e[+-]\d+)?", capsys.readouterr().out)
    assert len(numbers) >= 5
    assert np.isfinite([float(number) for number in numbers]).all()
