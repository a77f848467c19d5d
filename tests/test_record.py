"""The recorded run under a budget, replays, schedules, and optimisers that users register."""

import functools
import math
import pickle
from dataclasses import replace

import joblib
import numpy as np
import pytest
import torch
from conftest import make_net, random_rows
from oracles import flat_parameters, fresh_net
from sklearn.base import clone
from torch.optim import lr_scheduler

from telescoping_sklearn.base import RecordDroppedError
from telescoping_sklearn.neural import _trajectory, _update_rules, register_update_rule
from telescoping_sklearn.neural._record_layout import RecordLayout, parse_budget
from telescoping_sklearn.neural._trajectory import Batches

SETTINGS = {
    "sgd": {"momentum": 0.0},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "dampened": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    "adam": {"optimizer": "adam", "learning_rate_init": 1e-2},
    "amsgrad": {"optimizer": "adamw", "learning_rate_init": 1e-2, "amsgrad": True, "weight_decay": 0.1},
    "scheduled": {"lr_schedule": functools.partial(lr_scheduler.ExponentialLR, gamma=0.95), "warmup_steps": 5},
    "single": {"dtype": "float32", "optimizer": "adam"},
    "unshuffled": {"shuffle": False, "activation": "relu"},
    "stopped early": {"early_stopping": True, "learning_rate_init": 0.4, "momentum": 0.9, "n_iter_no_change": 3},
}
settings_of = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


@pytest.fixture(scope="module")
def rows():
    return random_rows(40, seed=7)


@pytest.fixture(scope="module")
def others():
    return random_rows(20, seed=8)[0]


def tight(rows, **settings):
    """The same run where every update may be kept, and where one segment is held."""
    kept = make_net(**settings).fit(*rows)
    n_rows = len(kept._trajectory.batches.orders[0])
    layout = kept._training_settings(n_rows, kept.module_.network).record_layout(n_rows)
    return kept, make_net(**settings, record_budget=layout.least_bytes).fit(*rows)


def spied(model):
    """The model's run, and the stages that are trained again from here on."""
    run, trained = model._trajectory, []

    def spy(checkpoint, stages, *rest):
        trained.append(stages)
        return run.replay(checkpoint, stages, *rest)

    model._trajectory = replace(run, replay=spy)
    return model._trajectory, trained


# Checkpoints and replays


@settings_of
def test_replayed_stages_are_those_that_were_kept_bit_for_bit(rows, settings):
    kept, replayed = tight(rows, **settings)
    run, again = kept._trajectory, replayed._trajectory
    assert run.keeps_segments
    assert not again.keeps_segments
    assert len(again.checkpoints) > 2
    for stages in (range(run.n_stages + 1), range(run.n_stages, -1, -1), [5, 30, 4, 29, 0]):
        for stage in (stage for stage in stages if stage <= run.n_stages):
            assert torch.equal(run.theta(stage), again.theta(stage))
            if stage and run.adaptive:
                assert torch.equal(run.phi(stage), again.phi(stage))
    assert torch.equal(run.parameters, again.parameters)
    assert again.nbytes < run.nbytes
    assert run.adaptive == again.adaptive == (run.denominators is not None)
    np.testing.assert_array_equal(run.learning_rates, again.learning_rates)
    for batch, same in zip(run.batches, again.batches, strict=True):
        np.testing.assert_array_equal(batch, same)


@pytest.mark.parametrize("how", ["pickle", "joblib"])
def test_a_replayed_estimator_answers_as_one_that_kept_everything_and_so_does_a_loaded_one(rows, others, how, tmp_path):
    kept, replayed = tight(rows, optimizer="adam", section=7)
    if how == "pickle":
        loaded = pickle.loads(pickle.dumps(replayed))
    else:
        joblib.dump(replayed, tmp_path / "net")
        loaded = joblib.load(tmp_path / "net")
    for model in (replayed, loaded):
        np.testing.assert_array_equal(model.kernel_weights(others), kept.kernel_weights(others))
        np.testing.assert_array_equal(list(model.staged_predict(others)), list(kept.staged_predict(others)))
        np.testing.assert_array_equal(model.kernel_norms(others), kept.kernel_norms(others))
    assert loaded._trajectory.replay.rows is loaded._rows


