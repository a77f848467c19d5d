"""The rows about nets: fitting, tangent kernels, exact weights, probes, a panel of the paper's Figure 2, memory."""

import copy
from functools import partial

import numpy as np
import torch

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.neural._network import Architecture
from telescoping_sklearn.neural._tangent import tangent
from tests.performance._data import random_rows, threes_and_fives
from tests.performance._measure import Seconds, in_child, profile, ratio, readable_seconds, side_by_side, timed
from tests.performance._peers import FunctionalKernels, JacobianRoute, fit_sklearn, fit_skorch, sklearn_net, skorch_net
from tests.performance._results import Goal, Result, Row, at_least, at_most

RULES = ("left", "midpoint", "gauss2")


def net(hidden, **settings):
    """An unfitted net that trains for all of its epochs, its telescope drawn out update by update."""
    fixed = {"tol": 0.0, "n_iter_no_change": np.inf, "section": 1, "random_state": 0}
    return TelescopingMLPRegressor(hidden, **fixed | settings)


def without_answers(model):
    """The fitted model without the answers that it keeps."""
    return copy.copy(model)  # an estimator's state leaves them out


# -- fitting -----------------------------------------------------------------------------------------------------------


def fit(quick):
    """Fit with recording on, beside scikit-learn, skorch, and itself without recording."""
    n, epochs, repeats = (1_000, 2, 2) if quick else (14_000, 10, 5)
    data, hidden, batch = random_rows(n, 0, 8), (64, 64, 64), 128
    ours = {record: net(hidden, batch_size=batch, max_iter=epochs, record=record) for record in (True, False)}
    times = side_by_side(
        {
            "recorded": lambda: ours[True].fit(data.X, data.y),
            "unrecorded": lambda: ours[False].fit(data.X, data.y),
            "scikit-learn MLPRegressor": lambda: fit_sklearn(sklearn_net(hidden, batch, epochs), data.X, data.y),
            "skorch as it comes": lambda: fit_skorch(skorch_net((8, *hidden, 1), batch, epochs), data.X, data.y),
        },
        repeats,
    )
    what = f"fit an MLP, {n:,} x 8, (64, 64, 64), batch {batch}, {epochs} epochs, Adam"
    rows = [_fit_row(what, name, times) for name in ("scikit-learn MLPRegressor", "skorch as it comes")]
    profiled = profile(lambda: ours[True].fit(data.X, data.y))
    rows += [_recording_row(times), _replay_row(ours[True], times, repeats)]
    return Result("Fitting", rows, profiles={"fitting with recording on": profiled})


def _fit_row(what, peer, times):
    faster = ratio(times[peer], times["recorded"])
    return Row(what, f"{peer} {times[peer]}", str(times["recorded"]), str(faster), at_least(2, faster.median))


def _recording_row(times):
    share = ratio(times["recorded"], times["unrecorded"])
    cost = 100 * (share.median - 1)
    spread = f"recorded / not: {share}"
    goal = at_most(10, cost, " % more")
    ours = f"{times['recorded']}, {cost:+.1f} %"
    return Row("the same, recorded or not", f"record=False {times['unrecorded']}", ours, spread, goal)


def _replay_row(model, times, repeats):
    """What the first question pays for a record of checkpoints only."""
    trajectory = model._trajectory

    def replay():
        trajectory.segments.clear()
        _ = trajectory.parameters

    again = side_by_side({"replay": replay}, repeats)["replay"]
    ours = f"{again}, once, for {model.n_stages_:,} updates ({model.record_nbytes_ / 2**20:.0f} MiB)"
    share = f"{ratio(times['recorded'], again)}"
    return Row(
        "the same, every update trained again for the first question", f"the fit {times['recorded']}", ours, share
    )


# -- tangent kernels ---------------------------------------------------------------------------------------------------


def kernel_block(quick):
    """A block of the tangent kernel, layer by layer and by torch.func."""
    shape, repeats = ((50, 20), 2) if quick else ((2000, 200), 9)
    nets = ((64, 200, 200, 1), (8, 64, 64, 64, 1))
    return Result("Tangent kernels", [_kernel_row(widths, shape, repeats) for widths in nets])


