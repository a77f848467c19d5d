"""Data that measurements run on: random rows of any size, digits, and houses."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from telescoping_sklearn import TabularPreparation, load_lucas_county


class Data(NamedTuple):
    """Training rows with their labels, query rows, and what they are."""

    X: np.ndarray
    y: np.ndarray
    query: np.ndarray
    name: str


def random_rows(n_train, n_query, n_features):
    """Normal rows; labels of unit scale that a net can learn, with noise."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n_train + n_query, n_features))
    y = np.sin(2 * rows[:n_train, 0]) + rows[:n_train, 1] * rows[:n_train, 2] + 0.3 * rng.normal(size=n_train)
    return Data(rows[:n_train], y, rows[n_train:], f"random rows, {n_features} features")


def threes_and_fives(n_train, n_query):
    """Images of 3 and 5 as 8 x 8 pixels with labels 0 and 1: MNIST's where its file is, else scikit-learn's digits."""
    folder = os.environ.get("TELESCOPING_DATA")
    file = Path(folder or ".") / "mnist_3v5.npz"
    return _mnist(file, n_train, n_query) if folder and file.exists() else _digits(n_train, n_query)


def _mnist(file, n_train, n_query):
    with np.load(file) as stored:
        X, query = (_averaged(stored[part][:count]) for part, count in (("X_train", n_train), ("X_test", n_query)))
        y = (stored["y_train"][:n_train] == 5).astype(float)
    return Data(X, y, query, "MNIST 3-v-5, 8 x 8")


def _averaged(images):
    """Grey images of 28 x 28, in [0, 1], as 64 means of 4 x 4 pixels of the image with a margin of 2."""
    padded = np.pad(images / 255.0, ((0, 0), (2, 2), (2, 2)))
    return padded.reshape(len(images), 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(images), 64)


def _digits(n_train, n_query):
    images, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, (3, 5))
    X, y = images[chosen] / 16.0, (labels[chosen] == 5).astype(float)
    n_query = min(n_query, len(y) // 3)
    X, query, y, _ = train_test_split(X, y, test_size=n_query, random_state=0)
    return Data(X[:n_train], y[:n_train], query, "digits 3-v-5 (no MNIST at hand)")


def houses(n_train, n_query):
    """Houses of Lucas County, prepared, with the logarithm of their price standardised."""
    X, y = load_lucas_county(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))[: n_train + n_query]
    train, query = X.iloc[rows[:n_train]], X.iloc[rows[n_train:]]
    preparation = TabularPreparation().fit(train)
    prices = y.to_numpy()[rows[:n_train]]
    standard = (prices - prices.mean()) / prices.std()
    return Data(preparation.transform(train), standard, preparation.transform(query), "houses of Lucas County")