def test_pickles_carry_the_rows_once_and_nothing_that_was_replayed(others):
    rows = random_rows(4000, n_features=40)
    _, model = tight(rows, hidden_layer_sizes=(3,), batch_size="full", max_iter=20)
    assert not model._trajectory.keeps_segments
    assert rows[0].nbytes < len(pickle.dumps(model)) < 1.3 * rows[0].nbytes
    assert len(model._trajectory.parameters) == 21
    assert model._trajectory.segments
    assert len(pickle.dumps(model)) < 1.3 * rows[0].nbytes


def test_one_segment_is_held_and_each_is_trained_once_in_order(rows):
    _, model = tight(rows)
    run, trained = spied(model)
    for stage in range(run.n_stages + 1):
        for asked in (stage // 7 * 7, max(stage - 1, 0), stage):  # as sections do, which span segments
            run.theta(asked)
    assert [stages[0] for stages in trained] == sorted({stages[0] for stages in trained})
    trained.clear()
    run.segments.clear()
    for stage in range(run.n_stages, 0, -1):
        run.theta(stage)
    assert len(trained) <= len(run.checkpoints)


@pytest.mark.parametrize("spoil", ["rows", "checkpoint"])
def test_a_replay_that_misses_its_checkpoint_raises(rows, spoil):
    _, model = tight(rows)
    model = pickle.loads(pickle.dumps(model))
    if spoil == "rows":
        model._rows.y[:] += 1e-2
    else:
        model._trajectory.checkpoints[1].theta[0] += 1e-3
    with pytest.raises(ValueError, match=r"Replaying updates 1 to .* relative gap"):
        model._trajectory.theta(1)


def test_rounding_is_forgiven_only_to_a_record_that_was_loaded(rows):
    _, model = tight(rows)
    loaded = pickle.loads(pickle.dumps(model))
    for run in (model._trajectory, loaded._trajectory):
        run.checkpoints[1].theta.mul_(1 + 1e-7)
    loaded._trajectory.theta(1)
    with pytest.raises(ValueError, match="at most 0 is allowed"):
        model._trajectory.theta(1)
    assert _trajectory.ROUNDING == 1e-5


def test_segments_are_trained_again_once_where_all_fit(rows, others, monkeypatch):
    model = make_net().fit(*rows)
    run, trained = spied(model)
    model.kernel_weights(others)
    model.kernel_norms(others)
    assert len(trained) == len(run.checkpoints)
    assert run.nbytes > 8 * model.n_stages_ * model.n_params_


def test_a_completed_record_needs_no_replay_elsewhere(rows, others):
    model = make_net(optimizer="adam").fit(*rows)
    light = len(pickle.dumps(model))
    loaded = pickle.loads(pickle.dumps(model.complete_record()))
    loaded._trajectory = replace(loaded._trajectory, replay=None)
    np.testing.assert_array_equal(loaded.kernel_weights(others), model.kernel_weights(others))
    assert len(pickle.dumps(model)) > light + 16 * model.n_stages_ * model.n_params_
    assert loaded.record_nbytes_ == model.record_nbytes_


def test_a_record_that_cannot_be_completed_says_why(rows):
    with pytest.raises(ValueError, match=r"record_budget=.* does not hold all"):
        tight(rows)[1].complete_record()
    with pytest.raises(RecordDroppedError, match="record=True"):
        make_net(record=False).fit(*rows).complete_record()


def test_pickling_computes_nothing(rows):
    model = make_net().fit(rows[0].copy(), rows[1].copy())
    model._rows.X[:] = 0  # so that training again would raise
    pickle.dumps(model)
    assert not model._trajectory.segments


def test_the_best_stage_may_lie_inside_a_segment(rows):
    model = make_net(**SETTINGS["stopped early"]).fit(*rows)
    assert model.n_stages_ < model.n_iter_ * model._trajectory.batches.per_epoch
    assert model.n_stages_ % model._trajectory.segment_length
    assert torch.equal(
        model._trajectory._segment(len(model._trajectory.checkpoints) - 1).parameters[-1].double(),
        model._trajectory.theta(model.n_stages_),
    )


class Counting(torch.optim.SGD):
    """Counts in its parameter group, and steps by what it counted."""

    def step(self, closure=None):
        (group,) = self.param_groups
        group["count"] = group.get("count", 0) + 1
        for parameter in group["params"]:
            parameter.data.sub_(group["lr"] / group["count"] * parameter.grad)


class CountingResponse:
    def __init__(self, settings):
        pass

    def step(self, gradient, parameters, stage, rate, phi):
        return -rate / stage * gradient


def test_optimisers_that_count_in_their_group_are_trained_again(rows, others, monkeypatch):
    monkeypatch.setattr(_update_rules, "_REGISTRY", dict(_update_rules._REGISTRY))
    register_update_rule(Counting, CountingResponse)
    model = make_net(optimizer=Counting, momentum=0.0).fit(*rows)
    rebuilt = model.kernel_weights(others) @ rows[1] + model.offset(others)
    np.testing.assert_allclose(rebuilt, model.predict(others), atol=1e-3)


def test_runs_on_several_threads_are_trained_again_bit_for_bit():
    X, y = random_rows(600, n_features=30)
    net = make_net(hidden_layer_sizes=(300, 200), batch_size=300, max_iter=4, dtype="float32", n_jobs=2)
    model = net.fit(X, y)
    assert model._trajectory.replay.settings.n_threads == 2
    model.complete_record()


def test_early_stopping_may_let_all_updates_fit(rows):
    net = make_net(max_iter=10_000, tol=1e3, n_iter_no_change=3, record_budget="5MB").fit(*rows)
    assert net.n_iter_ == 5
    assert net._trajectory.keeps_segments
    layout = net._training_settings(len(rows[1]), net.module_.network).record_layout(len(rows[1]))
    assert not layout.keeps_segments(30_000)


def test_the_size_is_stated_and_within_the_budget(rows):
    kept, replayed = tight(rows)
    assert kept._trajectory.nbytes < 8 * kept.n_stages_ * kept.n_params_
    for model in (kept, replayed):
        before = model.record_nbytes_
        for stage in range(model.n_stages_ + 1):
            model._trajectory.theta(stage)
            assert model.record_nbytes_ <= parse_budget(model.record_budget)
        assert before < model.record_nbytes_ == model._trajectory.nbytes + model._progress.losses.nbytes
    assert not hasattr(make_net(record=False).fit(*rows), "record_nbytes_")


# The budget


@pytest.mark.parametrize(
    ("budget", "size"),
    [("1GiB", 2**30), ("500MiB", 500 * 2**20), ("2 GB", 2 * 10**9), ("1.5kib", 1536), ("7B", 7), (10, 10)],
)
def test_budgets_are_read(budget, size):
    assert parse_budget(budget) == size


@pytest.mark.parametrize("budget", ["", "1", "GiB", "-1GiB", "0MiB", "1 Gibi", "1e3MB", 0, -5, 2.5, None])
def test_senseless_budgets_are_named(rows, budget):
    with pytest.raises(ValueError, match="record_budget"):
        make_net(record_budget=budget).fit(*rows)


def test_a_run_whose_checkpoints_do_not_fit_is_refused_before_training(rows):
    with pytest.raises(MemoryError, match=r"(?s)record_budget='10kB'.*Raise record_budget.*record=False"):
        make_net(record_budget="10kB").fit(*rows)


def test_a_hundred_thousand_updates_of_fifty_thousand_parameters_take_a_third_of_the_default_budget():
    layout = RecordLayout(
        n_updates=100_000, batch_size=200, n_rows=10_000, stage_bytes=400_000, checkpoint_bytes=600_000, budget=2**30
    )
    assert layout.least_bytes < 2**30 / 2
    assert layout.segment_length == round(math.sqrt(150_000))


def test_batches_take_the_smallest_integers():
    orders = [np.arange(5, dtype=np.uint8)] * 3
    batches = Batches(orders, 2, 8)
    assert batches.nbytes == 5
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4]] * 2 + [[0, 1], [2, 3]]
    assert batches[-1].tolist() == [2, 3]
    assert batches[0].dtype == np.int64
    with pytest.raises(IndexError):
        batches[8]
    net = make_net(max_iter=2).fit(*random_rows(300))
    assert net._trajectory.batches.orders[0].dtype == np.uint16


