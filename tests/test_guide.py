"""The code of the guide runs as it stands, and prints what the pages say."""

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["neural_engine.rst", "stopping.rst"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # nets of a page train for a moment
@pytest.mark.parametrize("page", PAGES)
def test_examples_of_the_guide_print_what_they_say(page):
    if page == "stopping.rst":
        pytest.importorskip("sklearn.callback")
    failed, tried = doctest.testfile(str(DOCS / page), module_relative=False)
    assert failed == 0
    assert tried > 10
