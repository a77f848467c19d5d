"""A study is read from Python and TOML, checked as a whole, and every part of it becomes what it says."""

import gzip
import hashlib
import io
import json
import sys
import types
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from telescoping_sklearn import (
    FirstComponentDeviation,
    TabularPreparation,
    TelescopingGBTRegressor,
    irregular_rows,
    irregularity_scores,
)
from telescoping_sklearn.benchmark import BenchmarkStudy, StudyError, describe_plan, run_benchmark
from telescoping_sklearn.benchmark._columns import handle_columns
from telescoping_sklearn.benchmark._describe import describe, fingerprint, hash_of
from telescoping_sklearn.benchmark._test_sets import Score, Shift
from telescoping_sklearn.benchmark._tuning import PAPER_SPACES, read_space


def rows(n=200, seed=0):
    """Features of every kind and a positive target."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "size": rng.lognormal(size=n),
            "year": np.sort(rng.integers(1990, 2020, n)),
            "wall": rng.choice(["brick", "stone", "wood"], n),
            "depth": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
        }
    )
    return X, pd.Series(np.exp(0.5 * X["size"] + 0.05 * (X["year"] - 2000) + 0.1 * rng.normal(size=n)), name="price")


FLATS = str(Path(__file__).parents[1] / "examples" / "studies" / "flats.csv")


@pytest.fixture
def csv(tmp_path):
    X, y = rows()
    path = tmp_path / "my flats.csv"
    X.assign(price=y, row=range(len(X)), same="x", sold="2020-01-05").to_csv(path, index=False)
    return path


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": ()}, "data must name at least one"),
        ({"data": 3}, "data must be names"),
        ({"data": ("nowhere",)}, "no data set 'nowhere'"),
        ({"data": ("lucas_county", "lucas_county")}, "only once: lucas_county"),
        ({"data": ({"path": "no.csv", "target": "y"},)}, "there is no file no.csv"),
        ({"data": ({"path": FLATS},)}, "target must name"),
        ({"data": ({"target": "y"},)}, "neither `path`"),
        ({"data": ({"source": "lucas_county", "colour": 1},)}, "no option colour"),
        ({"data": ({"source": "lucas_county", "drop": "wall"},)}, "drop must be a list"),
        ({"data": ({"source": "lucas_county", "log_target": 1},)}, "log_target must be true or false"),
        ({"data": (("mine", np.zeros((3, 1)), np.zeros(2)),)}, "X has 3 rows and y has 2"),
        ({"models": {}}, "at least one model"),
        ({"models": 3}, "models must be names"),
        ({"models": ("forest",)}, "models.forest: 'forest' is neither net nor trees"),
        ({"models": {"a": "sklearn.linear_model.Rigde"}}, "sklearn.linear_model has no Rigde"),
        ({"models": {"a": "no_such_library.Ridge"}}, "cannot be imported"),
        ({"models": {"a": "sklearn.linear_model.LogisticRegression"}}, "is no regressor"),
        ({"models": {"a": "os.path.join"}}, "no scikit-learn estimator class"),
        ({"models": {"a": "sklearn.multioutput.MultiOutputRegressor"}}, "cannot be made from its settings alone"),
        ({"models": {"trees": {"settings": {"leaves": 3}}}}, "has no parameter leaves"),
        ({"models": {"trees": {"settngs": {}}}}, "no option settngs"),
        ({"models": {"trees": {"preparation": "best"}}}, "preparation must be one of"),
        ({"models": {"trees": {"space": {"depth": [1]}}}}, "space: TelescopingGBTRegressor has no parameter depth"),
        ({"models": {"trees": {"space": {"max_depth": {"uniform": [2, 1]}}}}}, "space: max_depth must be"),
        ({"n_seeds": 0}, "n_seeds must be at least 1"),
        ({"n_seeds": 1.5}, "n_seeds must be a whole number"),
        ({"max_train": 3}, "max_train must be at least 10"),
        ({"test_size": True}, "test_size must be a whole number"),
        ({"n_probes": 1}, "n_probes must be at least 2"),
        ({"section": 0}, 'section must be "auto" or a whole number of at least 1'),
        ({"kernel_stages": "all"}, "kernel_stages must be a whole number"),
        ({"irregular_fraction": 0.0}, "irregular_fraction must be above 0"),
        ({"proportions": (0.0, 1.5)}, "proportions must be numbers between 0 and 1"),
        ({"proportions": (0.5,)}, "hold 0"),
        ({"proportions": 0.5}, "proportions must be numbers"),
        ({"metrics": ("mse", "mape")}, "metrics must be of mse"),
        ({"score": "distance"}, "score must be one of"),
        ({"score": 3}, "score must be a name"),
        ({"score": ()}, "at least one score"),
        ({"score": "sklearn:Ridge"}, "no outlier detector 'Ridge'"),
        ({"shift": {"col": "year"}}, "shift: give a table that names a column"),
        ({"shift": {"column": "year", "steps": 0}}, "steps must be"),
        ({"shift": {"column": "year", "train_share": 1.0}}, "train_share must be"),
        ({"shift": {"column": "year", "side": "low"}}, "no option side"),
        ({"tuning": 25}, "tuning must be a table"),
        ({"tuning": {"draws": 0}}, "draws must be"),
        ({"tuning": {"validation": 1.0}}, "validation must be"),
        ({"tuning": {"folds": 5}}, "no option folds"),
        ({"models": {"a": {"estimator": make_pipeline(Ridge(alpha=-1))}}}, "'alpha' parameter of Ridge must be"),
    ],
)
def test_a_mistake_is_said_in_a_line_that_names_it(given, said):
    with pytest.raises(StudyError) as raised:
        BenchmarkStudy(**given)
    (line,) = raised.value.mistakes
    assert said in line
    assert "\n" not in line


def test_all_mistakes_are_said_at_once(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('data = ["nowhere"]\nn_seeds = 0\nspeed = 3\n[models.trees.settings]\nleaves = 3\n')
    with pytest.raises(StudyError) as raised:
        BenchmarkStudy.from_toml(path)
    assert len(raised.value.mistakes) == 4
    for part in ("'speed'", "n_seeds must", "nowhere", "parameter leaves"):
        assert sum(part in line for line in raised.value.mistakes) == 1


def test_mistakes_do_not_mask_each_other():
    with pytest.raises(StudyError) as raised:
        BenchmarkStudy(
            tuning={"draws": 0, "validation": 1.0, "folds": 5},
            models={
                "net": {"settings": {"activation": "swish9", "section": "often", "hidden_layer_sizes": 5.5}},
                "trees": {
                    "settings": {"objective": "rank", "linear_tree": True, "num_leaves": "many", "leaves": 3},
                    "preparation": "best",
                    "space": {"max_depth": {"uniform": [2, 1]}, "subsample": [], "depth": [1]},
                    "colour": "red",
                },
            },
        )
    lines = raised.value.mistakes
    parts = ["draws must", "validation must", "option folds"]
    parts += ["'activation' parameter", "'section' parameter", "'hidden_layer_sizes' parameter"]
    parts += ["objective='rank' is not", "'num_leaves' parameter", "no parameter leaves, linear_tree"]
    parts += ["preparation must", "max_depth must", "subsample must", "space: TelescopingGBTRegressor", "option colour"]
    for part in parts:
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == len(parts)


def test_what_fit_refuses_is_what_the_study_says():
    trees = TelescopingGBTRegressor(objective="lambdarank")
    assert list(trees.unsupported_params()) == ["objective"]
    with pytest.raises(ValueError, match="objective='lambdarank' is not supported") as raised:
        trees.fit(np.zeros((4, 1)), np.arange(4.0))
    assert str(raised.value) == trees.unsupported_params()["objective"]
    assert TelescopingGBTRegressor().unsupported_params() == {}


def test_no_toml_is_said_with_its_place(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("n_seeds = = 3")
    with pytest.raises(StudyError, match=r"study\.toml is no TOML file.*line 1"):
        BenchmarkStudy.from_toml(path)


def test_what_only_tables_tell_is_said_for_all_of_them(csv):
    X, y = rows(12)
    study = BenchmarkStudy(
        data=(("text", X, y.astype(str) + "x"), ("few", X, y), {"path": str(csv), "target": "price", "name": "b"}),
        shift={"column": "wall"},
    )
    with pytest.raises(StudyError) as raised:
        study.load_tables()
    said = "\n".join(raised.value.mistakes)
    for part in (
        "data 'text': the target",
        "12 rows are too few",
        "'b', shift:wall",
        "categories, which have no order",
    ):
        assert part in said


# -- studies as data ---------------------------------------------------------------------------------------------------


def test_toml_says_the_same_as_python(tmp_path, csv):
    path = tmp_path / "study.toml"
    path.write_text(
        f"""
