"""Influence by finite differences: models made again by slow loops for other weights, structure as it was.

Trees keep their splits; leaf values follow from the rows, their weights and the loss. Nets keep their Jacobians,
batches, learning rates and recorded parameters; see `net_predictions`.
"""

import numpy as np
import torch
from oracles import NODES, RAW_LOSSES, drawn_bags, float32, func_jacobian, outputs_of, shape_of


def weight_differences(predict, weights, step=1e-5):
    """Central differences of predictions, (m,), in every weight, (m, n)."""
    columns = []
    for row in range(len(weights)):
        ends = []
        for sign in (1, -1):
            moved = np.array(weights, dtype=float)
            moved[row] += sign * step
            ends.append(predict(moved))
        columns.append((ends[0] - ends[1]) / (2 * step))
    return np.column_stack(columns)


def residual_and_hessian(model, y, f):
    """-g and H of rows, for a loss by its name."""
    if model.objective in RAW_LOSSES:
        gradient, hessian, _ = RAW_LOSSES[model.objective](model)
        return -gradient(y, f), hessian(y, f)
    clip = model.alpha if model.objective == "huber" else np.inf
    return np.clip(y - f, -clip, clip), np.ones_like(f)


class TreesAgain:
    """Raw scores of the query, (m,), had the rows other weights, with the splits of the fitted trees.

    ``given`` are the rows that LightGBM was given, all of them if None; ``n_stages`` cuts the ensemble short.
    """

    def __init__(self, model, X, y, query, given=None, n_stages=None):
        self.model, self.y = model, float32(y)
        self.given = np.arange(len(y)) if given is None else given
        everything = np.vstack([X, query])
        leaves = model.booster_.predict(everything, pred_leaf=True, num_iteration=model.n_stages_)
        self.leaves = leaves.reshape(len(everything), -1).T
        dump = model.booster_.dump_model(num_iteration=model.n_stages_)
        many = {
            number: len(dump["feature_infos"].get(name, {}).get("values", [])) > model.max_cat_to_onehot
            for number, name in enumerate(dump["feature_names"])
        }
        structures = [tree["tree_structure"] for tree in dump["tree_info"]]
        self.bags = [self.given[bag] for bag in drawn_bags(model, len(self.given))]
        self.ridges = [leaf_ridges(structure, model, many) for structure in structures]
        self.n_stages = model.n_stages_ if n_stages is None else n_stages

    def __call__(self, weights):
        """Predict by loops over trees and leaves."""
        model, n, given = self.model, len(self.y), self.given
        f = np.full(self.leaves.shape[1], weights[given] @ self.y[given] / weights[given].sum())
        if model.objective in RAW_LOSSES:
            f = RAW_LOSSES[model.objective](model)[2](f)
        for leaves, bag, ridges in list(zip(self.leaves, self.bags, self.ridges, strict=True))[: self.n_stages]:
            if len(ridges) == 1:
                continue  # the start alone
            residuals, hessians = residual_and_hessian(model, self.y, f[:n])
            after = f.copy()
            for leaf, ridge in ridges.items():
                rows = bag[leaves[bag] == leaf]
                total = weights[rows] @ residuals[rows]
                left = np.sign(total) * max(abs(total) - model.reg_alpha, 0)
                value = left / (weights[rows] @ hessians[rows] + ridge)
                if model.max_delta_step > 0:
                    value = np.clip(value, -model.max_delta_step, model.max_delta_step)
                after[leaves == leaf] += model.learning_rate * value
            f = after
        return f[n:]


def leaf_ridges(node, model, many, ridge=None):
    """Ridge of every leaf below a node: cat_l2 more below splits over many categories."""
    if "split_index" not in node:
        return {node.get("leaf_index", 0): model.reg_lambda if ridge is None else ridge}
    of_many = node["decision_type"] == "==" and many[node["split_feature"]]
    ridge = model.reg_lambda + (model.cat_l2 if of_many else 0)
    left, right = (leaf_ridges(node[side], model, many, ridge) for side in ("left_child", "right_child"))
    return left | right


# -- nets --------------------------------------------------------------------------------------------------------------


def sgd_again(settings, g, theta, state, stage, rate, phi):
    """torch.optim.SGD."""
    g = g + settings["weight_decay"] * theta
    if not settings["momentum"]:
        return -rate * g
    state["M"] = g if stage == 1 else settings["momentum"] * state["M"] + (1 - settings["dampening"]) * g
    return -rate * (g + settings["momentum"] * state["M"] if settings["nesterov"] else state["M"])


def adam_again(settings, g, theta, state, stage, rate, phi):
    """torch.optim.Adam and AdamW; with denominators phi where they are held."""
    (b1, b2), decay = settings["betas"], settings["weight_decay"]
    if not settings["decoupled_weight_decay"]:
        g = g + decay * theta
    state["M"] = b1 * state.get("M", 0.0) + (1 - b1) * g
    state["V"] = b2 * state.get("V", 0.0) + (1 - b2) * g**2
    state["largest"] = np.maximum(state.get("largest", 0.0), state["V"])
    if phi is None:
        phi = np.sqrt((state["largest"] if settings["amsgrad"] else state["V"]) / (1 - b2**stage)) + settings["eps"]
    step = -rate * state["M"] / (1 - b1**stage) / phi
    return step - rate * decay * theta if settings["decoupled_weight_decay"] else step


