"""Trees read from the text of a LightGBM model: what its predictions do not tell.

The text gives the shape of every tree, how many rows of its bag each leaf holds, and the categories of each column.
From these follow the ridge of every leaf, the mixing of leaf values under path smoothing, and which bag a tree saw.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: First bit of ``decision_type``: the split is over categories.
_CATEGORICAL = 1


class TreeText(NamedTuple):
    """One tree; a child below zero is the leaf ``~child``.

    Attributes
    ----------
    split_feature, decision_type : ndarray of int of shape (n_leaves - 1,)
        Column and kind of every split.
    left_child, right_child : ndarray of int of shape (n_leaves - 1,)
        Children of every split.
    leaf_value : ndarray of shape (n_leaves,)
        What every leaf adds to the prediction; the first tree's leaves hold the start too.
    leaf_count : ndarray of int of shape (n_leaves,)
        Rows of the bag in every leaf.
    """

    split_feature: NDArray
    decision_type: NDArray
    left_child: NDArray
    right_child: NDArray
    leaf_value: NDArray
    leaf_count: NDArray

    @property
    def n_leaves(self) -> int:
        """Number of leaves."""
        return len(self.leaf_value)


def parse_trees(text: str) -> Iterator[TreeText]:
    """Yield the trees of a model's text.

    Parameters
    ----------
    text : str
        What ``Booster.model_to_string`` gives.

    Yields
    ------
    TreeText
        One tree after the other.
    """
    trees = text[: text.index("end of trees")]
    for block in trees.split("\nTree=")[1:]:
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        arrays = {name: np.array(fields.get(name, "").split(), dtype=np.float64) for name in TreeText._fields}
        value = arrays.pop("leaf_value")
        yield TreeText(leaf_value=value, **{name: array.astype(np.intp) for name, array in arrays.items()})


def bins_of_categories(text: str) -> NDArray:
    """Count the bins of every categorical column, the one for missing values included; 0 for other columns."""
    infos = re.search(r"^feature_infos=(.*)$", text, re.MULTILINE)
    assert infos is not None, "the text of a model has no feature_infos"
    categorical = [info != "none" and not info.startswith("[") for info in infos[1].split()]
    return np.array([len(info.split(":")) * flag for info, flag in zip(infos[1].split(), categorical, strict=True)])


def text_parameter(text: str, name: str) -> str:
    """Look up a parameter in the text of a model."""
    found = re.search(rf"^\[{name}: (.*)\]$", text, re.MULTILINE)
    assert found is not None, f"the text of a model has no parameter {name}"
    return found[1]


def node_ridges(tree: TreeText, many: NDArray, reg_lambda: float, cat_l2: float) -> tuple[NDArray, NDArray]:
    """Ridge in the denominator of every node: lambda, and cat_l2 more where a many-category split made it.

    Parameters
    ----------
    tree : TreeText
        The tree.
    many : ndarray of bool of shape (n_features,)
        Columns whose categories are too many for splits of one against the rest.
    reg_lambda, cat_l2 : float
        The two ridge terms.

    Returns
    -------
    splits : ndarray of shape (n_leaves - 1,)
        Ridge of every inner node; the root is the first.
    leaves : ndarray of shape (n_leaves,)
        Ridge of every leaf.
    """
    dear = many[tree.split_feature] & (tree.decision_type & _CATEGORICAL).astype(bool)
    splits, leaves = np.full(max(tree.n_leaves - 1, 0), float(reg_lambda)), np.full(tree.n_leaves, float(reg_lambda))
    for children in (tree.left_child[dear], tree.right_child[dear]):
        splits[children[children >= 0]] += cat_l2
        leaves[~children[children < 0]] += cat_l2
    return splits, leaves


def path_smoothing(tree: TreeText, smooth: float) -> tuple[NDArray, NDArray]:
    """Leaves below the nodes of a tree, and what the nodes give to leaf values that are drawn towards those above them.

    With n rows of the bag in a node, a = n / (n + smooth) and r its value of its own, a node's value is
    v = a r + (1 - a) v_parent; the root is not smoothed.

    Parameters
    ----------
    tree : TreeText
        The tree.
    smooth : float
        LightGBM's ``path_smooth``.

    Returns
    -------
    below : ndarray of shape (n_nodes, n_leaves)
        Whether each leaf is below each node, or is it. Nodes are numbered as children are: splits come first, the root
        before all, and leaves last, in reverse.
    mixing : ndarray of shape (n_leaves, n_nodes)
        The matrix that turns the nodes' own values into leaf values.
    """
    n_splits, n_nodes = tree.n_leaves - 1, 2 * tree.n_leaves - 1
    below = np.zeros((n_nodes, tree.n_leaves))
    below[~np.arange(tree.n_leaves), np.arange(tree.n_leaves)] = 1.0  # ~leaf = -1 - leaf
    for split in reversed(range(n_splits)):
        below[split] = below[tree.left_child[split]] + below[tree.right_child[split]]
    kept = below @ tree.leaf_count
    kept = kept / (kept + smooth)
    values = np.eye(n_nodes)
    for split in range(n_splits):
        for child in (tree.left_child[split], tree.right_child[split]):
            values[child] *= kept[child]
            values[child] += (1 - kept[child]) * values[split]
    return below, values[~np.arange(tree.n_leaves)]
