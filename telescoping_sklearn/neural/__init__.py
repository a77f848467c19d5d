"""Neural nets: first-order telescopes, one stage a parameter update."""

from telescoping_sklearn.neural._activations import register_activation
from telescoping_sklearn.neural._estimators import TelescopingMLPRegressor
from telescoping_sklearn.neural._update_rules import register_update_rule

__all__ = ["TelescopingMLPRegressor", "register_activation", "register_update_rule"]
