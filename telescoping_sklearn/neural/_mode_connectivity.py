"""Nets that share a part of their training: paths between their weights, error barriers, averages, gradient changes.

Weights of two nets can be averaged where the loss has no barrier on the straight line between them. Where gradients no
longer change, the net is linear in its weights: the averaged weights then predict what the averaged predictions are.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import mean_squared_error, zero_one_loss
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import Tensor, nn

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn._telescope import resolve_stages
from telescoping_sklearn.base import draw_seed
from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._isolation import isolated, isolates
from telescoping_sklearn.neural._network import FlatModule, Network
from telescoping_sklearn.neural._path import as_double
from telescoping_sklearn.neural._tangent import tangent
from telescoping_sklearn.neural._trajectory import Trajectory

Loss = str | Callable[[NDArray, NDArray], float]

#: Rows whose gradients are taken at once: the cost of a row grows with them.
_MOST_GRADIENTS = 32


class ErrorBarrier(NamedTuple):
    """The loss along the straight line between two nets.

    Attributes
    ----------
    value : float
        The barrier: the largest of `excess`.
    alphas : ndarray of shape (n_alphas,)
        Shares of the first net, from 0 to 1.
    losses : ndarray of shape (n_alphas,)
        Loss of the net with weights alpha * first + (1 - alpha) * second.
    excess : ndarray of shape (n_alphas,)
        That loss less the same average of the two nets' own losses.
    """

    value: float
    alphas: NDArray
    losses: NDArray
    excess: NDArray


class AveragingLosses(NamedTuple):
    """Losses of averaged weights, of averaged predictions, and of the nets themselves.

    Attributes
    ----------
    average_weights : float
        Loss of the net whose weights are the mean of those of the nets.
    ensemble : float
        Loss of the mean of the nets' predictions.
    members : ndarray of shape (n_nets,)
        Loss of each net.
    prediction_gap : float
        Mean absolute difference between the predictions of the first two.
    """

    average_weights: float
    ensemble: float
    members: NDArray
    prediction_gap: float


def interpolate(a: Any, b: Any, alphas: Any) -> Iterator[Any]:
    """Make the nets on the straight line between two nets.

    Parameters
    ----------
    a, b : TelescopingMLPRegressor or ndarray of shape (n_params,)
        Two fitted nets of the same architecture. One of them may be given as its parameters, such as those that
        `parameters_at` returns.
    alphas : array-like of shape (n_alphas,)
        Shares of `a`, finite. 1 is `a`, 0 is `b`; numbers outside go beyond them.

    Returns
    -------
    generator of TelescopingMLPRegressor
        One net for each share, with weights alpha * a + (1 - alpha) * b. It predicts and has no record.

    Raises
    ------
    ValueError
        If the nets differ in architecture or columns, neither is fitted, or numbers are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn import TelescopingMLPRegressor
    >>> from telescoping_sklearn.neural import interpolate
    >>> X = np.arange(8.0).reshape(4, 2) / 8
    >>> net = TelescopingMLPRegressor((3,), max_iter=5, random_state=0).fit(X, X[:, 0])
    >>> start, middle, end = interpolate(net, net.parameters_at(0), [0, 0.5, 1])
    >>> np.array_equal(end.predict(X), net.predict(X))
    True
    """
    like, (first, second) = _vectors("a and b", [a, b])
    shares = _finite("alphas", alphas, 1)
    return _along(like, first, second, shares)


@isolates
def _along(like: Any, first: Tensor, second: Tensor, shares: NDArray) -> Iterator[Any]:
    for alpha in shares.tolist():
        yield _with_parameters(like, torch.lerp(second, first, alpha))


@isolates
def error_barrier(a: Any, b: Any, X: Any, y: Any, *, n_alphas: int = 30, loss: Loss = "squared_error") -> ErrorBarrier:
    """Measure how much the loss rises on the straight line between the weights of two nets.

    The barrier is the largest value, over evenly spaced alpha in [0, 1], of

        L(f of alpha theta_a + (1 - alpha) theta_b) - [alpha L(f_a) + (1 - alpha) L(f_b)].

    Parameters
    ----------
    a, b : TelescopingMLPRegressor or ndarray of shape (n_params,)
        As in `interpolate`.
    X : array-like of shape (n_query, n_features)
        Rows.
    y : array-like of shape (n_query,) or (n_query, n_outputs)
        Their labels.
    n_alphas : int, default=30
        Number of values of alpha, both ends included; at least 2.
    loss : {"squared_error", "error_rate"} or callable, default="squared_error"
        The mean squared error, or the share of rows classified otherwise: by whether the prediction exceeds 1/2 for
        labels 0 and 1, and by the largest of several outputs for columns of them. A callable takes labels and
        predictions, as ``sklearn.metrics.mean_absolute_error`` does, and returns a loss: lower is better.

    Returns
    -------
    ErrorBarrier
        The barrier, at least 0, and the curve.

    Raises
    ------
    ValueError
        As by `interpolate`; or if labels do not fit the rows, are not finite, or are no classes for "error_rate".

    References
    ----------
    J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin. "Linear Mode Connectivity and the Lottery Ticket Hypothesis".
    ICML 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.preprocessing import scale
    >>> from telescoping_sklearn import TelescopingMLPRegressor
    >>> from telescoping_sklearn.neural import error_barrier
    >>> X, y = make_friedman1(100, random_state=0)
    >>> net = TelescopingMLPRegressor((20,), batch_size=20, max_iter=10, random_state=0).fit(X, scale(y))
    >>> barrier = error_barrier(net.spawn(20, random_state=1), net.spawn(20, random_state=2), X, scale(y))
    >>> barrier.alphas.shape, bool(0 <= barrier.value < 0.01)
    ((30,), True)
    """
    if isinstance(n_alphas, bool) or not isinstance(n_alphas, int | np.integer) or n_alphas < 2:
        raise ValueError(f"n_alphas={n_alphas!r} must be an int of at least 2: both ends are among them.")
    like, (first, second) = _vectors("a and b", [a, b])
    labels, measure = _labels(like, X, y), _loss(loss)
    alphas = np.linspace(0, 1, n_alphas)
    losses = np.array([measure(labels, _predicted(like, torch.lerp(second, first, alpha), X)) for alpha in alphas])
    excess = losses - (alphas * losses[-1] + (1 - alphas) * losses[0])
    return ErrorBarrier(float(excess.max()), alphas, losses, excess)


@isolates
def average_weights(nets: Sequence[Any]) -> Any:
    """Average the weights of nets of the same architecture: a uniform model soup.

    Parameters
    ----------
    nets : sequence of TelescopingMLPRegressor or ndarray of shape (n_params,)
        Nets, at least one of them fitted; others may be given as their parameters.

    Returns
    -------
    TelescopingMLPRegressor
        A net that predicts with the mean of the weights. It has no record.

    Raises
    ------
    ValueError
        As by `interpolate`.

    References
    ----------
    M. Wortsman and others. "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time". ICML 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn import TelescopingMLPRegressor
    >>> from telescoping_sklearn.neural import average_weights
    >>> X = np.arange(8.0).reshape(4, 2) / 8
    >>> net = TelescopingMLPRegressor((3,), max_iter=20, random_state=0).fit(X, X[:, 0])
    >>> average_weights([net.parameters_at(stage) for stage in (18, 19)] + [net]).predict(X).shape
    (4,)
    """
    like, vectors = _vectors("nets", nets)
    return _with_parameters(like, torch.stack(vectors).mean(dim=0))


@isolates
def compare_averages(nets: Sequence[Any], X: Any, y: Any, *, loss: Loss = "squared_error") -> AveragingLosses:
    """Compare the net with the mean of the weights of some nets with the mean of their predictions, an ensemble.

    Where gradients have stopped changing the two agree up to third order in the distance of the weights.

    Parameters
    ----------
    nets : sequence of TelescopingMLPRegressor or ndarray of shape (n_params,)
        As in `average_weights`.
    X, y : array-like
        As in `error_barrier`.
    loss : {"squared_error", "error_rate"} or callable, default="squared_error"
        As in `error_barrier`.

    Returns
    -------
    AveragingLosses
        Losses of the two, of each net, and the mean absolute difference between the two predictions.

    Raises
    ------
    ValueError
        As by `error_barrier`.
    """
    like, vectors = _vectors("nets", nets)
    labels, measure = _labels(like, X, y), _loss(loss)
    predictions = [_predicted(like, theta, X) for theta in vectors]
    ensemble = np.mean(predictions, axis=0)
    averaged = _predicted(like, torch.stack(vectors).mean(dim=0), X)
    return AveragingLosses(
        average_weights=measure(labels, averaged),
        ensemble=measure(labels, ensemble),
        members=np.array([measure(labels, prediction) for prediction in predictions]),
        prediction_gap=float(np.abs(averaged - ensemble).mean()),
    )


def spawned_barriers(
    net: Any, X: Any, y: Any, stages: Any, n_children: int, random_state: Any, max_iter: int | None, **settings: Any
) -> pd.DataFrame:
    """Error barriers of all pairs of children spawned at some stages; see `TelescopingMLPRegressor.error_barriers`."""
    if isinstance(n_children, bool) or not isinstance(n_children, int | np.integer) or n_children < 2:
        raise ValueError(f"n_children={n_children!r} must be an int of at least 2: a barrier lies between two.")
    numbers = resolve_stages(stages, net.n_stages_ - (max_iter is None))
    pairs = list(combinations(range(n_children), 2))
    seeds = np.random.SeedSequence(draw_seed(random_state)).generate_state(n_children).tolist()
    found = {}
    for stage in numbers.tolist():
        children = [net.spawn(stage, random_state=seed, max_iter=max_iter).drop_record() for seed in seeds]
        found[stage] = [error_barrier(children[i], children[j], X, y, **settings).value for i, j in pairs]
    columns = pd.MultiIndex.from_tuples(pairs, names=["first", "second"])
    return pd.DataFrame(list(found.values()), index=pd.Index(found, name="stage"), columns=columns)


def gradient_change(
    network: Network,
    trajectory: Trajectory,
    layers: dict[str, list[slice]],
    rows: Tensor,
    stages: Any,
    n_updates: int | None,
) -> pd.DataFrame:
    """Mean squared change of outputs' gradients by layer; see `TelescopingMLPRegressor.gradient_change`."""
    apart = min(trajectory.batches.per_epoch, trajectory.n_stages) if n_updates is None else n_updates
    if isinstance(apart, bool) or not isinstance(apart, int | np.integer) or not 1 <= apart <= trajectory.n_stages:
        raise ValueError(f"n_updates={n_updates!r} must be None or an int from 1 to {trajectory.n_stages}, the stages.")
    last = trajectory.n_stages - apart
    numbers = np.array([0]) if not last and stages is None else resolve_stages(stages, last)
    o = network.n_outputs
    block = min(_MOST_GRADIENTS, items_per_block(8.0 * 4 * o * network.n_params, len(rows)))
    found = {}
    for stage in numbers.tolist():
        before, after = (trajectory.theta(at).to(rows.device) for at in (stage, stage + apart))
        sums = torch.zeros(network.n_params, dtype=torch.float64, device=rows.device)
        for some in rows.split(block):
            earlier = tangent(network, before, some).gradients()
            sums += (tangent(network, after, some).gradients() - earlier).square_().sum(dim=0)
        sums /= len(rows) * o
        found[stage] = {name: float(torch.cat([sums[part] for part in parts]).mean()) for name, parts in layers.items()}
    return pd.DataFrame.from_dict(found, orient="index", columns=list(layers)).rename_axis(
        index="stage", columns="layer"
    )


