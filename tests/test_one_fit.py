"""A fitted model's answers belong to one fit: nothing changes them but another `fit`, and that all at once."""

import copy
import functools
import inspect
import itertools
import pickle
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import N_TRAIN, make_net, make_trees, random_rows
from scipy import sparse
from sklearn.linear_model import LinearRegression

import telescoping_sklearn
from telescoping_sklearn.neural._path import Path as RecordedRun

PACKAGE = Path(telescoping_sklearn.__file__).parent
NAMES = list("abcd")
QUERY = pd.DataFrame(random_rows(15, seed=1)[0], columns=NAMES)


def questions(model):
    """Names of the public methods that take query rows, with what else they need."""
    methods = {name: method for name, method in inspect.getmembers(type(model), inspect.isfunction) if name[0] != "_"}
    asked = {name for name, method in methods.items() if "X" in inspect.signature(method).parameters}
    assert {"predict", "kernel_weights", "top_examples", "breakdown", "approximation_error"} <= asked
    return sorted(asked - {"fit", "score"})


def plain(answer):
    """Numbers and tables of an answer, copied."""
    if isinstance(answer, pd.DataFrame | pd.Series | np.ndarray | int | float | np.number):
        return copy.deepcopy(answer)
    if sparse.issparse(answer):
        return answer.toarray()
    if isinstance(answer, str | type(None)):
        return answer
    if isinstance(answer, dict):
        return {key: plain(value) for key, value in answer.items()}
    if hasattr(answer, "by_stage"):
        return plain(vars(answer))
    return [plain(item) for item in answer]


ATTRIBUTES = (
    "kernel_weights_",
    "effective_params_",
    "degrees_of_freedom_",
    "section_ends_",
    "loss_curve_",
    "feature_names_in_",
    "n_features_in_",
)


def answers(model, query=QUERY):
    """Every answer that a fitted model gives."""
    given = {name: plain(getattr(model, name)(query)) for name in questions(model)}
    given |= {name: plain(getattr(model, name)) for name in ATTRIBUTES if hasattr(model, name)}
    given["subsets"] = plain(model.effective_params(query, n_probes=4, subsets=[[0, 1], [2]], return_se=True))
    given["summary"] = plain(model.staged_training_summary(3))
    given["probes"] = plain(model.staged_training_summary(3, n_probes=4))
    if hasattr(model, "stopping_curve"):
        given["stopping"] = plain(model.stopping_curve())
    return given


def assert_same(given, expected, where=""):
    if isinstance(expected, dict):
        assert given.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(given[key], value, f"{where} {key}")
    elif isinstance(expected, list):
        assert len(given) == len(expected), where
        for position, value in enumerate(expected):
            assert_same(given[position], value, f"{where} {position}")
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(given, expected, rtol=1e-12, atol=1e-13, obj=where)
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert given.tolist() == expected.tolist(), where
    else:
        np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-13, err_msg=where)


# What fit was given is changed in place


