"""scikit-learn's callbacks on both estimators: what they see, how they stop a fit, and what they leave alone."""

import pickle
import subprocess
import sys
import textwrap

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from telescoping_sklearn import FittedTelescope, TelescopingGBTRegressor, TelescopingMLPRegressor
from telescoping_sklearn.callbacks import StopAtScore, StopWithoutImprovement

callback = pytest.importorskip("sklearn.callback")

RNG = np.random.default_rng(0)
X = np.column_stack([RNG.normal(size=(60, 3)), RNG.integers(2, size=60)])  # the last column may be bundled
Y = X[:, 0] + X[:, 1] ** 2 + RNG.normal(size=60)
NET = {
    "hidden_layer_sizes": (5,),
    "activation": "tanh",
    "max_iter": 7,
    "batch_size": 16,
    "dtype": "float64",
    "section": 1,
    "random_state": 0,
}
TREES = {"n_estimators": 7, "min_child_samples": 5, "n_jobs": 1, "random_state": 0}
FAMILIES = {
    "net": TelescopingMLPRegressor(**NET),
    "net, early stopping": TelescopingMLPRegressor(**NET, early_stopping=True, validation_fraction=0.2),
    "module": TelescopingMLPRegressor(**NET, module=torch.nn.Linear, module__out_features=1),
    "trees": TelescopingGBTRegressor(**TREES),
    "bags": TelescopingGBTRegressor(**TREES, subsample=0.6, subsample_freq=2),
    "trees, early stopping": TelescopingGBTRegressor(**TREES, early_stopping_rounds=2, learning_rate=0.9),
}
LENGTH = {"net": "max_iter", "module": "max_iter", "trees": "n_estimators", "bags": "n_estimators"}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def length_name(family):
    return LENGTH[family.split(",")[0]]


class Notes:
    """Notes every call; may stop, raise, or disturb torch at an iteration."""

    def __init__(self, stop_at=None, fail=None, error=RuntimeError):
        self.stop_at, self.fail, self.error = stop_at, fail, error
        self.calls, self.fitted, self.seen = [], [], []

    def _note(self, hook, context):
        self.calls.append((hook, context.task_name, context.task_id))
        if self.fail == hook or (self.fail == (hook, context.task_id) and context.parent is not None):
            raise self.error(hook)

    def setup(self, estimator, context):
        self._note("setup", context)

    def teardown(self, estimator, context):
        self._note("teardown", context)

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self._note("begin", context)

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.seen.append((X, y, metadata))
        if hasattr(fitted_estimator, "predict"):  # a transformer of a pipeline has none
            self.fitted.append((fitted_estimator, fitted_estimator.predict(X)))
        torch.manual_seed(1)
        self._note("end", context)
        return self.stop_at == context.task_id and context.parent is not None

    def names(self):
        return [name for name, *_ in self.calls]


class Travelling(Notes):
    """Notes that meta-estimators hand on to what they fit."""

    max_propagation_depth = None


