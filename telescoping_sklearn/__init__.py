"""Boosted trees and neural nets as one sum over stages, each stage a kernel over the training labels."""

from telescoping_sklearn.boosting import TelescopingGBTRegressor

__all__ = ["TelescopingGBTRegressor"]
