"""Print the table of the user guide: how well criteria pick the number of trees, on every real data set available.

The criterion ``loo`` is the leave-one-out shortcut of linear smoothers, an approximation for boosted trees.

Run ``python examples/studies/stopping_trees.py``; sets beside the embedded one are read from the folder that
TELESCOPING_DATA names.
"""

import os

import numpy as np
import pandas as pd
from sklearn.metrics import mean_squared_error
from tqdm.auto import tqdm

from telescoping_sklearn import TelescopingGBTRegressor, load_lucas_county
from telescoping_sklearn.datasets import TABULAR_NAMES, fetch_tabular

SEEDS, N_TREES, N_TEST = range(4), 300, 4000
SETTINGS = {"n_estimators": N_TREES, "learning_rate": 0.1, "num_leaves": 15, "n_jobs": 1}


def load_sets():
    """Name and rows of every set, categories as ordinal codes."""
    names = TABULAR_NAMES if "TELESCOPING_DATA" in os.environ else ()
    loaded = {"lucas county": load_lucas_county(return_X_y=True)}
    loaded |= {name: fetch_tabular(name, return_X_y=True) for name in names}
    for name, (X, y) in loaded.items():
        coded = X.apply(lambda column: column if column.dtype.kind in "iuf" else column.astype("category").cat.codes)
        yield name, coded.to_numpy(dtype=float), np.asarray(y, dtype=float)


def compare(X, y, n, seed):
    """Numbers of trees, and test errors over the least along training, for one draw of training and test rows."""
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[:n], order[n : n + N_TEST]
    trees = TelescopingGBTRegressor(**SETTINGS, random_state=seed).fit(X[train], y[train])
    errors = np.array([mean_squared_error(y[test], prediction) for prediction in trees.staged_predict(X[test])])
    stopped = TelescopingGBTRegressor(
        **SETTINGS, random_state=seed, early_stopping_rounds=20, validation_fraction=0.2
    ).fit(X[train], y[train])
    found = {"best number of trees": errors.argmin() + 1}
    for criterion, stage in trees.stopping_curve().chosen.items():
        found |= {f"{criterion} chose": stage, criterion: errors[stage - 1] / errors.min()}
    found["early stopping"] = mean_squared_error(y[test], stopped.predict(X[test])) / errors.min()
    found["its number, all rows"] = errors[min(stopped.n_stages_, len(errors)) - 1] / errors.min()
    return found


def main():
    """Print means over seeds."""
    lines = []
    for name, X, y in tqdm(list(load_sets()), unit="set"):
        for n in (500, 2000):
            draws = pd.DataFrame([compare(X, y, n, seed) for seed in SEEDS])
            lines.append({"set": name, "n": n, **draws.mean()})
    print(pd.DataFrame(lines).set_index(["set", "n"]).round(3).to_string())


if __name__ == "__main__":
    main()
