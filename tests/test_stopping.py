"""Criteria for the number of trees against the dense smoother after every tree."""

import matplotlib
import numpy as np
import pytest
from conftest import make_net, make_trees, random_rows
from oracles import leaf_loop_response
from sklearn import config_context
from sklearn.datasets import make_friedman1
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from telescoping_sklearn.displays import StoppingCurveDisplay

INTERPOLATING = {"min_child_samples": 1, "num_leaves": 60, "min_child_weight": 0}


def smoothers(model):
    """S_t among the rows trained on, by unit columns."""
    telescope = model.telescope_
    kept = telescope.trained
    responses = telescope.staged_response(None, np.eye(telescope.n_samples)[:, kept])
    return [response[kept] for response in responses], telescope.y[kept], telescope.ensemble.row_weights[kept]


@pytest.mark.parametrize(
    "settings",
    [{}, {"reg_lambda": 2.0}, {"subsample": 0.7, "subsample_freq": 1}, {"early_stopping_rounds": 5}],
    ids=["plain", "ridge", "bags", "early stopping"],
)
@pytest.mark.parametrize("sample_weight", [None, np.linspace(0, 2, 60)], ids=["unweighted", "weighted"])
def test_criteria_are_those_of_the_dense_smoothers(rows, settings, sample_weight):
    model = make_trees(**settings).fit(*rows, sample_weight=sample_weight)
    curve = model.stopping_curve()
    matrices, y, weights = smoothers(model)
    n = len(y)
    for stage, S in enumerate(matrices, start=1):
        residual, df = y - S @ y, np.trace(S)
        mse = np.average(residual**2, weights=weights)
        expected = {
            "training_mse": mse,
            "degrees_of_freedom": df,
            "degrees_of_freedom_se": 0.0,
            "aicc": np.log(mse) + 1 + 2 * (df + 1) / (n - df - 2),
            "gcv": mse / (1 - df / n) ** 2,
            "loo": np.average((residual / (1 - np.diag(S))) ** 2, weights=weights),
        }
        assert curve.by_stage.loc[stage].to_dict() == pytest.approx(expected, rel=1e-9)
    assert curve.chosen == {name: curve.by_stage[name].to_numpy().argmin() + 1 for name in ("aicc", "gcv", "loo")}


def test_the_leave_one_out_shortcut_of_one_leaf_mean_is_its_error_without_the_row(rows):
    """One tree of rate 1 without a start of its own is a leaf mean, whose row is left out by hand."""
    X, y = rows
    model = make_trees(n_estimators=1, learning_rate=1.0).fit(X, y)
    leaf = model.booster_.predict(X, pred_leaf=True).ravel()
    errors = [y[i] - y[(leaf == leaf[i]) & (np.arange(60) != i)].mean() for i in range(60)]
    assert model.stopping_curve(criteria=["loo"]).by_stage["loo"].item() == pytest.approx(np.mean(np.square(errors)))


def left_out_with_trees_held(model, X, y):
    """Mean squared error of every row after every tree, its leaves worked again without that row."""
    n, errors = len(y), []
    leaves = model.booster_.predict(X, pred_leaf=True).reshape(n, -1)
    kept = 1 - np.eye(n)  # one run of boosting a line, without the row of that number
    predictions = np.tile((kept @ y / (n - 1))[:, None], n)
    for tree in leaves.T:
        members = np.equal.outer(tree, np.arange(tree.max() + 1)).astype(float)
        sums, counts = (kept * (y - predictions)) @ members, kept @ members
        predictions += model.learning_rate * (sums / counts)[:, tree]
        errors.append(np.mean((y - np.diag(predictions)) ** 2))
    return np.array(errors)


def test_leaving_out_with_trees_held_is_boosting_the_same_trees_without_the_row(rows):
    X, y = rows
    model = make_trees().fit(X, y)
    errors = []
    for row in range(60):
        kept = (np.arange(60) != row).astype(float)
        errors.append(y[row] - leaf_loop_response(model, X, y[:, None], X[[row]], sample_weight=kept)[1].item())
    assert left_out_with_trees_held(model, X, y)[-1] == pytest.approx(np.mean(np.square(errors)))


@pytest.mark.parametrize(
    ("learning_rate", "n_trees", "error"),
    [
        (0.1, 1, 0.02),
        (0.1, 20, 0.20),
        (0.1, 50, -0.35),
        (0.1, 100, -0.92),
        (0.3, 1, 0.05),
        (0.3, 20, -0.67),
        (0.3, 50, -1.0),
    ],
)
def test_the_leave_one_out_shortcut_is_as_wrong_as_the_user_guide_says(learning_rate, n_trees, error):
    X, y = make_friedman1(120, noise=1.0, random_state=0)
    model = make_trees(n_estimators=n_trees, learning_rate=learning_rate, num_leaves=15).fit(X, y)
    shortcut = model.stopping_curve(criteria=["loo"]).by_stage["loo"].iloc[-1]
    assert shortcut / left_out_with_trees_held(model, X, y)[-1] - 1 == pytest.approx(error, abs=0.03)


def test_no_criterion_knows_that_trees_adapt_to_noise():
    """Where labels are noise alone no tree helps; the criteria see the error fall and ask for many."""
    X, _ = random_rows(300, seed=0)
    y = np.random.default_rng(0).normal(size=300)
    curve = make_trees(n_estimators=200, learning_rate=0.3, num_leaves=20).fit(X, y).stopping_curve()
    assert curve.by_stage["loo"].min() < 0.01 * y.var()
    assert min(curve.chosen.values()) > 20


