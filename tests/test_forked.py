"""Processes started after LightGBM ran, in an interpreter of their own: a child that hangs must not hang the tests."""

import multiprocessing
import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, sys
import numpy as np
from telescoping_sklearn import TelescopingGBTRegressor

def work(model, X, y, seen):
    seen.put((model.predict(X)[0], model.kernel_weights(X[:2]).sum()))
    seen.put(TelescopingGBTRegressor(n_estimators=3, n_jobs=model.n_jobs, random_state=0).fit(X, y).predict(X)[0])

if __name__ == "__main__":
    method, n_jobs = sys.argv[1], int(sys.argv[2])
    X = np.random.default_rng(0).normal(size=(2000, 5))
    y = X[:, 0] + 1e8
    model = TelescopingGBTRegressor(n_estimators=3, n_jobs=n_jobs, random_state=0).fit(X, y)
    context = multiprocessing.get_context(method)
    seen = context.Queue()
    child = context.Process(target=work, args=(model, X, y, seen), daemon=True)
    child.start()
    prediction, weights = seen.get(timeout=100)
    assert prediction == seen.get(timeout=100) == model.predict(X)[0]
    assert abs(weights - 2) < 1e-9
    child.join(100)
    assert child.exitcode == 0
"""


@pytest.mark.parametrize(("method", "n_jobs"), [("fork", 1), ("spawn", 2)])
def test_the_ways_round_that_the_guide_names_work(tmp_path, method, n_jobs):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {method}")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, method, str(n_jobs)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