def fit(family, *callbacks, **settings):
    return clone(FAMILIES[family]).set_params(**settings).set_callbacks(*callbacks).fit(X, Y)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_iteration_is_a_task_and_callbacks_change_nothing(family):
    notes = Notes()
    model, plain = fit(family, notes), clone(FAMILIES[family]).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    assert model.n_stages_ == plain.n_stages_
    ran = notes.names().count("begin") - 1
    assert ran == (model.n_iter_ if "n_iter_" in vars(model) else ran) <= 7
    assert notes.names() == ["setup", "begin", *(["begin", "end"] * ran), "end", "teardown"]
    assert [task for hook, name, task in notes.calls if hook == "end" and name != "fit"] == list(range(ran))
    assert {name for _, name, _ in notes.calls} == {
        "fit",
        "epoch" if "n_iter_" in vars(model) else "boosting iteration",
    }
    assert not [name for name in vars(model) if name.startswith("_callback")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stop_at", [0, 3])
def test_a_fit_that_a_callback_stops_is_that_of_as_many_iterations(family, stop_at):
    notes = Notes(stop_at)
    model = fit(family, notes)
    n_run = notes.names().count("begin") - 1  # early stopping may have come first
    short = fit(family, **{length_name(family): n_run})
    assert n_run <= stop_at + 1
    assert model.n_stages_ == short.n_stages_
    assert getattr(model, "n_iter_", n_run) == n_run
    np.testing.assert_array_equal(model.predict(X), short.predict(X))
    np.testing.assert_allclose(model.kernel_weights(X), short.kernel_weights(X), atol=1e-12)
    rebuilt = model.kernel_weights(X) @ Y + model.offset(X)
    np.testing.assert_allclose(rebuilt, model.predict(X), atol=1e-4)
    if hasattr(model, "loss_curve_"):
        assert len(model.loss_curve_) == n_run


@pytest.mark.parametrize("family", ["net", "trees"])
def test_the_fitted_estimator_of_a_task_stays_that_of_its_stage(family):
    notes = Notes()
    model = fit(family, notes)
    for fitted, then in notes.fitted:
        np.testing.assert_array_equal(fitted.predict(X), then)
        np.testing.assert_allclose(then, next(model.staged_predict(X, [fitted.n_stages_])), atol=1e-12)
    with pytest.raises(ValueError, match="keeps no record"):
        _ = notes.fitted[0][0].telescope_
    assert len({fitted.n_stages_ for fitted, _ in notes.fitted}) == 7


def test_callbacks_see_the_rows_trained_on_as_they_were_given():
    frame = pd.DataFrame(X, columns=list("abcd")).astype({"d": "category"})
    weights = np.linspace(1, 2, len(Y))
    for name, given in (("trees, early stopping", frame), ("net, early stopping", frame[list("abc")])):
        notes, model = Notes(), clone(FAMILIES[name])
        model.set_callbacks(notes).fit(given, Y, sample_weight=weights)
        seen, labels, metadata = notes.seen[0]
        assert isinstance(seen, pd.DataFrame)
        assert len(labels) < len(Y)
        np.testing.assert_array_equal(labels, Y[seen.index])
        np.testing.assert_array_equal(metadata["sample_weight"], weights[seen.index])
    notes = Notes()
    fit("trees", notes)
    assert notes.seen[0][0] is X
    assert notes.seen[0][2] is None


FAILURES = {hook: RuntimeError for hook in ("setup", "begin", "end", ("end", 2), "teardown")} | {
    ("begin", 2): KeyboardInterrupt
}


@pytest.mark.parametrize("family", ["net", "trees"])
@pytest.mark.parametrize(("fail", "error"), FAILURES.items(), ids=str)
def test_a_callback_that_raises_leaves_the_earlier_fit(family, fail, error):
    model = fit(family)
    before, learnt = model.predict(X), set(vars(model))
    notes = Notes(fail=fail, error=error)
    model.set_callbacks(notes).set_params(random_state=1, **{length_name(family): 4})
    with pytest.raises(error):
        model.fit(X + 1, Y)
    assert notes.names().count("teardown") == 1
    np.testing.assert_array_equal(model.predict(X), before)
    assert set(vars(model)) == learnt | {"_skl_callbacks"}
    np.testing.assert_allclose(model.kernel_weights(X) @ Y + model.offset(X), before, atol=1e-4)
    model.set_callbacks().fit(X + 1, Y)


def test_a_warm_start_is_a_fit_of_the_trees_it_adds():
    notes = Notes(stop_at=1)
    model = TelescopingGBTRegressor(**TREES, warm_start=True, subsample=0.7, subsample_freq=1).fit(X, Y)
    other = clone(model).fit(X, Y)
    model.set_params(n_estimators=12).set_callbacks(notes).fit(X, Y)
    assert model.n_stages_ == 9
    assert notes.names().count("begin") == 3
    assert [fitted.n_stages_ for fitted, _ in notes.fitted] == [8, 9, 9]
    other.set_params(n_estimators=9).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), other.predict(X))
    np.testing.assert_allclose(model.kernel_weights(X) @ Y + model.offset(X), model.predict(X), atol=1e-6)
    again = Notes()
    with pytest.warns(UserWarning, match="does not fit new trees") as caught:
        model.set_callbacks(again).fit(X, Y)
    assert caught[0].filename == __file__
    assert again.names() == ["setup", "begin", "end", "teardown"]
    assert model.n_stages_ == 9


