"""Neural nets: first-order telescopes, one stage a parameter update."""

from telescoping_sklearn.neural._estimators import TelescopingMLPRegressor

__all__ = ["TelescopingMLPRegressor"]
