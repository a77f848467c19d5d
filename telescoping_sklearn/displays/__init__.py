"""What a model and a study look like: one Display a question, each of scikit-learn's kind.

A Display holds numbers. ``from_estimator`` and ``from_results`` compute them, from fitted pipelines as well as from
bare estimators, and ``plot`` draws them, as often as asked and on whatever axes it is given. matplotlib is imported
when something is drawn and not before.
"""

from telescoping_sklearn.displays._curves import IrregularityCurveDisplay, label_results, summarize_curves
from telescoping_sklearn.displays._predictions import StagedPredictionsDisplay
from telescoping_sklearn.displays._stages import (
    EffectiveParamsDisplay,
    KernelNormsDisplay,
)
from telescoping_sklearn.displays._stopping import StoppingCurveDisplay
from telescoping_sklearn.displays._weights import KernelWeightsDisplay

__all__ = [
    "EffectiveParamsDisplay",
    "IrregularityCurveDisplay",
    "KernelNormsDisplay",
    "KernelWeightsDisplay",
    "StagedPredictionsDisplay",
    "StoppingCurveDisplay",
    "label_results",
    "summarize_curves",
]