def test_scikit_learns_monitor_keeps_a_score_by_iteration():
    monitor = callback.ScoringMonitor(scoring=["r2", "neg_mean_absolute_error"])
    for family in ("net", "trees"):
        model = fit(family, monitor)
        log = monitor.get_logs().data_as_pandas
        by_iteration = log[log["parent_task_id_path"] == (0,)]
        assert by_iteration["task_id"].tolist() == list(range(7))
        assert log["r2"].iloc[-1] == pytest.approx(model.score(X, Y))


@pytest.mark.parametrize("family", ["net", "trees"])
def test_searches_and_pipelines_hand_callbacks_on(family):
    notes, monitor = Travelling(), callback.ScoringMonitor(scoring="r2")
    inner = clone(FAMILIES[family]).set_params(record=False).set_callbacks(monitor)
    pipe = make_pipeline(StandardScaler(), inner)
    name = pipe.steps[-1][0]
    search = GridSearchCV(pipe, {f"{name}__{length_name(family)}": [2, 3]}, cv=2, n_jobs=2)
    with joblib.parallel_config(backend="threading"):
        search.set_callbacks(notes).fit(X, Y)
    best = search.best_params_[f"{name}__{length_name(family)}"]
    kind = "epoch" if family == "net" else "boosting iteration"
    assert sum(call[1] == kind for call in notes.calls) == 2 * (2 * 2 + 2 * 3 + best)
    assert notes.names().count("setup") == notes.names().count("teardown") == 1
    assert len(monitor.get_logs(select="all")) >= 1
    assert not hasattr(search.best_estimator_[-1], "_parent_callback_ctx")
    assert search.best_estimator_[-1]._skl_callbacks == [monitor]


def test_estimators_are_cloned_and_pickled_with_their_callbacks():
    rules = [StopWithoutImprovement(scoring="r2"), callback.ScoringMonitor(scoring="r2")]
    for family in ("net", "trees"):
        model = fit(family, *rules)
        assert clone(model)._skl_callbacks == rules
        loaded = pickle.loads(pickle.dumps(model))
        assert isinstance(loaded._skl_callbacks[0], StopWithoutImprovement)
        np.testing.assert_array_equal(loaded.fit(X, Y).predict(X), model.predict(X))
    assert not hasattr(FittedTelescope, "set_callbacks")


# -- stopping rules ----------------------------------------------------------------------------------------------------


def scikit_learns_rule(scores, tol, n_iter_no_change):
    """Epochs that scikit-learn's perceptrons run, from ``_update_no_improvement_count``."""
    best, waited = -np.inf, 0
    for epoch, score in enumerate(scores, 1):
        waited = waited + 1 if score < best + tol else 0
        best = max(best, score)
        if waited > n_iter_no_change:
            return epoch
    return len(scores)


def window_rule(scores, tol, patience):
    """Epochs until none of the last `patience` is better by `tol` than the last improvement."""
    reference = 0
    for epoch in range(len(scores)):
        if epoch and scores[epoch] >= scores[reference] + tol and scores[epoch] > scores[reference]:
            reference = epoch
        if epoch - reference >= patience:
            return epoch + 1
    return len(scores)


CURVE = {**NET, "max_iter": 120, "learning_rate_init": 0.05, "record": False, "batch_size": 8}


