"""Long work goes on from where it was killed, to the bit, and takes nobody else's work for its own."""

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from telescoping_sklearn.base import held_out_rows
from telescoping_sklearn.callbacks import StopAtScore
from telescoping_sklearn.losses import Fair
from telescoping_sklearn.neural import _saved_work
from telescoping_sklearn.neural._saved_work import SavedWork, digest
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope
from tests.interrupted import CASES, QUERY, X_TRAIN, Y_TRAIN, answers, make


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def saves(monkeypatch):
    """Save whenever that is possible; collect what is written."""
    written = []
    write = SavedWork._write

    def noted(self, part, value):
        written.append((self._stem.name, part))
        write(self, part, value)

    monkeypatch.setattr(_saved_work, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(SavedWork, "_write", noted)
    return written


def killed(folder, case, kind, count, when):
    run = subprocess.run(
        [sys.executable, "-m", "tests.interrupted", str(folder), case, kind, str(count), when],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


EXPECTED = {}


def uninterrupted(case):
    if case not in EXPECTED:
        EXPECTED[case] = answers(case, None)
    return EXPECTED[case]


@pytest.mark.parametrize(
    ("case", "kind", "count", "when"),
    [
        ("adamw", "fit", 9, "after"),
        ("adamw", "pass", 30, "before"),
        ("auto", "pass", 20, "after"),
    ],
)
def test_a_killed_process_is_gone_on_with_to_the_bit(tmp_path, case, kind, count, when, saves):
    killed(tmp_path, case, kind, count, when)
    left = {file.name.split(".")[0] for file in tmp_path.iterdir()}
    assert any(name.startswith(kind) for name in left)
    assert_equal(answers(case, tmp_path), uninterrupted(case))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("case", CASES)
def test_work_that_is_interrupted_again_and_again_is_done_at_last(tmp_path, case, monkeypatch, saves):
    """Every attempt gets a few saves further."""
    write, count = SavedWork._write, [0]

    def interrupt(self, part, value):
        write(self, part, value)
        count[0] += 1
        if count[0] == 61:
            count[0] = 0
            raise Interrupted

    monkeypatch.setattr(SavedWork, "_write", interrupt)
    for attempt in range(60):  # noqa: B007
        try:
            found = answers(case, tmp_path)
            break
        except Interrupted:
            continue
    assert attempt > 0 or case == "no record"
    assert_equal(found, uninterrupted(case))
    saves.clear()
    assert_equal(answers(case, tmp_path), uninterrupted(case))
    assert saves == []  # all of it was read


def test_nothing_is_saved_before_it_is_time_but_what_is_complete(tmp_path):
    make("adamw", tmp_path).fit(X_TRAIN, Y_TRAIN).offset(QUERY)
    assert _saved_work.SAVE_SECONDS >= 10
    parts = sorted(file.name.split("-")[0] + file.suffix for file in tmp_path.iterdir())
    assert set(parts) == {"fit.00000", "fit.state", "pass.00000", "pass.state"}
    assert parts.count("fit.state") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate_init": 0.011},
        {"weight_decay": 0.2},
        {"max_iter": 9},
        {"random_state": 4},
        {"hidden_layer_sizes": (8, 9)},
        {"activation": "tanh"},
        {"betas": (0.9, 0.99)},
        {"batch_size": 14},
        {"dtype": "float64"},
        {"init_scale": 1.5},
        {"y": Y_TRAIN + 1e-9},
        {"X": X_TRAIN * (1 + 1e-12)},
        {"sample_weight": np.linspace(0.9, 1.1, 60)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_run_is_not_taken_for_the_same(tmp_path, change, saves):
    make("adamw", tmp_path).fit(X_TRAIN, Y_TRAIN)
    data = {"X": X_TRAIN, "y": Y_TRAIN, "sample_weight": None}
    data |= {name: change.pop(name) for name in list(change) if name in data}
    net, plain = (make("adamw", folder).set_params(**change) for folder in (tmp_path, None))
    saves.clear()
    found = net.fit(**data).module_.theta
    assert saves
    assert torch.equal(found, plain.fit(**data).module_.theta)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "left"},
        {"section": 5},
        {"query": QUERY[1:]},
        {"stages": 4},
        {"n_probes": 4},
        {"with_train": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_question_is_not_taken_for_the_same(tmp_path, change, saves):
    net, plain = (make("adamw", folder).fit(X_TRAIN, Y_TRAIN) for folder in (tmp_path, None))
    asked = {"query": QUERY, "stages": 5, "n_probes": 3, "with_train": False}

    def ask(of, query, **asked):
        return of.staged_effective_params(query, **asked)

    ask(net, **asked)
    asked |= {name: change.pop(name) for name in list(change) if name in asked}
    saves.clear()
    found = ask(net.set_params(**change), **asked)
    assert saves
    np.testing.assert_array_equal(found, ask(plain.set_params(**change), **asked))


def test_a_schedule_that_was_another_is_refused(tmp_path, saves):
    make("momentum", tmp_path).fit(X_TRAIN, Y_TRAIN)
    other = make("momentum", tmp_path).set_params(lr_schedule=lambda update: 1.0)
    with pytest.raises(ValueError, match="lr_schedule gives other learning rates than those that this run had"):
        other.fit(X_TRAIN, Y_TRAIN)


def test_a_random_state_must_be_given(tmp_path):
    refused = "checkpoint_dir needs a random_state"
    net = make("sgd", tmp_path)
    with pytest.raises(ValueError, match=refused):
        make("adamw", tmp_path).set_params(random_state=None).fit(X_TRAIN, Y_TRAIN)
    net.fit(X_TRAIN, Y_TRAIN)
    with pytest.raises(ValueError, match=refused):
        net.spawn(5)
    with pytest.raises(ValueError, match=refused):
        net.error_barriers(QUERY, QUERY[:, 0], [5])


def test_callbacks_are_refused(tmp_path):
    pytest.importorskip("sklearn.callback")  # came with scikit-learn 1.9
    net = make("sgd", tmp_path).set_callbacks(StopAtScore("r2", 0.1))
    with pytest.raises(ValueError, match="does not go with set_callbacks"):
        net.fit(X_TRAIN, Y_TRAIN)
    assert not list(tmp_path.iterdir())
    net.set_callbacks().fit(X_TRAIN, Y_TRAIN)


def test_weights_of_rows_that_are_only_scored_tell_runs_apart(tmp_path, saves):
    net, plain = (make("momentum", folder) for folder in (tmp_path, None))
    net.fit(X_TRAIN, Y_TRAIN)
    _, scored = held_out_rows(len(Y_TRAIN), net.validation_fraction, net.seed_)
    weights = np.ones(len(Y_TRAIN))
    weights[scored[:3]] = 0
    found = net.fit(X_TRAIN, Y_TRAIN, weights).validation_scores_
    assert found == plain.fit(X_TRAIN, Y_TRAIN, weights).validation_scores_
    assert found != plain.fit(X_TRAIN, Y_TRAIN).validation_scores_


def test_modules_that_start_alike_are_told_apart(tmp_path):
    def module(activation):
        net = torch.nn.Sequential(torch.nn.Linear(5, 6), activation, torch.nn.Linear(6, 1))
        with torch.no_grad():
            for number, part in enumerate(net.parameters()):
                part.fill_(0.0 if number > 1 else 0.1)  # whatever the activation, outputs are zero
        return net

    found = []
    for activation in (torch.nn.Tanh(), torch.nn.SiLU()):
        net, plain = (make("sgd", folder).set_params(module=module(activation)) for folder in (tmp_path, None))
        found.append(net.fit(X_TRAIN, Y_TRAIN).predict(QUERY))
        np.testing.assert_array_equal(found[-1], plain.fit(X_TRAIN, Y_TRAIN).predict(QUERY))
    assert not np.array_equal(*found)


def test_passes_of_other_losses_are_told_apart_and_go_on(tmp_path, monkeypatch, saves):
    """Interrupted half-way, so that the rest is carried on."""
    of_labels = make("adamw", tmp_path).fit(X_TRAIN, Y_TRAIN).telescope_
    sound, ends = of_labels.accuracy, of_labels.sections.ends
    assert len(ends) > 6

    def carried(c, folder, n=None):
        telescope = TangentTelescope(
            of_labels.path,
            of_labels.sections,
            of_labels._make_update_rule,
            sound,
            loss=Fair(c),
            y=Y_TRAIN,
            trained=of_labels.trained,
            seed=0,
        )
        monkeypatch.setattr(of_labels.path, "checkpoint_dir", folder)
        parts = telescope.carry_columns(QUERY, Y_TRAIN[:, None], ends)
        return torch.stack(list(islice(parts, n)))

    expected = [carried(c, None) for c in (1.0, 2.0)]
    assert not torch.equal(*expected)
    carried(1.0, tmp_path, 4)
    saves.clear()
    for c, whole in zip((1.0, 2.0), expected, strict=True):
        assert torch.equal(carried(c, tmp_path), whole)
    assert len(saves) == 2 * (len(ends) - 3 + len(ends))  # three sections of the first were saved before


# -- the files ---------------------------------------------------------------------------------------------------------


def saved(folder, n_saves=3):
    work = SavedWork(folder, "pass", digest("some work"))
    for number in range(n_saves):
        work.add(torch.full((2,), float(number)))
        work.save({"stage": number})
    return SavedWork(folder, "pass", digest("some work"))


def test_items_come_back_in_order_and_the_last_state_counts(tmp_path):
    work = saved(tmp_path)
    assert work.state == {"stage": 2}
    assert [item[0].item() for item in work.items()] == [0, 1, 2]
    assert SavedWork(tmp_path, "pass", digest("other work")).state is None


def damage_bytes(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def replaced(path):
    path.write_bytes(next(path.parent.glob("fit-*.state")).read_bytes())


@pytest.mark.parametrize("damage", [damage_bytes, cut, empty, replaced])
@pytest.mark.parametrize("part", ["state", "00001"])
def test_damaged_and_foreign_files_are_refused_by_name(tmp_path, damage, part):
    saved(tmp_path)
    SavedWork(tmp_path, "fit", digest("a fit")).save("foreign")
    (path,) = tmp_path.glob(f"pass-*.{part}")
    damage(path)
    with pytest.raises(ValueError, match=f"{path.name} is damaged, or was not saved by this work. Delete"):
        list(SavedWork(tmp_path, "pass", digest("some work")).items())


def test_missing_items_are_named(tmp_path):
    work = saved(tmp_path)
    (path,) = tmp_path.glob("*.00001")
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name} is missing. Delete .*state to start again"):
        list(work.items())


def test_a_save_that_was_not_finished_counts_for_nothing(tmp_path, monkeypatch):
    work = saved(tmp_path)
    work.add("lost")

    def fail(source, target):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        work.save({"stage": 99})
    monkeypatch.undo()
    again = SavedWork(tmp_path, "pass", digest("some work"))
    assert again.state == {"stage": 2}
    assert len(list(again.items())) == 3


def test_what_cannot_be_pickled_is_said(tmp_path):
    with pytest.raises(ValueError, match="What checkpoint_dir should save cannot be pickled"):
        SavedWork(tmp_path, "pass", digest(1)).save(lambda: None)


def test_digests_tell_types_shapes_and_order_apart():
    parts = [
        (np.zeros(4),),
        (np.zeros((2, 2)),),
        (np.zeros(4, dtype=np.float32),),
        (np.zeros(2), np.zeros(2)),
        ("ab", "c"),
        ("a", "bc"),
        (1,),
        (1.0,),
        (None,),
        (torch.zeros(4, dtype=torch.int64),),
    ]
    assert len({digest(*part) for part in parts}) == len(parts)
    assert digest(np.arange(6).reshape(2, 3).T) == digest(np.ascontiguousarray(np.arange(6).reshape(2, 3).T))
    assert digest(torch.zeros(4, dtype=torch.float64)) == digest(np.zeros(4))
