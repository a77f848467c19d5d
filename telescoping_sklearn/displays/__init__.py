"""Displays of fitted models and of benchmark results, with the interface of scikit-learn's Displays.

A Display stores numbers. ``from_estimator`` computes them from a fitted estimator or pipeline, ``from_results`` from
the results of a benchmark; ``plot`` draws them, on new axes or on given ones. matplotlib is imported when a Display
draws.
"""

from telescoping_sklearn.displays._connectivity import ErrorBarrierDisplay, GradientChangeDisplay
from telescoping_sklearn.displays._curves import IrregularityCurveDisplay, label_results, summarize_curves
from telescoping_sklearn.displays._predictions import StagedPredictionsDisplay
from telescoping_sklearn.displays._stages import EffectiveParamsDisplay, KernelNormsDisplay
from telescoping_sklearn.displays._stopping import StoppingCurveDisplay
from telescoping_sklearn.displays._weights import KernelWeightsDisplay

__all__ = [
    "EffectiveParamsDisplay",
    "ErrorBarrierDisplay",
    "GradientChangeDisplay",
    "IrregularityCurveDisplay",
    "KernelNormsDisplay",
    "KernelWeightsDisplay",
    "StagedPredictionsDisplay",
    "StoppingCurveDisplay",
    "label_results",
    "summarize_curves",
]