def rmsprop_again(settings, g, theta, state, stage, rate, phi):
    """torch.optim.RMSprop, neither centred nor with momentum or decay."""
    state["V"] = settings["alpha"] * state.get("V", 0.0) + (1 - settings["alpha"]) * g**2
    return -rate * g / (np.sqrt(state["V"]) + settings["eps"] if phi is None else phi)


def adagrad_again(settings, g, theta, state, stage, rate, phi):
    """torch.optim.Adagrad without decay."""
    state["V"] = state.get("V", settings["initial_accumulator_value"]) + g**2
    return -rate * g / (np.sqrt(state["V"]) + settings["eps"] if phi is None else phi)


AGAIN = {"SGD": sgd_again, "Adam": adam_again, "AdamW": adam_again, "RMSprop": rmsprop_again, "Adagrad": adagrad_again}


class NetAgain:
    """Predictions of the query, (m,), had the rows other weights: an optimiser run along recorded Jacobians.

    Outputs are those recorded, plus what the Jacobians make of the difference between the steps for these weights and
    the steps recorded. Everything else is as torch has it: moments, denominators unless they are ``held``, decay.

    Parameters
    ----------
    trajectory : Trajectory
        The recorded run.
    X, y, query : ndarray
        Rows given to `fit`, their labels, and the query.
    jacobian, outputs : callable
        Give the derivatives, (n, p), and the predictions, (n,), at parameters and rows.
    ends : sequence of int
        Last updates of the sections.
    rule : str
        Where outer Jacobians are taken.
    batches : list or None
        Rows of every update, if they are others than those recorded.
    stage : int or None
        Where the run ends.
    held : bool
        Whether denominators are those recorded.
    """

    def __init__(self, trajectory, X, y, query, jacobian, outputs, ends, rule, *, batches=None, stage=None, held=False):
        self.path = trajectory.parameters.double().numpy()
        self.settings, self.step = trajectory.slices[0].settings, AGAIN[trajectory.optimizer.__name__]
        self.rates, self.y = trajectory.learning_rates, y
        self.batches = [trajectory.batches[t] for t in range(trajectory.n_stages)] if batches is None else batches
        phis = trajectory.denominators if held else None
        self.phis = None if phis is None else phis.double().numpy()
        self.stage = trajectory.n_stages if stage is None else stage

        def outer(first, last, rows):
            start, end = self.path[first], self.path[last]
            nodes = NODES[rule]
            return sum(jacobian(start + position * (end - start), rows) for position in nodes) / len(nodes)

        self.inner, self.inside, self.residuals, self.outer = [], [], [], {}
        first = 0
        for t, batch in enumerate(self.batches[: self.stage], start=1):
            self.inner.append(jacobian(self.path[t - 1], X[batch]))
            self.residuals.append(outputs(self.path[t - 1], X[batch]) - y[batch])
            self.inside.append((first, outer(first, t - 1, X[batch])))
            if t in ends or t == self.stage:
                self.outer[t] = outer(first, t, X), outer(first, t, query)
                first = t
        self.last = outputs(self.path[self.stage], query)

    def __call__(self, weights):
        """Run the optimiser with these weights, of mean 1 as they were."""
        moved = np.zeros_like(self.path)  # difference of the parameters after every update
        training, reached, state = np.zeros(len(self.y)), np.zeros(len(self.last)), {}
        for t, batch in enumerate(self.batches[: self.stage], start=1):
            first, inside = self.inside[t - 1]
            f = self.residuals[t - 1] + training[batch] + inside @ (moved[t - 1] - moved[first])
            g = self.inner[t - 1].T @ (weights[batch] * f) / len(batch)
            phi = None if self.phis is None else self.phis[t - 1]
            theta = self.path[t - 1] + moved[t - 1]
            step = self.step(self.settings, g, theta, state, t, self.rates[t - 1], phi)
            moved[t] = moved[t - 1] + step - (self.path[t] - self.path[t - 1])
            if t in self.outer:
                ahead = moved[t] - moved[first]
                training, reached = (f + J @ ahead for f, J in zip((training, reached), self.outer[t], strict=True))
        return self.last + reached


def net_again(model, X, y, query, stage=None, held=False, ends=None):
    """The oracle of a fitted net."""
    shape = shape_of(model)

    def at(function):
        return lambda theta, rows: function(torch.as_tensor(theta), torch.as_tensor(rows), *shape).numpy()

    ends = set((model.section_ends_ if ends is None else ends).tolist())
    functions = at(func_jacobian), at(outputs_of)
    return NetAgain(model._trajectory, X, y, query, *functions, ends, model.rule, stage=stage, held=held)