class Holder:
    """Rows of another library, which gives out its own memory."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype in (None, self.array.dtype) else self.array.astype(dtype)

    def __len__(self):
        return len(self.array)

    @property
    def shape(self):
        return self.array.shape


def read_only(array):
    view = array.view()
    view.flags.writeable = False
    return view


def shared_frame(array):
    return pd.DataFrame(array, copy=False) if array.ndim == 2 else pd.Series(array, copy=False)


def mapped(array, tmp_path):
    file = np.memmap(tmp_path / f"{len(list(tmp_path.iterdir()))}.bin", dtype=array.dtype, mode="w+", shape=array.shape)
    file[:] = array
    return file


WAYS = {
    "an array": lambda array, tmp_path: array,
    "Fortran order": lambda array, tmp_path: np.asfortranarray(array),
    "a view with gaps": lambda array, tmp_path: np.repeat(array, 2, axis=0)[::2],
    "a read-only view": lambda array, tmp_path: array,
    "a memory map": mapped,
    "a frame": lambda array, tmp_path: array,
    "another library's": lambda array, tmp_path: array,
    "a tensor": lambda array, tmp_path: array,
    "single precision": lambda array, tmp_path: array.astype(np.float32),
}
WRAPPED = {
    "a read-only view": read_only,
    "a frame": shared_frame,
    "another library's": Holder,
    "a tensor": torch.from_numpy,
}


def shared(arrays, way, tmp_path):
    """The arrays as somebody may give them to fit, and the memory that lies behind each."""
    memory = {name: WAYS[way](array.copy(), tmp_path) for name, array in arrays.items()}
    return {name: WRAPPED.get(way, lambda array: array)(array) for name, array in memory.items()}, memory.values()


def spoil(arrays):
    """Change every number."""
    for array in arrays:
        array *= 3
        array += np.arange(array.size, dtype=array.dtype).reshape(array.shape)


def given_to_fit(family):
    X, y = random_rows()
    given = {"X": X, "y": y, "sample_weight": np.linspace(0.5, 1.5, N_TRAIN)}
    if family == "trees":
        X_val, y_val = random_rows(20, seed=2)
        given |= {"X_val": X_val, "y_val": y_val, "sample_weight_val": np.ones(20)}
    return given


FAMILIES = {
    "trees": lambda **settings: make_trees(early_stopping_rounds=4, **settings),
    "net": lambda **settings: make_net(hidden_layer_sizes=(6,), max_iter=4, section="auto", **settings),
}


@functools.cache
def expected_answers(family, dtype):
    """Answers of a model that was given arrays that nobody changes."""
    given = {name: array.astype(dtype) for name, array in given_to_fit(family).items()}
    return answers(FAMILIES[family]().fit(**given), QUERY.to_numpy())


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_fit_was_given_may_change_in_place(family, way, asked_before, tmp_path):
    given, memory = shared(given_to_fit(family), way, tmp_path)
    model = FAMILIES[family]().fit(**given)
    if asked_before:
        model.kernel_weights(QUERY.to_numpy())
        model.kernel_norm_ratio(QUERY.to_numpy())
    spoil(memory)
    found = answers(model, QUERY.to_numpy())
    if way == "a frame":
        assert found["top_examples"].pop("index").equals(found["top_examples"]["row"])
    assert_same(found, expected_answers(family, "f4" if way == "single precision" else "f8"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frame_may_change_in_place(family):
    arrays = given_to_fit(family)
    labels = np.arange(100, 100 + N_TRAIN)
    frame = pd.DataFrame(arrays["X"], columns=NAMES, index=pd.Index(labels, copy=False, name="house"))
    target = pd.Series(arrays["y"], index=frame.index)
    model = FAMILIES[family]().fit(
        frame, target, **({"X_val": QUERY, "y_val": np.zeros(15)} if family == "trees" else {})
    )
    expected = answers(model)
    frame.iloc[:, :] = frame.to_numpy()[::-1]
    frame.iloc[3, 2] = 50.0
    target.iloc[:] = 9.0
    labels[:] = 0
    frame.index.name = "spoilt"
    frame.columns = list("wxyz")
    fresh = pickle.loads(pickle.dumps(model))
    assert_same(answers(model), expected)
    assert_same(answers(fresh), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_mapped_to_read_only_files_are_taken(family, tmp_path):
    arrays = given_to_fit(family)
    joblib.dump(arrays, tmp_path / "rows")
    loaded = joblib.load(tmp_path / "rows", mmap_mode="r")
    assert not loaded["X"].flags.writeable
    model = FAMILIES[family]().fit(**loaded)
    joblib.dump(model, tmp_path / "model")
    mapped_model = joblib.load(tmp_path / "model", mmap_mode="r")
    expected = expected_answers(family, "f8")
    assert_same(answers(model, QUERY.to_numpy()), expected)
    assert_same(answers(mapped_model, QUERY.to_numpy()), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_may_change_between_two_stages(family):
    model = FAMILIES[family]().fit(**given_to_fit(family))
    for ask in (model.staged_predict, model.staged_kernel):
        expected, rows = plain(ask(QUERY.to_numpy())), QUERY.to_numpy().copy()
        found = []
        for item in ask(rows):
            found.append(plain(item))
            spoil([rows])
        assert_same(found, expected)


def test_without_a_record_nothing_is_copied(monkeypatch):
    """The arrays that LightGBM is given are then those given to fit."""
    trained = []
    learn = telescoping_sklearn.TelescopingGBTRegressor._learn
    monkeypatch.setattr(
        telescoping_sklearn.TelescopingGBTRegressor,
        "_learn",
        lambda self, new, rows, *rest: trained.append(rows) or learn(self, new, rows, *rest),
    )
    X, y = random_rows()
    for record, shares in ((True, False), (False, True)):
        make_trees(record=record).fit(X, y)
        assert np.shares_memory(trained[-1].X, X) == np.shares_memory(trained[-1].y, y) == shares
    lists = X.tolist()
    make_trees().fit(lists, y)
    assert trained[-1].X.base is None  # converted once, and not copied again


# A fit that fails leaves everything as it was


def frames(seed, n_features=4):
    X, y = random_rows(30, seed=seed, n_features=n_features)
    names = [f"{chr(97 + column)}" for column in range(n_features)]
    frame = pd.DataFrame(X, columns=names, index=[f"{seed}-{row}" for row in range(30)])
    return {"X": frame, "y": y}


def early(seed, n_features=4):
    other = frames(seed + 10, n_features)
    return frames(seed, n_features) | {"X_val": other["X"], "y_val": other["y"]}


REFITS = {
    "trees": (make_trees(), frames(1), {}, frames(2, 6)),
    "trees watched": (make_trees(early_stopping_rounds=3), early(1), {"reg_lambda": 1.0}, early(2, 6)),
    "trees split": (make_trees(early_stopping_rounds=3), frames(1), {"record": False}, frames(2, 6)),
    "trees warm": (
        make_trees(warm_start=True, subsample=0.6, subsample_freq=1),
        frames(1),
        {"n_estimators": 16},
        frames(1),
    ),
    "net": (make_net(max_iter=2), frames(1), {"optimizer": "adam"}, frames(2, 6)),
    "net stopped": (
        make_net(max_iter=2),
        frames(1),
        {"early_stopping": True, "hidden_layer_sizes": (4,)},
        frames(2, 6),
    ),
}


#: Functions of which every line counts; of the others the call does.
BY_LINE = {"fit", "fit_or_leave", "_learn", "_training_data"}


class Interrupter:
    """Trace function that raises where a place in the package is reached for the first time: the ``at``-th one."""

    def __init__(self, at):
        self.at = at
        self.seen = set()

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if not code.co_filename.startswith(str(PACKAGE)):
            return None
        place = code, frame.f_lineno, event
        if event in ("call", "line") and place not in self.seen:
            self.seen.add(place)
            if self.at == len(self.seen):
                raise KeyboardInterrupt
        return self if code.co_name in BY_LINE else None

    def run(self, act):
        """Act; whether it ended by itself."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            act()
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(before)
        return True


