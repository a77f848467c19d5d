"""Slow and obviously right: what every fast path is held against.

Boosted trees are followed leaf by leaf with dense matrices; nets sample by sample, with one autograd Jacobian row at a
time, and, as a second route, with torch.func on a net written out as a plain function.
"""

import copy
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import torch
from scipy.special import expit
from torch import nn

# -- trees -------------------------------------------------------------------------------------------------------------


def drawn_bags(model, n_rows):
    """Whether each row is in each bag, with LightGBM's generator run row by row; all rows without bagging.

    The fit notes which attempts grew a tree. A bag is drawn before an attempt where the trees so far are a multiple of
    `subsample_freq`, until one holds all rows; a first tree of one leaf is the start, which sees all rows.
    """
    everything = np.ones(n_rows, dtype=bool)
    if model.subsample == 1 or model.subsample_freq <= 0:
        return [everything] * model.n_stages_
    sizes = [tree["num_leaves"] for tree in model.booster_.dump_model()["tree_info"]]
    bags = []
    for first, plan in model._fit_record.plans:
        states = [(plan.seed + block) % 2**32 for block in range(n_rows // 1024 + 1)]
        bag, trees, drawn_all = everything, 0, False
        del bags[first:]  # trees that early stopping dropped
        for grown in plan.grown:
            if trees % plan.freq == 0 and not drawn_all:
                bag = np.zeros(n_rows, dtype=bool)
                for row in range(n_rows):
                    state = states[row // 1024] = (214013 * states[row // 1024] + 2531011) % 2**32
                    bag[row] = (state // 65536) % 32768 / 32768 < plan.fraction
                drawn_all = bag.all()
            if grown and len(bags) < len(sizes):
                start_only = sizes[len(bags)] == 1
                bags.append(everything if start_only else bag)
                trees += not start_only
    return bags[: model.n_stages_]


def leaves_below(node):
    """Numbers of the leaves below a node of a dumped tree."""
    if "split_index" not in node:
        return [node.get("leaf_index", 0)]
    return leaves_below(node["left_child"]) + leaves_below(node["right_child"])


def node_values(model, node, sums, weights, counts, n_categories, ridge, above=None):
    """Values of the leaves below a node, by leaf: the Newton step of each, drawn towards the node above it."""
    below = leaves_below(node)
    value = sum(sums[leaf] for leaf in below) / (sum(weights[leaf] for leaf in below) + ridge)
    if above is not None and model.path_smooth > 0:
        kept = sum(counts[leaf] for leaf in below) / model.path_smooth
        value = value * kept / (kept + 1) + above / (kept + 1)
    if "split_index" not in node:
        return {below[0]: value}
    many = node["decision_type"] == "==" and n_categories[node["split_feature"]] > model.max_cat_to_onehot
    ridge = model.reg_lambda + (model.cat_l2 if many else 0)
    children = (node["left_child"], node["right_child"])
    return {
        leaf: found
        for child in children
        for leaf, found in node_values(model, child, sums, weights, counts, n_categories, ridge, value).items()
    }


def leaf_loop_response(model, X, V, query, sample_weight=None, given=None):
    """F_T of the training rows and of the query for label columns V, by explicit loops over trees, leaves and rows.

    ``given`` are the rows that LightGBM was given, all of them if None.
    """
    w = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float32).astype(np.float64)
    given = np.arange(len(X)) if given is None else given
    leaves, query_leaves = (
        model.booster_.predict(rows, pred_leaf=True, num_iteration=model.n_stages_).reshape(len(rows), -1)
        for rows in (X, query)
    )
    start = sum(w[i] * V[i] for i in range(len(X))) / w.sum()
    training = np.array([start for _ in X])
    reached = np.array([start for _ in query])
    dump = model.booster_.dump_model(num_iteration=model.n_stages_)
    trees = dump["tree_info"]
    n_categories = [len(dump["feature_infos"].get(name, {}).get("values", [])) for name in dump["feature_names"]]
    for tree, bag in enumerate(drawn_bags(model, len(given))):
        before = training.copy()
        in_bag = given[bag]
        members = {leaf: in_bag[leaves[in_bag, tree] == leaf] for leaf in range(trees[tree]["num_leaves"])}
        sums = {leaf: sum((w[i] * (V[i] - before[i]) for i in rows), 0 * V[0]) for leaf, rows in members.items()}
        weights = {leaf: sum(w[i] for i in rows) for leaf, rows in members.items()}
        counts = {leaf: len(rows) for leaf, rows in members.items()}
        structure = trees[tree]["tree_structure"]
        for leaf, value in node_values(model, structure, sums, weights, counts, n_categories, model.reg_lambda).items():
            training[leaves[:, tree] == leaf] += model.learning_rate * value
            reached[query_leaves[:, tree] == leaf] += model.learning_rate * value
    return training, reached


def leaf_loop_weights(model, X, query, sample_weight=None, given=None):
    """S of the training rows, n x n, and of the query, m x n."""
    return leaf_loop_response(model, X, np.eye(len(X)), query, sample_weight, given)


def float32(values):
    """Numbers as LightGBM keeps them."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def quantile_shares(values, weights, alpha):
    """Share of each value in LightGBM's quantile of all: a dict of one or two places.

    Without weights: fp = (c - 1) (1 - alpha) from the largest down, interpolated. With weights: the first value at
    which the sum of weights, from the least up, passes alpha of them all; interpolated to the value before where its
    own weight is at least 1, else the value before.
    """
    c = len(values)
    rising = sorted(range(c), key=lambda place: (values[place], place))
    if c == 1:
        return {0: 1.0}
    if weights is None:
        falling, fp = rising[::-1], (c - 1) * (1 - alpha)
        pos = int(fp) + 1
        if pos >= c:
            return {falling[-1]: 1.0}
        return {falling[pos - 1]: 1 - (fp - pos + 1), falling[pos]: fp - pos + 1}
    sums, total = [], 0.0
    for place in rising:
        total += weights[place]
        sums.append(total)
    pos = next((place for place in range(c) if sums[place] > total * alpha), c - 1)
    if pos in (0, c - 1):
        return {rising[pos]: 1.0}
    step = sums[pos] - sums[pos - 1]
    if step < 1:
        return {rising[pos - 1]: 1.0}
    share = (total * alpha - sums[pos - 1]) / step
    return {rising[pos - 1]: 1 - share, rising[pos]: share}


def quantile_level(model):
    """Level of the quantiles that the leaves are, None where they are Newton steps."""
    levels = dict.fromkeys(("regression_l1", "l1", "mean_absolute_error", "mae", "mape"), 0.5)
    return (levels | {"quantile": float(np.float32(model.alpha))}).get(model.objective)


def quantile_row_weights(model, y, sample_weight):
    """Weights of rows in LightGBM's quantiles, None where it has none."""
    weights = None if sample_weight is None or np.all(np.asarray(sample_weight) == 1) else np.float32(sample_weight)
    if model.objective == "mape":
        weights = (
            np.float32(1)
            / np.maximum(np.float32(1), np.abs(np.float32(y)))
            * (np.float32(1) if weights is None else weights)
        )
    return None if weights is None else weights.astype(np.float64)


def slope(function, at):
    """Central difference of a function of one number."""
    step = 1e-5 * max(1.0, abs(at))
    return (function(at + step) - function(at - step)) / (2 * step)


def row_derivatives(model, y, f):
    """-g, q = -dg/dy, h = dg/df and H of one row, and whether a rounding error could turn its clipping round."""
    if model.objective in RAW_LOSSES:
        gradient, hessian, _ = RAW_LOSSES[model.objective](model)
        q, h = -slope(lambda label: gradient(label, f), y), slope(lambda raw: gradient(y, raw), f)
        if model.objective == "fair":  # too sharp a bend for a difference; H is the derivative
            q = h = hessian(y, f)
        return -gradient(y, f), q, h, hessian(y, f), False
    if model.objective == "huber" and abs(y - f) > model.alpha:
        return np.sign(y - f) * model.alpha, 0.0, 0.0, 1.0, abs(y - f) - model.alpha < 1e-9 * model.alpha
    near = model.objective == "huber" and model.alpha - abs(y - f) < 1e-9 * model.alpha
    return y - f, 1.0, 1.0, 1.0, near


def affine_node(model, total, weight, ridge):
    """Value of a node without smoothing as (slope, constant) of its sum of -g, and whether that is a close call."""
    rate = 1 / (weight + ridge) if weight + ridge > 0 else 0.0
    left = abs(total) - model.reg_alpha
    near = model.reg_alpha > 0 and abs(left) < 1e-9 * model.reg_alpha
    if model.reg_alpha > 0 and left <= 0:
        return 0.0, 0.0, near
    value = rate * np.sign(total) * left
    if model.max_delta_step > 0:
        near = near or abs(abs(value) - model.max_delta_step) < 1e-9 * model.max_delta_step
        if abs(value) > model.max_delta_step:
            return 0.0, np.sign(value) * model.max_delta_step, near
    return rate, -rate * np.sign(total) * model.reg_alpha, near


class AffineLeafLoops:
    """S, c and the model itself at training rows and queries, by loops over trees, nodes and rows; n is small.

    ``close`` says that a rounding error could turn a threshold round, so that S may be another and S y + c the same.
    ``given`` are the rows that LightGBM was given, all of them if None.
    """

    def __init__(self, model, X, y, query, sample_weight=None, given=None):
        self.model, self.close = model, False
        n = len(y)
        given = np.arange(n) if given is None else given
        self.y = float32(y)
        self.w = np.ones(n) if sample_weight is None else float32(sample_weight)
        self.level, self.quantile_weights = quantile_level(model), np.zeros(n)
        of_given = quantile_row_weights(model, y[given], None if sample_weight is None else sample_weight[given])
        self.weighted = of_given is not None
        if self.weighted:
            self.quantile_weights[given] = of_given
        everything = np.vstack([X, query])
        predict = model.booster_.predict
        leaves = predict(everything, pred_leaf=True, num_iteration=model.n_stages_).reshape(len(everything), -1)
        start, level = self.start_map(given)
        maps, values = np.tile(start, (len(everything), 1)), np.full(len(everything), level)
        dump = model.booster_.dump_model(num_iteration=model.n_stages_)
        self.n_categories = [len(dump["feature_infos"].get(c, {}).get("values", [])) for c in dump["feature_names"]]
        for tree, bag in enumerate(drawn_bags(model, len(given))):
            structure = dump["tree_info"][tree]["tree_structure"]
            if "split_index" not in structure:
                continue  # the start alone
            before = maps[:n].copy()
            f = predict(X, num_iteration=tree, raw_score=True) if tree else np.full(n, level)
            members = {leaf: given[bag][leaves[given[bag], tree] == leaf] for leaf in leaves_below(structure)}
            if self.level is not None:
                found = {leaf: self.quantile_leaf(rows, before, f) for leaf, rows in members.items()}
            else:
                found = self.newton_leaves(structure, members, before, f)
            for leaf, (added, value) in found.items():
                maps[leaves[:, tree] == leaf] += model.learning_rate * added
                values[leaves[:, tree] == leaf] += model.learning_rate * value
        self.training, self.training_offset, self.training_values = maps[:n, :n], maps[:n, n], values[:n]
        self.reached, self.reached_offset, self.reached_values = maps[n:, :n], maps[n:, n], values[n:]

    def start_map(self, given):
        """The start as an affine map of the labels, and its value."""
        n, start = len(self.y), np.zeros(len(self.y) + 1)
        if self.level is not None:
            weights = self.quantile_weights[given] if self.weighted else None
            for place, share in quantile_shares(self.y[given], weights, self.level).items():
                start[given[place]] = share
            return start, start[:n] @ self.y
        w = np.zeros(n)
        w[given] = self.w[given] / self.w[given].sum()
        start[:n], mean = w, w @ self.y
        if self.model.objective not in RAW_LOSSES:
            return start, mean
        raw_of = RAW_LOSSES[self.model.objective](self.model)[2]
        start[:n] *= 1.0 if self.model.objective == "fair" else self.link_slope(mean, raw_of)
        return start, raw_of(mean)

    def link_slope(self, mean, raw_of):
        """Derivative of the raw score of a mean label, which is positive."""
        step = 1e-6 * min(mean, 1 - mean) if raw_of(0.5) == 0 else 1e-6 * mean
        return (raw_of(mean + step) - raw_of(mean - step)) / (2 * step)

    def quantile_leaf(self, rows, before, f):
        """Value of a leaf as an affine map of the labels, and as it is."""
        residuals = [self.y[i] - f[i] for i in rows]
        shares = quantile_shares(
            residuals, [self.quantile_weights[i] for i in rows] if self.weighted else None, self.level
        )
        added = np.zeros(before.shape[1])
        for place, share in shares.items():
            added[rows[place]] += share
            added -= share * before[rows[place]]
        return added, sum(share * residuals[place] for place, share in shares.items())

    def newton_leaves(self, structure, members, before, f):
        """Values of all leaves as affine maps of the labels, and as they are."""
        sums, totals, weights = {}, {}, {}
        for leaf, rows in members.items():
            sums[leaf], totals[leaf], weights[leaf] = np.zeros(before.shape[1]), 0.0, 0.0
            for i in rows:
                residual, q, h, hessian, near = row_derivatives(self.model, self.y[i], f[i])
                sums[leaf] -= self.w[i] * h * before[i]
                sums[leaf][i] += self.w[i] * q
                sums[leaf][-1] += self.w[i] * (residual - q * self.y[i] + h * f[i])
                totals[leaf] += self.w[i] * residual
                weights[leaf] += self.w[i] * hessian
                self.close |= bool(near)
        counts = {leaf: len(rows) for leaf, rows in members.items()}
        return self.affine_nodes(structure, sums, totals, weights, counts, self.model.reg_lambda)

    def affine_nodes(self, node, sums, totals, weights, counts, ridge, above=None):
        """The leaves below a node, by leaf: each node's own value, drawn towards that of the node above it."""
        below = leaves_below(node)
        total = sum(totals[leaf] for leaf in below)
        rate, constant, near = affine_node(self.model, total, sum(weights[leaf] for leaf in below), ridge)
        self.close |= bool(near)
        added = rate * sum(sums[leaf] for leaf in below)
        added[-1] += constant
        value = rate * total + constant
        smooth = self.model.path_smooth
        if above is not None and smooth > 0:
            kept = sum(counts[leaf] for leaf in below)
            kept = kept / (kept + smooth)
            added, value = kept * added + (1 - kept) * above[0], kept * value + (1 - kept) * above[1]
        if "split_index" not in node:
            return {below[0]: (added, value)}
        many = node["decision_type"] == "==" and self.n_categories[node["split_feature"]] > self.model.max_cat_to_onehot
        ridge = self.model.reg_lambda + (self.model.cat_l2 if many else 0)
        found = {}
        for child in (node["left_child"], node["right_child"]):
            found |= self.affine_nodes(child, sums, totals, weights, counts, ridge, (added, value))
        return found


#: Gradient and hessian in the raw score as LightGBM has them, and the raw score of a mean label.
RAW_LOSSES = {
    "poisson": lambda m: (
        lambda y, f: np.exp(f) - y,
        lambda y, f: np.exp(f) * np.exp(m.poisson_max_delta_step),
        np.log,
    ),
    "gamma": lambda m: (lambda y, f: 1 - y / np.exp(f), lambda y, f: y / np.exp(f), np.log),
    "tweedie": lambda m: (
        lambda y, f: np.exp(f) ** (2 - m.tweedie_variance_power) - y * np.exp(f) ** (1 - m.tweedie_variance_power),
        lambda y, f: (
            (2 - m.tweedie_variance_power) * np.exp(f) ** (2 - m.tweedie_variance_power)
            - (1 - m.tweedie_variance_power) * y * np.exp(f) ** (1 - m.tweedie_variance_power)
        ),
        np.log,
    ),
    "cross_entropy": lambda m: (
        lambda y, f: expit(f) - y,
        lambda y, f: np.exp(-np.abs(f)) / (1 + np.exp(-np.abs(f))) ** 2,
        lambda mean: np.log(mean / (1 - mean)),
    ),
}
RAW_LOSSES["fair"] = lambda m: (
    lambda y, f: m.fair_c * (f - y) / (abs(f - y) + m.fair_c),
    lambda y, f: m.fair_c**2 / (abs(f - y) + m.fair_c) ** 2,
    lambda mean: mean,
)
RAW_LOSSES["binary"] = RAW_LOSSES["xentropy"] = RAW_LOSSES["cross_entropy"]


def frozen_raw_scores(model, X, y, query, labels, sample_weight=None, given=None):
    """Raw scores of the training rows and of the query had the labels been others, trees and hessians as they are."""
    w = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float32).astype(np.float64)
    given = np.arange(len(X)) if given is None else given
    gradient, hessian, raw_of = RAW_LOSSES[model.objective](model)
    real = np.full(len(X), raw_of(w @ y / w.sum()))
    training = np.full(len(X), raw_of(w @ labels / w.sum()))
    reached = np.full(len(query), training[0])
    of_rows, of_query = (
        model.booster_.predict(rows, pred_leaf=True, num_iteration=model.n_stages_).reshape(len(rows), -1)
        for rows in (X, query)
    )
    for tree, bag in enumerate(drawn_bags(model, len(given))):
        steps = [np.zeros(len(X)), np.zeros(len(X)), np.zeros(len(query))]
        for leaf in np.unique(of_rows[:, tree]):
            rows = given[bag][of_rows[given[bag], tree] == leaf]
            rate = model.learning_rate / (w[rows] @ hessian(y[rows], real[rows]) + model.reg_lambda)
            steps[0][of_rows[:, tree] == leaf] = rate * w[rows] @ gradient(y[rows], real[rows])
            value = rate * w[rows] @ gradient(labels[rows], training[rows])
            steps[1][of_rows[:, tree] == leaf] = value
            steps[2][of_query[:, tree] == leaf] = value
        real, training, reached = real - steps[0], training - steps[1], reached - steps[2]
    return training, reached


# -- nets: one sample at a time ----------------------------------------------------------------------------------------

MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "identity": nn.Identity}


def fresh_net(widths, activation, output_activation="identity"):
    """A net of ``nn.Linear`` layers, drawn in order."""
    names = [activation] * (len(widths) - 2) + [output_activation]
    layers = [(nn.Linear(*shape), MODULES[name]()) for shape, name in zip(pairwise(widths), names, strict=True)]
    return nn.Sequential(*(part for layer in layers for part in layer))


def flat_parameters(net):
    """All parameters of a net, in order, weight before bias."""
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def net_at(theta, widths, activation, output_activation="identity"):
    """The net of ``nn.Linear`` layers whose parameters are theta, in double precision."""
    net = fresh_net(widths, activation, output_activation).double()
    nn.utils.vector_to_parameters(theta.double(), net.parameters())
    return net


def gradient_row(net, x):
    """J(x): derivative of the output at one row in all parameters, (p,)."""
    gradients = torch.autograd.grad(net(x).squeeze(), list(net.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def jacobian(net, X):
    """J, (n, p), one row at a time."""
    return torch.stack([gradient_row(net, x) for x in torch.as_tensor(X)])


def sgd_step(model, G, parameters, state, stage, phi):
    """torch.optim.SGD's step for gradient G."""
    g = G + model.weight_decay * parameters
    if model.momentum == 0:
        return -model.learning_rate_init * g
    state["M"] = g if stage == 1 else model.momentum * state["M"] + (1 - model.dampening) * g
    ahead = g + model.momentum * state["M"] if model.nesterov else state["M"]
    return -model.learning_rate_init * ahead


def adam_step(model, G, parameters, state, stage, phi):
    """torch.optim.Adam's step for gradient G with the denominators of the real run."""
    b1 = model.betas[0]
    g = G + model.weight_decay * parameters
    state["M"] = b1 * state.get("M", 0.0) + (1 - b1) * g
    return -model.learning_rate_init * state["M"] / (1 - b1**stage) / phi


def adamw_step(model, G, parameters, state, stage, phi):
    """torch.optim.AdamW's step: weight decay beside the gradient."""
    b1 = model.betas[0]
    state["M"] = b1 * state.get("M", 0.0) + (1 - b1) * G
    decay = -model.learning_rate_init * model.weight_decay * parameters
    return decay - model.learning_rate_init * state["M"] / (1 - b1**stage) / phi


STEPS = {"sgd": sgd_step, "adam": adam_step, "adamw": adamw_step}
GAUSS_NODES = (0.5 - 3**0.5 / 6, 0.5 + 3**0.5 / 6)
NODES = {"left": (0.0,), "midpoint": (0.5,), "gauss2": GAUSS_NODES}


def shape_of(model):
    """Widths and activations of a fitted net."""
    widths = (model.n_features_in_, *np.atleast_1d(model.hidden_layer_sizes).astype(int).tolist(), 1)
    return widths, model.activation, model.output_activation


def rescaled(sample_weight, n_rows):
    """Sample weights of mean 1."""
    w = np.ones(n_rows) if sample_weight is None else np.asarray(sample_weight, dtype=float)
    return w * n_rows / w.sum()


def outer_jacobian(model, start, end, X):
    """Mean of the Jacobians at the nodes of the rule on the segment of an update."""
    nodes = [start + position * (end - start) for position in NODES[model.rule]]
    return sum(jacobian(net_at(theta, *shape_of(model)), X) for theta in nodes) / len(nodes)


def jacobian_recursion(model, X, V, query, sample_weight=None, offset=False):
    """F_T of the training rows and of the query, and Theta_T, update by update with dense Jacobians.

    With ``offset`` V is one column of zeros, carried from the real start.
    """
    run, shape, w = model._trajectory, shape_of(model), rescaled(sample_weight, len(X))
    V = torch.as_tensor(V)
    parameters = torch.zeros((model.n_params_, V.shape[1]), dtype=torch.float64)
    training, reached = torch.zeros(V.shape, dtype=torch.float64), torch.zeros((len(query), V.shape[1])).double()
    if offset:
        initial = net_at(run.parameters[0], *shape)
        parameters[:, 0] = run.parameters[0]
        training, reached = (initial(torch.as_tensor(rows)).detach() for rows in (X, query))
    state = {}
    for t, batch in enumerate(run.batches, start=1):
        before, after = run.parameters[t - 1].double(), run.parameters[t].double()
        net = net_at(before, *shape)
        G = torch.zeros_like(parameters)
        for i in batch:
            G += w[i] / len(batch) * torch.outer(gradient_row(net, torch.as_tensor(X[i])), training[i] - V[i])
        phi = None if run.denominators is None else run.denominators[t - 1].double()[:, None]
        D = STEPS[model.optimizer](model, G, parameters, state, t, phi)
        parameters = parameters + D
        training = training + outer_jacobian(model, before, after, X) @ D
        reached = reached + outer_jacobian(model, before, after, query) @ D
    return training.numpy(), reached.numpy(), parameters.numpy()


def stage_kernel(model, X, query, stage, sample_weight=None):
    """k_t, (m, n): both Jacobians at theta_{t-1}, denominators of Adam between them."""
    run, w = model._trajectory, rescaled(sample_weight, len(X))
    net, batch = net_at(run.parameters[stage - 1], *shape_of(model)), run.batches[stage - 1]
    phi = torch.ones(model.n_params_) if run.denominators is None else run.denominators[stage - 1]
    kernel = np.zeros((len(query), len(X)))
    here = jacobian(net, query)
    for i in batch:
        kernel[:, i] = (here @ (gradient_row(net, torch.as_tensor(X[i])) / phi) * w[i] / len(batch)).numpy()
    return kernel


# -- nets: torch.func --------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "identity": lambda z: z,
}


def outputs_of(theta, X, widths, activation, output_activation="identity"):
    """Outputs of a net as a plain function of its flat parameters, a row at a time under vmap."""
    names = [activation] * (len(widths) - 2) + [output_activation]

    def output(x):
        position = 0
        for (fan_in, fan_out), name in zip(pairwise(widths), names, strict=True):
            weight = theta[position : position + fan_in * fan_out].reshape(fan_out, fan_in)
            bias = theta[position + fan_in * fan_out : position + (fan_in + 1) * fan_out]
            position += (fan_in + 1) * fan_out
            x = FUNCTIONS[name](weight @ x + bias)
        return x[0]

    return torch.func.vmap(output)(X)


def func_jvp(theta, X, directions, *shape):
    """J D^T, (n, k)."""

    def along(direction):
        return torch.func.jvp(lambda at: outputs_of(at, X, *shape), (theta,), (direction,))[1]

    return torch.stack([along(direction) for direction in directions], dim=1)


def func_vjp(theta, X, columns, *shape):
    """C^T J, (k, p)."""
    _, pull_back = torch.func.vjp(lambda at: outputs_of(at, X, *shape), theta)
    return torch.stack([pull_back(column)[0] for column in columns.T])


def func_jacobian(theta, X, *shape):
    """J, (n, p)."""
    return torch.func.jacrev(lambda at: outputs_of(at, X, *shape))(theta)


# -- nets: a whole run, module and optimiser as torch has them ---------------------------------------------------------


def rmsprop_step(model, G, parameters, state, stage, phi):
    """torch.optim.RMSprop's step for gradient G, neither centred nor with decay."""
    state["M"] = model.momentum * state.get("M", 0.0) + G / phi
    return -model.learning_rate_init * state["M"]


def adagrad_step(model, G, parameters, state, stage, phi):
    """torch.optim.Adagrad's step for gradient G with the denominators of the real run."""
    g = G + model.weight_decay * parameters
    return -model.learning_rate_init / (1 + (stage - 1) * model.lr_decay) * g / phi


def adam_phi(state, group):
    """Denominator of torch.optim.Adam after an update."""
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    return (second / (1 - group["betas"][1] ** int(state["step"]))).sqrt() + group["eps"]


def rmsprop_phi(state, group):
    """Denominator of torch.optim.RMSprop after an update."""
    return state["square_avg"].sqrt() + group["eps"]


def adagrad_phi(state, group):
    """Denominator of torch.optim.Adagrad after an update."""
    return state["sum"].sqrt() + group["eps"]


class NetLoops:
    """A run of a module, trained again by torch alone and then followed one row, one update and one section at a time.

    Parameters
    ----------
    module : nn.Module
        The module at its initial parameters, in the dtype to train in.
    make_optimizer : callable
        Makes torch's optimiser of the parameters.
    step : callable
        Its step's response, one of those above.
    phi : callable or None
        Reads its denominators off its state.
    rates, batches : list
        Learning rate and rows of every update.
    X, y, weights : ndarray
        Rows given to `fit`, and their weights of mean 1 over the rows trained on.
    ends : sequence of int
        Last updates of the sections.
    rule : str
        Where outer Jacobians are taken.
    """

    def __init__(self, module, make_optimizer, step, phi, rates, batches, X, y, weights, ends, rule):
        self.module, self.step, self.rates, self.batches = module, step, rates, batches
        self.X, self.y, self.w = torch.as_tensor(X), torch.as_tensor(y), torch.as_tensor(weights)
        self.ends, self.rule = [0, *ends], rule
        self._train(copy.deepcopy(module), make_optimizer, phi)

    def _train(self, net, make_optimizer, phi):
        trained = [part for part in net.parameters() if part.requires_grad]
        dtype = trained[0].dtype
        optimizer = make_optimizer(trained)
        group = optimizer.param_groups[0]
        self.settings = {name: value for name, value in group.items() if name not in ("params", "lr")}
        self.path, self.phis, self.losses = [self._flat(trained)], [], []
        for rate, batch in zip(self.rates, self.batches, strict=True):
            group["lr"] = rate
            optimizer.zero_grad()
            f = net(self.X[batch].to(dtype)).reshape(-1)
            loss = (self.w[batch].to(dtype) * (self.y[batch].to(dtype) - f) ** 2).mean() / 2
            loss.backward()
            for part in trained:  # torch leaves out what no output depends on
                part.grad = torch.zeros_like(part) if part.grad is None else part.grad
            optimizer.step()
            self.path.append(self._flat(trained))
            self.losses.append(loss.item())
            self.phis.append(phi and torch.cat([phi(optimizer.state[part], group).flatten() for part in trained]))

    @staticmethod
    def _flat(parts):
        return torch.cat([part.detach().flatten() for part in parts])

    def follow(self, path, phis):
        """Walk another run, a recorded one, from here on."""
        self.path, self.phis = path, phis

    def net_at(self, theta):
        """The module in double precision, with the parameters theta."""
        net = copy.deepcopy(self.module).double()
        nn.utils.vector_to_parameters(theta.double(), [part for part in net.parameters() if part.requires_grad])
        return net

    def outputs(self, theta, rows):
        """Predictions, one row at a time."""
        net = self.net_at(theta)
        return torch.stack([net(x[None]).reshape(()).detach() for x in torch.as_tensor(rows)])

    def jacobian(self, theta, rows):
        """J, (n, p), one row at a time."""
        net = self.net_at(theta)
        trained = [part for part in net.parameters() if part.requires_grad]
        gradients = [
            torch.autograd.grad(net(x[None]).reshape(()), trained, allow_unused=True, materialize_grads=True)
            for x in torch.as_tensor(rows)
        ]
        return torch.stack([torch.cat([part.flatten() for part in row]) for row in gradients])

    def outer(self, first, last, rows):
        """Mean of the Jacobians at the nodes of the rule between two updates."""
        start, end = self.path[first].double(), self.path[last].double()
        nodes = [start + position * (end - start) for position in NODES[self.rule]]
        return sum(self.jacobian(theta, rows) for theta in nodes) / len(nodes)

    def response(self, V, query, stages, offset=False):
        """F_t of the training rows and of the query at some stages, for label columns V or for the offset alone."""
        V = torch.as_tensor(V)
        theta = torch.zeros((len(self.path[0]), V.shape[1]), dtype=torch.float64)
        training, reached = torch.zeros(V.shape).double(), torch.zeros((len(query), V.shape[1])).double()
        if offset:
            theta[:, 0] = self.path[0]
            training, reached = (self.outputs(self.path[0], rows)[:, None] for rows in (self.X, query))
        found, state, first, at_first = {0: (training, reached)}, {}, 0, theta
        for t, (batch, rate) in enumerate(zip(self.batches, self.rates, strict=True), start=1):
            G = torch.zeros_like(theta)
            ahead = training[batch]
            if t - 1 > first:
                ahead = ahead + self.outer(first, t - 1, self.X[batch]) @ (theta - at_first)
            here = self.jacobian(self.path[t - 1], self.X[batch])
            for row, J, f in zip(batch, here, ahead, strict=True):
                G += self.w[row] / len(batch) * torch.outer(J, f - V[row])
            settings = SimpleNamespace(**self.settings, learning_rate_init=rate)
            phi = None if self.phis[t - 1] is None else self.phis[t - 1].double()[:, None]
            theta = theta + self.step(settings, G, theta, state, t, phi)
            if t in stages or t in self.ends:
                ahead = [
                    f + self.outer(first, t, rows) @ (theta - at_first)
                    for f, rows in ((training, self.X), (reached, query))
                ]
                found[t] = tuple(ahead)
                if t in self.ends:
                    (training, reached), first, at_first = ahead, t, theta
        return [tuple(part.numpy() for part in found[t]) for t in stages]

    def kernel(self, query, stage):
        """k_t, (m, n)."""
        theta, batch, phi = self.path[stage - 1], self.batches[stage - 1], self.phis[stage - 1]
        there = self.jacobian(theta, self.X[batch])
        if phi is not None:
            there = there / phi.double()
        kernel = torch.zeros((len(query), len(self.X)), dtype=torch.float64)
        kernel[:, batch] = self.jacobian(theta, query) @ there.T * self.w[batch] / len(batch)
        return kernel.numpy()
