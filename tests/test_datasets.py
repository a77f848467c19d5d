import gzip
import hashlib
import os
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from telescoping_sklearn.datasets import TABULAR_NAMES, fetch_tabular, load_lucas_county

REAL_FOLDER = os.environ.get("TELESCOPING_DATA")

SMALL = {
    "california_statlib.csv.gz": """\
longitude,latitude,housing_median_age,total_rooms,total_bedrooms,population,households,median_income,median_house_value
-122.0,37.0,41.0,880.0,129.0,322.0,100.0,8.0,452600.0
-121.0,38.0,21.0,700.0,110.0,240.0,50.0,4.0,358500.0
""",
    "king_county.csv.gz": """\
id,date,price,bedrooms,zipcode
7129300520,20141013T000000,221900.0,3,98178
6414100192,20140102T000000,538000.0,4,98125
""",
    "house_16h.csv.gz": """\
1,2,y
3961,0.5,125500
74,0.25,0
""",
    "bike_sharing.csv.gz": """\
date,season,hour,holiday,count
2011-01-01,winter,0,False,16
2012-01-01,summer,5,True,1
""",
}


@pytest.fixture(scope="module")
def lucas():
    return load_lucas_county()


@pytest.fixture(scope="module")
def raw_lucas():
    with files("telescoping_sklearn").joinpath("data", "lucas_county_house.csv.gz").open("rb") as file:
        return pd.read_csv(file, compression="gzip")


@pytest.fixture
def small(tmp_path, monkeypatch):
    for name, text in SMALL.items():
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("TELESCOPING_DATA", str(tmp_path))
    return tmp_path


def assert_bunch(bunch):
    """The entries agree with one another."""
    assert set(bunch) == {"data", "target", "frame", "feature_names", "target_names", "DESCR", "filename"}
    assert list(bunch.data) == bunch.feature_names
    assert [bunch.target.name] == bunch.target_names
    assert list(bunch.frame) == bunch.feature_names + bunch.target_names
    pd.testing.assert_frame_equal(bunch.frame[bunch.feature_names], bunch.data)
    assert np.isfinite(bunch.target).all()
    assert all(kind.kind in "if" or kind == "category" for kind in bunch.data.dtypes)


def test_lucas_county_contract(lucas):
    assert_bunch(lucas)
    assert lucas.data.shape == (25357, 18)
    assert lucas.target.name == "log_price"
    assert not lucas.frame.isna().any(axis=None)
    assert lucas.filename == "lucas_county_house.csv.gz"


def test_lucas_county_leaves_out_what_leaks_or_repeats(lucas):
    left_out = {"price", "avalue", *(f"s{year}" for year in range(1993, 1999))}
    assert not left_out & set(lucas.feature_names)
    assert {"syear", "age", "sdate"} <= set(lucas.feature_names)


def test_lucas_county_columns(lucas, raw_lucas):
    assert list(lucas.data.select_dtypes("category")) == ["stories", "wall", "garage"]
    for column in ["stories", "wall", "garage"]:
        assert lucas.data[column].tolist() == raw_lucas[column].tolist()
    np.testing.assert_allclose(np.exp(lucas.target), raw_lucas["price"])
    dates = np.datetime64("1993-01-01") + lucas.data["sdate"].to_numpy().astype("timedelta64[D]")
    assert pd.Series(dates).dt.strftime("%y%m%d").astype(int).tolist() == raw_lucas["sdate"].tolist()


def test_lucas_county_description_is_of_this_file(lucas):
    file = files("telescoping_sklearn").joinpath("data", lucas.filename).read_bytes()
    assert hashlib.sha256(file).hexdigest() in lucas.DESCR
    for said in ["CC0-1.0", "r-cran-spdata", "2.2.1-1", "25,357", *lucas.feature_names]:
        assert said in lucas.DESCR


def test_lucas_county_as_arrays(lucas):
    arrays = load_lucas_county(as_frame=False)
    assert arrays.frame is None
    assert arrays.data.dtype == object
    assert arrays.data.shape == (25357, 18)
    assert arrays.target.dtype == np.float64
    np.testing.assert_array_equal(arrays.target, lucas.target)
    assert arrays.data[0].tolist() == lucas.data.iloc[0].tolist()


