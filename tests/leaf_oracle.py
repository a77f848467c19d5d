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


def newton_leaf(ridge=0.0, learning_rate=1.0, penalty=0.0, limit=0.0):
    """Value of a leaf as ``a @ pulls + b`` of its rows, thresholds and all, from sums of pulls and hessians."""

    def leaf(pulls, weights, hessians):
        total, whole = (weights * pulls).sum(), (weights * hessians).sum() + ridge
        if whole <= 0 or abs(total) <= penalty and penalty > 0:
            return np.zeros(len(pulls)), 0.0
        value = (total - np.sign(total) * penalty) / whole
        if limit and abs(value) > limit:
            return np.zeros(len(pulls)), learning_rate * np.sign(value) * limit
        return learning_rate * weights / whole, -learning_rate * np.sign(total) * penalty / whole

    return leaf


def quantile_leaf(weigh, learning_rate=1.0):
    """Value of a leaf as ``a @ pulls``, a quantile; ``weigh(residuals, weights)`` gives the weights of the rows in it."""

    def leaf(pulls, weights, hessians):
        return learning_rate * weigh(pulls, weights), 0.0

    return leaf


def dense_telescope(y, leaves, query_leaves, leaf, *, start, row_weights=None, bags=None, loss=None, float_type=float):
    """Grow nothing, follow everything: the label response of given trees, leaf by leaf.

    ``leaves`` (T, n) and ``query_leaves`` (T, m) number the leaves of each tree as one likes. ``leaf`` is a function, or
    one for every tree. ``start`` is (A, b) of the start A y + b for squared error and quantiles; for another ``loss`` A is
    its derivative in the labels and b the start itself. ``bags`` (T, n) multiplies row weights by tree. Predictions
    that decide comparisons are kept in ``float_type``.
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
        pulls = -derivatives.gradient(y.astype(float_type), raw)
        rates = derivatives.label_rate(y, raw), derivatives.curvature(y, raw), derivatives.hessian(y, raw)
        weights = w if bags is None else w * bags[t]
        added = []
        for number_of_leaf in np.unique(leaves[t]):
            rows = np.flatnonzero(leaves[t] == number_of_leaf)
            q, h, H = (rate[rows] for rate in rates)
            a, b = rule(pulls[rows], weights[rows], H)
            of_labels = -(a * h) @ S[rows]
            of_labels[rows] += a * q
            added.append((number_of_leaf, of_labels, b - (a * h) @ c[rows], a @ pulls[rows] + b))
        for number_of_leaf, of_labels, of_offset, value in added:
            inside, asked = leaves[t] == number_of_leaf, query_leaves[t] == number_of_leaf
            S[inside] += of_labels
            S_query[asked] += of_labels
            c[inside] += of_offset
            c_query[asked] += of_offset
            raw[inside] += float_type(value)
            raw_query[asked] += float_type(value)
    return Dense(S_query, c_query, raw_query, raw)
