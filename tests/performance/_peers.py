"""What users have today: scikit-learn's and skorch's nets, and tangent kernels from torch.func."""

import warnings
from itertools import pairwise

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from skorch import NeuralNetRegressor
from torch import nn
from torch.func import functional_call, jacrev, vmap


def relu_net(widths):
    """A net of ``nn.Linear`` layers with relu between them."""
    layers = [(nn.Linear(*shape), nn.ReLU()) for shape in pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in layer][:-1])


def sklearn_net(hidden, batch_size, epochs):
    """scikit-learn's net, for a fixed number of epochs."""
    fixed = {"tol": 0.0, "n_iter_no_change": 10**6, "random_state": 0}
    return MLPRegressor(hidden_layer_sizes=hidden, batch_size=batch_size, max_iter=epochs, **fixed)


def fit_sklearn(model, X, y):
    """Fit without the warning that a fixed number of epochs brings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


def skorch_net(widths, batch_size, epochs):
    """skorch with its own loader and callbacks; no rows are held out, so that all take as many updates."""
    settings = {"lr": 1e-3, "max_epochs": epochs, "batch_size": batch_size, "train_split": None, "verbose": 0}
    net = relu_net(widths)
    return NeuralNetRegressor(net, optimizer=torch.optim.Adam, iterator_train__shuffle=True, **settings)


def fit_skorch(model, X, y):
    """Fit as skorch takes tables: float32, labels a column."""
    return model.fit(X.astype("float32"), y.astype("float32")[:, None])


class FunctionalKernels:
    """Tangent kernels of a relu net by vmap of jacrev, contracted by parameter, as torch's tutorial has it."""

    def __init__(self, widths):
        self.net = relu_net(widths)
        self.shapes = {name: parameter.shape for name, parameter in self.net.named_parameters()}

    def parameters(self, theta):
        """The net's parameters by name, from a flat vector laid out layer by layer, weight before bias."""
        pieces = theta.split([shape.numel() for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def output(self, parameters, row):
        return functional_call(self.net, parameters, (row[None],))[0, 0]

    def jacobian(self, theta, rows):
        """Jacobian of every row in every parameter, by name."""
        return vmap(jacrev(self.output), (None, 0))(self.parameters(theta), rows)

    def kernel(self, theta, rows, other_theta, others):
        """J(theta; rows) J(other_theta; others)^T."""
        here, there = self.jacobian(theta, rows), self.jacobian(other_theta, others)
        return sum(here[name].flatten(1) @ there[name].flatten(1).T for name in self.shapes)

    def loss_gradient(self, theta, rows, labels):
        """Gradient of half the mean squared error, flat."""

        def loss(parameters):
            return 0.5 * (functional_call(self.net, parameters, (rows,))[:, 0] - labels).square().mean()

        gradients = torch.func.grad(loss)(self.parameters(theta))
        return torch.cat([gradient.flatten() for gradient in gradients.values()])


class JacobianRoute:
    """Kernel weights under plain SGD by Jacobians: F += lr K (V - F)[B], K from two Jacobians an update.

    The first ``n_train`` rows are the training rows. It trains as it goes.
    """

    def __init__(self, widths, theta, rows, labels, learning_rate):
        self.kernels = FunctionalKernels(widths)
        self.theta, self.rows, self.labels, self.learning_rate = theta, rows, labels, learning_rate
        self.weights = torch.zeros((len(rows), len(labels)), dtype=rows.dtype)

    def update(self, batch):
        """One update on the rows of a batch, with the outer Jacobian at its midpoint."""
        rows, labels = self.rows[batch], self.labels[batch]
        after = self.theta - self.learning_rate * self.kernels.loss_gradient(self.theta, rows, labels)
        kernel = self.kernels.kernel(0.5 * (self.theta + after), self.rows, self.theta, rows)
        residual = -self.weights[batch]
        residual[torch.arange(len(batch)), batch] += 1.0
        self.weights += self.learning_rate / len(batch) * (kernel @ residual)
        self.theta = after
