"""A fitted model's answers belong to one fit: nothing changes them but another `fit`, and that all at once."""

import functools
import pickle
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from answers import BUILD, NAMES, QUERY, answers, assert_same, given_to_fit, plain
from conftest import N_TRAIN, make_net, make_trees, random_rows

import telescoping_sklearn

PACKAGE = Path(telescoping_sklearn.__file__).parent


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


def itself(array, folder):
    return array, array


def fortran(array, folder):
    return itself(np.asfortranarray(array), folder)


def with_gaps(array, folder):
    return itself(np.repeat(array, 2, axis=0)[::2], folder)


def read_only_view(array, folder):
    view = array.view()
    view.flags.writeable = False
    return view, array


def mapped(array, folder):
    name = folder / f"{len(list(folder.iterdir()))}.bin"
    file = np.memmap(name, dtype=array.dtype, mode="w+", shape=array.shape)
    file[:] = array
    return file, file


def shared_frame(array, folder):
    return pd.DataFrame(array, copy=False) if array.ndim == 2 else pd.Series(array, copy=False), array


#: Ways to give an array to fit: what is given, and the memory that lies behind it.
WAYS = {
    "an array": itself,
    "Fortran order": fortran,
    "a view with gaps": with_gaps,
    "a read-only view": read_only_view,
    "a memory map": mapped,
    "a frame": shared_frame,
    "another library's": lambda array, folder: (Holder(array), array),
    "a tensor": lambda array, folder: (torch.from_numpy(array), array),
    "single precision": lambda array, folder: itself(array.astype(np.float32), folder),
}


def spoil(arrays):
    """Change every number."""
    for array in arrays:
        array *= 3
        array += np.arange(array.size, dtype=array.dtype).reshape(array.shape)


@functools.cache
def expected_answers(family, dtype):
    """Answers of a model that was given arrays that are not changed."""
    given = {name: array.astype(dtype) for name, array in given_to_fit(family).items()}
    return answers(BUILD[family]().fit(**given), QUERY.to_numpy())


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", BUILD)
def test_what_fit_was_given_may_change_in_place(family, way, asked_before, tmp_path):
    ways = {name: WAYS[way](array, tmp_path) for name, array in given_to_fit(family).items()}
    model = BUILD[family]().fit(**{name: given for name, (given, _) in ways.items()})
    if asked_before:
        model.kernel_weights(QUERY.to_numpy())
        model.kernel_norm_ratio(QUERY.to_numpy())
    spoil(memory for _, memory in ways.values())
    found = answers(model, QUERY.to_numpy())
    if way == "a frame":
        assert found["top_examples"].pop("index").equals(found["top_examples"]["row"])
    assert_same(found, expected_answers(family, "f4" if way == "single precision" else "f8"))


@pytest.mark.parametrize("family", BUILD)
def test_a_frame_may_change_in_place(family):
    arrays = given_to_fit(family)
    labels = np.arange(100, 100 + N_TRAIN)
    frame = pd.DataFrame(arrays["X"], columns=NAMES, index=pd.Index(labels, copy=False, name="house"))
    target = pd.Series(arrays["y"], index=frame.index)
    model = BUILD[family]().fit(frame, target, **({"X_val": QUERY, "y_val": np.zeros(15)} if family == "trees" else {}))
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


@pytest.mark.parametrize("family", BUILD)
def test_inputs_mapped_to_read_only_files_are_taken(family, tmp_path):
    arrays = given_to_fit(family)
    joblib.dump(arrays, tmp_path / "rows")
    loaded = joblib.load(tmp_path / "rows", mmap_mode="r")
    assert not loaded["X"].flags.writeable
    model = BUILD[family]().fit(**loaded)
    joblib.dump(model, tmp_path / "model")
    mapped_model = joblib.load(tmp_path / "model", mmap_mode="r")
    expected = expected_answers(family, "f8")
    assert_same(answers(model, QUERY.to_numpy()), expected)
    assert_same(answers(mapped_model, QUERY.to_numpy()), expected)


@pytest.mark.parametrize("family", BUILD)
def test_a_query_may_change_between_two_stages(family):
    model = BUILD[family]().fit(**given_to_fit(family))
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
    "trees, early stopping": (make_trees(early_stopping_rounds=3), early(1), {"reg_lambda": 1.0}, early(2, 6)),
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


@pytest.mark.parametrize("family", BUILD)
def test_a_first_fit_that_fails_leaves_nothing(family):
    model = BUILD[family]()
    before = dict(vars(model))
    with pytest.raises(ValueError, match="inconsistent"):
        model.fit(QUERY, np.zeros(4))
    assert vars(model) == before


@pytest.mark.parametrize("family", BUILD)
def test_a_refit_keeps_what_the_user_set_and_nothing_that_another_fit_learnt(family):
    model = BUILD[family]()
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
    clean = BUILD[family]().fit(**given)
    assert vars(model).keys() == vars(clean).keys() | {"note"}


@pytest.mark.parametrize("family", BUILD)
def test_a_telescope_and_its_generators_outlive_the_fit_they_belong_to(family):
    model = BUILD[family]().fit(**given_to_fit(family))
    rows = QUERY.to_numpy()
    expected, telescope = plain(model.staged_predict(rows)), model.telescope_
    weights, staged = plain(model.kernel_weights(rows)), model.staged_predict(rows)
    first = [next(staged)]
    model.fit(*random_rows(60, seed=9, n_features=3))
    np.testing.assert_array_equal([*first, *staged], expected)
    np.testing.assert_array_equal(telescope.kernel_weights(rows), weights)


#: Parameters that may be set after fitting; what they do then is documented.
AFTERWARDS = {"rule", "section", "section_tol", "verbose", "n_jobs", "importance_type"}


@pytest.mark.parametrize("family", BUILD)
def test_parameters_set_after_fitting_change_no_answer(family):
    model = BUILD[family]().fit(**given_to_fit(family))
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
