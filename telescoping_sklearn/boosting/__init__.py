"""Boosted trees: exact telescopes, one stage a tree.

The estimator is imported when it is first used, so that telescopes of other libraries' trees do not load LightGBM.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telescoping_sklearn.boosting._estimators import TelescopingGBTRegressor

__all__ = ["TelescopingGBTRegressor"]

if not TYPE_CHECKING:  # a type checker reads the import above; with `__getattr__` it would accept every name

    def __getattr__(name):
        """Import the estimator when it is first used (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from telescoping_sklearn.boosting import _estimators

        globals()[name] = value = getattr(_estimators, name)
        return value

    def __dir__():
        """List the public names too that are not imported yet."""
        return sorted({*globals(), *__all__})
