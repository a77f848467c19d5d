"""Attribution scores by loops over rows, trees and parameters: slow, and as the papers state them."""

import numpy as np
import torch


class HeldTrees:
    """Fitted trees whose leaves and bags are held while the weight of a row changes."""

    def __init__(self, model, X_query):
        ensemble = model.telescope_.ensemble
        self.y, self.weights = model.telescope_.y, np.array(model.telescope_.row_weights)
        self.rate, self.ridge = model.learning_rate, model.reg_lambda
        self.train, self.query = ensemble.leaves.astype(int), model.telescope_.leaves(X_query).astype(int)
        everything = np.ones(len(self.y), dtype=bool)  # a row of weight zero is in the bag too
        bagged = model.subsample < 1
        self.bags = [ensemble.stage_weights(t + 1) > 0 if bagged else everything for t in range(len(self.train))]
        self.start = np.average(self.y, weights=self.weights)
        self.held = self.fit(self.weights, lambda row: True)[1]

    def leaf(self, tree, leaf, weights, residuals):
        rows = [row for row in range(len(self.y)) if self.train[tree][row] == leaf and self.bags[tree][row]]
        total = sum(weights[row] * residuals[row] for row in rows)
        return self.rate * total / (sum(weights[row] for row in rows) + self.ridge)

    def fit(self, weights, moves):
        """Predictions of the query rows, and of the training rows before each tree, with other weights of the rows.

        ``moves(row)`` says whether a row's residual follows the new predictions; the others keep the real ones.
        """
        fitted, before = np.full(len(self.y), self.start), []
        predicted = np.full(self.query.shape[1], self.start)
        for tree in range(len(self.train)):
            before.append(fitted.copy())
            reached = [fitted[row] if moves(row) else self.held[tree][row] for row in range(len(self.y))]
            residuals = self.y - np.array(reached)
            values = {leaf: self.leaf(tree, leaf, weights, residuals) for leaf in set(self.train[tree])}
            fitted = fitted + [values[leaf] for leaf in self.train[tree]]
            predicted = predicted + [values.get(leaf, 0.0) for leaf in self.query[tree]]
        return predicted, before

    def derivative(self, moves, step=1e-5):
        """Central differences of the query predictions in the weight of each row; ``moves(changed, row)``."""
        columns = []
        for changed in range(len(self.y)):
            ends = []
            for sign in (1, -1):
                weights = self.weights.copy()
                weights[changed] += sign * step
                ends.append(self.fit(weights, lambda row, changed=changed: moves(changed, row))[0])
            columns.append((ends[0] - ends[1]) / (2 * step))
        return np.stack(columns, axis=1)


def gradients(network, theta, X):
    """Gradient of each row's prediction in the parameters, (n_rows, p), a row at a time."""
    theta = theta.double().clone().requires_grad_()
    rows = torch.as_tensor(np.array(X), dtype=torch.float64)
    return np.stack([torch.autograd.grad(network.forward(theta, row[None])[0], theta)[0].numpy() for row in rows])


def predictions(network, theta, X):
    return network.forward(theta.double(), torch.as_tensor(np.array(X), dtype=torch.float64)).numpy()


def traced(model, X, y, X_query):
    """TracIn: each update of the run, each row of its batch."""
    path = model.telescope_.path
    run, scores = path.trajectory.parameters, np.zeros((len(X_query), len(X)))
    for update in range(model.n_stages_):
        before, batch = run[update], path.trajectory.batches[update]
        at_query, at_rows = (gradients(path.network, before, rows) for rows in (X_query, X))
        residuals = y - predictions(path.network, before, X)
        rate = path.trajectory.learning_rates[update]
        for row in batch:
            step = rate * float(path.row_weights[row]) / len(batch) * residuals[row]
            scores[:, row] += step * at_query @ at_rows[row]
    return scores


def inverted(matrix, damping, model, X, y, X_query, weights):
    """Influence function with a given matrix in place of the Hessian, which is inverted."""
    path = model.telescope_.path
    end = path.trajectory.end
    at_rows, at_query = (gradients(path.network, end, rows) for rows in (X, X_query))
    inverse = np.linalg.inv(matrix + np.diag(np.broadcast_to(damping, len(matrix))))
    residuals = y - predictions(path.network, end, X)
    return at_query @ inverse @ at_rows.T * (weights * residuals / len(X))


def gauss_newton_matrix(model, X, weights):
    path = model.telescope_.path
    at_rows = gradients(path.network, path.trajectory.end, X)
    return sum(weights[row] * np.outer(at_rows[row], at_rows[row]) for row in range(len(X))) / len(X)


def kronecker_matrix(model, X, weights):
    """EK-FAC's matrix in the order of the parameters, and the mean eigenvalue of each parameter's layer."""
    path = model.telescope_.path
    end = path.trajectory.end
    at_rows, full = gradients(path.network, end, X), gauss_newton_matrix(model, X, weights)
    matrix, means = np.zeros_like(full), np.zeros(len(full))
    inputs, first = np.array(X), 0
    for (weight, bias), activation in zip(
        path.network.layers(end.double()), path.network.layer_activations(), strict=True
    ):
        fan_out, fan_in = weight.shape
        places = np.arange(first, first + fan_out * (fan_in + 1))
        # weights row by row, then biases; a Kronecker product of outputs and inputs has the bias after each row
        ours = np.concatenate([[o * (fan_in + 1) + i for o in range(fan_out) for i in range(fan_in)]]).astype(int)
        ours = np.concatenate([ours, [o * (fan_in + 1) + fan_in for o in range(fan_out)]])
        with_one = np.column_stack([inputs, np.ones(len(inputs))])
        deltas = at_rows[:, places[fan_out * fan_in :]]  # the derivative in a bias is that in the layer's output
        factors = [sum(w * np.outer(v, v) for w, v in zip(weights, of, strict=True)) for of in (deltas, with_one)]
        basis = np.kron(*(np.linalg.eigh(factor / len(X))[1] for factor in factors))[ours]
        eigenvalues = np.diag(basis.T @ full[np.ix_(places, places)] @ basis)
        matrix[np.ix_(places, places)] = basis * eigenvalues @ basis.T
        means[places] = eigenvalues.mean()
        inputs = activation.value(torch.as_tensor(inputs) @ weight.T + bias).numpy()
        first = places[-1] + 1
    return matrix, means
