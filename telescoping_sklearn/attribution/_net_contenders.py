"""Attribution scores for nets trained on half the squared error, written from their papers' formulas.

All take the telescope of a net and give scores on the prediction, (n_query, n_train): how much higher the prediction
at a query row is because a training row was there. The papers state scores on the loss of a query row; these are the
same without the derivative of that loss.

J(x) is the gradient of the prediction in the parameters, r_i = y_i - f(x_i) the residual of training row i, w_i its
weight, n the number of rows trained on.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Damping where none is given, in units of the mean eigenvalue of the matrix that is inverted (Grosse et al. 2023).
RELATIVE_DAMPING = 0.1


def tracin(telescope: Any, X: NDArray | None) -> NDArray:
    """TracIn along the whole run: inner products of gradients, summed over the updates that a row took part in.

    sum_t lr_t w_i / b_t J_{t-1}(x)^T J_{t-1}(x_i) r_i over the updates t whose batch, of b_t rows, holds row i, all at
    the parameters before the update; the optimiser's momentum and denominators are left out, as in the paper.

    Parameters
    ----------
    telescope : TangentTelescope
        Telescope of the net.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.

    References
    ----------
    G. Pruthi, F. Liu, S. Kale, M. Sundararajan. "Estimating Training Data Influence by Tracing Gradient Descent".
    NeurIPS 2020.
    """
    path, scores = _path(telescope), np.zeros((telescope.n_query(X), telescope.n_samples))
    rows = path.rows if X is None else path.rows.new_tensor(X)
    for stage in range(1, telescope.n_stages + 1):
        batch = path.batch(stage)
        members = batch.cpu().numpy()
        residuals = telescope.y[members] - _array(path.outputs(path.rows[batch], stage - 1))
        steps = path.trajectory.learning_rate(stage) * _array(path.batch_weights(stage, batch)) * residuals
        kernel = path.tangent(path.theta(stage - 1), rows).kernel(path.batch_tangent(stage))
        scores[:, members] += _array(kernel) * steps
    return scores


def gauss_newton(telescope: Any, X: NDArray | None, *, damping: float | None = None) -> NDArray:
    """Influence function at the end of training, with the Gauss-Newton matrix in place of the Hessian.

    J(x)^T (sum_j w_j J_j J_j^T / n + damping I)^{-1} J_i w_i r_i / n, solved in the space of the training rows.

    Parameters
    ----------
    telescope : TangentTelescope
        Telescope of the net.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.
    damping : float, default=None
        Damping; None takes 0.1 times the mean eigenvalue of the matrix.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.

    References
    ----------
    P. W. Koh, P. Liang. "Understanding Black-box Predictions via Influence Functions". ICML 2017.
    J. Martens. "New Insights and Perspectives on the Natural Gradient Method". JMLR 21 (2020), 146.
    """
    weights = telescope.row_weights / telescope.n_trained
    of_rows = _gradients(telescope, None) * np.sqrt(weights)[:, None]
    gram = of_rows @ of_rows.T
    if damping is None:
        damping = RELATIVE_DAMPING * float(np.trace(gram)) / of_rows.shape[1]
    gram[np.diag_indices_from(gram)] += _positive(damping)
    kernel = _gradients(telescope, X) @ of_rows.T
    return np.linalg.solve(gram, kernel.T).T * (np.sqrt(weights) * _residuals(telescope))


def ekfac(telescope: Any, X: NDArray | None, *, damping: float | None = None) -> NDArray:
    """Influence function at the end of training, with the eigenvalue-corrected Kronecker factorisation (EK-FAC).

    For each layer with inputs a (with a 1 for the bias) and output derivatives d, the eigenvectors of the means of
    a a^T and d d^T span the basis in which the layer's Gauss-Newton matrix is taken to be diagonal; its entries are the
    mean squares of the rows' gradients in that basis. Damping is added to them.

    Parameters
    ----------
    telescope : TangentTelescope
        Telescope of a multilayer perceptron.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.
    damping : float, default=None
        Damping; None takes 0.1 times the mean eigenvalue of each layer.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.

    References
    ----------
    T. George, C. Laurent, X. Bouthillier, N. Ballas, P. Vincent. "Fast Approximate Natural Gradient Descent in a
    Kronecker-factored Eigenbasis". NeurIPS 2018.
    R. Grosse et al. "Studying Large Language Model Generalization with Influence Functions". arXiv 2308.03296.
    """
    weights = telescope.row_weights / telescope.n_trained
    scores = np.zeros((telescope.n_query(X), telescope.n_samples))
    for of_rows, of_query in zip(_layers(telescope, None), _layers(telescope, X), strict=True):
        bases = [np.linalg.eigh((weights[:, None] * factor).T @ factor)[1] for factor in of_rows]
        a, d = (factor @ basis for factor, basis in zip(of_rows, bases, strict=True))
        a_query, d_query = (factor @ basis for factor, basis in zip(of_query, bases, strict=True))
        eigenvalues = (weights[:, None] * a**2).T @ d**2
        added = RELATIVE_DAMPING * float(eigenvalues.mean()) if damping is None else _positive(damping)
        inverse = 1.0 / (eigenvalues + added)
        for row in range(len(a_query)):  # one query at a time: rows by inputs by outputs would not fit
            scores[row] += ((a * a_query[row]) @ inverse * d) @ d_query[row]
    return scores * (weights * _residuals(telescope))


def trak(telescope: Any, X: NDArray | None, *, dimensions: int, seed: int = 0) -> NDArray:
    """TRAK of one model: least squares on gradients that are projected to few random dimensions.

    With phi = P^T J, P of independent normal entries, phi(x)^T (sum_j phi_j phi_j^T)^{-1} phi_i r_i. The derivative of
    the loss in the prediction stands in the place of 1 - p of a classifier.

    Parameters
    ----------
    telescope : TangentTelescope
        Telescope of the net.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.
    dimensions : int
        Dimensions of the projection, fewer than training rows.
    seed : int, default=0
        Seed of the projection.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.

    References
    ----------
    S. M. Park, K. Georgiev, A. Ilyas, G. Leclerc, A. Madry. "TRAK: Attributing Model Behavior at Scale". ICML 2023.
    """
    of_rows = _gradients(telescope, None)
    if not 0 < dimensions < len(of_rows):
        raise ValueError(
            f"dimensions={dimensions!r} must lie between 1 and {len(of_rows) - 1}, fewer than training rows."
        )
    projection = np.random.default_rng(seed).normal(size=(of_rows.shape[1], dimensions)) / math.sqrt(dimensions)
    features = of_rows @ projection
    of_query = _gradients(telescope, X) @ projection
    return of_query @ np.linalg.solve(features.T @ features, features.T) * _residuals(telescope)


def _positive(damping: float) -> float:
    if not 0 < damping < math.inf:
        raise ValueError(f"damping={damping!r} must be above 0 and finite: without it the matrix has no inverse.")
    return float(damping)


def _array(tensor: Any) -> NDArray:
    return tensor.double().cpu().numpy()


def _path(telescope: Any) -> Any:
    """Return the recorded run; refuse nets of several outputs."""
    if telescope.n_outputs > 1:
        raise ValueError(
            f"telescope: this score is written for one output, and the net has {telescope.n_outputs}. Use `influence`."
        )
    return telescope.path


def _tangent(telescope: Any, X: NDArray | None) -> Any:
    """Jacobian of rows at the end of training."""
    path = _path(telescope)
    return path.tangent(path.theta(telescope.n_stages), path.rows if X is None else path.rows.new_tensor(X))


def _gradients(telescope: Any, X: NDArray | None) -> NDArray:
    """J at the end of training, (n_rows, p)."""
    return _array(_tangent(telescope, X).gradients())


def _residuals(telescope: Any) -> NDArray:
    """Y - f at the end of training, (n_train,)."""
    return telescope.y - _array(telescope.path.outputs(telescope.path.rows, telescope.n_stages))


def _layers(telescope: Any, X: NDArray | None) -> Iterator[tuple[NDArray, NDArray]]:
    """Yield each layer's inputs, with a column of ones, and derivatives of the prediction in its outputs."""
    from telescoping_sklearn.neural._layers import Dense  # torch is loaded when it is used

    terms = getattr(_tangent(telescope, X), "terms", [None])
    if not all(isinstance(term, Dense) and term.affine.trains_weight and term.affine.trains_bias for term in terms):
        raise ValueError(
            "telescope: EK-FAC is written for multilayer perceptrons. Fit with `hidden_layer_sizes`, or with a "
            "`module` that is a chain of biased linear layers; or use another score."
        )
    for term in terms:
        yield np.column_stack([_array(term.a), np.ones(len(term.a))]), _array(term.delta)