def layers_of(module: nn.Module) -> dict[str, list[slice]]:
    """Where the trainable parameters of each part of a module lie in theta, by the part's name."""
    layers: dict[str, list[slice]] = {}
    first = 0
    for name, part in module.named_parameters():
        if part.requires_grad:
            layers.setdefault(name.rpartition(".")[0] or name, []).append(slice(first, first + part.numel()))
            first += part.numel()
    return layers


def _finite(name: str, values: Any, ndim: int) -> NDArray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != ndim or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite numbers in {ndim} dimension, got {values!r}.")
    return numbers


def _vectors(name: str, nets: Sequence[Any]) -> tuple[Any, list[Tensor]]:
    """Return a fitted net, and the parameters of all nets in float64, (p,) each; refuse those that do not fit."""
    nets = list(nets)
    fitted = [net for net in nets if not isinstance(net, np.ndarray)]
    if not fitted:
        raise ValueError(f"{name} must hold a fitted net: parameters alone do not tell the architecture.")
    for net in fitted:
        if not isinstance(getattr(net, "module_", None), FlatModule):
            check_is_fitted(net)
            raise ValueError(f"{name} must be fitted TelescopingMLPRegressors or their parameters, got {net!r}.")
    like = fitted[0]
    for net in fitted[1:]:
        if net.n_features_in_ != like.n_features_in_ or not _same(net.module_.network, like.module_.network):
            raise ValueError(
                f"{name} must have the same architecture: they have {like.n_params_} and {net.n_params_} parameters on "
                f"{like.n_features_in_} and {net.n_features_in_} features, with modules {like.module_.network} and "
                f"{net.module_.network}."
            )
    with isolated():
        theta = like.module_.theta
        vectors = [
            as_double(_finite(name, net, 1), theta.device)
            if isinstance(net, np.ndarray)
            else net.module_.theta.detach().to(theta.device).double()
            for net in nets
        ]
    for vector in vectors:
        if len(vector) != len(theta):
            raise ValueError(f"{name} holds {len(vector)} parameters, and the net has {len(theta)}.")
    return like, vectors


