"""Nothing that torch keeps beside its tensors changes a net or an answer, and no net changes it for anybody else."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_net, random_rows
from oracles import flat_parameters, fresh_net
from sklearn import clone
from torch import nn

from telescoping_sklearn.neural._isolation import isolated, isolates, threads
from telescoping_sklearn.neural._network import Architecture
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope


@contextmanager
def switched(switch, value, usual):
    switch(value)
    try:
        yield
    finally:
        switch(usual)


PRODUCTS = torch.backends.mkldnn.matmul

#: What a user may do to torch before a fit or a question.
STATES = {
    "double": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "half": lambda: switched(torch.set_default_dtype, torch.float16, torch.float32),
    "device": lambda: switched(torch.set_default_device, "meta", None),
    "device mode": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "threads": lambda: switched(torch.set_num_threads, 3, torch.get_num_threads()),
    "medium": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
    "bfloat16 products": lambda: switched(partial(setattr, PRODUCTS, "fp32_precision"), "bf16", "ieee"),
}


def state():
    """What torch keeps beside its tensors, as a thread sees it."""
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.empty(0).device,
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        PRODUCTS.fp32_precision,
        torch.get_rng_state().tolist(),
    )


class Bent(nn.Module):
    """No chain of layers, so that everything goes through torch.func."""

    def __init__(self, n_features):
        super().__init__()
        self.inner, self.last = nn.Linear(n_features, 5), nn.Linear(5, 1)

    def forward(self, X):
        return self.last(torch.tanh(self.inner(X))) + self.inner(X).sum(dim=1, keepdim=True)


NETS = {
    "sgd": make_net(max_iter=3, section="auto"),
    "kernel": make_net(max_iter=3, momentum=0.0, activation="relu"),
    "adam": make_net(max_iter=3, optimizer="adam", dtype="float32", early_stopping=True),
    "scheduled": make_net(max_iter=3, lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=2)),
    "module": make_net(max_iter=2, module=Bent, dtype="float32", section=2),
    "layers": make_net(
        max_iter=2, module=lambda n_features: nn.Sequential(nn.Linear(n_features, 5), nn.Tanh(), nn.Linear(5, 1))
    ),
    "budget": make_net(max_iter=3, record_budget="24KB"),
    "wide": make_net(max_iter=2, hidden_layer_sizes=(40, 40), batch_size="full", dtype="float32"),
}

QUESTIONS = {
    "predict": lambda net, X: net.predict(X),
    "weights": lambda net, X: net.kernel_weights(X),
    "training weights": lambda net, X: net.kernel_weights_,
    "offset": lambda net, X: net.offset(X),
    "p": lambda net, X: net.effective_params(X, n_probes=3),
    "summary": lambda net, X: net.staged_training_summary(stages=2, n_probes=2),
    "norms": lambda net, X: net.kernel_norms(X),
    "ratio": lambda net, X: net.kernel_norm_ratio(X),
    "error": lambda net, X: net.approximation_error(X, stages=2).by_stage,
    "examples": lambda net, X: net.top_examples(X, k=2),
    "breakdown": lambda net, X: net.breakdown(X, stages=2),
    "sections": lambda net, X: net.section_ends_,
    "parameters": lambda net, X: net.telescope_.parameter_response(np.eye(40)[:, :2], offset=True),
    "record": lambda net, X: net.complete_record().n_stages_ if net.record_budget == "1GiB" else 0,
}
GENERATORS = {
    "model": lambda net, X: net.staged_predict(X),
    "telescoping": lambda net, X: net.staged_predict(X, approximation="telescoping"),
    "linearised": lambda net, X: net.staged_predict(X, approximation="linearized"),
    "kernel": lambda net, X: (kernel.toarray() for kernel in net.staged_kernel(X, stages=3)),
    "response": lambda net, X: net.telescope_.staged_response(X, np.eye(40)[:, :2], offset=True),
    "reconstruction": lambda net, X: net.telescope_.staged_reconstruction(X),
}


@pytest.fixture(scope="module")
def rows():
    return random_rows()


@pytest.fixture(scope="module")
def others():
    return random_rows(6, seed=1)[0]


def answers(net, X):
    asked = QUESTIONS | {name: lambda net, X, ask=ask: list(ask(net, X)) for name, ask in GENERATORS.items()}
    return {name: np.asarray(ask(net, X)) for name, ask in asked.items()}


@pytest.fixture(scope="module")
def plain(rows, others):
    """Every net fitted and asked with torch as it starts."""
    fitted = {name: clone(net).fit(*rows) for name, net in NETS.items()}
    return {name: (net, answers(net, others)) for name, net in fitted.items()}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", STATES)
def test_torchs_state_changes_neither_nets_nor_answers_nor_is_changed(rows, others, plain, net, name):
    trained, expected = plain[net]
    with STATES[name]():
        before = state()
        model = clone(NETS[net]).fit(*rows)
        given = answers(model, others)
        assert state() == before
    assert torch.equal(model.module_.theta, trained.module_.theta)
    assert model.loss_curve_ == trained.loss_curve_
    assert not model.module_.theta.is_inference()
    # Products of matrices are cut among threads: the last bits of answers depend on their number, those of nets do not.
    rounding = {"rtol": 1e-4, "atol": 1e-6} if name == "threads" else {"rtol": 0, "atol": 0}
    for question, answer in expected.items():
        np.testing.assert_allclose(given[question], answer, **rounding, err_msg=question)


@pytest.mark.parametrize("question", GENERATORS)
@pytest.mark.parametrize("net", ["sgd", "adam", "module"])
def test_generators_neither_keep_nor_leave_a_state_between_items(others, plain, net, question):
    model, expected = plain[net][0], list(GENERATORS[question](plain[net][0], others))
    items, found = GENERATORS[question](model, others), []
    with ExitStack() as entered:
        for name in [*STATES, *STATES]:  # the state changes between any two items, and items come under all
            before = state()
            found.append(next(items, None))
            assert state() == before
            if name not in ("deterministic", "threads"):
                entered.enter_context(STATES[name]())
            if torch.get_default_device().type == "meta" and len(found) % 2:
                entered.close()
        items.close()
        assert state()[4:6] == (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
    for item, other in zip(found, expected, strict=False):
        np.testing.assert_array_equal(item, other)


def test_abandoned_generators_leave_no_state(others, plain):
    before = state()
    items = plain["sgd"][0].staged_predict(others)
    with torch.no_grad():
        next(items)
    with torch.inference_mode():
        del items
    assert state() == before


def test_isolated_generators_close_what_they_run():
    ended = []

    @isolates
    def items():
        try:
            yield torch.is_grad_enabled()
            yield torch.is_inference_mode_enabled()
        finally:
            ended.append(torch.is_grad_enabled())

    with torch.inference_mode():
        body = items()
        assert next(body) is True
        assert next(body) is False
        body.close()
    assert len(ended) == 1


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("net", ["adam", "module"])
def test_pickles_may_be_loaded_under_any_state(others, plain, net, name):
    model, expected = plain[net]
    pickled = pickle.dumps(model)
    with STATES[name]():
        loaded = pickle.loads(pickled)
    for question, answer in answers(loaded, others).items():
        np.testing.assert_array_equal(answer, expected[question], err_msg=question)
    loaded.module_(torch.as_tensor(others, dtype=torch.float32)).sum().backward()


def test_every_public_method_of_the_telescope_is_isolated():
    methods = [name for name, member in vars(TangentTelescope).items() if callable(member) and not name.startswith("_")]
    assert {"apply_response", "apply_adjoint", "forward_plan", "staged_model", "start"} <= set(methods)
    assert all(hasattr(getattr(TangentTelescope, name), "__wrapped__") for name in methods)


@pytest.mark.parametrize("widths", [(3, 1), (4, 7, 1), (2, 30, 20, 1)])
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_initial_parameters_are_torchs_own_for_the_seed(widths, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = flat_parameters(fresh_net(widths, "relu"))
    assert torch.equal(Architecture(widths, "relu", "identity").initial_parameters(seed), expected)


# Threads


@pytest.mark.parametrize("module", [None, Bent], ids=["ours", "module"])
def test_fits_in_threads_are_those_of_a_loop_and_leave_torch_alone(rows, others, module):
    nets = [make_net(module=module, max_iter=4, random_state=seed, dtype="float32") for seed in range(24)]
    expected = [clone(net).fit(*rows).predict(others) for net in nets]
    assert len({prediction.tobytes() for prediction in expected}) == 24
    with STATES["threads"](), ThreadPoolExecutor(8) as pool, ThreadPoolExecutor(1) as fresh:
        before = state()
        found = list(pool.map(lambda net: net.fit(*rows).predict(others), nets))
        assert {pool.submit(torch.get_num_threads).result() for _ in range(32)} == {3}
        assert fresh.submit(torch.get_num_threads).result() == 3
        assert state() == before
    np.testing.assert_array_equal(found, expected)


def test_threads_are_set_in_one_thread_only():
    with STATES["threads"](), ThreadPoolExecutor(1) as known, ThreadPoolExecutor(1) as fresh:
        known.submit(torch.set_num_threads, 4).result()
        with threads(2):
            assert torch.get_num_threads() == 2
            assert known.submit(torch.get_num_threads).result() == 4
            assert fresh.submit(torch.get_num_threads).result() == 4  # the number that was set last
            with threads(1):
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 3
        assert known.submit(torch.get_num_threads).result() == 4


def test_products_are_rounded_again_once_the_last_thread_leaves():
    with STATES["medium"](), ThreadPoolExecutor(1) as other:
        mine, its = isolated(), isolated()
        mine.__enter__()
        other.submit(its.__enter__).result()
        mine.__exit__(None, None, None)
        assert PRODUCTS.fp32_precision == "ieee"
        other.submit(its.__exit__, None, None, None).result()
        assert torch.get_float32_matmul_precision() == "medium"
        assert PRODUCTS.fp32_precision == "bf16"


def test_a_precision_that_is_set_meanwhile_stays():
    with STATES["bfloat16 products"]():
        with isolated():
            PRODUCTS.fp32_precision = "tf32"
        assert PRODUCTS.fp32_precision == "tf32"


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_the_threads_of_training_are_the_nets_own(n_jobs):
    X, y = random_rows(300, n_features=60)
    large = make_net(hidden_layer_sizes=(950,), batch_size="full", max_iter=1, dtype="float32", n_jobs=n_jobs)
    found = []
    for number in (1, 3):
        with switched(torch.set_num_threads, number, torch.get_num_threads()):
            found.append(clone(large).fit(X, y))
    assert [model._trajectory.replay.settings.n_threads for model in found] == [n_jobs or 1] * 2
    assert torch.equal(found[0].module_.theta, found[1].module_.theta)
    assert make_net(n_jobs=2, max_iter=1).fit(*random_rows())._trajectory.replay.settings.n_threads == 1
