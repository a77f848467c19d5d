"""
When can the weights of two nets be averaged?
=============================================

Two nets that share the first part of their training and then see the rows in different orders end in different places.
Children of one recorded run show from which stage on the straight line between such nets has no barrier, so that their
weights can be averaged.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.displays import ErrorBarrierDisplay, GradientChangeDisplay
from telescoping_sklearn.neural import compare_averages, interpolate

# %%
# Threes against fives, with labels 0 and 1.

X, digit = load_digits(return_X_y=True)
chosen = np.isin(digit, (3, 5))
X_train, X_test, y_train, y_test = train_test_split(
    X[chosen] / 16, (digit[chosen] == 5).astype(float), test_size=0.4, random_state=0
)
net = TelescopingMLPRegressor(
    (64, 64), optimizer="sgd", learning_rate_init=0.1, momentum=0.9, batch_size=20, max_iter=30, random_state=0
).fit(X_train, y_train)
print(f"{net.n_stages_} updates, R² {net.score(X_test, y_test):.3f}")

# %%
# Two children of every stage train on with orders of their own. Above, the barrier between them; below, how much the
# gradients of the outputs change within an epoch.

figure, (above, below) = plt.subplots(2, figsize=(6.4, 6.4), layout="constrained", sharex=True)
stages = [0, 5, 10, 20, 40, 80, 160, 240]
barriers = ErrorBarrierDisplay.from_estimator(
    net, X_test, y_test, stages, n_children=3, random_state=0, ax=above
).barriers
changes = GradientChangeDisplay.from_estimator(net, X_test[:128], stages, ax=below).changes
plt.show()

# %%
# The numbers behind the pictures.

print(barriers.mean(axis=1).to_string())
print(changes.to_string(float_format="{:.1e}".format))

# %%
# The net in the middle, and the mean of the predictions of both, an ensemble of two.

for stage in (0, 80):
    children = [net.spawn(stage, random_state=seed) for seed in (1, 2)]
    found = compare_averages(children, X_test, y_test)
    middle = next(iter(interpolate(*children, [0.5])))
    print(
        f"spawned at {stage}: weights averaged {found.average_weights:.4f}, ensemble {found.ensemble:.4f}, "
        f"each {found.members.round(4)}; R² in the middle {middle.score(X_test, y_test):.3f}"
    )
