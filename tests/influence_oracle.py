"""Influence by finite differences: models made again by slow loops for other weights, structure as it was.

Trees keep their splits; leaf values follow from the rows, their weights and the loss. Nets keep their Jacobians,
batches, learning rates and recorded parameters; see `net_predictions`.
"""

import numpy as np
from oracles import RAW_LOSSES, drawn_bags, float32


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


def pull_and_hessian(model, y, f):
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
            pulls, hessians = pull_and_hessian(model, self.y, f[:n])
            after = f.copy()
            for leaf, ridge in ridges.items():
                rows = bag[leaves[bag] == leaf]
                total = weights[rows] @ pulls[rows]
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