def _kernel_row(widths, shape, repeats):
    architecture, peer = Architecture(widths, "relu", "identity"), FunctionalKernels(widths)
    theta = torch.cat([parameter.detach().flatten() for parameter in peer.net.parameters()])
    here, there = (torch.randn(n, widths[0], generator=torch.Generator().manual_seed(n)) for n in shape)

    def layerwise():
        return tangent(architecture, theta, here).kernel(tangent(architecture, theta, there))

    def functional():
        return peer.kernel(theta, here, theta, there)

    torch.testing.assert_close(layerwise(), functional(), rtol=1e-3, atol=1e-3)
    times = side_by_side({"ours": layerwise, "torch.func": functional}, repeats)
    faster = ratio(times["torch.func"], times["ours"])
    name = "-".join(map(str, widths))
    goal = at_least(30, faster.median) if widths[0] == 64 else None
    what = f"tangent kernel block {shape[0]} x {shape[1]}, {name}, float32"
    return Row(what, f"torch.func {times['torch.func']}", str(times["ours"]), str(faster), goal)


# -- exact weights under plain SGD -------------------------------------------------------------------------------------


def exact_sgd(quick):
    """Exact kernel weights under plain SGD, beside the same recursion with Jacobians by torch.func."""
    n, batch, updates, hidden = (60, 20, 6, (20, 20)) if quick else (1000, 200, 500, (200, 200))
    repeats, peer_updates = (2, 2) if quick else (3, 5)
    data = random_rows(n, n, 64)
    model = net(hidden, optimizer="sgd", learning_rate_init=0.02, batch_size=batch, max_iter=updates * batch // n)
    model.fit(data.X, data.y)
    _check_jacobian_route()
    peer = partial(_jacobian_updates, (64, *hidden, 1), data, batch, peer_updates)
    stacked = np.concatenate([data.X, data.query])
    checked = model.telescope_  # the run is replayed and checked once a fit; the peer does neither
    first = timed(lambda: checked.is_sound(np.array([model.n_stages_])))
    times = side_by_side(
        {
            "query": lambda: checked.kernel_weights(data.query),
            "stacked": lambda: checked.kernel_weights(stacked),
            "peer": peer,
        },
        repeats,
        warm_up=False,
    )
    what = f"exact weights under SGD, n = m = {n}, p = {model.n_params_:,}, {model.n_stages_} updates of {batch}"
    profiled = profile(lambda: without_answers(model).kernel_weights(data.query))
    rows = list(_exact_rows(what, times, model.n_stages_, peer_updates))
    rows.append(Row("the run replayed and its response checked, once a fit", "", readable_seconds(first), ""))
    return Result("Exact weights under SGD", rows, profiles={"exact weights of the query under SGD": profiled})


def _exact_rows(what, times, n_stages, peer_updates):
    theirs, ours = times["peer"].divided_by(peer_updates), times["query"].divided_by(n_stages)
    faster = ratio(theirs, ours)
    peer = f"Jacobians by torch.func {theirs} an update"
    yield Row(f"{what}: per update", peer, f"{ours} an update", str(faster), at_least(25, faster.median))
    whole = f"about {readable_seconds(theirs.median * n_stages)}"
    goal = at_most(10, times["query"].median, " s")
    yield Row(f"{what}: whole run, m x n answer", whole, str(times["query"]), "", goal)
    yield Row("the same, training and query rows in one 2 n x n answer", whole, str(times["stacked"]))


def _jacobian_updates(widths, data, batch, n_updates):
    """The peer's first updates, from a net of its own."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        route = JacobianRoute(widths, None, *_as_float32(data), learning_rate=0.05)
    route.theta = torch.cat([parameter.detach().flatten() for parameter in route.kernels.net.parameters()])
    for _ in range(n_updates):
        route.update(torch.randperm(len(data.y), generator=generator)[:batch])
    return route.weights


def _as_float32(data):
    stacked = np.concatenate([data.X, data.query])
    return torch.as_tensor(stacked, dtype=torch.float32), torch.as_tensor(data.y, dtype=torch.float32)


def _check_jacobian_route():
    """The peer computes what we compute: same weights after three updates on all rows."""
    data, settings = random_rows(30, 20, 5), {"optimizer": "sgd", "batch_size": "full", "shuffle": False}
    start = net((8, 8), learning_rate_init=1e-30, max_iter=1, **settings).fit(data.X, data.y)
    model = net((8, 8), learning_rate_init=0.05, max_iter=3, **settings).fit(data.X, data.y)
    theta = torch.cat([parameter.detach().flatten() for parameter in start.module_.parameters()])
    route = JacobianRoute((5, 8, 8, 1), theta, *_as_float32(data), learning_rate=0.05)
    for _ in range(3):
        route.update(torch.arange(30))
    np.testing.assert_allclose(route.weights[30:], model.kernel_weights(data.query), atol=1e-5)


# -- probes ------------------------------------------------------------------------------------------------------------


def probes(quick):
    """Effective parameters under AdamW: 32 probes beside the exact value."""
    n, batch, epochs, hidden = (100, 50, 3, (20,)) if quick else (1000, 200, 5, (100,))
    data = random_rows(n, n, 64)
    settings = {"optimizer": "adamw", "learning_rate_init": 3e-3, "weight_decay": 0.1, "batch_size": batch}
    model = net(hidden, max_iter=epochs, **settings).fit(data.X, data.y)
    found = {}

    def ask(name, n_probes):
        found[name] = without_answers(model).effective_params(data.query, n_probes=n_probes, return_se=True)

    few = [timed(partial(ask, "probes", 32)) for _ in range(2)]
    exact = Seconds((timed(partial(ask, "exact", None)),))
    times = Seconds((*few, *(timed(partial(ask, "probes", 32)) for _ in range(2))))
    what = (
        f"effective parameters under AdamW, n = m = {n}, net 64-{hidden[0]}-1 (p = {model.n_params_:,}), "
        f"{model.n_stages_} updates of {batch}: 32 probes"
    )
    profiled = profile(partial(ask, "probes", 32))
    return Result("Probes", _probe_rows(what, exact, times, found), profiles={"32 probes under AdamW": profiled})


def _probe_rows(what, exact, times, found):
    faster = ratio(exact, times)
    (p, _), (estimate, error) = found["exact"], found["probes"]
    away = abs(estimate - p) / error
    return [
        Row(what, f"our exact route {exact}", str(times), str(faster), at_least(20, faster.median)),
        Row("the same: value", f"{p:.2f}", f"{estimate:.2f} ± {error:.2f}", "", _within_three(away)),
    ]


def _within_three(away):
    return Goal(f"within 3 standard errors ({away:.1f})", bool(away <= 3))


# -- any module, and both sets of rows in one pass --------------------------------------------------------------------


class SmallConvolution(torch.nn.Sequential):
    """Two convolutions with pooling on 8 x 8 images, and a linear layer."""

    def __init__(self):
        relu, pool = torch.nn.ReLU(), torch.nn.AvgPool2d(2)
        first, second = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Conv2d(8, 16, 3, padding=1)
        image, vector = torch.nn.Unflatten(1, (1, 8, 8)), torch.nn.Flatten()
        super().__init__(image, first, relu, pool, second, relu, pool, vector, torch.nn.Linear(64, 1))


def any_module(quick):
    """Effective parameters of a convolutional net: by the calls of its layers, beside gradients of single rows."""
    n, epochs, repeats = (60, 1, 2) if quick else (400, 5, 3)
    data = random_rows(n, n, 64)
    torch.manual_seed(0)
    model = net((), module=SmallConvolution(), batch_size=50, max_iter=epochs).fit(data.X, data.y)
    peer = copy.deepcopy(model)
    peer.module_.network.others = tuple(peer.module_.network.shapes)  # what torch.func does for every parameter
    for fitted in (model, peer):
        fitted.telescope_.is_sound(np.array([1]))  # the run is replayed and checked once a fit
    answers = {}

    def ask(name, fitted, n_probes):
        fitted.telescope_._probe_values.clear()
        answers[name] = fitted.effective_params(data.query, n_probes=n_probes)

    rows = []
    for n_probes in (None, 16):
        times = side_by_side(
            {"peer": partial(ask, "peer", peer, n_probes), "ours": partial(ask, "ours", model, n_probes)}, repeats
        )
        np.testing.assert_allclose(answers["ours"], answers["peer"], rtol=1e-3)
        asked = "exact" if n_probes is None else f"{n_probes} probes"
        what = (
            f"effective parameters of a convolutional net under Adam, n = m = {n}, {model.n_stages_} updates: {asked}"
        )
        faster = ratio(times["peer"], times["ours"])
        rows.append(Row(what, f"gradients of single rows {times['peer']}", str(times["ours"]), str(faster)))
    return Result("Any module", rows)


def with_train(quick):
    """Effective parameters of training and other rows: in one pass, stacked as queries, and in two passes."""
    n, epochs, repeats = (60, 1, 2) if quick else (500, 5, 3)
    data = random_rows(n, n, 64)
    model = net((100,), batch_size=100, max_iter=epochs).fit(data.X, data.y)
    explained, stacked = model.telescope_, np.concatenate([data.query, data.X])
    explained.is_sound(np.array([1]))
    found = {}

    def ask(name, work):
        explained._probe_values.clear()
        found[name] = np.hstack(work())

    sets = [np.arange(n), n + np.arange(n)]
    asked = {"n_probes": 32}
    ways = {
        "one": lambda: model.effective_params(data.query, with_train=True, **asked),
        "stacked": lambda: model.effective_params(stacked, subsets=sets, **asked),
        "two": lambda: (model.effective_params(data.query, **asked), explained.training_summary(32)[0].value),
    }
    times = side_by_side({name: partial(ask, name, work) for name, work in ways.items()}, repeats)
    for name in ("stacked", "two"):
        np.testing.assert_allclose(found[name], found["one"], rtol=1e-3)
    what = f"effective parameters of {n} training and {n} other rows, 64-100-1, {model.n_stages_} updates, 32 probes"
    names = {"stacked": "both stacked as queries", "two": "two questions"}
    rows = [
        Row(what, f"{told} {times[name]}", str(times["one"]), str(ratio(times[name], times["one"])))
        for name, told in names.items()
    ]
    return Result("Training rows in the same pass", rows)


# -- the paper's Figure 2 ----------------------------------------------------------------------------------------------


def panel(quick):
    """One panel of Figure 2: fit, and the telescoping model by all rules and the linearised one along training."""
    n, batch, epochs, n_stages = (100, 50, 5, 5) if quick else (1000, 200, 1000, 100)
    data = threes_and_fives(n, n)
    model = net(
        (200, 200), optimizer="sgd", learning_rate_init=0.1, batch_size=batch, max_iter=epochs, record_budget="2GiB"
    )
    gaps, steps = {}, {}
    steps["fit"] = timed(lambda: model.fit(data.X, data.y))
    stages = np.unique(np.linspace(0, model.n_stages_, n_stages + 1).round().astype(int))[1:]
    steps["the model itself"] = timed(lambda: gaps.update(model=_staged(model, data.query, stages, None)))
    for rule in RULES:
        model.set_params(rule=rule)
        steps[rule] = timed(lambda rule=rule: gaps.update({rule: _staged(model, data.query, stages, "telescoping")}))
    steps["linearised"] = timed(lambda: gaps.update(linearised=_staged(model, data.query, stages, "linearized")))
    reached = gaps.pop("model")
    curves = {name: np.abs(values - reached).mean(axis=1) for name, values in gaps.items()}
    profiled = profile(lambda: _staged(model, data.query, stages[: max(1, len(stages) // 10)], "telescoping"))
    return Result(
        "A panel of the paper's Figure 2",
        [_panel_row(model, data, steps, len(stages))],
        [_panel_text(steps, curves)],
        {"figure2_panel": partial(_draw_panel, stages, curves)},
        {"the first tenth of the telescoping model by gauss2, the last rule set": profiled},
    )


def _staged(model, query, stages, approximation):
    return np.stack(list(model.staged_predict(query, stages=stages, approximation=approximation)))


def _panel_row(model, data, steps, n_stages):
    what = (
        f"a panel of Fig. 2: {data.name}, n = {len(data.X)}, m = {len(data.query)}, 64-200-200-1, SGD 0.1, "
        f"T = {model.n_stages_}, three rules and linearised at {n_stages} stages, fit included"
    )
    total = sum(steps.values())
    return Row(what, "paper: about 15 minutes on a GPU", readable_seconds(total), "", at_most(120, total, " s"))


def _panel_text(steps, curves):
    spent = ", ".join(f"{name} {readable_seconds(seconds)}" for name, seconds in steps.items())
    gaps = ", ".join(f"{name} {curve[-1]:.2g}" for name, curve in curves.items())
    return f"Time by step: {spent}. Mean gap on the test rows after the last update: {gaps}."


def _draw_panel(stages, curves, figure):
    figure.set_size_inches(7, 4.2)
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(stages, curve, label=name, linestyle="--" if name == "linearised" else "-")
    axes.set(yscale="log", xlabel="update", ylabel="mean |net - approximation| on test rows")
    axes.set_title("Telescoping and linearised model along training")
    axes.grid(alpha=0.3)
    axes.legend()


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(quick):
    """Peak memory of 32 probes where an n x n array would not be small."""
    n = 500 if quick else 10_000
    told = in_child("tests.performance._memory_child", str(n))
    square = 8 * n**2 / 2**20
    before, peak = told["before"] / 2**20, told["peak"] / 2**20
    what = (
        f"memory of 32-probe effective parameters of the training rows, n = {n:,}, (64, 64), "
        f"{told['n_stages']} updates, section 10"
    )
    ours = f"{peak - before:.0f} MiB above the {before:.0f} MiB held after the fit; {told['seconds']:.1f} s"
    goal = Goal("no n x n array", peak - before < square / 2)
    return Result("Memory", [Row(what, f"an n x n array is {square:.0f} MiB", ours, "", goal)])


BENCHMARKS = {
    "fit": fit,
    "kernel": kernel_block,
    "exact_sgd": exact_sgd,
    "probes": probes,
    "any_module": any_module,
    "with_train": with_train,
    "panel": panel,
    "memory": memory,
}
