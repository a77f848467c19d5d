"""
Which training rows made this prediction?
=========================================

Boosted trees and a net learn the prices of houses. For one house that neither has seen, both can say how much every
training label counts in the prediction. The weights add up to it, and they show how differently the two models use the
same data.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from telescoping_sklearn import TabularPreparation, TelescopingGBTRegressor, TelescopingMLPRegressor, load_lucas_county

# %%
# Eight hundred houses to learn from, and 400 others.

X, y = load_lucas_county(return_X_y=True)
chosen = np.random.default_rng(0).permutation(len(X))[:1200]
X_train, y_train = X.iloc[chosen[:800]], y.iloc[chosen[:800]].to_numpy()
X_test, y_test = X.iloc[chosen[800:]], y.iloc[chosen[800:]].to_numpy()
center = y_train.mean()

codes = make_column_transformer(
    (OrdinalEncoder(), make_column_selector(dtype_exclude="number")), remainder="passthrough"
)
models = {
    "trees": make_pipeline(codes, TelescopingGBTRegressor(random_state=0)),
    "net": make_pipeline(
        TabularPreparation(),
        TelescopingMLPRegressor(
            (32, 32), learning_rate_init=0.005, max_iter=40, rule="gauss2", section=5, random_state=0
        ),
    ),
}
for name, model in models.items():
    model.fit(X_train, y_train - center)
    error = np.mean((model.predict(X_test) + center - y_test) ** 2) / np.var(y_train)
    print(f"{name}: MSE {error:.3f} of the variance, {model[-1].n_stages_} stages")

# %%
# One house, and what both models say of it. The weights are exact for the trees; for the net the gap is what
# ``approximation_error`` reports.

house = X_test.iloc[[7]]
weights = {}
for name, model in models.items():
    seen = model[:-1].transform(house)
    weights[name] = model[-1].kernel_weights(seen)[0]
    rebuilt = weights[name] @ (y_train - center) + model[-1].offset(seen)[0]
    print(f"{name}: predicts {model.predict(house)[0] + center:.4f}, its weights give {rebuilt + center:.4f}")

# %%
# The rows that count most for the trees, with their weight and price beside the house's own.

columns = ["yrbuilt", "TLA", "wall", "beds", "lotsize"]
top = np.argsort(-np.abs(weights["trees"]))[:5]
neighbours = X_train.iloc[top][columns].assign(log_price=y_train[top].round(2), weight=weights["trees"][top].round(3))
print(house[columns].assign(log_price=y_test[7].round(2)).to_string(index=False))
print(neighbours.to_string(index=False))

# %%
# The trees' weights lie on fewer houses than the net's, whose prediction is a balance of many weights of both signs.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name, color in (("net", "#0072B2"), ("trees", "#D55E00")):
    ordered = np.sort(np.abs(weights[name]))[::-1]
    left.plot(np.arange(1, len(ordered) + 1), np.cumsum(ordered) / ordered.sum(), color=color, label=name)
    right.scatter(y_train, weights[name], s=6, color=color, label=name, alpha=0.6, linewidths=0)
left.set(xscale="log", xlabel="training rows, by size of weight", ylabel="share of all absolute weight")
right.set(xlabel="log price of the training row", ylabel="its weight in this prediction")
right.axvline(y_test[7], color="0.4", linewidth=1, linestyle=":")
right.axhline(0, color="0.8", linewidth=1, zorder=0)
left.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)

# %%
# How complex is what was learned, and does it hold for other rows? Effective parameters are those of a linear smoother
# with the same weights.

for name, model in models.items():
    p_train = model[-1].effective_params_
    p_test = model[-1].effective_params(model[:-1].transform(X_test))
    print(f"{name}: {p_train:.0f} effective parameters on the training rows, {p_test:.0f} on the test rows")