def test_probes_leave_standard_errors_and_the_exact_shortcut(rows):
    model = make_trees().fit(*rows)
    exact, estimate = model.stopping_curve(), model.stopping_curve(n_probes=64)
    assert np.all(estimate.by_stage["degrees_of_freedom_se"] > 0)
    away = (estimate.by_stage - exact.by_stage)["degrees_of_freedom"].abs()
    assert np.all(away <= 5 * estimate.by_stage["degrees_of_freedom_se"])
    np.testing.assert_array_equal(estimate.by_stage["loo"], exact.by_stage["loo"])


@pytest.mark.parametrize("criteria", ["gcv", [], ["gcv", "bic"]])
def test_criteria_that_do_not_exist_are_refused(rows, criteria):
    with pytest.raises(ValueError, match=r"criteria must be .*'aicc', 'gcv', 'loo'"):
        make_trees().fit(*rows).stopping_curve(criteria=criteria)


def test_leave_one_out_is_refused_where_neither_way_fits(rows):
    model = make_trees().fit(*rows)
    with config_context(working_memory=0.001):
        with pytest.raises(MemoryError, match=r"working_memory.*'loo'"):
            model.stopping_curve()
        assert set(model.stopping_curve(criteria=["gcv"], n_probes=4).chosen) == {"gcv"}


@pytest.mark.parametrize(
    "settings", [{}, {"early_stopping_rounds": 5}, {"subsample": 0.7, "subsample_freq": 1}], ids=str
)
def test_own_weights_are_the_same_by_columns_and_in_the_space_of_leaves(rows, settings):
    telescope = make_trees(**settings).fit(*rows, sample_weight=np.linspace(0, 2, 60)).telescope_
    by_columns = np.stack(list(telescope._own_weights_by_columns(telescope.forward_plan(0, 60))))
    with config_context(working_memory=0.02):
        in_blocks = np.stack(list(telescope._own_weights_by_columns(telescope.forward_plan(0, 60))))
    for found in (by_columns, in_blocks, np.stack(list(telescope.staged_own_weights()))):
        np.testing.assert_allclose(found, np.stack(list(telescope.moments.staged_own_weights())), atol=1e-13)


def test_the_display_draws_what_the_curve_says(rows):
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model = make_trees().fit(*rows)
    display = StoppingCurveDisplay.from_estimator(model, criteria=("gcv", "loo"))
    curve = model.stopping_curve()
    assert display.ax_.figure is display.figure_
    drawn = [line for line in display.ax_.get_lines() if len(line.get_xdata()) > 2]
    assert len(drawn) == 2
    gcv = curve.by_stage["gcv"].to_numpy()
    np.testing.assert_allclose(drawn[0].get_ydata(), (gcv - gcv.min()) / (gcv.max() - gcv.min()))
    _, ax = plt.subplots()
    assert display.plot(ax=ax).ax_ is ax
    piped = StoppingCurveDisplay.from_estimator(make_pipeline(StandardScaler(), make_trees()).fit(*rows))
    assert set(piped.chosen) == {"aicc", "gcv", "loo"}
    with pytest.raises(ValueError, match="only boosted trees"):
        StoppingCurveDisplay.from_estimator(make_net(max_iter=1).fit(*rows))
    plt.close("all")


@pytest.mark.parametrize("criterion", ["aicc", "gcv", "loo"])
def test_criteria_that_are_infinite_everywhere_choose_nothing_and_say_so(rows, criterion):
    model = make_trees(learning_rate=1.0, **INTERPOLATING).fit(*rows)
    with pytest.raises(
        ValueError, match=f"'{criterion}' is infinite after every tree: .* Use smaller trees or a lower"
    ):
        model.stopping_curve(criteria=[criterion])


@pytest.mark.parametrize("criterion", ["aicc", "gcv", "loo"])
def test_criteria_that_are_infinite_after_some_trees_say_so_and_choose_among_the_others(rows, criterion):
    """With a learning rate above 1 the weight of a row in its own prediction swings about 1."""
    model = make_trees(learning_rate=1.4, **INTERPOLATING).fit(*rows)
    with pytest.warns(UserWarning, match=rf"'{criterion}' is infinite after \d+ of 12 trees, first after tree \d+: "):
        curve = model.stopping_curve(criteria=[criterion])
    values = curve.by_stage[criterion].to_numpy()
    assert not np.isfinite(values).all()
    assert values[curve.chosen[criterion] - 1] == pytest.approx(values[np.isfinite(values)].min(), rel=1e-9)


@pytest.mark.filterwarnings("ignore:The criterion 'loo' is infinite after 6 of 12 trees")
def test_the_first_of_equals_is_chosen(rows):
    curve = (
        make_trees(learning_rate=1.4, min_child_samples=1, num_leaves=60).fit(*rows).stopping_curve(criteria=["loo"])
    )
    values = curve.by_stage["loo"].to_numpy()
    assert np.allclose(values[curve.chosen["loo"] - 1], values.min())
    assert not np.isclose(values[: curve.chosen["loo"] - 1], values.min(), rtol=1e-9).any()