def test_lucas_county_as_a_pair(lucas):
    X, y = load_lucas_county(return_X_y=True)
    pd.testing.assert_frame_equal(X, lucas.data)
    pd.testing.assert_series_equal(y, lucas.target)
    X, y = load_lucas_county(return_X_y=True, as_frame=False)
    assert isinstance(X, np.ndarray)
    assert isinstance(y, np.ndarray)


@pytest.mark.parametrize("name", TABULAR_NAMES)
def test_fetched_contract(small, name):
    bunch = fetch_tabular(name)
    assert_bunch(bunch)
    assert len(bunch.data) == 2
    assert os.path.dirname(bunch.filename) == str(small)
    arrays = fetch_tabular(name, as_frame=False)
    assert arrays.frame is None
    assert arrays.data.dtype == (object if name == "bike_sharing" else np.float64)
    X, y = fetch_tabular(name, return_X_y=True)
    pd.testing.assert_frame_equal(X, bunch.data)
    pd.testing.assert_series_equal(y, bunch.target)


@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        ("houses", "total_rooms", [880.0, 700.0]),
        ("california", "AveRooms", [8.8, 14.0]),
        ("california", "AveBedrms", [1.29, 2.2]),
        ("california", "AveOccup", [3.22, 4.8]),
        ("california", "MedInc", [8.0, 4.0]),
        ("house_sales", "date", [285, 1]),
        ("bike_sharing", "date", [0, 365]),
        ("bike_sharing", "holiday", [0, 1]),
        ("bike_sharing", "season", ["winter", "summer"]),
    ],
)
def test_fetched_columns(small, name, column, values):
    assert fetch_tabular(name).data[column].tolist() == values


@pytest.mark.parametrize(
    ("name", "target", "values"),
    [
        ("houses", "log_median_house_value", np.log([452600.0, 358500.0])),
        ("california", "log_median_house_value", np.log([452600.0, 358500.0])),
        ("house_sales", "log_price", np.log([221900.0, 538000.0])),
        ("house_16h", "log1p_y", np.log([125501.0, 1.0])),
        ("bike_sharing", "log_count", np.log([16.0, 1.0])),
    ],
)
def test_fetched_targets(small, name, target, values):
    bunch = fetch_tabular(name)
    assert bunch.target_names == [target]
    np.testing.assert_allclose(bunch.target, values)


def test_fetched_sets_hold_neither_identifier_nor_target(small):
    assert "id" not in fetch_tabular("house_sales").data
    for name in TABULAR_NAMES:
        assert not {"price", "median_house_value", "y", "count"} & set(fetch_tabular(name).data)


def test_california_has_the_features_of_scikit_learn(small):
    assert fetch_tabular("california").feature_names == (
        "MedInc HouseAge AveRooms AveBedrms Population AveOccup Latitude Longitude".split()
    )


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"name='iris'.*houses, california, house_sales, house_16h, bike_sharing"):
        fetch_tabular("iris")


def test_missing_setting_says_what_to_do(monkeypatch):
    monkeypatch.delenv("TELESCOPING_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"(?s)king_county.csv.gz.*'house_sales'.*is not set.*fetch_openml"):
        fetch_tabular("house_sales")


@pytest.mark.parametrize(
    ("name", "openml"),
    list(zip(TABULAR_NAMES, ["houses", "california", "house_sales", "house_16H", "Bike_Sharing_Demand"], strict=True)),
)
def test_missing_file_says_what_to_do(tmp_path, monkeypatch, name, openml):
    monkeypatch.setenv("TELESCOPING_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=rf"is not in .*Set the environment variable TELESCOPING_DATA.*'{openml}'"
    ):
        fetch_tabular(name)


@pytest.mark.parametrize(
    ("name", "shape"),
    list(zip(TABULAR_NAMES, [(20640, 8), (20640, 8), (21613, 19), (22784, 16), (17379, 13)], strict=True)),
)
def test_real_files(name, shape):
    if not REAL_FOLDER:
        pytest.skip("TELESCOPING_DATA is not set: the real file is not at hand")
    try:
        bunch = fetch_tabular(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert_bunch(bunch)
    assert bunch.data.shape == shape
    assert not bunch.frame.isna().any(axis=None)
