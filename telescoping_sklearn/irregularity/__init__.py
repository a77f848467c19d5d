"""Irregularity (outlier) scores, and train/test splits by irregularity.

A model that was trained on regular rows is evaluated on test sets with a chosen share of irregular rows: a detector
scores the rows of a table, the rows with the lowest scores are marked irregular, and only regular rows are used for
training. Lower scores are more irregular, as in scikit-learn.
"""

from telescoping_sklearn.irregularity._preparation import SkewedLog1p, TabularPreparation
from telescoping_sklearn.irregularity._scores import FirstComponentDeviation, PrincipalDistance, irregularity_scores
from telescoping_sklearn.irregularity._split import IrregularSplit, irregular_rows, mixture_test_sets

__all__ = [
    "FirstComponentDeviation",
    "IrregularSplit",
    "PrincipalDistance",
    "SkewedLog1p",
    "TabularPreparation",
    "irregular_rows",
    "irregularity_scores",
    "mixture_test_sets",
]