data = ["lucas_county", {{path = "{csv.name}", target = "price", drop = ["row"], log_target = true, name = "flats"}}]
n_seeds = 3
proportions = [0, 0.5]
score = ["first_component", "sklearn:IsolationForest"]
shift = {{column = "year", train_share = 0.6}}
tuning = {{draws = 5, validation = 100}}
[models.net.settings]
hidden_layer_sizes = [8, 8]
[models.forest]
estimator = "sklearn.ensemble.RandomForestRegressor"
settings = {{n_estimators = 20}}
space = {{max_depth = [2, 4], min_samples_leaf = {{randint = [1, 10]}}}}
"""
    )
    python = BenchmarkStudy(
        data=(
            "lucas_county",
            {"path": str(csv), "target": "price", "drop": ["row"], "log_target": True, "name": "flats"},
        ),
        n_seeds=3,
        proportions=(0.0, 0.5),
        score=("first_component", "sklearn:IsolationForest"),
        shift={"column": "year", "train_share": 0.6},
        tuning={"draws": 5, "validation": 100},
        models={
            "net": {"settings": {"hidden_layer_sizes": (8, 8)}},
            "forest": {
                "estimator": RandomForestRegressor(),
                "settings": {"n_estimators": 20},
                "space": {"max_depth": [2, 4], "min_samples_leaf": stats.randint(1, 11)},
            },
        },
    )
    assert BenchmarkStudy.from_toml(path).describe() == python.describe()
    assert python.n_tasks == 2 * 3 * 3 * 2


def test_plan_says_columns_models_and_size(csv, tmp_path):
    study = BenchmarkStudy(
        data=({"path": str(csv), "target": "price"},),
        models={"trees": {}, "ridge": "sklearn.linear_model.Ridge"},
        tuning={"draws": 4},
        test_size=20,
        shift={"column": "year"},
    )
    plan = describe_plan(study, study.load_tables(), tmp_path / "none.sqlite")
    for part in (
        "my flats: 200 rows",
        "'row' left out: identifier",
        "'same' left out: constant",
        "'depth': ",
        "ridge: Ridge, standard columns, not tuned",
        "tuned over learning_rate, n_estimators, max_depth",
        "8 tasks",
        "24 fits",
        "(1 data set x 2 ways to draw test sets x 2 seeds x 2 models)",
        "numeric (3): size, year, depth",
        "categorical (1): wall",
    ):
        assert part in plan


def test_plan_remarks_on_what_a_reader_should_look_at():
    n = 200
    X, y = rows(n)
    X["number"] = np.arange(n) * 3
    X["town"] = [f"t{i % 90}" for i in range(n)]
    X["sold"] = [f"{1 + i % 28}.{1 + i % 12}.20" for i in range(n)]
    study = BenchmarkStudy(data=(("mine", X, y),), test_size=20)
    tables = study.load_tables()
    assert set(tables["mine"].profile.remarks) == {"number", "town", "sold"}
    plan = describe_plan(study, tables)
    assert "'number' may be an identifier" in plan
    assert "'town' has 90 levels in 200 rows" in plan
    assert "'sold' looks like dates" in plan
    assert "ISO, YYYY-MM-DD" in plan


def test_columns_of_files_are_looked_up_with_the_study(csv):
    semicolons = csv.with_name("other.csv")
    semicolons.write_text(csv.read_text().replace(",", ";"))
    data = [
        {"path": str(csv), "target": "rent", "drop": ["colour"], "log_target": 3},
        {"path": str(semicolons), "target": "price"},
    ]
    with pytest.raises(StudyError) as raised:
        BenchmarkStudy(data=data, n_seeds=0)
    assert len(raised.value.mistakes) == 3  # the file with semicolons is read
    for part in ("no column 'rent', 'colour'. It has size", "log_target must"):
        assert sum(part in line for line in raised.value.mistakes) == 1


def test_sets_of_a_folder_that_is_not_named_are_one_mistake(monkeypatch):
    monkeypatch.delenv("TELESCOPING_DATA", raising=False)
    study = BenchmarkStudy(data=("houses", "lucas_county", "california"))
    with pytest.raises(StudyError) as raised:
        study.load_tables()
    (line,) = raised.value.mistakes
    for part in ("'houses', 'california'", "TELESCOPING_DATA", "openml:NAME"):
        assert part in line


# -- columns -----------------------------------------------------------------------------------------------------------


def test_columns_become_numbers_and_categories():
    n = 40
    X = pd.DataFrame(
        {
            "flag": [True, False] * 20,
            "day": pd.date_range("2021-03-01", periods=n, freq="12h"),
            "text_day": ["2021-03-01", "2021-03-31"] * 20,
            "wall": ["wood", None] * 20,
            "kind": pd.Categorical(["b", "a"] * 20),
            "nullable": pd.array([1, None] * 20, dtype="Int64"),
            "infinite": [1.0, np.inf] * 20,
            "code": [f"k{i}" for i in range(n)],
            "shuffled": np.random.default_rng(0).permutation(n) + 7,
            "distinct": np.arange(n) ** 2,
            "nothing": [None] * n,
            "one_or_missing": [1.0, None] * 20,
            3: range(0, 2 * n, 2),
        }
    )
    handled, profile = handle_columns(X)
    assert profile.dropped == {"code": "identifier", "shuffled": "identifier", "nothing": "constant"}
    assert profile.kinds["day"] == profile.kinds["text_day"] == "date"
    assert handled["day"].tolist()[:3] == [0.0, 0.5, 1.0]
    assert handled["text_day"].tolist()[:2] == [0.0, 30.0]
    assert handled["flag"].tolist()[:2] == [1, 0]
    assert handled["wall"].cat.categories.tolist() == ["wood"]
    assert profile.missing == dict.fromkeys(("wall", "nullable", "infinite", "one_or_missing"), 0.5)
    assert list(handled)[-1] == "3"
    assert all(isinstance(kind, pd.CategoricalDtype) or kind.kind in "if" for kind in handled.dtypes)


def test_columns_of_equal_names_and_tables_without_any_are_refused():
    with pytest.raises(ValueError, match="more than once: a"):
        handle_columns(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(ValueError, match="no column is left"):
        handle_columns(pd.DataFrame({"a": [1, 1]}))


def test_fingerprint_knows_values_names_kinds_and_order():
    table = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    others = [table.rename(columns={"a": "c"}), table[["b", "a"]], table.iloc[::-1], table.astype({"a": int})]
    others += [table.assign(a=[1.0, np.nan])]
    assert len({fingerprint(one) for one in [table, *others]}) == 6
    assert fingerprint(table.set_axis([5, 6])) == fingerprint(table.copy())


def test_target_is_logged_and_rows_without_one_left_out(csv):
    X, y = rows(60)
    y[3] = np.nan
    study = BenchmarkStudy(data=(("mine", X, y), {"path": str(csv), "target": "price", "log_target": True}))
    tables = study.load_tables()
    assert len(tables["mine"].X) == 59
    assert tables["mine"].notes == ["1 row without a finite target left out"]
    np.testing.assert_allclose(tables["my flats"].y, np.log(rows()[1]))


@pytest.mark.parametrize(
    ("y", "said"),
    [(["a"] * 60, "not numeric: it holds 'a'"), ([-1.0, 1.0] * 30, "below 0"), ([1.0] * 60, "does not vary")],
)
def test_targets_that_cannot_be_predicted_are_refused(y, said, tmp_path):
    rows(60)[0].assign(y=y).to_csv(tmp_path / "bad.csv")
    study = BenchmarkStudy(data=({"path": str(tmp_path / "bad.csv"), "target": "y", "log_target": True},))
    with pytest.raises(StudyError, match=said):
        study.load_tables()


def test_parquet_says_what_csv_says(tmp_path, csv):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pd.read_csv(csv).to_parquet(tmp_path / "flats.parquet")
    both = BenchmarkStudy(
        data=[{"path": str(path), "target": "price"} for path in (csv, tmp_path / "flats.parquet")]
    ).load_tables()
    assert both["my flats"].fingerprint == both["flats"].fingerprint
    with pytest.raises(StudyError, match=r"has no column 'rent'\. It has size"):
        BenchmarkStudy(data=[{"path": str(tmp_path / "flats.parquet"), "target": "rent"}])


# -- OpenML ------------------------------------------------------------------------------------------------------------

ARFF = """@RELATION toy
@ATTRIBUTE size REAL
@ATTRIBUTE wall {brick,wood}
@ATTRIBUTE price REAL
@DATA
"""


@pytest.fixture
def openml(monkeypatch, tmp_path):
    """OpenML's answers for data set 7 and suite 336, in its own form."""
    lines = [f"{i / 10},{'brick' if i % 3 else 'wood'},{i * 1.5}" for i in range(60)]
    arff = (ARFF + "\n".join(lines)).encode()
    feature = {
        "data_type": "numeric",
        "is_ignore": "false",
        "is_row_identifier": "false",
        "number_of_missing_values": "0",
    }
    features = [
        {**feature, "index": str(i), "name": name, "is_target": str(name == "price").lower()}
        for i, name in enumerate(["size", "wall", "price"])
    ]
    features[1]["data_type"] = "nominal"
    answers = {
        "/api/v1/json/data/7": {
            "data_set_description": {
                "id": "7", "name": "toy", "version": "1", "format": "ARFF", "status": "active", "file_id": "70",
                "description": "toy", "default_target_attribute": "price",
                "md5_checksum": hashlib.md5(arff).hexdigest(),
                "url": "https://www.openml.org/data/v1/download/70/toy.arff",
            }
        },
        "/api/v1/json/data/features/7": {"data_features": {"feature": features}},
        "/api/v1/json/data/qualities/7": {
            "data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "60"}]}
        },
        "/api/v1/json/study/336": {"study": {"data": {"data_id": ["7"]}}},
    }  # fmt: skip
    asked = []

    def urlopen(request, *args, **kwargs):
        path = request.full_url.split("openml.org")[1]
        asked.append(path)
        content = arff if path.startswith("/data/v1/download") else json.dumps(answers[path]).encode()
        response = io.BytesIO(gzip.compress(content))
        response.info = lambda: {"Content-Encoding": "gzip"}
        return response

    monkeypatch.setattr("sklearn.datasets._openml.urlopen", urlopen)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    return asked


