"""
Criteria for the number of trees
================================

After every tree a boosted ensemble is a linear smoother of its labels, so the textbook criteria for smoothers can be
computed along training without a validation set. The criteria do not take into account that the structure of the trees
was fitted to the same labels. Here they are compared with the error on other rows.
"""

import matplotlib.pyplot as plt
import numpy as np

from telescoping_sklearn import TelescopingGBTRegressor, load_lucas_county

# %%
# Houses to learn from, and 3000 others.

X, y = load_lucas_county(return_X_y=True)
X, y = X.select_dtypes("number").to_numpy(), y.to_numpy()
chosen = np.random.default_rng(0).permutation(len(X))[:3600]
X_train, y_train, X_test, y_test = X[chosen[:600]], y[chosen[:600]], X[chosen[600:]], y[chosen[600:]]

settings = {"num_leaves": 15, "learning_rate": 0.1, "n_jobs": 1, "random_state": 0}
trees = TelescopingGBTRegressor(n_estimators=250, **settings).fit(X_train, y_train)
curve = trees.stopping_curve()
print(curve.by_stage.iloc[[0, 24, 49, 99, 249]].round(4).to_string())

# %%
# The number of trees that each criterion chooses, that of early stopping on a fifth of the rows, and the best one in
# hindsight.

test_error = np.array([np.mean((prediction - y_test) ** 2) for prediction in trees.staged_predict(X_test)])
early = TelescopingGBTRegressor(n_estimators=250, early_stopping_rounds=20, validation_fraction=0.2, **settings)
found = curve.chosen | {"early stopping": early.fit(X_train, y_train).n_stages_, "hindsight": test_error.argmin() + 1}
for name, stage in found.items():
    print(f"{name}: {stage} trees, test error {test_error[stage - 1]:.4f}")

# %%
# The criteria keep falling: the leaves adapt to the labels, and the trace of the smoother matrix does not count that.
# The leave-one-out shortcut is not the error without each row either, not even with the trees held fixed: leaving a row
# out would also change the counts and residuals of later trees.

figure, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
stages = curve.by_stage.index
ax.plot(stages, test_error, color="black", label="error on other rows")
ax.plot(stages, curve.by_stage["loo"], color="#0072B2", label="leave-one-out shortcut")
ax.plot(stages, curve.by_stage["gcv"], color="#D55E00", linestyle="--", label="generalised cross-validation")
ax.plot(stages, curve.by_stage["training_mse"], color="0.6", label="training error")
for name in ("early stopping", "hindsight"):
    ax.axvline(found[name], color="0.4", linewidth=1, linestyle=":")
    ax.annotate(name, (found[name], ax.get_ylim()[1]), rotation=90, va="top", ha="right", fontsize=8)
ax.set(xlabel="trees", ylabel="mean squared error (log price)")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
