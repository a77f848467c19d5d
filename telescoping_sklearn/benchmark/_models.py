"""The models of a study: ours by name, any scikit-learn regressor by import path or as an instance.

Every model is a pipeline on the raw table with a standardised target. The pipeline prepares the columns for the model:
standardised and one-hot for nets and linear models, ordinal codes for trees.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from sklearn.base import clone, is_regressor
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.utils import get_tags
from sklearn.utils._param_validation import validate_parameter_constraints

import telescoping_sklearn
from telescoping_sklearn import TabularPreparation
from telescoping_sklearn.benchmark._describe import describe
from telescoping_sklearn.benchmark._tuning import PAPER_SPACES, read_space

PREPARATIONS = ("standard", "ordinal", "none")
_KEYS = {"estimator", "settings", "preparation", "space"}
#: Our own models; they are imported when a study has one.
_OURS = {"net": "TelescopingMLPRegressor", "trees": "TelescopingGBTRegressor"}
#: Modules and name parts of tree-based regressors, which need no scaling.
_TREE_MODULES = ("sklearn.ensemble", "sklearn.tree", "lightgbm", "xgboost", "catboost")
_TREE_WORDS = ("Tree", "Forest", "Boost", "GBT", "GBM", "GBR", "XGB", "LGBM")


@dataclass(frozen=True)
class ModelSpec:
    """A model of a study."""

    name: str
    estimator: Any  # unfitted, with its settings; `make` sets the seed
    preparation: str  # "standard", "ordinal" or "none"
    space: dict[str, Any] = field(default_factory=dict)  # search space of the tuning; empty if the model is not tuned
    settings: dict[str, Any] = field(default_factory=dict)  # as the study gives them

    def make(self, seed: int) -> TransformedTargetRegressor:
        """Build the unfitted model as a pipeline on raw rows."""
        estimator = clone(self.estimator)
        if isinstance(estimator, TransformedTargetRegressor):
            return _seeded(estimator, seed)
        if self.preparation == "none":
            return TransformedTargetRegressor(_seeded(estimator, seed), transformer=StandardScaler())
        columns = TabularPreparation(missing_indicator=True) if self.preparation == "standard" else _codes(estimator)
        return TransformedTargetRegressor(
            make_pipeline(columns, _seeded(estimator, seed)), transformer=StandardScaler()
        )

    def prefix(self) -> str:
        """Return the prefix of the estimator's parameters in the pipeline that `make` builds."""
        if isinstance(self.estimator, TransformedTargetRegressor):
            return ""
        if self.preparation == "none":
            return "regressor__"
        return f"regressor__{type(self.estimator).__name__.lower()}__"

    def describe(self) -> dict[str, Any]:
        """Describe the model as JSON types."""
        return {
            "estimator": describe(self.estimator),
            "library": _library_version(self.estimator),
            "preparation": self.preparation,
            "space": describe(self.space),
        }


def _library_version(estimator: Any) -> str | None:
    """Version of the library that an estimator comes from, if it has one."""
    return getattr(import_module(type(estimator).__module__.partition(".")[0]), "__version__", None)


def _codes(estimator: Any) -> Any:
    """Encode categories as integers; impute and mark missing values if the estimator does not accept them."""
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((codes, make_column_selector(dtype_exclude="number")), remainder="passthrough")
    if get_tags(estimator).input_tags.allow_nan:
        return columns
    return make_pipeline(columns, SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True))


def _seeded(estimator: Any, seed: int) -> Any:
    """Set every `random_state` that is None to the seed, and every `n_jobs` that is None to 1."""
    params = estimator.get_params(deep=True)
    last = {name: name.split("__")[-1] for name, value in params.items() if value is None}
    seeds = {name: seed for name, end in last.items() if end == "random_state"}
    threads = {name: 1 for name, end in last.items() if end == "n_jobs"}
    return estimator.set_params(**seeds, **threads)


def read_models(models: Any, section: int | str) -> Iterator[ModelSpec | str]:
    """Parse a study's `models`: yields models, and an error line for every mistake."""
    if isinstance(models, str):
        models = (models,)
    if not isinstance(models, Mapping):
        try:
            models = {name: {} for name in models}
        except TypeError:
            yield f"models must be names, or a table of models by name, got {models!r}"
            return
    if not models:
        yield "models must hold at least one model"
    for name, given in models.items():
        mistakes: list[str] = []
        with _collect_errors(mistakes):
            spec = _read_model(str(name), given, section, mistakes)
        yield from (f"models.{name}: {line}" for line in mistakes)
        if not mistakes:
            yield spec