def test_openml_and_its_suites_are_fetched_once(openml):
    study = BenchmarkStudy(data=("suite:336",), score="first_component", test_size=5)
    assert [source.name for source in study.sources] == ["openml:7"]
    table = study.load_tables()["openml:7"]
    assert table.X.shape == (60, 2)
    assert table.profile.kinds == {"size": "number", "wall": "category"}
    np.testing.assert_allclose(table.y, np.arange(60) * 1.5)
    n_asked = len(openml)
    BenchmarkStudy(data=("suite:336",)).load_tables()
    assert len(openml) == n_asked


@pytest.mark.parametrize("name", ["openml:7", "suite:336"])
def test_without_a_network_openml_says_what_to_do(name, monkeypatch, tmp_path):
    def urlopen(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("sklearn.datasets._openml.urlopen", urlopen)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    with pytest.raises(StudyError, match=r"no route to host.*Where there is a network, run .*fetch_openml"):
        BenchmarkStudy(data=(name,)).load_tables()


# -- models ------------------------------------------------------------------------------------------------------------


def preparation_of(model):
    return BenchmarkStudy(models={"m": model}).specs[0].preparation


def test_preparation_suits_the_model_unless_told():
    assert preparation_of("sklearn.ensemble.ExtraTreesRegressor") == "ordinal"
    assert preparation_of("lightgbm.LGBMRegressor") == "ordinal"
    assert preparation_of("sklearn.svm.SVR") == "standard"
    assert preparation_of(make_pipeline(StandardScaler(), Ridge())) == "none"
    assert preparation_of({"estimator": "sklearn.svm.SVR", "preparation": "ordinal"}) == "ordinal"


@pytest.mark.parametrize(
    "model",
    [
        "sklearn.ensemble.GradientBoostingRegressor",  # takes no missing values
        "sklearn.ensemble.RandomForestRegressor",
        "sklearn.linear_model.LinearRegression",
        make_pipeline(TabularPreparation(), Ridge()),
    ],
)
def test_any_regressor_takes_a_table_of_every_kind(model):
    X, y = rows()
    made = BenchmarkStudy(models={"m": model}).specs[0].make(0).fit(X.astype({"wall": "category"}), y)
    assert made.score(X.astype({"wall": "category"}), y) > 0.3


def test_seeds_and_threads_reach_the_estimator_unless_set():
    def of(model):
        return BenchmarkStudy(models={"m": model}).specs[0].make(3).regressor[-1]

    made = of("sklearn.ensemble.RandomForestRegressor")
    assert (made.random_state, made.n_jobs) == (3, 1)
    assert of(RandomForestRegressor(random_state=8)).random_state == 8


def test_missing_values_are_marked_for_models_that_take_none():
    X = rows()[0]
    prepared = TabularPreparation(missing_indicator=True).fit(X)
    names = list(prepared.get_feature_names_out())
    marked = prepared.transform(X)[:, names.index("missingindicator_depth")]
    assert np.array_equal(marked > 0, X["depth"].isna())
    assert len(names) == 1 + TabularPreparation().fit(X).transform(X).shape[1]


# -- tuning ------------------------------------------------------------------------------------------------------------


def test_the_papers_spaces():
    trees, net = read_space(PAPER_SPACES["trees"]), read_space(PAPER_SPACES["net"])
    draws = np.log(trees["learning_rate"].rvs(20_000, random_state=0))
    assert draws.mean() == pytest.approx(np.log(0.01), abs=0.05)
    assert draws.std() == pytest.approx(np.log(10), abs=0.05)
    counts = trees["n_estimators"].rvs(20_000, random_state=0)
    assert (counts.min(), counts.max()) == (10, 1000)
    odds = pd.Series(trees["max_depth"]).value_counts(normalize=True)
    assert odds.to_dict() == {3: 0.6, -1: 0.1, 2: 0.1, 4: 0.1, 5: 0.1}
    rates = net["learning_rate_init"].rvs(20_000, random_state=0)
    assert stats.kstest(np.log10(rates), "uniform", (-5, 3)).pvalue > 1e-3


def test_tuning_chooses_what_held_out_training_rows_like_best():
    X, y = rows(400)
    study = BenchmarkStudy(
        data=(("mine", X, y),),
        models={
            "trees": {"settings": {"n_estimators": 30}, "space": {"learning_rate": [1e-6, 0.1]}},
            "ridge": "sklearn.linear_model.Ridge",
        },
        n_seeds=1,
        tuning={"draws": 2},
        score="first_component",
        proportions=(0.0,),
    )
    results = run_benchmark(study)
    settings = {model: json.loads(part["settings"].iloc[0]) for model, part in results.groupby("model")}
    assert settings == {"trees": {"learning_rate": 0.1, "n_estimators": 30}, "ridge": {}}
    assert results.groupby("model")["tuned"].all().to_dict() == {"trees": True, "ridge": False}
    # A tuned model still explains itself.
    assert results.loc[results["model"] == "trees", "effective_params"].notna().all()


# -- scores and shifts -------------------------------------------------------------------------------------------------


def divide(division, X, seed=0, **settings):
    study = BenchmarkStudy(test_size=settings.pop("test_size", 20), **settings)
    return division.divide(division.measure(X), study, seed)


def test_mixtures_and_deciles_are_drawn_from_one_pool_that_is_not_trained_on():
    X = rows(400)[0]
    parts = divide(Score("first_component"), X, proportions=(0.0, 0.5, 1.0))
    assert not set(parts.train) & set(parts.pool)
    irregular = irregular_rows(X, score=FirstComponentDeviation())
    assert not irregular[parts.train].any()
    for share in (0.0, 0.5, 1.0):
        members = parts.pool[parts.sets["mixture", share]]
        assert len(members) == 20
        assert irregular[members].mean() == share
    scores = -irregularity_scores(X, score=FirstComponentDeviation())
    deciles = [name for name in parts.sets if name[0] == "decile"]
    by_decile = [scores[parts.pool[parts.sets[name]]] for name in sorted(deciles)]
    assert all(low.max() <= high.min() for low, high in pairwise(by_decile))
    assert sum(map(len, by_decile)) == len(parts.pool)


def test_sklearns_detectors_score_by_name():
    X = rows()[0].astype({"wall": "category"})
    expected = irregularity_scores(X, score=make_pipeline(TabularPreparation(), LocalOutlierFactor()))
    np.testing.assert_array_equal(Score("sklearn:LocalOutlierFactor").measure(X), expected)
    scores = [Score("sklearn:IsolationForest").measure(X) for _ in range(2)]
    np.testing.assert_array_equal(*scores)


class KNN(BaseEstimator):
    """Scores as PyOD's detectors do: larger is more irregular."""

    def fit(self, X):
        self.decision_scores_ = np.linalg.norm(X - X.mean(axis=0), axis=1)
        return self


def test_pyods_detectors_score_by_name(monkeypatch):
    module = types.ModuleType("pyod.models.knn")
    module.KNN = KNN
    for name, value in {"pyod": types.ModuleType("pyod"), "pyod.models": types.ModuleType("m")}.items():
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.setitem(sys.modules, "pyod.models.knn", module)
    X = rows()[0].astype({"wall": "category"})
    (division,) = BenchmarkStudy(score="pyod:KNN").divisions
    prepared = TabularPreparation().fit_transform(X)
    np.testing.assert_allclose(-division.measure(X), np.linalg.norm(prepared - prepared.mean(axis=0), axis=1))
    with pytest.raises(StudyError, match="PyOD has no detector 'KNNN'"):
        BenchmarkStudy(score="pyod:KNNN")


def test_without_pyod_its_names_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyod", None)
    with pytest.raises(StudyError, match="needs PyOD: pip install"):
        BenchmarkStudy(score="pyod:KNN")


@pytest.mark.parametrize("descending", [False, True])
def test_shifts_train_on_one_end_and_test_along_the_rest(descending):
    X = rows(600)[0]
    parts = divide(Shift("year", 0.5, 5, descending), X, test_size=30)
    year = X["year"].to_numpy() * (-1 if descending else 1)
    trained = year[parts.train]
    assert trained.max() <= np.quantile(year, 0.5)
    near = year[parts.pool[parts.sets["shift", 0.0]]]
    assert near.max() <= trained.max()
    assert list(parts.sets) == [("shift", value) for value in (0.0, 0.6, 0.7, 0.8, 0.9, 1.0)]
    last = trained.max()
    for name in list(parts.sets)[1:]:
        here = year[parts.pool[parts.sets[name]]]
        assert here.min() > last, "equal values never stand on two sides"
        assert len(here) <= 30
        last = here.max()
    assert not set(parts.train) & set(parts.pool)


def test_shifts_say_what_columns_they_cannot_follow():
    X, y = rows(60)
    X = X.assign(
        same="x", code=[f"k{i}" for i in range(60)], sold=[f"{1 + i % 28:02}/{1 + i // 28:02}/2020" for i in range(60)]
    )
    for column, said in {
        "none": "no column",
        "wall": "no order.*YYYY-MM-DD",
        "same": "'same' was left out: it is constant",
        "code": "'code' was left out: it is an identifier",
        "sold": "'sold' was left out: it is an identifier.*looks like dates .*must be ISO, YYYY-MM-DD",
    }.items():
        study = BenchmarkStudy(data=(("mine", X, y),), score=(), shift={"column": column})
        with pytest.raises(StudyError, match=said):
            study.load_tables()


def test_rows_without_a_value_to_divide_along_are_left_out_with_a_note():
    X, y = rows(400)
    X.loc[3, "depth"] = np.inf
    study = BenchmarkStudy(data=(("mine", X, y),), score=(), shift={"column": "depth"})
    table = study.load_tables()["mine"]
    n_lost = int((~np.isfinite(X["depth"])).sum())
    assert table.notes == [f"{n_lost} rows without a value in 'depth', the shift's column, left out"]
    assert np.isfinite(table.X["depth"]).all()
    np.testing.assert_array_equal(table.y, y[np.isfinite(X["depth"])])
    assert len(BenchmarkStudy(data=(("mine", X, y),)).load_tables()["mine"].X) == 400


# -- descriptions ------------------------------------------------------------------------------------------------------


def test_descriptions_tell_settings_apart_and_are_json():
    settings = [
        Ridge(), Ridge(alpha=2), LinearRegression(), np.arange(3), np.arange(3.0), [1, 2], {"a": None},
        stats.uniform(0, 1), stats.uniform(0, 2), np.mean, Ridge, float("inf"), float("nan"), "1", 1, True,
        pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]}), make_pipeline(StandardScaler(), Ridge()),
    ]  # fmt: skip
    hashes = [hash_of(describe(value)) for value in settings]
    assert len(set(hashes)) == len(settings)
    assert hashes == [hash_of(json.loads(json.dumps(describe(value)))) for value in settings]
    assert describe(np.float64("nan")) == "nan"


def test_what_cannot_be_written_down_is_refused():
    with pytest.raises(StudyError, match=r"models\.m: .*no name that another process finds"):
        BenchmarkStudy(models={"m": make_pipeline(TelescopingGBTRegressor(objective=lambda y, f: (f - y, y)))})
    with pytest.raises(TypeError, match="cannot be written down"):
        describe(object())
