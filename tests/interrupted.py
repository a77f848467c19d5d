"""Fit a net and ask it, as a program of its own that is killed at a given save.

``python -m tests.interrupted FOLDER CASE KIND COUNT WHEN`` kills itself at the COUNT-th save of a KIND of work: before
or after the file is in its place.
"""

import os
import signal
import sys

import numpy as np
import torch
from sklearn.datasets import make_friedman1
from sklearn.preprocessing import scale

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.neural import _saved_work

X, y = make_friedman1(90, n_features=5, random_state=0)
X_TRAIN, Y_TRAIN, QUERY = X[:60], scale(y[:60]), X[60:]


def make_module(n_features):
    """A net that is no chain of layers."""
    return torch.nn.Sequential(torch.nn.Linear(n_features, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 1))


CASES = {
    "adamw": {
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "hidden_layer_sizes": (9, 8),
        "warmup_steps": 9,
        "section": 4,
        "learning_rate_init": 0.01,
    },
    "sgd": {"optimizer": "sgd", "learning_rate_init": 0.1, "hidden_layer_sizes": (6,), "section": 3},
    "momentum": {
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": True,
        "learning_rate_init": 0.02,
        "hidden_layer_sizes": (6,),
        "early_stopping": True,
        "n_iter_no_change": 4,
        "tol": 0.1,
        "section": 1,
        "lr_schedule": lambda update: 1 / (1 + 0.01 * update),
    },
    "module": {"module": make_module, "section": 5, "dtype": "float64"},
    "auto": {"hidden_layer_sizes": (8,), "max_iter": 9},
    "outputs": {"hidden_layer_sizes": (6,), "section": 3, "optimizer": "adam"},
    "no record": {"hidden_layer_sizes": (6,), "record": False},
    "small record": {"hidden_layer_sizes": (8,), "section": 4, "record_budget": 13_000},
}


HAVE_CHILDREN = ("momentum", "outputs")


def labels(case):
    """Training labels of a case."""
    return np.column_stack([Y_TRAIN, X_TRAIN[:, 0]]) if case == "outputs" else Y_TRAIN


def make(case, folder):
    """The estimator of a case."""
    settings = {"batch_size": 13, "max_iter": 8, "random_state": 3, "n_iter_no_change": np.inf} | CASES[case]
    return TelescopingMLPRegressor(**settings, checkpoint_dir=folder)


def learnt(net):
    """What a net learnt."""
    return {
        "theta": net.module_.theta.detach().numpy(),
        "losses": np.array(net.loss_curve_),
        "stages": np.array(net.n_stages_),
    }


def of_children(net):
    """What is asked of a child that goes on from the middle of the second epoch, and of a child of it."""
    child = net.spawn(7, random_state=1, max_iter=2)
    asked = learnt(child) | {"offset": child.offset(QUERY), "p": child.staged_effective_params(QUERY, n_probes=2)}
    asked |= {"grandchild": child.spawn(4, random_state=2, max_iter=2).predict(QUERY)}
    return {f"{name} of child": value for name, value in asked.items()}


def answers(case, folder):
    """Fit the net of a case, and ask it everything."""
    net = make(case, folder).fit(X_TRAIN, labels(case))
    if not net.record:
        return learnt(net)
    return {
        **learnt(net),
        **(of_children(net) if case in HAVE_CHILDREN else {}),
        "p": net.staged_effective_params(QUERY, stages=5, n_probes=3),
        "p with training rows": np.stack(net.staged_effective_params(QUERY, [0, 6, 9], n_probes=3, with_train=True)),
        "summary": net.staged_training_summary(stages=[0, 7, 20], n_probes=3).to_numpy(),
        "offset": net.offset(QUERY),
        "influence": net.self_influence_,
        "sound": np.array(net.last_sound_stage_),
    }


def kill_at(kind, count, when):
    """Kill this process at a save."""
    replace, found = os.replace, []

    def replace_or_die(source, target):
        if f"{os.sep}{kind}-" in str(target):
            found.append(target)
        if len(found) == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if len(found) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_or_die


if __name__ == "__main__":
    folder, case, kind, count, when = sys.argv[1:]
    torch.set_num_threads(1)
    _saved_work.SAVE_SECONDS = 0.0
    kill_at(kind, int(count), when)
    answers(case, folder)
