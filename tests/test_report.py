"""The report says what follows from the numbers, holds every number, and runs nothing that a name smuggles in."""

import json
import re
import shutil
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE, SMALL, SMALL_NET, SMALL_TREES, make_net, make_trees
from scipy import stats

from telescoping_sklearn.benchmark import (
    BenchmarkStudy,
    ResultStore,
    compare_models,
    relative_gaps,
    write_report,
    write_results,
)
from telescoping_sklearn.benchmark._chart import Axis, make_chart, number, with_error
from telescoping_sklearn.benchmark._report_settings import again, chosen_settings, settings, study_parameters
from telescoping_sklearn.benchmark._words import say_comparison, say_gap, say_kernels, say_trends, trend
from telescoping_sklearn.displays import summarize_curves

mpl.use("Agg")
from matplotlib import pyplot as plt

VOID = {"meta", "link", "path", "rect", "img", "br"}


class Page(HTMLParser):
    """A page as a list of elements with their attributes and the text inside them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data
        if not any(element["tag"] in ("script", "style") for element in self.open):
            self.words.append(data)

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def written(small_results, tmp_path_factory):
    """The page of the small study, as text."""
    return write_report(small_results, tmp_path_factory.mktemp("report") / "report.html").read_text()


@pytest.fixture(scope="module")
def hostile(hostile_results, tmp_path_factory):
    """The page of the hostile study, as text."""
    return write_report(hostile_results, tmp_path_factory.mktemp("report") / "report.html", title=HOSTILE).read_text()


# -- the page ----------------------------------------------------------------------------------------------------------


def test_page_needs_no_other_file(written):
    page = Page(written)
    for element in page.elements:
        for name in ("src", "href", "action", "data", "xlink:href", "poster"):
            assert not element.get(name) or element[name].startswith(("#", "data:,")), element
    assert not re.search(r"https?://|url\(|@import", written)


def test_every_mean_error_stands_in_the_table(written, small_results):
    cells = {element["text"].strip() for element in Page(written).all("td")}
    curves = summarize_curves(ResultStore(small_results).results(), "mse")
    assert len(curves) == 9
    for row in curves.itertuples():
        assert with_error(row.mean, row.standard_error) in cells


def test_models_that_are_no_telescopes_have_dashes(written):
    page = Page(written)
    rows = re.findall(r"<tr>\s*<th scope=\"row\".*?</tr>", written, flags=re.DOTALL)
    of_ridge = [row for row in rows if "ridge" in row and "% irregular" in row]
    assert len(of_ridge) == 3
    assert all(row.count(">–<") == 2 for row in of_ridge)
    assert "kernel norm ratio of ridge" not in page.text


def test_embedded_results_are_the_results(written, small_results):
    found = json.loads(next(e["text"] for e in Page(written).all("script") if e.get("id") == "results"))
    results = ResultStore(small_results).results()
    embedded = pd.DataFrame(found["rows"], columns=found["columns"])
    assert list(embedded["mse"]) == list(results["mse"])
    assert embedded["kernel_norm_ratio"].isna().equals(results["kernel_norm_ratio"].isna().reset_index(drop=True))


def test_relative_gaps_are_those_of_the_summary(written, small_results):
    store = ResultStore(small_results)
    results = store.results()
    reference = compare_models(results).ranks["model"].iloc[0]
    assert f"Relative gaps are to {reference}" in Page(written).text
    cells = Page(written).all("td")
    for model in set(results["model"]) - {reference}:
        for row in relative_gaps(results, store, model, reference).itertuples():
            text = number(row.relative_gap) if not row.reason else f"not defined ({row.reason})"
            assert any(cell["text"].strip().startswith(text) for cell in cells), (model, row)


def test_failed_tasks_are_named_with_their_tracebacks(written):
    text = Page(written).text
    assert "Of 16 tasks 4 failed, and are listed under Settings; they are missing here." in text
    assert "broken, seed 0" in text
    assert "ValueError: 'lbfgs' solver" in text


def test_a_study_under_way_says_how_much_is_missing(small_results, tmp_path):
    known = ResultStore(small_results).metadata() | {"n_done": 10}
    page = Page(write_report(ResultStore(small_results), tmp_path / "report.html", metadata=known).read_text())
    assert "Of 16 tasks 2 are not run yet and 4 failed" in page.text


def test_results_need_only_what_is_drawn(small_results, tmp_path):
    columns = ["data", "model", "seed", "score", "set_kind", "set_value", "mse"]
    bare = ResultStore(small_results).results()[columns]
    page = Page(write_report(bare, tmp_path / "report.html").read_text())
    assert len(page.all("figure")) == 3
    assert "Kernel ratio" not in page.text


def test_settings_versions_and_tables_are_there(written):
    text = Page(written).text
    for part in ("max_train 200", "lightgbm 4", "25,357 rows, 18 columns", "TelescopingMLPRegressor", "Machine"):
        assert part in text, part


def test_ids_are_unique_and_all_that_are_referred_to_exist(written):
    elements = Page(written).elements
    ids = [element["id"] for element in elements if "id" in element]
    assert len(ids) == len(set(ids))
    for element in elements:
        referred = element.get("aria-labelledby", "").split()
        referred += [element["href"][1:]] if element.get("href", "").startswith("#") else []
        assert set(referred) <= set(ids), element


def test_charts_and_tables_speak(written):
    page = Page(written)
    charts = [element for element in page.all("svg") if element.get("aria-hidden") != "true"]
    assert len(charts) == 3 * 3  # errors, kernels and parameters by mixture, decile and shift
    assert all(chart["role"] == "group" for chart in charts)
    assert len(page.all("desc")) == len(charts)
    stops = [element for element in page.elements if element.get("class") == "stop"]
    assert {stop["tabindex"] for stop in stops} == {"0"}
    assert any(re.match(r"50\s% irregular: .*net \d.*; .*trees \d", stop["aria-label"]) for stop in stops)
    heads = [element for element in page.all("th") if element.get("scope") == "col"]
    assert all(head["aria-sort"] == "none" for head in heads)
    assert len(page.all("button")) == len(heads) + 1


def test_names_that_attack_are_text_everywhere(hostile):
    page = Page(hostile)
    assert not page.all("img")
    assert len(page.all("script")) == 2
    assert not [element for element in page.elements if any(name.startswith("on") for name in element)]
    assert page.all("title")[0]["text"] == page.all("h1")[0]["text"] == HOSTILE
    assert any(head["text"] == HOSTILE for head in page.all("th"))
    assert any(HOSTILE in element.get("aria-label", "") for element in page.elements)
    assert any(HOSTILE in element["text"] for element in page.all("desc"))
    assert any("onerror='hacked=1'>" in element["text"] for element in page.all("h3"))
    assert "49" not in page.all("h1")[0]["text"]  # no template is made of a name
    found = json.loads(next(e["text"] for e in page.all("script") if e.get("id") == "results"))
    assert any(HOSTILE in row for row in found["rows"])
    for element in page.elements:
        if element.get("class") == "stop":
            assert {model for _, model, _ in json.loads(element["data-lines"])} <= {HOSTILE, f"{HOSTILE} 2"}


def test_raw_hostile_text_is_nowhere(hostile):
    assert "<img" not in hostile
    assert hostile.count("</script>") == 2


def test_a_page_of_bare_results_says_what_it_lacks(small_results, tmp_path):
    results = ResultStore(small_results).results()
    page = Page(write_report(results, tmp_path / "report.html", metadata={"versions": {"torch": "9.9"}}).read_text())
    assert "Relative gaps need squared errors" in page.text
    assert "torch 9.9" in page.text


def test_ranks_are_those_of_the_comparison(written, small_results):
    comparison = compare_models(ResultStore(small_results).results())
    text = Page(written).text
    assert f"by more than {number(comparison.critical_difference)} differ" in text
    assert f"p = {comparison.friedman_p:.2g} (Friedman" in text
    for row in comparison.ranks.itertuples():
        assert f"{row.model} {number(row.mean_rank)} {number(row.mean_error)}" in text


def test_a_single_model_makes_a_page(small_results, tmp_path):
    results = ResultStore(small_results).results()
    one = results[(results["model"] == "ridge") & (results["set_kind"] == "mixture")]
    text = Page(write_report(one, tmp_path / "report.html").read_text()).text
    assert "none are compared" in text


def test_what_is_no_result_is_refused_before_a_file_is_made(small_results, tmp_path):
    results = ResultStore(small_results).results()
    for wrong, named in ((results.drop(columns="mse"), "mse"), (results.iloc[:0], "no finished task")):
        with pytest.raises(ValueError, match=named):
            write_report(wrong, tmp_path / "report.html")
    with pytest.raises(ValueError, match="no file"):
        write_report(tmp_path / "nowhere.sqlite", tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


# -- contrast ----------------------------------------------------------------------------------------------------------


def luminance(color):
    """Relative luminance as WCAG 2 defines it."""
    channels = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_oracle():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_curves_stand_out_from_what_is_behind_them(written, mode):
    blocks = re.findall(r":root \{(.*?)\}", written, flags=re.DOTALL)
    assert len(blocks) == 2
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[mode == "dark"]))
    for behind in ("paper", "raised", "hover"):
        for text in ("ink", "soft", "link"):
            assert contrast(colors[text], colors[behind]) >= 4.5, (text, behind)
        for mark in ("s0", "s1", "s2", "s3", "s4", "s5", "s6", "strong-rule"):
            assert contrast(colors[mark], colors[behind]) >= 3, (mark, behind)
    assert contrast(colors["ink"], colors["code"]) >= 4.5
    assert contrast(colors["warn-ink"], colors["warn-paper"]) >= 4.5


# -- words -------------------------------------------------------------------------------------------------------------


def gaps(near, far, kind="mixture"):
    """Two rows as `relative_gaps` gives them: gap, its interval, relative gap, its interval, and a reason."""
    names = ["gap", "gap_low", "gap_high", "relative_gap", "low", "high", "reason"]
    rows = [dict(zip(names, row, strict=True)) for row in (near, far)]
    return pd.DataFrame(rows).assign(set_kind=kind, set_value=[0.0, 1.0])


CLEAR = (0.1, 0.08, 0.12, 1.0, 1.0, 1.0, "")
NOISY = (0.001, -0.01, 0.01, np.nan, np.nan, np.nan, "gap at q=0 within noise: 0.001 +- 0.01")
CASES = {
    "grows": ((CLEAR, (0.5, 0.4, 0.6, 5.0, 4.0, 6.0, "")), ["b beats a by 0.100", "grows to 5.00 times"]),
    "shrinks": ((CLEAR, (0.05, 0.04, 0.06, 0.5, 0.4, 0.6, "")), ["b beats a", "shrinks to 0.500 times"]),
    "stays": ((CLEAR, (0.11, 0.05, 0.2, 1.1, 0.5, 2.0, "")), ["b beats a", "no change beyond noise"]),
    "reverses": (
        (CLEAR, (-0.2, -0.3, -0.1, np.nan, np.nan, np.nan, "changes sign")),
        ["b beats a by 0.100", "a beats b by 0.200", "interval 0.100 to 0.300", "not defined"],
    ),
    "vanishes": (
        (CLEAR, (-0.01, -0.1, 0.1, np.nan, np.nan, np.nan, "changes sign")),
        ["b beats a", "do not differ beyond noise, and the relative gap is not defined"],
    ),
    "undefined": (
        (NOISY, (0.5, 0.4, 0.6, np.nan, np.nan, np.nan, "gap at q=0 within noise")),
        ["a and b do not differ beyond noise", "not defined (gap at q=0 within noise: 0.001", "b beats a by 0.500"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sentences_follow_from_the_gaps(name):
    rows, parts = CASES[name]
    table = gaps(*rows)
    said = say_gap(table, "a", "b").replace("\N{NO-BREAK SPACE}", " ")
    for part in parts:
        assert part in said
    assert said.startswith("On regular rows")
    assert "100 % irregular rows" in said
    assert trend(table) == name
    assert trend(table.iloc[::-1]) == name  # the order of rows says nothing
    if name in ("undefined", "vanishes", "stays"):
        assert "grows" not in said
        assert "shrinks" not in said


def test_the_winner_is_named_whichever_way_gaps_are_taken():
    flipped = [(-gap, -high, -low, *rest) for gap, low, high, *rest in CASES["grows"][0]]
    assert "a beats b by 0.100 (95 % interval 0.0800 to 0.120)" in say_gap(gaps(*flipped), "a", "b").replace(
        "\xa0", " "
    )


def test_no_difference_anywhere_is_said():
    said = say_gap(gaps(NOISY, (0.001, -0.01, 0.01, np.nan, np.nan, np.nan, "within noise")), "a", "b")
    assert "either" in said


def test_shifts_have_words_of_their_own():
    said = say_gap(gaps(*CASES["grows"][0], kind="shift"), "a", "b")
    assert said.startswith("On rows that have not shifted")
    assert "at the far end of the shift" in said


def test_a_single_test_set_has_no_trend():
    assert say_gap(gaps(CLEAR, CLEAR).iloc[:1], "a", "b").endswith("0.120).")
    assert trend(gaps(CLEAR, CLEAR).iloc[:1]) == "undefined"


def test_trends_name_every_data_set_once():
    said = say_trends({"x": "grows", "y": "stays", "z": "grows"}, "a", "b")
    assert "grows on x and z and does not change beyond noise on y" in said
    many = say_trends({f"d{number}": "grows" for number in range(9)}, "a", "b")
    assert "grows on 9 data sets" in many


@pytest.mark.parametrize(
    ("values", "errors", "words"),
    [
        ([0.9, 1.0], [0.1, 0.1], "stays near 1 or below (largest 1.00)"),
        ([0.9, 2.0], [0.1, 0.1], "rises from 0.900 to 2.00"),
        ([1.5, 1.6], [0.1, 0.1], "exceeds 1 (largest 1.60), with no rise beyond noise"),
        ([1.5, 1.2], [np.nan, np.nan], "exceeds 1 (largest 1.50), with no rise beyond noise"),
    ],
)
def test_sentences_follow_from_the_kernels(values, errors, words):
    table = pd.DataFrame({"model": "net", "set_value": [0.0, 1.0], "mean": values, "standard_error": errors})
    assert words in say_kernels(table, "mixture")


def test_comparisons_say_the_winner_the_count_and_the_test():
    errors = {"a": 0.3, "b": 0.1}
    rows = [
        {"data": f"d{data}", "score": "s", "seed": 0, "model": model, "set_kind": "mixture", "set_value": 0.0}
        | {"mse": mse + data / 100}
        for data in range(6)
        for model, mse in errors.items()
    ]
    results = pd.DataFrame(rows)
    comparison = compare_models(results, over="data")
    said = say_comparison(comparison)
    assert "over 6 data sets" in said
    assert f"b has a lower error than a in 6 of 6, p = {comparison.pairs['holm_p'].iloc[0]:.2g}" in said
    assert "too small" not in said
    assert "too small" in say_comparison(compare_models(results))


def regular_rows(errors, n_data=1, n_seeds=3, scores=("x",), kind="mixture"):
    """Results on regular rows of models whose errors grow from table to table and from seed to seed."""
    return pd.DataFrame(
        [
            {"data": f"d{d}", "seed": s, "score": score, "model": model, "mse": mse * (1 + d + 0.1 * s)}
            for d in range(n_data) for s in range(n_seeds) for score in scores for model, mse in errors.items()
        ]
    ).assign(set_kind=kind, set_value=0.0)  # fmt: skip


def test_too_few_comparisons_name_no_winner_and_say_how_many_it_takes():
    said = say_comparison(compare_models(regular_rows({"a": 0.3, "b": 0.2})))
    assert "over 3 pairs of data set and seed: too few" in said
    assert "from 6 pairs of data set and seed on" in said
    assert "a has" not in said
    assert "b has" not in said
    three = compare_models(regular_rows({"a": 0.3, "b": 0.2, "c": 0.1}, n_seeds=7))
    assert three.least_p == three.pairs["holm_p"].min() == pytest.approx(3 / 64)
    assert "c has a lower error than a in 7 of 7, p = 0.047" in say_comparison(three)
    fewer = compare_models(regular_rows({"a": 0.3, "b": 0.2, "c": 0.1}, n_seeds=6))
    assert "from 7 pairs of data set and seed on" in say_comparison(fewer)
    assert "over 1 pair of data set and seed" in say_comparison(compare_models(regular_rows({"a": 1, "b": 2}, 1, 1)))


def test_a_winner_is_named_only_where_the_test_says_so():
    results = regular_rows({"a": 0.3, "b": 0.2}, n_seeds=8)
    swapped = results["seed"] % 2 == 1
    results.loc[swapped, "mse"] = 0.5 - results.loc[swapped, "mse"]
    said = say_comparison(compare_models(results))
    assert "a and b do not differ beyond noise, p = " in said
    assert "lower error" not in said


def test_ways_to_divide_one_table_are_not_data_sets(tmp_path):
    scores = [f"s{number}" for number in range(6)]
    results = regular_rows({"a": 0.3, "b": 0.2}, n_seeds=1, scores=scores)
    text = Page(write_report(results, tmp_path / "report.html").read_text()).text
    assert "2 models on 1 data set, irregular in 6 ways, 1 seed" in text
    assert "over 1 pair of data set and seed: too few" in text
    assert "6 data sets" not in text


def test_a_study_of_shifts_alone_is_compared_on_rows_that_have_not_shifted(tmp_path):
    results = regular_rows({"a": 0.3, "b": 0.2}, n_seeds=6, scores=("shift:x",), kind="shift")
    text = Page(write_report(results, tmp_path / "report.html").read_text()).text
    assert "On rows that have not shifted, over 6 pairs of data set and seed: b has a lower error than a" in text
    assert "Rows that have not shifted, 1 is best, over 6 pairs" in text


def test_the_summary_follows_gaps_along_shifts_too(written):
    assert "From regular to irregular rows, the gap between" in Page(written).text
    assert "Along the shift, the gap between" in Page(written).text
    said = say_trends({f"d{number}": "undefined" for number in range(9)}, "a", "b", kind="shift", several="pairs")
    assert said.endswith("is within noise on rows that have not shifted and has no trend on 9 pairs.")


# -- charts and numbers ------------------------------------------------------------------------------------------------


def curve(values, errors=None, model="net"):
    places = np.linspace(0, 1, len(values))
    errors = np.zeros(len(values)) if errors is None else errors
    return pd.DataFrame({"model": model, "set_value": places, "mean": values, "standard_error": errors})


@pytest.mark.parametrize("log", [False, True])
def test_axes_place_values_in_proportion(log):
    axis = Axis(1.0, 100.0, 200.0, 0.0, log=log)
    assert axis.place(1.0) == 200
    assert axis.place(100.0) == 0
    assert axis.place(10.0) == pytest.approx(100 if log else 200 * (1 - 9 / 99), abs=0.01)


@pytest.mark.parametrize(
    "values", [[0.1, 0.4, 0.2], [0.1, 90.0, 4.0], [-0.5, 0.2, 0.9], [3.0], [0.0, 0.0], [1e-7, 2e-7]]
)
def test_points_and_ticks_stand_where_their_values_say(values):
    chart = make_chart(curve(values), ["trees", "net"], title="MSE", x_label="share", kind="mixture")
    heights = np.array([y for _, y in chart.curves[0].points])
    assert chart.curves[0].style == 1
    assert (heights >= chart.top).all()
    assert (heights <= chart.bottom).all()
    ticks = [(float(label.replace(",", "").replace("−", "-")), place) for place, label in chart.y_ticks]
    assert len(ticks) >= 2
    for value, height in zip(values, heights, strict=True):  # the same line through ticks and points
        shown = [(np.log(one) if chart.log else one, place) for one, place in ticks]
        slope, start = np.polyfit(*zip(*shown, strict=True), 1)
        assert start + slope * (np.log(value) if chart.log else value) == pytest.approx(height, abs=0.7)
    assert len(chart.stops) == len(values)
    assert sum(stop.width for stop in chart.stops) == pytest.approx(chart.right - chart.left, abs=0.1)


def test_bands_reach_one_standard_error():
    chart = make_chart(curve([0.2, 0.4], [0.1, 0.1]), ["net"], title="MSE", x_label="share", kind="mixture")
    ys = [float(pair.split()[1]) for pair in re.findall(r"[\d.]+ [\d.]+", chart.curves[0].band)]
    (_, first), (_, last) = chart.curves[0].points
    scale = (first - last) / 0.2
    assert ys[0] == pytest.approx(first - 0.1 * scale, abs=0.05)
    assert ys[-1] == pytest.approx(first + 0.1 * scale, abs=0.05)
    assert not make_chart(curve([0.2, 0.4]), ["net"], title="", x_label="", kind="mixture").curves[0].band


def test_stops_say_every_model_the_worst_first():
    both = pd.concat([curve([0.2, 0.3], [0.01, 0.02]), curve([0.5, 0.9], model="ridge")])
    stop = make_chart(both, ["net", "ridge"], title="MSE", x_label="share", kind="mixture").stops[1]
    assert stop.lines == [(1, "ridge", "0.900"), (0, "net", "0.300 ± 0.020")]
    assert stop.spoken.replace("\xa0", " ") == "100 % irregular: ridge 0.900; net 0.300 ± 0.020"


def test_labels_of_ticks_do_not_run_into_each_other():
    places = [0.0, 0.01, 0.5, 0.99, 1.0]
    table = pd.DataFrame({"model": "net", "set_value": places, "mean": 1.0, "standard_error": 0.0})
    chart = make_chart(table, ["net"], title="", x_label="", kind="shift")
    assert [label for _, label in chart.x_ticks] == ["0%", "50%", "100%"]


def test_what_is_not_finite_is_written_as_such():
    assert [number(value) for value in (np.inf, -np.inf, np.nan)] == ["∞", "−∞", "–"]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(0.5, 0.0123, "0.500 ± 0.012"), (1234.5, 67.8, "1,234 ± 68"), (1.0, 1e-16, "1.00"), (-0.25, np.nan, "−0.250")],
)
def test_numbers_have_the_digits_that_their_errors_allow(value, error, text):
    assert with_error(value, error) == text


# -- running it again --------------------------------------------------------------------------------------------------


def as_run(described):
    """A study's description without how its models' settings were given; all of them stand in the estimator."""
    plain = json.loads(json.dumps(described))
    return plain | {"models": {name: model | {"settings": {}} for name, model in plain["models"].items()}}


@pytest.mark.parametrize(
    "study",
    [
        BenchmarkStudy(),
        BenchmarkStudy(models={"net": SMALL_NET, "trees": SMALL_TREES}, shift={"column": "yrbuilt"}, **SMALL),
        BenchmarkStudy(models={"lasso": {"estimator": "sklearn.linear_model.Lasso", "settings": {"alpha": 0.1}}}),
        BenchmarkStudy(tuning={"draws": 3, "validation": 0.2}, score=["first_component", "sklearn:IsolationForest"]),
        BenchmarkStudy(
            tuning={"draws": 3, "validation": 0.2},
            models={
                "net": {"space": {"momentum": {"uniform": [0.5, 0.75]}, "batch_size": [32, 64]}},
                "forest": {
                    "estimator": "sklearn.ensemble.RandomForestRegressor",
                    "space": {"min_samples_leaf": {"randint": [1, 10]}, "ccp_alpha": {"loguniform": [1e-4, 1e-2]}},
                },
            },
        ),
        BenchmarkStudy(models={"net": make_net(), "trees": make_trees(reg_lambda=3.0)}),
    ],
    ids=["default", "settings", "other", "tuned", "spaces", "instances"],
)
def test_parameters_of_a_described_study_make_the_same_study(study):
    parameters, unknown = study_parameters(json.loads(json.dumps(study.describe())))
    assert not unknown
    assert as_run(BenchmarkStudy(**parameters).describe()) == as_run(study.describe())


def test_code_that_runs_a_study_again_makes_the_same_study(small_results):
    metadata = ResultStore(small_results).metadata()
    code = again(metadata)[0]["code"]
    made = {}
    exec(code.split("run_benchmark(study")[0], made)
    assert as_run(made["study"].describe()) == as_run(metadata["study"])


def test_running_again_names_the_file_public_paths_and_what_differs_from_defaults(small_results, tmp_path):
    forest = {"estimator": "sklearn.ensemble.RandomForestRegressor", "settings": {"n_estimators": 7}}
    study = BenchmarkStudy(models={"forest": forest})
    parameters, _ = study_parameters(json.loads(json.dumps(study.describe())))
    assert parameters["models"]["forest"] == {**forest, "preparation": "ordinal"}
    python, shell = again({"study": study.describe()}, "my flats.sqlite")
    assert "run_benchmark(study, 'my flats.sqlite')" in python["code"]
    assert "write_report('my flats.sqlite', 'my flats.html')" in python["code"]
    assert shell["code"].endswith("--output 'my flats.sqlite'")
    shutil.copy(small_results, tmp_path / "mine.sqlite")
    assert (
        "run_benchmark(study, 'mine.sqlite')"
        in Page(write_report(tmp_path / "mine.sqlite", tmp_path / "r.html").read_text()).text
    )


def test_what_tuning_chose_is_not_shown_as_if_it_were_given():
    described = json.loads(json.dumps(BenchmarkStudy(tuning={"draws": 2}).describe()))
    trees = {entry.name: entry for entry in settings({"study": described})[0]["entries"]}["models: trees"]
    shown = json.loads(trees.value)
    assert set(shown["tuned"]) == {"learning_rate", "n_estimators", "max_depth"}
    assert not set(shown["tuned"]) & set(shown["estimator"]["params"])
    untuned = json.loads(json.dumps(BenchmarkStudy().describe()))
    (entry,) = [entry for entry in settings({"study": untuned})[0]["entries"] if entry.name == "models: trees"]
    assert json.loads(entry.value)["estimator"]["params"]["n_estimators"] == 300


def test_parts_that_no_description_holds_are_named(hostile_results):
    first = again(ResultStore(hostile_results).metadata())[0]
    assert f"table {HOSTILE}" in first["words"]
    assert "..." in first["code"]


def test_settings_that_are_no_json_stay_as_they_are():
    results = pd.DataFrame({"data": "d", "model": "a", "seed": [0, 1], "settings": ["alpha of mine", "[1, 2]"]})
    assert [row[3].text for row in chosen_settings(results, ["a"]).rows] == ["alpha of mine", "[1, 2]"]


def test_long_settings_are_folded_under_a_hint():
    study = {"data": [{"name": "a" * 80}, {"name": "b" * 80}], "mine": {"key": "x" * 200}, "text": "y" * 200}
    entries = {entry.name: entry for entry in settings({"study": study})[0]["entries"]}
    assert entries["data"].long == f"{'a' * 80}, {'b' * 80}"
    assert entries["mine"].long == "1 entry"
    assert entries["text"].value == "y" * 200
    assert json.loads(entries["mine"].value) == study["mine"]


def test_spaces_that_a_study_cannot_write_are_named():
    models = {"ridge": {"estimator": "sklearn.linear_model.Ridge", "space": {"alpha": stats.expon(scale=2.0)}}}
    study = BenchmarkStudy(models=models, tuning={"draws": 2, "validation": 0.2})
    _, unknown = study_parameters(json.loads(json.dumps(study.describe())))
    assert unknown == ["search space of ridge, alpha"]


def test_settings_that_seeds_share_are_listed_once():
    results = pd.DataFrame({"data": "d", "model": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1]})
    results["settings"] = ['{"lr": 1}', '{"lr": 1}', '{"lr": 0.123456, "a": "x"}', '{"lr": null}']
    rows = [[cell.text for cell in row] for row in chosen_settings(results, ["a", "b"]).rows]
    assert rows == [["d", "a", "0, 1", "lr=1"], ["d", "b", "0", "lr=0.1235, a=x"], ["d", "b", "1", "lr=null"]]


# -- files beside the page ---------------------------------------------------------------------------------------------


def test_results_are_written_with_a_figure_for_each_kind_of_test_set(small_results, tmp_path):
    before = plt.get_fignums()
    files = write_results(ResultStore(small_results), tmp_path)
    assert [file.name for file in files] == ["results.csv", "settings.json", "results.png", "results_shift.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG\r\n") for file in files[2:])
    assert plt.get_fignums() == before  # pyplot knows nothing of them
    assert len(pd.read_csv(files[0])) == len(ResultStore(small_results).results())
    assert json.loads(files[1].read_text())["study"]["max_train"] == 200
