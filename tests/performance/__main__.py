"""Run the suite: ``python -m tests.performance``, from the repository's root."""

import argparse
from pathlib import Path

from tests.performance import fitted, layers, neural, response, scaling, sections, trees
from tests.performance._measure import ROOT, readable_seconds, timed
from tests.performance._results import section, table, write

ON_THE_PAGE = (
    neural.BENCHMARKS
    | layers.BENCHMARKS
    | scaling.BENCHMARKS
    | sections.BENCHMARKS
    | trees.BENCHMARKS
    | fitted.BENCHMARKS
)
#: Studies of half an hour and more run only where they are named.
BENCHMARKS = ON_THE_PAGE | response.BENCHMARKS


def parser():
    """The command line."""
    told = argparse.ArgumentParser(prog="python -m tests.performance", description="Measure, and write the page.")
    told.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    told.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    told.add_argument("--output", type=Path, help="folder; default docs, and performance_results unless all is run")
    return told


def measure(names, quick):
    """Run benchmarks, telling what they find as they go."""
    for name in names:
        found = []
        seconds = timed(lambda name=name, found=found: found.append(BENCHMARKS[name](quick)))
        print(f"-- {name}: {readable_seconds(seconds)}", table(found), section(found[0]), sep="\n\n", flush=True)
        yield found[0]


def main():
    """Measure what is asked and write it down."""
    asked = parser().parse_args()
    whole = not (asked.quick or asked.only)
    folder = asked.output or ROOT / ("docs" if whole else "performance_results")
    results = list(measure(asked.only or ON_THE_PAGE, asked.quick))
    print(f"Wrote {write(results, 'make performance', folder)}")


if __name__ == "__main__":
    main()
