"""Displays hold the numbers that the estimators and results give, and draw them where they are told to."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from conftest import FAMILIES, FITTED, random_rows
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from telescoping_sklearn.displays import (
    EffectiveParamsDisplay,
    IrregularityCurveDisplay,
    KernelNormsDisplay,
    KernelWeightsDisplay,
    StagedPredictionsDisplay,
    summarize_curves,
)

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

#: Okabe and Ito's colours.
SAFE = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}


@pytest.fixture(autouse=True)
def _close_figures():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def axes():
    """Two axes of one figure."""
    return plt.subplots(1, 2)[1]


def of_one_row(fitted, X, **settings):
    return KernelWeightsDisplay.from_estimator(fitted, X[:1], **settings)


FROM_ESTIMATOR = {
    "weights": of_one_row,
    "effective_params": EffectiveParamsDisplay.from_estimator,
    "values": lambda fitted, X, **settings: StagedPredictionsDisplay.from_estimator(fitted, X[:3], **settings),
    "gap": lambda fitted, X, **settings: StagedPredictionsDisplay.from_estimator(fitted, X, kind="gap", **settings),
    "norms": KernelNormsDisplay.from_estimator,
}


@pytest.fixture(scope="module", params=["trees-bags", "net-sections"])
def drawn(request, data):
    """A fitted estimator of either family; what is drawn of it differs in its numbers only."""
    return FITTED[request.param].fit(*data)


@pytest.fixture(params=FROM_ESTIMATOR)
def draw(request):
    """A way to draw what a fitted estimator says of query rows."""
    return FROM_ESTIMATOR[request.param]


@pytest.fixture
def results():
    """Two data sets, two models, three seeds, three mixtures and a decile, by hand."""
    rng = np.random.default_rng(0)
    sets = [("mixture", 0.0), ("mixture", 0.5), ("mixture", 1.0), ("decile", 1.0)]
    rows = [
        {"data": data, "model": model, "seed": seed, "set_kind": kind, "set_value": value, "mse": rng.random()}
        for data in ("$houses", "_bikes")
        for model in ("net", "ridge")
        for seed in range(3)
        for kind, value in sets
    ]
    results = pd.DataFrame(rows).assign(score="principal_distance", tuned=False, mse_se=0.25)
    results["kernel_norm_ratio"] = np.where(results["model"] == "net", results["mse"] + 1, np.nan)
    return results


# -- what every display keeps ------------------------------------------------------------------------------------------


def test_displays_draw_on_the_axes_given_and_nowhere_else(draw, drawn, query, axes):
    display = draw(drawn, query, ax=axes[0])
    assert display.ax_ is axes[0]
    assert display.figure_ is axes[0].figure
    assert axes[0].has_data()
    assert not axes[1].has_data()
    assert plt.get_fignums() == [axes[0].figure.number]


def test_displays_make_axes_of_their_own(draw, drawn, query):
    display = draw(drawn, query)
    assert display.ax_.figure is display.figure_
    assert len(plt.get_fignums()) == 1


def test_displays_draw_again_from_the_numbers_alone(draw, drawn, query, axes):
    display = draw(drawn, query, ax=axes[0])
    again = display.plot(ax=axes[1], **({"kind": "gap"} if "reconstruction" in getattr(display, "lines_", []) else {}))
    assert again is display
    assert display.ax_ is axes[1]
    assert len(axes[1].lines) == len(axes[0].lines)
    assert len(axes[1].patches) == len(axes[0].patches)


def test_axes_are_labelled_and_colours_safe(draw, drawn, query):
    ax = draw(drawn, query).ax_
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    colors = {to_hex(line.get_color()) for line in ax.lines} | {to_hex(patch.get_facecolor()) for patch in ax.patches}
    assert colors - {to_hex("0.45")} <= SAFE


def test_settings_reach_the_artists(draw, drawn, query):
    display = draw(drawn, query, alpha=0.25)
    artists = getattr(display, "bars_", None) or display.lines_
    artists = [line for lines in artists.values() for line in lines] if isinstance(artists, dict) else artists
    assert {artist.get_alpha() for artist in artists} == {0.25}


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_are_drawn_as_the_estimator_inside_them(family, draw):
    X, y = random_rows()
    X_query = random_rows(8, seed=1)[0]
    scaler = StandardScaler().fit(X)
    bare = FAMILIES[family]().fit(scaler.transform(X), (y - y.mean()) / y.std())
    pipe = make_pipeline(StandardScaler(), FAMILIES[family]())
    model = TransformedTargetRegressor(pipe, transformer=StandardScaler()).fit(X, y)
    one, other = draw(model, X_query), draw(bare, scaler.transform(X_query))
    for mine, theirs in zip(one.ax_.lines, other.ax_.lines, strict=True):
        np.testing.assert_allclose(mine.get_ydata(), theirs.get_ydata(), atol=1e-6)
    for mine, theirs in zip(one.ax_.patches, other.ax_.patches, strict=True):
        assert mine.get_width() == pytest.approx(theirs.get_width(), abs=1e-6)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_estimator_with_the_largest_first(fitted, query):
    display = of_one_row(fitted, query, k=6)
    expected = fitted.top_examples(query[:1], k=6)
    assert list(display.top(6)) == list(expected["row"])
    np.testing.assert_allclose([bar.get_width() for bar in display.bars_], expected["weight"])
    written = [text.get_text() for text in display.ax_.texts[:6]]
    assert written == [f"{label:.4g}" for label in expected["label"]]
    rebuilt = fitted.kernel_weights(query[:1]) @ fitted.telescope_.y + fitted.offset(query[:1])
    assert display.prediction == pytest.approx(rebuilt.item())


def test_signs_of_weights_have_colours_of_their_own():
    display = KernelWeightsDisplay(weights=np.array([0.5, -0.2, 0.0]), labels=np.arange(3.0), offset=1.0).plot(k=3)
    assert [bar.get_width() for bar in display.bars_] == [0.5, -0.2]  # no bar for a row without weight
    colors = [to_hex(bar.get_facecolor()) for bar in display.bars_]
    assert len(set(colors)) == 2
    assert display.prediction == pytest.approx(1 - 0.2)
    assert "2 rows hold 100%" in display.ax_.get_title(loc="left")


def test_training_rows_have_the_names_given(fitted, query, data):
    names = [f"$house_{row}$" for row in range(len(data[1]))]
    display = of_one_row(fitted, query, k=2, row_names=names)
    ticks = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert ticks == [names[row].replace("$", r"\$") for row in display.top(2)]
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"x": 0}, "x must be one row"), ({"k": 0}, "k must be at least 1"), ({"row_names": ["a"]}, "row_names")],
)
def test_weights_of_what_makes_no_sense_are_refused(fitted, query, settings, named):
    x = query[0] if "x" in settings else query[:1]
    with pytest.raises(ValueError, match=named):
        KernelWeightsDisplay.from_estimator(fitted, x, **{k: v for k, v in settings.items() if k != "x"})


def test_effective_params_are_those_of_the_estimator(fitted, query):
    display = EffectiveParamsDisplay.from_estimator(fitted, query, stages=[0, 3, fitted.n_stages_], n_probes=None)
    train, test = (line.get_ydata() for line in display.lines_)
    assert train[-1] == pytest.approx(fitted.effective_params_)
    assert test[-1] == pytest.approx(fitted.effective_params(query, n_probes=None))
    assert list(display.stages) == [0, 3, fitted.n_stages_]
    # Without probes, only sections of more than one update leave an error.
    assert bool(display.bands_) == (getattr(fitted, "section", 1) != 1)


def test_estimates_of_effective_params_have_bands(fitted, query):
    display = EffectiveParamsDisplay.from_estimator(fitted, query, stages=3, n_probes=4)
    assert len(display.bands_) == 2
    low, high = display.test.value - display.test.standard_error, display.test.value + display.test.standard_error
    edges = display.bands_[1].get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(low.min())
    assert edges.max() == pytest.approx(high.max())


def test_staged_predictions_are_those_of_the_estimator(fitted, query):
    display = StagedPredictionsDisplay.from_estimator(fitted, query[:2], stages=4)
    for name, route in {"model": None, "telescoping": "telescoping", "linearized": "linearized"}.items():
        if name == "linearized" and display.linearized is None:
            assert not fitted.telescope_.has_linearized
            continue
        expected = np.stack(list(fitted.staged_predict(query[:2], 4, approximation=route)))
        np.testing.assert_allclose(np.stack([line.get_ydata() for line in display.lines_[name]], axis=1), expected)


def test_gaps_are_those_that_approximation_error_reports(fitted, query):
    display = StagedPredictionsDisplay.from_estimator(fitted, query, stages=4, kind="gap")
    by_stage = fitted.approximation_error(query, 4).by_stage
    for name in ("telescoping", "reconstruction"):
        np.testing.assert_allclose(display.gaps()[name], by_stage[f"{name}_mean"], atol=1e-12)
    assert display.ax_.get_yscale() == "log"


def test_trees_are_said_to_have_no_gap(data, query):
    display = StagedPredictionsDisplay.from_estimator(FAMILIES["trees"]().fit(*data), query, kind="gap")
    said = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert "telescoping model: no gap" in said
    assert "linearized" not in display.lines_


def test_rows_of_a_dataframe_keep_their_names(data, query):
    frame = pd.DataFrame(query[:2], index=["red house", "_hidden"])
    model = FAMILIES["trees"]().fit(pd.DataFrame(data[0]), data[1])
    said = [text.get_text() for text in StagedPredictionsDisplay.from_estimator(model, frame).ax_.get_legend().texts]
    assert "row red house" in said
    assert any("_hidden" in text for text in said)


@pytest.mark.parametrize(("kind", "named"), [("values", "at most 7 rows"), ("nonsense", "kind must be one of")])
def test_predictions_that_cannot_be_drawn_are_refused_before_any_work(kind, named, fitted, query, monkeypatch):
    monkeypatch.setattr(type(fitted), "staged_predict", None)
    with pytest.raises(ValueError, match=named):
        StagedPredictionsDisplay.from_estimator(fitted, query, kind=kind)


def test_kernel_norms_are_those_of_the_estimator(fitted, query):
    display = KernelNormsDisplay.from_estimator(fitted, query, stages=3)
    norms = fitted.kernel_norms(query, 3)
    np.testing.assert_allclose(display.lines_[2].get_ydata(), norms.max(axis=1))
    np.testing.assert_allclose(display.lines_[3].get_ydata(), np.median(norms, axis=1))
    assert display.ratio == pytest.approx(fitted.kernel_norm_ratio(query, 3))
    assert f"{display.ratio:.2f}" in display.ax_.get_title(loc="left")


@pytest.mark.parametrize(("largest", "scale"), [(2.0, "linear"), (100.0, "log")])
def test_norms_that_span_decades_have_a_logarithmic_axis(largest, scale):
    norms = np.array([[1.0, 1.0], [largest, largest]])
    display = KernelNormsDisplay(stages=np.array([1, 2]), train=norms, test=norms).plot()
    assert display.ax_.get_yscale() == scale
    assert display.ratio == 1


# -- results -----------------------------------------------------------------------------------------------------------


def test_curves_are_means_over_seeds_with_their_standard_errors(results):
    display = IrregularityCurveDisplay.from_results(results)
    assert display.axes_.shape == (2, 2)
    errors = results[(results["data"] == "$houses") & (results["model"] == "net") & (results["set_kind"] == "mixture")]
    at_half = errors.loc[errors["set_value"] == 0.5, "mse"]
    line, _, (bars,) = display.lines_[0]
    assert line.get_ydata()[1] == pytest.approx(at_half.mean())
    low, high = bars.get_segments()[1][:, 1]
    assert (high - low) / 2 == pytest.approx(at_half.std(ddof=1) / np.sqrt(3))
    assert list(line.get_xdata()) == [0, 0.5, 1]


def test_models_without_kernels_are_left_out_of_their_panels(results):
    display = IrregularityCurveDisplay.from_results(results)
    said = [[handle.get_label() for handle in panel.get_legend_handles_labels()[0]] for panel in display.axes_[:, 0]]
    assert said == [["net", "ridge"], ["net"]]


def test_legend_names_models_of_any_panel_once(results):
    rows = (results["data"] != "$houses") | (results["model"] == "net")  # the first panel has no ridge
    display = IrregularityCurveDisplay.from_results(results[rows])
    assert [text.get_text() for text in display.axes_[0, 0].get_legend().get_texts()] == ["net", "ridge"]


def test_one_seed_takes_the_standard_error_in_the_results(results):
    curve = summarize_curves(results[results["seed"] == 0], "mse")
    assert (curve["standard_error"] == 0.25).all()
    assert (curve["n_seeds"] == 1).all()
    assert summarize_curves(results[results["seed"] == 0], "kernel_norm_ratio")["standard_error"].isna().all()


def test_names_that_matplotlib_would_read_are_written_out(results):
    display = IrregularityCurveDisplay.from_results(results, quantities=["mse"])
    display.figure_.canvas.draw()
    assert [panel.get_title() for panel in display.axes_[0]] == [r"\$houses", "​_bikes"]


def test_several_scores_and_tunings_are_told_apart(results):
    again = results.assign(score="first_component", tuned=True)
    tuned = results.assign(tuned=True)
    curves = summarize_curves(pd.concat([results, again, tuned]), "mse")
    assert {"$houses, principal_distance", "$houses, first_component"} <= set(curves["data"])
    of_both = curves[curves["data"] == "$houses, principal_distance"]
    assert set(of_both["model"]) == {"net", "ridge", "net, tuned", "ridge, tuned"}
    assert (curves["n_seeds"] == 3).all()


def test_other_test_sets_can_be_drawn(results):
    display = IrregularityCurveDisplay.from_results(results, quantities=["mse"], set_kind="decile")
    assert display.axes_[0, 0].get_xlabel() == "decile of irregularity"


def test_one_axes_bounds_several_panels(results, axes):
    display = IrregularityCurveDisplay.from_results(results, ax=axes[0])
    assert display.ax_ is axes[0]
    outer = axes[0].get_position()
    assert all(panel.get_position().x1 <= outer.x1 + 1e-9 for panel in display.axes_.ravel())
    assert not axes[1].has_data()
    assert len(plt.get_fignums()) == 1


def test_an_array_of_axes_is_drawn_on(results):
    panels = plt.subplots(1, 2, squeeze=False)[1]
    display = IrregularityCurveDisplay.from_results(results, quantities=["mse"], ax=panels)
    assert (display.axes_ == panels).all()
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        IrregularityCurveDisplay.from_results(results, ax=panels)


def test_axes_that_cannot_be_split_are_refused(results):
    ax = plt.figure().add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match="subplots"):
        IrregularityCurveDisplay.from_results(results, ax=ax)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quantities": "mse"}, "quantities"),
        ({"quantities": []}, "quantities"),
        ({"quantities": ["rmse"]}, "rmse"),
        ({"set_kind": "shift"}, "set_kind='shift'"),
    ],
)
def test_results_that_do_not_hold_what_is_asked_are_refused(results, settings, named):
    with pytest.raises(ValueError, match=named):
        IrregularityCurveDisplay.from_results(results, **settings)
    assert not plt.get_fignums()


def test_more_models_than_colours_differ_in_line(results):
    many = pd.concat([results.assign(model=f"m{number}") for number in range(9)])
    display = IrregularityCurveDisplay.from_results(many, quantities=["mse"])
    looks = [(line[0].get_color(), line[0].get_linestyle()) for line in display.lines_[:9]]
    assert len(set(looks)) == 9
    said = display.axes_[0, -1].get_legend()
    assert [text.get_text() for text in said.get_texts()] == [f"m{number}" for number in range(9)]
    display.figure_.canvas.draw()
    assert said.get_window_extent().x0 >= display.axes_[0, -1].get_window_extent().x1  # beside the curves, not on them
