"""
Displays of a fitted model
==========================

Each Display answers one question about a fitted model, with the interface of scikit-learn's Displays:
``from_estimator`` computes numbers and draws them, ``plot`` draws them again. The model may be a pipeline.
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from telescoping_sklearn import TabularPreparation, TelescopingGBTRegressor, TelescopingMLPRegressor, load_lucas_county
from telescoping_sklearn.displays import (
    EffectiveParamsDisplay,
    KernelNormsDisplay,
    KernelWeightsDisplay,
    StagedPredictionsDisplay,
)

# %%
# 600 houses for training, 200 others, and two models of their log prices in standard deviations.

X, y = load_lucas_county(return_X_y=True)
chosen = np.random.default_rng(0).permutation(len(X))[:800]
X_train, y_train, X_test = X.iloc[chosen[:600]], y.iloc[chosen[:600]], X.iloc[chosen[600:]]

codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
columns = make_column_transformer((codes, make_column_selector(dtype_exclude="number")), remainder="passthrough")
trees = TelescopingGBTRegressor(n_estimators=100, random_state=0)
net = TelescopingMLPRegressor((32, 32), learning_rate_init=0.01, max_iter=20, section=5, random_state=0)
models = {
    "trees": TransformedTargetRegressor(make_pipeline(columns, trees), transformer=StandardScaler()),
    "net": TransformedTargetRegressor(make_pipeline(TabularPreparation(), net), transformer=StandardScaler()),
}
for model in models.values():
    model.fit(X_train, y_train)


def side_by_side(draw, **figure):
    """Draw the trees on the left and the net on the right."""
    panels = plt.subplots(1, 2, **{"figsize": (10, 4), "layout": "constrained"} | figure)[1]
    for ax, (name, model) in zip(panels, models.items(), strict=True):
        draw(model, ax)
        ax.set_title("\n".join(filter(None, [name, ax.get_title(loc="left")])), loc="left", fontsize="medium")


# %%
# Which training rows made this prediction?
# -----------------------------------------
# The rows that weigh most, with sign, and their labels. Rows carry the index of the table.

house = X_test.iloc[[7]]
side_by_side(lambda model, ax: KernelWeightsDisplay.from_estimator(model, house, k=12, row_names=X_train.index, ax=ax))

# %%
# How complex is what was learned?
# --------------------------------
# Effective parameters along training, estimated with 32 random columns; bands are one standard error. Where other rows
# stay below the training rows, the model overfits benignly.

side_by_side(lambda model, ax: EffectiveParamsDisplay.from_estimator(model, X_test, stages=12, n_probes=32, ax=ax))

# %%
# How good is the telescope?
# --------------------------
# Predictions of three houses as training goes on: the wide pale line is the model, the thin one its telescope, dots the
# net linearised once at its start. Trees are their own telescope.

side_by_side(
    lambda model, ax: StagedPredictionsDisplay.from_estimator(model, X_test.iloc[:3], stages=30, ax=ax),
    figsize=(12, 4),
)

# %%
# The mean gap to the model over all test rows, on a logarithmic axis. What is left for the trees is rounding: LightGBM
# keeps labels in single precision.

side_by_side(lambda model, ax: StagedPredictionsDisplay.from_estimator(model, X_test, kind="gap", ax=ax))

# %%
# Are its kernels larger here than in training?
# ---------------------------------------------
# Kernel norms by stage. The ratio of the largest norms, averaged over stages, is the paper's statistic. Above 1, the
# largest norm is larger on average at these rows than at the rows trained on. For trees it is at most 1 whatever the
# rows are.

side_by_side(lambda model, ax: KernelNormsDisplay.from_estimator(model, X_test, ax=ax))
