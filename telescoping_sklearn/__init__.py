"""Boosted trees and neural nets as one sum over stages, each stage a kernel over the training labels.

Names are imported when they are first used, so that a program that needs no net does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telescoping_sklearn.base import BaseTelescopingEstimator
    from telescoping_sklearn.boosting import TelescopingGBTRegressor
    from telescoping_sklearn.datasets import fetch_tabular, load_lucas_county
    from telescoping_sklearn.fitted import FittedTelescope, telescope
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
    from telescoping_sklearn.neural import TelescopingMLPRegressor, TrainingRecorder, record_training

__all__ = [
    "BaseTelescopingEstimator",
    "FirstComponentDeviation",
    "FittedTelescope",
    "IrregularSplit",
    "PrincipalDistance",
    "SkewedLog1p",
    "TabularPreparation",
    "TelescopingGBTRegressor",
    "TelescopingMLPRegressor",
    "TrainingRecorder",
    "fetch_tabular",
    "irregular_rows",
    "irregularity_scores",
    "load_lucas_county",
    "mixture_test_sets",
    "record_training",
    "telescope",
]
__version__ = "0.1.0"

#: The module that each public name is imported from.
_MODULE_OF = {
    "BaseTelescopingEstimator": "base",
    "FirstComponentDeviation": "irregularity",
    "FittedTelescope": "fitted",
    "IrregularSplit": "irregularity",
    "PrincipalDistance": "irregularity",
    "SkewedLog1p": "irregularity",
    "TabularPreparation": "irregularity",
    "TelescopingGBTRegressor": "boosting",
    "TelescopingMLPRegressor": "neural",
    "TrainingRecorder": "neural",
    "fetch_tabular": "datasets",
    "irregular_rows": "irregularity",
    "irregularity_scores": "irregularity",
    "load_lucas_county": "datasets",
    "mixture_test_sets": "irregularity",
    "record_training": "neural",
    "telescope": "fitted",
}
_SUBMODULES = (
    "attribution",
    "base",
    "benchmark",
    "boosting",
    "callbacks",
    "datasets",
    "displays",
    "fitted",
    "irregularity",
    "losses",
    "metrics",
    "neural",
)

if not TYPE_CHECKING:  # a type checker reads the imports above; with `__getattr__` it would accept every name

    def __getattr__(name):
        """Import a public name or a submodule when it is first used (PEP 562)."""
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        """List the public names and submodules too that are not imported yet."""
        return sorted({*globals(), *__all__, *_SUBMODULES})