def _same(first: Network, second: Network) -> bool:
    """Whether two networks are the same function of their parameters, as far as their parts tell."""
    if isinstance(first, FunctionalNetwork) and isinstance(second, FunctionalNetwork):
        parts = first.shapes == second.shapes and repr(first.template) == repr(second.template)
        fixed = first._fixed.keys() == second._fixed.keys()
        return parts and fixed and all(torch.equal(part, second._fixed[name]) for name, part in first._fixed.items())
    return first == second


def _with_parameters(like: Any, theta: Tensor) -> Any:
    """Make a net that predicts with other parameters; what training learnt besides does not belong to it."""
    net = copy.copy(like).drop_record()
    for name in ("n_stages_", "n_iter_", "loss_curve_", "loss_", "validation_scores_", "best_validation_score_"):
        net.__dict__.pop(name, None)
    net.module_ = FlatModule(like.module_.network, theta)
    return net


def _predicted(like: Any, theta: Tensor, X: Any) -> NDArray:
    return _with_parameters(like, theta).predict(X)


def _labels(like: Any, X: Any, y: Any) -> NDArray:
    labels = np.asarray(y, dtype=np.float64)
    check_consistent_length(X, labels)
    n_outputs = like.module_.network.n_outputs
    if labels.shape[1:] not in {(), (1,)} if n_outputs == 1 else labels.shape[1:] != (n_outputs,):
        raise ValueError(f"y of shape {labels.shape} does not fit the net, which has {n_outputs} outputs.")
    if not np.isfinite(labels).all():
        raise ValueError("y must be finite.")
    return labels.ravel() if n_outputs == 1 else labels


def _loss(loss: Loss) -> Callable[[NDArray, NDArray], float]:
    named = {"squared_error": mean_squared_error, "error_rate": _error_rate}
    if callable(loss):
        return loss
    if loss not in named:
        raise ValueError(f"loss={loss!r} must be one of {', '.join(map(repr, named))}, or a callable.")
    return named[loss]


def _error_rate(labels: NDArray, predictions: NDArray) -> float:
    """Share of rows classified otherwise than their labels."""
    if not np.isin(labels, (0, 1)).all() or (labels.ndim == 2 and (labels.sum(axis=1) != 1).any()):
        raise ValueError("loss='error_rate' takes labels 0 and 1, and for several outputs one 1 in every row.")
    if labels.ndim == 1:
        return float(zero_one_loss(labels > 0.5, predictions > 0.5))
    return float(zero_one_loss(labels.argmax(axis=1), predictions.argmax(axis=1)))