@pytest.mark.parametrize("tol", [0, 0.0, 1e-3, 0.05])
def test_the_two_rules_for_no_improvement_are_what_they_say(tol):
    whole = TelescopingMLPRegressor(**CURVE, n_iter_no_change=np.inf).fit(X, Y)
    scores = -np.array(whole.loss_curve_)
    own = TelescopingMLPRegressor(**CURVE, tol=tol, n_iter_no_change=3).fit(X, Y)
    assert own.n_iter_ == scikit_learns_rule(scores, tol, 3)
    rule = StopWithoutImprovement(tol=tol, n_iter_no_change=4)
    ruled = TelescopingMLPRegressor(**CURVE, n_iter_no_change=np.inf).set_callbacks(rule).fit(X, Y)
    assert ruled.n_iter_ == window_rule(scores, tol, 4)
    assert ruled.loss_curve_ == whole.loss_curve_[: ruled.n_iter_]


def test_small_steps_that_add_up_stop_scikit_learns_rule_only():
    settings = {**CURVE, "optimizer": "sgd", "learning_rate_init": 1e-4, "max_iter": 60}
    own = TelescopingMLPRegressor(**settings, tol=1e-3, n_iter_no_change=5).fit(X, Y)
    rule = StopWithoutImprovement(tol=1e-3, n_iter_no_change=20)
    ruled = TelescopingMLPRegressor(**settings, n_iter_no_change=np.inf).set_callbacks(rule).fit(X, Y)
    assert own.n_iter_ < 60 == ruled.n_iter_


@pytest.mark.parametrize("model", [TelescopingMLPRegressor(**CURVE), TelescopingGBTRegressor(**TREES)])
def test_training_stops_at_a_score(model):
    def correct_signs(fitted, rows, labels):
        return np.mean((fitted.predict(rows) > 0) == (labels > 0))

    labels = np.where(X[:, 0] > 0, 1.0, -1.0)
    notes = Notes()
    model = clone(model).set_params(**{"max_iter": 300} if "max_iter" in model.get_params() else {"n_estimators": 60})
    model.set_callbacks(notes, StopAtScore(correct_signs, 1.0)).fit(X, labels)
    signs = [np.mean((predicted > 0) == (labels > 0)) for _, predicted in notes.fitted[:-1]]
    assert signs.index(1.0) == len(signs) - 1 < 50
    assert correct_signs(model, X, labels) == 1.0


def test_trees_keep_no_loss_so_a_rule_needs_a_scoring():
    with pytest.raises(ValueError, match="Give a scoring"):
        fit("trees", StopWithoutImprovement())
    with pytest.raises(ValueError, match="'n_iter_no_change' parameter of StopWithoutImprovement"):
        StopWithoutImprovement(n_iter_no_change=0)
    with pytest.raises(ValueError, match="'scoring' parameter of StopAtScore"):
        StopAtScore("accurracy", 1.0)


def test_without_scikit_learns_callbacks_everything_else_works():
    program = """
        import sys
        import numpy as np
        import sklearn.ensemble, sklearn.model_selection, sklearn.pipeline, sklearn.callback._callback_support
        sys.modules["sklearn.callback"] = None  # as before 1.9: `from sklearn.callback import ...` raises ImportError
        from telescoping_sklearn import TelescopingGBTRegressor, TelescopingMLPRegressor
        X = np.random.default_rng(0).normal(size=(40, 3))
        for model in (TelescopingMLPRegressor((3,), max_iter=3), TelescopingGBTRegressor(n_estimators=3, n_jobs=1)):
            y = X[:, 0] + 1e-3
            sklearn.base.clone(model).set_params(random_state=0).fit(X, y).kernel_weights(X)
            try:
                model.set_callbacks()
            except ImportError as error:
                assert "needs scikit-learn 1.9 or later" in str(error)
                print("refused")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "refused"]