@contextmanager
def _collect_errors(mistakes: list[str]) -> Iterator[None]:
    """Collect an error as a line instead of raising it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        mistakes.append(" ".join(str(error).split()))


def _read_model(name: str, given: Any, section: int | str, mistakes: list[str]) -> ModelSpec:
    """Parse a model. Recoverable errors are collected in ``mistakes``; fatal ones are raised."""
    if isinstance(given, str) or hasattr(given, "get_params"):
        given = {"estimator": given}
    if not isinstance(given, Mapping):
        raise TypeError(f"give a table of settings, an import path or an estimator, got {given!r}")
    unknown = sorted(set(given) - _KEYS)
    if unknown:
        mistakes.append(f"no option {', '.join(unknown)}; there are {', '.join(sorted(_KEYS))}")
    settings = given.get("settings", {})
    if not isinstance(settings, Mapping):
        mistakes.append(f"settings must be a table, got {settings!r}")
        settings = {}
    preparation = given.get("preparation")
    if preparation not in (*PREPARATIONS, None):
        mistakes.append(f"preparation must be one of {', '.join(PREPARATIONS)}, got {preparation!r}")
        preparation = None
    space = _read_space(given.get("space", PAPER_SPACES.get(str(given.get("estimator", name)), {})), mistakes)
    estimator = _make_estimator(given.get("estimator", name), dict(settings), section, mistakes)
    with _collect_errors(mistakes):
        _refuse_unknown(space, estimator, "space")
    mistakes += _setting_mistakes(estimator)
    spec = ModelSpec(name, estimator, preparation or _preparation_of(estimator), space, dict(settings))
    spec.describe()
    if not mistakes:
        spec.make(0)
    return spec


def _read_space(given: Any, mistakes: list[str]) -> dict[str, Any]:
    """Parse a search space parameter by parameter, so that all errors are collected."""
    parts = [{name: choice} for name, choice in given.items()] if isinstance(given, Mapping) else [given]
    space: dict[str, Any] = {}
    for part in parts:
        with _collect_errors(mistakes):
            space |= read_space(part)
    return space


def _setting_mistakes(estimator: Any) -> Iterator[str]:
    """Yield the errors that `fit` would raise for parameter values of an estimator and its parts."""
    parts = [estimator, *(value for value in estimator.get_params(deep=True).values() if not isinstance(value, type))]
    for part in parts:
        constraints = getattr(part, "_parameter_constraints", None)
        if not isinstance(constraints, Mapping) or not hasattr(part, "get_params"):
            continue
        for name, value in part.get_params(deep=False).items():
            if name in constraints:
                try:
                    validate_parameter_constraints({name: constraints[name]}, {name: value}, type(part).__name__)
                except ValueError as error:
                    yield " ".join(str(error).split())
        if hasattr(part, "unsupported_params"):
            yield from part.unsupported_params().values()


def _make_estimator(which: Any, settings: dict[str, Any], section: int | str, mistakes: list[str]) -> Any:
    """Build an unfitted estimator with its settings; unknown ones are collected as errors."""
    if isinstance(which, str):
        klass = getattr(telescoping_sklearn, _OURS[which]) if which in _OURS else _import_regressor(which)
        estimator = klass()
        defaults = _our_defaults(which, settings, section)
    elif hasattr(which, "get_params") and not isinstance(which, type):
        if not is_regressor(which):
            raise TypeError(f"{type(which).__name__} is no regressor")
        estimator, defaults = clone(which), {}
    else:
        raise TypeError(f"estimator must be an import path or an estimator, got {which!r}")
    with _collect_errors(mistakes):
        _refuse_unknown(settings, estimator, "settings")
    known = estimator.get_params(deep=True)
    return estimator.set_params(**{name: value for name, value in (defaults | settings).items() if name in known})


def _our_defaults(which: str, settings: dict[str, Any], section: int | str) -> dict[str, Any]:
    """Return the benchmark's defaults for our own models."""
    if which == "trees":
        return {"n_estimators": 300, "n_jobs": 1}
    if which != "net":
        return {}
    net = {"hidden_layer_sizes": (64, 64, 64), "batch_size": 128, "max_iter": 20, "tol": 0.0, "section": section}
    if isinstance(settings.get("hidden_layer_sizes"), list):
        settings["hidden_layer_sizes"] = tuple(settings["hidden_layer_sizes"])
    return net | {"n_iter_no_change": settings.get("max_iter", net["max_iter"])}  # no early stopping


def _refuse_unknown(names: Mapping[str, Any], estimator: Any, what: str) -> None:
    known = estimator.get_params(deep=True)
    unknown = sorted(set(names) - set(known))
    if unknown:
        takes = ", ".join(sorted(name for name in known if "__" not in name))
        raise ValueError(f"{what}: {type(estimator).__name__} has no parameter {', '.join(unknown)}; it takes {takes}")


def _import_regressor(path: str) -> type:
    """Import a regressor class by its dotted path."""
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(
            f"{path!r} is neither {' nor '.join(_OURS)} nor an import path such as sklearn.linear_model.Ridge"
        )
    try:
        klass = getattr(import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{path} cannot be imported: {error}") from error
    except AttributeError as error:
        raise ValueError(f"{path} cannot be imported: {module} has no {name}") from error
    if not isinstance(klass, type) or not hasattr(klass, "get_params"):
        raise ValueError(f"{path} is no scikit-learn estimator class")
    try:
        regressor = is_regressor(klass())
    except TypeError as error:
        raise ValueError(f"{path} cannot be made from its settings alone: {error}") from error
    if not regressor:
        raise ValueError(f"{path} is no regressor")
    return klass


def _preparation_of(estimator: Any) -> str:
    """Choose the preparation for an estimator; a pipeline has its own."""
    if isinstance(estimator, Pipeline | TransformedTargetRegressor):
        return "none"
    trees = type(estimator).__module__.startswith(_TREE_MODULES)
    return "ordinal" if trees or any(word in type(estimator).__name__ for word in _TREE_WORDS) else "standard"
