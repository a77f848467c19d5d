"""Boosted trees by definition, in dense loops over trees and leaves: what every reader of a library is compared with.

Every row, and every query, carries its raw score as an affine function of the n labels: a row of S and a number c. A
leaf adds the same affine function to all rows in it. Nothing of the package is used.
"""

from typing import NamedTuple

import numpy as np


class Dense(NamedTuple):
    """S (n_query, n), c (n_query,), the raw scores of queries (n_query,) and of training rows (n,) after all trees."""

    weights: np.ndarray
    offset: np.ndarray
    raw: np.ndarray
    training: np.ndarray


class Squared:
    """Half the squared error: the derivatives of the other losses have the same names."""

    def gradient(self, y, f):
        return f - y

    def label_rate(self, y, f):
        return np.ones_like(f)

    def curvature(self, y, f):
        return np.ones_like(f)

    def hessian(self, y, f):
        return np.ones_like(f)


class NumericLoss:
    """A loss by its gradient, and a library's hessian where it is another than dg/df; the rest is differentiated."""

    def __init__(self, gradient, hessian=None, step=1e-5):
        self.gradient, self._hessian, self._step = gradient, hessian, step

    def label_rate(self, y, f):
        step = self._step
        return -(self.gradient(y + step, f) - self.gradient(y - step, f)) / (2 * step)

    def curvature(self, y, f):
        step = self._step
        return (self.gradient(y, f + step) - self.gradient(y, f - step)) / (2 * step)

    def hessian(self, y, f):
        return self.curvature(y, f) if self._hessian is None else self._hessian(y, f)


def by_hand_quantile(values, weights, level):
    """Weights of values in XGBoost's quantile of them, from sorted lists."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    taken = np.zeros(len(values))
    if weights is not None:
        total = np.float32(0)
        sums = [total := np.float32(total + np.float32(weights[i])) for i in order]
        taken[next((i for i, s in zip(order, sums, strict=True) if s >= np.float32(total * level)), order[-1])] = 1.0
        return taken
    n = len(values)
    place = level * (n + 1) - 1  # counted from 0
    if place <= 0 or place >= n - 1:
        taken[order[0 if place <= 0 else -1]] = 1.0
        return taken
    low = int(place)
    taken[order[low]], taken[order[low + 1]] = 1 - (place - low), place - low
    return taken


def newton_leaf(ridge=0.0, learning_rate=1.0, penalty=0.0, limit=0.0):
    """Value of a leaf as ``a @ residuals + b`` of its rows, thresholds and all, from sums of residuals and hessians."""

    def leaf(residuals, weights, hessians):
        total, whole = (weights * residuals).sum(), (weights * hessians).sum() + ridge
        if whole <= 0 or (penalty > 0 and abs(total) <= penalty):
            return np.zeros(len(residuals)), 0.0
        value = (total - np.sign(total) * penalty) / whole
        if limit and abs(value) > limit:
            return np.zeros(len(residuals)), learning_rate * np.sign(value) * limit
        return learning_rate * weights / whole, -learning_rate * np.sign(total) * penalty / whole

    return leaf


def quantile_leaf(weigh, learning_rate=1.0):
    """Value of a leaf as ``a @ residuals``, a quantile; ``weigh(residuals, weights)`` gives the weights of its rows."""

    def leaf(residuals, weights, hessians):
        return learning_rate * weigh(residuals, weights), 0.0

    return leaf


def dense_telescope(y, leaves, query_leaves, leaf, *, start, row_weights=None, bags=None, loss=None, float_type=float):
    """Grow nothing, follow everything: the label response of given trees, leaf by leaf.

    ``leaves`` (T, n) and ``query_leaves`` (T, m) number the leaves of each tree as one likes. ``leaf`` is a function,
    or one for every tree. ``start`` is (A, b) of the start A y + b for squared error and quantiles; for another
    ``loss`` A is its derivative in the labels and b the start itself. ``bags`` (T, n) multiplies row weights by tree.
    Predictions that decide comparisons are kept in ``float_type``.
    """
    n, m = len(y), query_leaves.shape[1]
    w = np.ones(n) if row_weights is None else row_weights
    label_weights, number = start
    S, c = np.tile(label_weights, (n, 1)).astype(float), np.full(n, float(number))
    S_query, c_query = np.tile(label_weights, (m, 1)).astype(float), np.full(m, float(number))
    level = number if loss is not None else label_weights @ y + number
    raw, raw_query = np.full(n, level, dtype=float_type), np.full(m, level, dtype=float_type)
    derivatives = loss or Squared()
    for t in range(len(leaves)):
        rule = leaf[t] if isinstance(leaf, list) else leaf
        residuals = -derivatives.gradient(y.astype(float_type), raw)
        rates = derivatives.label_rate(y, raw), derivatives.curvature(y, raw), derivatives.hessian(y, raw)
        weights = w if bags is None else w * bags[t]
        added = []
        for number_of_leaf in np.unique(leaves[t]):
            rows = np.flatnonzero(leaves[t] == number_of_leaf)
            q, h, H = (rate[rows] for rate in rates)
            a, b = rule(residuals[rows], weights[rows], H)
            of_labels = -(a * h) @ S[rows]
            of_labels[rows] += a * q
            added.append((number_of_leaf, of_labels, b - (a * h) @ c[rows], a @ residuals[rows] + b))
        for number_of_leaf, of_labels, of_offset, value in added:
            inside, asked = leaves[t] == number_of_leaf, query_leaves[t] == number_of_leaf
            S[inside] += of_labels
            S_query[asked] += of_labels
            c[inside] += of_offset
            c_query[asked] += of_offset
            raw[inside] += float_type(value)
            raw_query[asked] += float_type(value)
    return Dense(S_query, c_query, raw_query, raw)
