"""Regressors that fail or are slow, in a module that workers import quickly."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor


class Sometimes(RegressorMixin, BaseEstimator):
    """Fails, or kills its process, with one seed, unless a file exists."""

    def __init__(self, how="raise", seed=1, unless=None, random_state=None):
        self.how, self.seed, self.unless, self.random_state = how, seed, unless, random_state

    def fit(self, X, y):
        if self.random_state == self.seed and not (self.unless and Path(self.unless).exists()):
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("no such luck")
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)


class SlowForest(RandomForestRegressor):
    """Sleeps before it is fitted, for the seconds that the environment variable FIT_SECONDS names."""

    def fit(self, X, y):
        time.sleep(float(os.environ.get("FIT_SECONDS", 0)))
        return super().fit(X, y)
