"""Boosted trees and neural nets as one sum over stages, each stage a kernel over the training labels."""

from telescoping_sklearn.base import BaseTelescopingEstimator
from telescoping_sklearn.boosting import TelescopingGBTRegressor
from telescoping_sklearn.datasets import fetch_tabular, load_lucas_county
from telescoping_sklearn.irregularity import (
    FirstComponentDeviation,
    IrregularSplit,
    PrincipalDistance,
    SkewedLog1p,
    TabularPreparation,
    irregular_rows,
    irregularity_scores,
    mixture_test_sets,
)
from telescoping_sklearn.neural import TelescopingMLPRegressor

__all__ = [
    "BaseTelescopingEstimator",
    "FirstComponentDeviation",
    "IrregularSplit",
    "PrincipalDistance",
    "SkewedLog1p",
    "TabularPreparation",
    "TelescopingGBTRegressor",
    "TelescopingMLPRegressor",
    "fetch_tabular",
    "irregular_rows",
    "irregularity_scores",
    "load_lucas_county",
    "mixture_test_sets",
]
__version__ = "0.1.0"
