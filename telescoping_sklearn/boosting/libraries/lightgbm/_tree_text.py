"""The trees in the text of a LightGBM model, which says more than predictions do.

The text has the splits of every tree, the number of rows of the bag in each leaf, and the categories of each column.
These determine the ridge of each leaf, how path smoothing mixes leaf values, and which bag a tree saw.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Bit of ``decision_type`` of a split over categories.
_CATEGORICAL = 1


class TreeText(NamedTuple):
    """One tree. A negative child is the leaf ``~child``.

    Attributes
    ----------
    split_feature, decision_type : ndarray of int of shape (n_leaves - 1,)
        Column and kind of every split.
    left_child, right_child : ndarray of int of shape (n_leaves - 1,)
        Children of every split.
    leaf_value : ndarray of shape (n_leaves,)
        What every leaf adds to the prediction; the leaves of the first tree include the start.
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
    """Yield the trees in a text from ``Booster.model_to_string``, in order."""
    trees = text[: text.index("end of trees")]
    for block in trees.split("\nTree=")[1:]:
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        arrays = {name: np.array(fields.get(name, "").split(), dtype=np.float64) for name in TreeText._fields}
        value = arrays.pop("leaf_value")
        yield TreeText(leaf_value=value, **{name: array.astype(np.intp) for name, array in arrays.items()})


def bins_of_categories(text: str) -> NDArray:
    """Count the bins of every categorical column, including that of missing values; 0 for other columns."""
    infos = re.search(r"^feature_infos=(.*)$", text, re.MULTILINE)
    assert infos is not None, "the text of a model has no feature_infos"
    categorical = [info != "none" and not info.startswith("[") for info in infos[1].split()]
    return np.array([len(info.split(":")) * flag for info, flag in zip(infos[1].split(), categorical, strict=True)])


def text_parameter(text: str, name: str) -> str:
    """Look up a parameter in the text of a model; raise ValueError where the text does not have it."""
    found = re.search(rf"^\[{name}: (.*)\]$", text, re.MULTILINE)
    if found is None:
        raise ValueError(
            f"The text of this LightGBM model has no parameter {name!r}. Models are read as LightGBM 4.7 writes them: "
            "fit or save the model with this version."
        )
    return found[1]


def node_ridges(tree: TreeText, many: NDArray, reg_lambda: float, cat_l2: float) -> tuple[NDArray, NDArray]:
    """Ridge of every inner node, (n_leaves - 1,), the root first, and of every leaf, (n_leaves,).

    It is lambda, plus cat_l2 below a split over many categories; ``many`` says which columns have many.
    """
    over_many = many[tree.split_feature] & (tree.decision_type & _CATEGORICAL).astype(bool)
    splits, leaves = np.full(max(tree.n_leaves - 1, 0), float(reg_lambda)), np.full(tree.n_leaves, float(reg_lambda))
    for children in (tree.left_child[over_many], tree.right_child[over_many]):
        splits[children[children >= 0]] += cat_l2
        leaves[~children[children < 0]] += cat_l2
    return splits, leaves


def path_smoothing(tree: TreeText, smooth: float) -> tuple[NDArray, NDArray]:
    """Leaves below every node, and the matrix that path smoothing applies to the nodes' own values.

    With n rows of the bag in a node, a = n / (n + smooth) and r the node's own Newton step, its smoothed value is
    v = a r + (1 - a) v_parent. The root is not smoothed.

    Returns
    -------
    below : ndarray of shape (n_nodes, n_leaves)
        1 where a leaf is the node or below it. Nodes are numbered as children are: splits first, the root at 0, and
        leaves last, in reverse order.
    mixing : ndarray of shape (n_leaves, n_nodes)
        Matrix from the nodes' own values to leaf values.
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
