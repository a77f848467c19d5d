"""Scikit-learn's own checks, on every public estimator."""

import ast
import inspect
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

import telescoping_sklearn

NET = {"hidden_layer_sizes": (10,), "learning_rate_init": 0.02, "max_iter": 60, "random_state": 0}
SETTINGS = {
    "TelescopingGBTRegressor": [{"n_estimators": 20, "min_child_samples": 5, "n_jobs": 1, "random_state": 0}],
    "TelescopingMLPRegressor": [NET | {"dtype": "float64"}, NET | {"batch_size": 12, "max_iter": 20}],
    "FittedTelescope": [
        {"model": HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=5)},
        {"model": GradientBoostingRegressor(n_estimators=20, random_state=0)},
    ],
}


def public_estimators():
    """Every public class that is a scikit-learn estimator and can be made."""
    named = {name: getattr(telescoping_sklearn, name) for name in telescoping_sklearn.__all__}
    return {
        name: value
        for name, value in named.items()
        if inspect.isclass(value) and issubclass(value, BaseEstimator) and not inspect.isabstract(value)
    }


def checked_in_test_irregularity():
    """Names of the classes that test_irregularity.py hands to parametrize_with_checks."""
    tree = ast.parse(Path(__file__).with_name("test_irregularity.py").read_text())
    handed = [
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "parametrize_with_checks"
    ]
    return {item.func.id for call in handed for item in call.args[0].elts}


def checked_here():
    elsewhere = checked_in_test_irregularity()
    makers = {name: make for name, make in public_estimators().items() if name not in elsewhere}
    return [make(**settings) for name, make in makers.items() for settings in SETTINGS.get(name, [{}])]


def test_both_regressors_are_discovered_and_checked_here():
    names = {type(estimator).__name__ for estimator in checked_here()}
    assert {"TelescopingGBTRegressor", "TelescopingMLPRegressor"} <= names


def test_every_public_estimator_is_checked_exactly_once():
    here = {type(estimator).__name__ for estimator in checked_here()}
    assert here | checked_in_test_irregularity() == set(public_estimators())
    assert not here & checked_in_test_irregularity()


def expected_failures(estimator):
    weights = "check_sample_weight_equivalence_on_dense_data"
    if isinstance(estimator, telescoping_sklearn.TelescopingGBTRegressor):
        return {weights: "LightGBM counts rows, not weights, in min_child_samples and in its histograms' bins"}
    if isinstance(estimator, telescoping_sklearn.FittedTelescope):
        return {weights: "the models given count rows, not weights, in min_samples_leaf and min_samples_split"}
    if getattr(estimator, "batch_size", "auto") != "auto":
        return {weights: "a row that is there twice makes other batches than a row of weight two"}
    return {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # some checks fit columns of mean 100
@parametrize_with_checks(checked_here(), expected_failed_checks=expected_failures)
def test_estimator_contract(estimator, check):
    check(estimator)
