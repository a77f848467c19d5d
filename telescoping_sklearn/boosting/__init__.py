"""Boosted trees: exact telescopes, one stage a tree."""

from telescoping_sklearn.boosting._estimators import TelescopingGBTRegressor

__all__ = ["TelescopingGBTRegressor"]