# Dropping the record


def test_dropping_the_record_leaves_predictions_and_says_why_nothing_else(rows, others):
    model = make_net().fit(*rows)
    before = model.predict(others)
    model.kernel_weights(others)
    assert model.drop_record() is model
    np.testing.assert_array_equal(model.predict(others), before)
    for ask in (model.kernel_weights, model.offset, model.staged_predict, model.kernel_norms):
        with pytest.raises(RecordDroppedError, match="record=True"):
            ask(others)
    for name in ("telescope_", "kernel_weights_", "record_nbytes_"):
        assert not hasattr(model, name)
    assert not any(name in vars(model) for name in ("_trajectory", "_rows", "_telescope"))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model.drop_record())).predict(others), before)
    assert model.fit(*rows).kernel_weights(others).shape == (20, 40)


# Learning rates


def plain_path(model, X, y, make_scheduler, factor=lambda update: 1.0):
    """Full-batch training with autograd and torch's own scheduler: parameters and learning rates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed_)
        net = fresh_net((X.shape[1], *model.hidden_layer_sizes, 1), model.activation).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=model.learning_rate_init, momentum=model.momentum)
    scheduler = make_scheduler(optimizer)
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    path, rates = [flat_parameters(net)], []
    for update in range(1, model.n_stages_ + 1):
        optimizer.zero_grad()
        (((y - net(X)[:, 0]) ** 2).mean() / 2).backward()
        scheduled = optimizer.param_groups[0]["lr"]
        rates.append(scheduled * factor(update))
        optimizer.param_groups[0]["lr"] = rates[-1]
        optimizer.step()
        optimizer.param_groups[0]["lr"] = scheduled
        scheduler.step()
        path.append(flat_parameters(net))
    return torch.stack(path), rates


@pytest.mark.parametrize("warmup_steps", [0, 4])
@pytest.mark.parametrize(
    "schedule",
    [
        functools.partial(lr_scheduler.StepLR, step_size=3, gamma=0.5),
        functools.partial(lr_scheduler.CosineAnnealingLR, T_max=10),
        functools.partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=100, cycle_momentum=False),
        lr_scheduler.ConstantLR,
    ],
    ids=["step", "cosine", "one cycle", "a class"],
)
def test_schedules_train_as_a_plain_loop_with_the_same_scheduler(rows, others, schedule, warmup_steps):
    model = make_net(lr_schedule=schedule, warmup_steps=warmup_steps, batch_size="full", max_iter=15).fit(*rows)
    warm = (lambda update: min(1.0, update / warmup_steps)) if warmup_steps else (lambda update: 1.0)
    path, rates = plain_path(model, *rows, schedule, warm)
    np.testing.assert_allclose(model._trajectory.learning_rates, rates, rtol=1e-12)
    assert len(set(rates)) > 1
    np.testing.assert_allclose(model._trajectory.parameters, path, rtol=1e-9, atol=1e-13)
    assert model.approximation_error(others, stages=1).reconstruction_mean < 1e-3


def test_a_function_of_the_update_multiplies_the_learning_rate(rows):
    model = make_net(lr_schedule=lambda update: 1 / update, warmup_steps=2, max_iter=2).fit(*rows)
    np.testing.assert_allclose(
        model._trajectory.learning_rates, 0.02 * np.array([0.5, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6])
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_schedule": 3}, "lr_schedule"),
        ({"lr_schedule": lr_scheduler.ReduceLROnPlateau}, "lr_schedule=ReduceLROnPlateau"),
        ({"lr_schedule": lr_scheduler.StepLR}, "lr_schedule.*step_size"),
        ({"lr_schedule": torch.optim.SGD}, "lr_schedule must be"),
        ({"lr_schedule": lambda update: -1.0}, "lr_schedule.*returned -1.0 at update 1"),
        ({"lr_schedule": lambda update: None}, "lr_schedule"),
        ({"lr_schedule": lambda update: math.nan}, "lr_schedule"),
        ({"lr_schedule": functools.partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=50)}, "cycle_momentum"),
        (
            {
                "lr_schedule": functools.partial(
                    lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=5, cycle_momentum=False
                )
            },
            "lr_schedule.*update",
        ),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_steps": 1.5}, "warmup_steps"),
    ],
)
def test_senseless_schedules_are_named(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        make_net(**settings).fit(*rows)


# Optimisers that are registered


class PlainRMSprop:
    """torch.optim.RMSprop without momentum, centring or decay."""

    def __init__(self, settings):
        if settings["momentum"] or settings["centered"] or settings["weight_decay"]:
            raise ValueError("only plain RMSprop is known")

    def step(self, gradient, parameters, stage, rate, phi):
        return -rate * gradient / phi


def rmsprop_denominator(state, settings):
    return state["square_avg"].sqrt() + settings["eps"]


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(_update_rules, "_REGISTRY", dict(_update_rules._REGISTRY))
    _update_rules._REGISTRY.pop(torch.optim.RMSprop, None)
    return _update_rules._REGISTRY


RMSPROP = {"optimizer": torch.optim.RMSprop, "momentum": 0.0, "learning_rate_init": 1e-3}


def test_a_registered_optimiser_trains_replays_and_rebuilds(rows, others, registry):
    register_update_rule(torch.optim.RMSprop, PlainRMSprop, rmsprop_denominator)
    kept, replayed = tight(rows, **RMSPROP, optimizer_settings={"alpha": 0.9})
    assert kept._trajectory.adaptive
    assert torch.equal(kept._trajectory.parameters, replayed._trajectory.parameters)
    assert kept.approximation_error(others, stages=1).reconstruction_mean < 1e-3
    loaded = pickle.loads(pickle.dumps(kept))
    np.testing.assert_array_equal(loaded.kernel_weights(others), kept.kernel_weights(others))
    assert clone(kept).optimizer is torch.optim.RMSprop


def test_an_optimiser_that_nobody_registered_is_refused_and_told_how(rows, registry):
    with pytest.raises(ValueError, match=r"optimizer=RMSprop.*SGD.*register_update_rule\(RMSprop, make_response"):
        make_net(**RMSPROP).fit(*rows)


def test_a_builtin_class_is_its_name(rows):
    one = make_net(optimizer=torch.optim.SGD, momentum=0.0, optimizer_settings={"momentum": 0.5}).fit(*rows)
    assert torch.equal(one._trajectory.parameters, make_net().fit(*rows)._trajectory.parameters)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": dict}, "optimizer"),
        ({"optimizer": torch.optim.SGD}, "momentum.*optimizer_settings"),
        ({"optimizer_settings": {"lr": 1.0}}, "optimizer_settings may not hold lr"),
        ({"optimizer_settings": {"momentum": 1.0}}, "optimizer_settings may not hold momentum"),
        ({"optimizer_settings": {"thrust": 1.0}}, "optimizer_settings.*thrust"),
        ({"optimizer_settings": {"maximize": True}}, "SGD.*does not give the step of update 1"),
        ({"optimizer_settings": 3}, "optimizer_settings"),
    ],
    ids=str,
)
def test_senseless_optimisers_are_named(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        make_net(**settings).fit(*rows)


def test_a_response_that_does_not_give_the_steps_is_refused(rows, registry):
    register_update_rule(torch.optim.RMSprop, PlainRMSprop, lambda state, settings: 1 + state["square_avg"])
    with pytest.raises(ValueError, match=r"RMSprop.*does not give the step of update 1"):
        make_net(**RMSPROP).fit(*rows)


def test_a_rule_may_refuse_settings(rows, registry):
    register_update_rule(torch.optim.RMSprop, PlainRMSprop, rmsprop_denominator)
    with pytest.raises(ValueError, match="only plain RMSprop"):
        make_net(**RMSPROP, optimizer_settings={"centered": True}).fit(*rows)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((dict, PlainRMSprop), "optimizer_class"),
        ((torch.optim.SGD, 3), "make_response"),
        ((torch.optim.SGD, PlainRMSprop, 3), "denominator"),
    ],
)
def test_what_cannot_be_registered_is_named(arguments, name):
    with pytest.raises(TypeError, match=name):
        register_update_rule(*arguments)