def twin(model):
    """Another estimator with the same attributes, what was computed from them included."""
    other = object.__new__(type(model))
    vars(other).update(vars(model))
    return other


@pytest.mark.parametrize("case", REFITS)
def test_a_fit_interrupted_anywhere_changes_all_or_nothing(case):
    model, first, settings, second = REFITS[case]
    original = model.get_params()
    before = answers(model.fit(**first), first["X"])
    held = dict(vars(model.set_params(**settings)))
    refitted = twin(model)
    through = Interrupter(0)
    assert through.run(lambda: refitted.fit(**second))
    assert len(through.seen) > 60
    finished = 0
    for at in range(1, len(through.seen) + 1):
        interrupted = twin(model)
        assert not Interrupter(at).run(lambda: interrupted.fit(**second))  # noqa: B023
        now = vars(interrupted)
        if now.keys() == held.keys() and all(now[name] is held[name] for name in held):
            continue
        finished += 1
        assert now.keys() == vars(refitted).keys()
        np.testing.assert_array_equal(interrupted.predict(second["X"]), refitted.predict(second["X"]))
        assert interrupted._training_index is None or interrupted._training_index.equals(refitted._training_index)
    assert finished <= 2  # the lines after the swap
    assert_same(answers(model.set_params(**original), first["X"]), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_first_fit_that_fails_leaves_nothing(family):
    model = FAMILIES[family]()
    before = dict(vars(model))
    with pytest.raises(ValueError, match="inconsistent"):
        model.fit(QUERY, np.zeros(4))
    assert vars(model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refit_keeps_what_the_user_set_and_nothing_that_another_fit_learnt(family):
    model = FAMILIES[family]()
    model.note = "mine"
    given = given_to_fit(family)
    model.fit(
        **given
        | {"X": pd.DataFrame(given["X"], columns=NAMES)}
        | ({"X_val": QUERY, "y_val": np.zeros(15), "sample_weight_val": None} if family == "trees" else {})
    )
    assert model.feature_names_in_.tolist() == NAMES
    if family == "net":
        model.set_params(early_stopping=True).fit(**given)
        assert model.validation_scores_
        model.set_params(early_stopping=False)
    model.fit(**given)
    assert model.note == "mine"
    assert not hasattr(model, "feature_names_in_")
    assert not hasattr(model, "validation_scores_")
    clean = FAMILIES[family]().fit(**given)
    assert vars(model).keys() == vars(clean).keys() | {"note"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_telescope_and_its_generators_outlive_the_fit_they_belong_to(family):
    model = FAMILIES[family]().fit(**given_to_fit(family))
    rows = QUERY.to_numpy()
    expected, telescope = plain(model.staged_predict(rows)), model.telescope_
    weights, staged = plain(model.kernel_weights(rows)), model.staged_predict(rows)
    first = [next(staged)]
    model.fit(*random_rows(60, seed=9, n_features=3))
    np.testing.assert_array_equal([*first, *staged], expected)
    np.testing.assert_array_equal(telescope.kernel_weights(rows), weights)


#: Parameters that may be set after fitting; what they do then is documented.
AFTERWARDS = {"rule", "section", "section_tol", "verbose", "n_jobs", "importance_type"}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_set_after_fitting_change_no_answer(family):
    model = FAMILIES[family]().fit(**given_to_fit(family))
    expected = answers(model, QUERY.to_numpy())
    for changed in (model, pickle.loads(pickle.dumps(model))):
        for name in changed.get_params().keys() - AFTERWARDS:
            setattr(changed, name, None)
        changed.record = False
        assert_same(answers(changed, QUERY.to_numpy()), expected)


def test_a_warm_start_notices_parameters_changed_in_place():
    constraints = [[0, 1], [2, 3]]
    model = make_trees(warm_start=True, interaction_constraints=constraints).fit(*random_rows())
    constraints[0].append(2)
    with pytest.raises(ValueError, match="interaction_constraints changed"):
        model.set_params(n_estimators=20).fit(*random_rows())


def test_a_warm_start_may_have_a_generator_that_draws():
    model = make_trees(warm_start=True, random_state=np.random.RandomState(0)).fit(*random_rows())
    assert model.set_params(n_estimators=20).fit(*random_rows()).n_stages_ == 20


# What is handed out may be changed


def handed_out(value, depth=5):
    """Every array, table and list that can be reached through public names.

    Not what a net's recorded run is made of: torch has no read-only tensors.
    """
    if depth == 0 or isinstance(value, str | type | RecordedRun):
        return
    if isinstance(value, np.ndarray | pd.DataFrame | list | dict):
        yield value
    if sparse.issparse(value):
        value = [value.data, value.indices, value.indptr]
    if isinstance(value, list | tuple):
        parts = list(value)
    elif isinstance(value, dict):
        parts = list(value.values())
    elif type(value).__module__.startswith("telescoping_sklearn"):
        names = [name for name in object.__dir__(value) if not name.startswith("_") and name not in PARAMETERS]
        parts = [getattr(value, name, None) for name in names]
        parts = [part for part in parts if not callable(part)]
    else:
        parts = []
    for part in parts:
        yield from handed_out(part, depth - 1)


PARAMETERS = {*make_trees().get_params(), *make_net().get_params()}


def overwrite(value):
    if isinstance(value, list):
        value.append(77.0)
    elif isinstance(value, dict):
        value.clear()
    elif isinstance(value, pd.DataFrame):
        for column in range(value.shape[1]):
            value.isetitem(column, value.iloc[:, column].to_numpy(copy=True))
            overwrite(value.iloc[:, column].array._ndarray)
        value.index.name = value.columns.name = "spoilt"
    elif value.flags.writeable:
        value[...] = 77 if value.dtype != object else "spoilt"


MODELS = {
    "trees": lambda: make_trees(early_stopping_rounds=4, reg_lambda=1.0, validation_fraction=0.3),
    "trees-bags": lambda: make_trees(subsample=0.6, subsample_freq=1, path_smooth=2.0),
    "net": lambda: FAMILIES["net"](early_stopping=True, rule="gauss2"),
    "net-sections": lambda: make_net(hidden_layer_sizes=(6,), max_iter=4, section=4, optimizer="adam"),
}


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("case", MODELS)
def test_whatever_is_handed_out_may_be_overwritten(case, loaded):
    X, y = random_rows()
    model = MODELS[case]().fit(pd.DataFrame(X, columns=NAMES, index=np.arange(N_TRAIN) + 100), y)
    expected = answers(model)
    model = pickle.loads(pickle.dumps(model)) if loaded else model
    query = QUERY.copy()
    out = [
        list(answer) if inspect.isgenerator(answer) else answer
        for answer in (getattr(model, name)(query) for name in questions(model))
    ]
    telescope = model.telescope_
    out += [
        telescope.start(query.to_numpy()),
        telescope.start(None),
        telescope.breakdown(None),
        telescope.kernel_norms(None),
    ]
    out += [
        telescope.training_summary(4),
        telescope.training_summary(None),
        telescope.staged_effective_params(None, n_probes=4),
    ]
    out += [
        list(telescope.staged_model(None)),
        list(telescope.staged_telescoping(None)),
        telescope.kernel_weights(None),
    ]
    found = list(handed_out([model, telescope, out]))
    assert sum(isinstance(value, np.ndarray) for value in found) > 40
    assert any(value is model.telescope_.y for value in found)
    for value in found:
        overwrite(value)
    assert query.columns.name is query.index.name is None
    assert_same(answers(model), expected)


@pytest.mark.parametrize("case", MODELS)
def test_a_stage_may_be_overwritten_before_the_next(case):
    model = MODELS[case]().fit(*random_rows())
    rows, telescope = QUERY.to_numpy(), model.telescope_
    for ask in (
        model.staged_predict,
        lambda X: model.staged_predict(X, [0, 1, 2]),
        lambda X: model.staged_predict(X, [0, 1, 2], approximation="telescoping"),
        model.staged_kernel,
        telescope.staged_kernel_norms,
        telescope.staged_reconstruction,
        lambda X: telescope.staged_response(X, random_rows()[0], stages=[0, 1, 2]),
        lambda X: telescope.staged_response(None, random_rows()[0], stages=[0, 1, 2]),
        *([lambda X: model.staged_predict(X, approximation="linearized")] if case.startswith("net") else []),
    ):
        expected, found = plain(ask(rows)), []
        for item in ask(rows):
            found.append(plain(item))
            for array in handed_out(item):
                overwrite(array)
        assert_same(found, expected)


@pytest.mark.parametrize("case", MODELS)
def test_questions_may_be_asked_in_turns(case):
    """Two generators of one telescope, stage by stage."""
    model = MODELS[case]().fit(*random_rows())
    rows = QUERY.to_numpy()
    for ask in (model.staged_predict, model.staged_kernel, model.telescope_.staged_reconstruction):
        expected = plain(ask(rows)), plain(ask(rows[:5]))
        pairs = [plain(pair) for pair in zip(ask(rows), ask(rows[:5]), strict=True)]
        assert_same([first for first, _ in pairs], expected[0])
        assert_same([second for _, second in pairs], expected[1])


# Columns of a query


OTHER_COLUMNS = {
    "another order": lambda frame: frame[list("badc")],
    "another name": lambda frame: frame.rename(columns={"b": "z"}),
    "a column missing": lambda frame: frame.drop(columns="c"),
    "a column more": lambda frame: frame.assign(e=1.0),
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
    model = FAMILIES[kind.split()[0]](record=True).set_params(
        **{"early_stopping_rounds": None} if "trees" in kind else {}
    )
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


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("n_features", [1, 3, 5])
def test_other_numbers_of_columns_are_refused_everywhere(kind, n_features):
    X, y = random_rows()
    model = FAMILIES[kind]().fit(X, y)
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
    extra = {"staged_response": [y[:, None]], "top_examples": [2]}
    for name, wrong in itertools.product(set(asked) - COUNTED, [rows, pd.DataFrame(rows), rows[0]]):
        with pytest.raises(
            (ValueError, TypeError), match=r"this telescope is expecting 4 features|two-dimensional array"
        ):
            plain(getattr(telescope, name)(wrong, *extra.get(name, [])))


#: Methods of telescopes that only count the rows of a query.
COUNTED = {"n_query", "plan", "prefers_backward"}


def test_frames_whose_names_are_no_strings_keep_their_categories_in_place():
    X, y = random_rows()
    frame = categorical(pd.DataFrame(X, columns=NAMES)).set_axis(range(4), axis=1)
    model = make_trees().fit(frame, y)
    assert model.predict(frame).shape == (N_TRAIN,)
    for ask in (model.predict, model.kernel_weights):
        with pytest.raises(ValueError, match=r"the columns \[2, 1, 0, 3\].*had \[0, 1, 2, 3\]"):
            ask(frame[[2, 1, 0, 3]])
