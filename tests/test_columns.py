"""A query has the columns of the rows that were fitted, or is refused by every question in scikit-learn's words."""

import inspect
import itertools

import numpy as np
import pandas as pd
import pytest
from answers import BUILD, NAMES, QUERY, plain, questions
from conftest import N_TRAIN, make_trees, random_rows
from sklearn.linear_model import LinearRegression

OTHER_COLUMNS = {
    "another order": lambda frame: frame[list("badc")],
    "another name": lambda frame: frame.rename(columns={"b": "z"}),
    "a column missing": lambda frame: frame.drop(columns="c"),
    "a column more": lambda frame: frame.assign(e=1.0),
    "a column of strings more": lambda frame: frame.assign(e="text"),
    "other names": lambda frame: frame.set_axis(list("wxyz"), axis=1),
}


def categorical(frame):
    """The same frame with a category column in the middle."""
    return frame.assign(b=pd.cut(frame["b"], [-10, 0, 1, 10], labels=["low", "mid", "high"]))


FRAMES = {"trees": lambda frame: frame, "net": lambda frame: frame, "trees with categories": categorical}


@pytest.mark.parametrize("other", OTHER_COLUMNS)
@pytest.mark.parametrize("kind", FRAMES)
def test_other_columns_are_refused_by_every_question_as_scikit_learn_does(kind, other):
    X, y = random_rows()
    frame, query = (FRAMES[kind](given) for given in (pd.DataFrame(X, columns=NAMES), QUERY))
    spoilt = OTHER_COLUMNS[other](query)
    model = BUILD[kind.split()[0]](record=True).set_params(**{"early_stopping_rounds": None} if "trees" in kind else {})
    model.fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match") as of_sklearn:
        LinearRegression().fit(pd.DataFrame(X, columns=NAMES), y).predict(OTHER_COLUMNS[other](QUERY))
    for name in questions(model):
        with pytest.raises(ValueError, match="feature names should match") as refusal:
            getattr(model, name)(spoilt)
        assert str(refusal.value) == str(of_sklearn.value), name
    if "trees" in kind:
        with pytest.raises(ValueError, match=r"X_val.*feature names should match"):
            model.set_params(early_stopping_rounds=2).fit(frame, y, X_val=spoilt, y_val=np.zeros(15))


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("n_features", [1, 3, 5])
def test_other_numbers_of_columns_are_refused_everywhere(kind, n_features):
    X, y = random_rows()
    model = BUILD[kind]().fit(X, y)
    rows = np.zeros((6, n_features))
    message = f"X has {n_features} features, but {type(model).__name__} is expecting 4 features as input"
    for name in questions(model):
        with pytest.raises(ValueError, match=message):
            getattr(model, name)(rows)
    if kind == "trees":
        with pytest.raises(ValueError, match=message):
            make_trees(early_stopping_rounds=2).fit(X, y, X_val=rows, y_val=np.zeros(6))
    telescope = model.telescope_
    asked = [name for name, _ in inspect.getmembers(type(telescope), inspect.isfunction) if name[0] != "_"]
    asked = [name for name in asked if list(inspect.signature(getattr(telescope, name)).parameters)[:1] == ["X"]]
    if not telescope.has_linearized:
        asked.remove("staged_linearized")
    extra = {"staged_response": [y[:, None]], "carry_columns": [y[:, None], np.array([1])], "top_examples": [2]}
    for name, wrong in itertools.product(set(asked) - COUNTED, [rows, pd.DataFrame(rows), rows[0]]):
        with pytest.raises(
            (ValueError, TypeError), match=r"this telescope is expecting 4 features|two-dimensional array"
        ):
            plain(getattr(telescope, name)(wrong, *extra.get(name, [])))


#: Methods of telescopes that only count the rows of a query.
COUNTED = {"n_query", "plan", "response_error"}


def test_frames_whose_names_are_no_strings_keep_their_categories_in_place():
    X, y = random_rows()
    frame = categorical(pd.DataFrame(X, columns=NAMES)).set_axis(range(4), axis=1)
    model = make_trees().fit(frame, y)
    assert model.predict(frame).shape == (N_TRAIN,)
    for ask in (model.predict, model.kernel_weights):
        with pytest.raises(ValueError, match=r"the columns \[2, 1, 0, 3\].*had \[0, 1, 2, 3\]"):
            ask(frame[[2, 1, 0, 3]])
