"""Any ``torch.nn.Module`` as a function of one flat parameter vector, and its tangents.

Parameters of layers are differentiated through the calls of the layers, see `_layer_calls`. A parameter that a module
uses in another way, such as a scale that it multiplies with, goes through ``torch.func``: products with few directions
or columns are passes of the whole module, others need the gradients of single rows. Everything is computed in blocks.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, jvp, vjp, vmap

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.neural._isolation import seeded
from telescoping_sklearn.neural._layer_calls import Block, CallRecorder, LayerCall, Part, jacobian_parts, kernel
from telescoping_sklearn.neural._network import pairs_of

#: Bytes of activations and their derivatives beyond which more rows or columns at once bring nothing.
_FASTEST_BLOCK = 64 * 2**20
#: Directions or columns up to which passes of a whole module are cheaper than the gradients of single rows.
_MOST_PASSES = 4
#: Rows on which the derivatives of layers are compared with those of single rows, and how far from the start.
_ROWS_TRIED, _DISTANCE = 3, 0.1
_RUNNING = threading.RLock()  # a template holds the parameters that it is run with
_FORWARD_LEVEL = threading.RLock()  # torch numbers levels of forward differentiation for the whole process
_LIVE = 3  # copies of the activations that differentiation holds at once: values, derivatives, what is made next


class FunctionalNetwork:
    """A module whose trainable parameters are one vector theta, laid out in the order of ``named_parameters``.

    Parameters
    ----------
    module : torch.nn.Module
        Maps rows (n_rows, n_features) to predictions (n_rows,) or (n_rows, n_outputs). It is copied.
    rows : Tensor of shape (n_rows, n_features)
        A few rows of the kind that it is made for, to try it on.
    n_outputs : int, default=1
        Number of outputs.
    explained : bool, default=True
        Whether derivatives will be asked for, and are tried too.

    Raises
    ------
    ValueError
        If the module holds dropout or batch normalisation, draws random numbers, changes its buffers, lets rows depend
        on each other, does not take the rows or give one number each, or cannot be differentiated by ``torch.func``.
    """

    def __init__(self, module: nn.Module, rows: Tensor, n_outputs: int = 1, *, explained: bool = True):
        self.n_outputs = n_outputs
        self._output_shape = () if n_outputs == 1 else (n_outputs,)
        for part in module.modules():
            _refuse_part(part)
        try:
            self.template = copy.deepcopy(module).to("cpu")
            trained = {name: part for name, part in self.template.named_parameters() if part.requires_grad}
            self.shapes = {name: tuple(part.shape) for name, part in trained.items()}
        except Exception as error:  # whatever a user's module raises
            raise ValueError(f"module cannot be copied with its parameters made: {error}") from error
        if not trained:
            raise ValueError("module has no trainable parameters.")
        self.places = _places(self.shapes)
        held = dict(self.template.named_parameters()) | dict(self.template.named_buffers())
        self._fixed = {name: part.detach().clone() for name, part in held.items() if name not in trained}
        self._slots = list(_slots(self.template))
        self._check(rows)
        self.n_activations = rows.shape[1] + self._count_activations(rows[:1])
        self.others = tuple(self.shapes)  # parameters that go through torch.func
        self._n_calls = 0
        self._numbers, self._longest, self._pair_operations = 0, 0, self.n_params
        if explained:
            self._read_calls(rows)

    @property
    def n_params(self) -> int:
        """Number of trainable parameters p."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def row_numbers(self) -> int:
        """Numbers that a row's derivatives hold."""
        return _LIVE * self.n_activations + self._numbers

    @property
    def column_numbers(self) -> int:
        """Numbers that a row holds for each direction or column."""
        return self._longest + 2 * self.n_outputs

    @property
    def pair_operations(self) -> int:
        """Multiplications of one entry of a tangent kernel."""
        return self._pair_operations

    @property
    def input_width(self) -> int:
        """No inner products of inputs are made: 0."""
        return 0

    def initial_parameters(self) -> Tensor:
        """Parameters that the module came with, (p,), in float64."""
        parts = dict(self.template.named_parameters())
        return torch.cat([parts[name].detach().double().flatten() for name in self.shapes])

    def forward(self, theta: Tensor, X: Tensor) -> Tensor:
        """Predict, (n_rows,), or (n_rows, n_outputs) where there are several, in the precision of theta."""
        return self._run(self._parts(theta), X)

    def jacobian_parts(self, theta: Tensor, X: Tensor) -> dict[str, Part]:
        """Take the Jacobian of a block of rows, by parameter; parameters that play no part may be missing."""
        parts, calls = self._parts(theta), [name for name in self.shapes if name not in self.others]
        jacobian: dict[str, Part] = {}
        if calls:
            outputs, recorder = self._recorded(parts, calls, X)
            if len(recorder.calls) != self._n_calls:
                raise ValueError(
                    f"module called layers {self._n_calls} times when it was tried, and {len(recorder.calls)} times "
                    "now: what it computes must not depend on the rows or on when it is called."
                )
            jacobian |= jacobian_parts(recorder.calls, outputs, {name: self.shapes[name] for name in calls})
        if self.others:
            jacobian |= self._gradients_by_row(parts, self.others, X)
        return jacobian

    def _recorded(self, parts: dict[str, Tensor], names: Iterable[str], X: Tensor) -> tuple[Tensor, CallRecorder]:
        """Run the module, and record calls of layers with some of its parameters."""
        recorder = CallRecorder({name: parts[name] for name in names})
        with torch.enable_grad(), recorder:
            return self._run(parts, X), recorder

    def _gradients_by_row(self, parts: dict[str, Tensor], names: Iterable[str], X: Tensor) -> dict[str, Part]:
        """Differentiate single rows in some of the parameters."""

        def single(asked: dict[str, Tensor], x: Tensor) -> Tensor:
            return self._run(parts | asked, x[None])[0]

        derivative = grad(single) if self.n_outputs == 1 else jacrev(single)
        found = vmap(derivative, in_dims=(None, 0))({name: parts[name] for name in names}, X)
        return {name: Block(value.reshape(len(X) * self.n_outputs, -1)) for name, value in found.items()}

    def _parts(self, theta: Tensor) -> dict[str, Tensor]:
        """Name the parameters and buffers of the module, in the precision and on the device of theta."""
        pieces = theta.split([prod(shape) for shape in self.shapes.values()])
        parts = {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
        for name, part in self._fixed.items():
            parts[name] = part.to(theta.device, theta.dtype if part.is_floating_point() else part.dtype)
        return parts

    def _run(self, parts: dict[str, Tensor], X: Tensor) -> Tensor:
        """Run the template with parameters and buffers in place of its own; functional_call takes as long again."""
        held = [getattr(module, kind)[key] for module, kind, key, _ in self._slots]
        with _RUNNING:
            try:
                for module, kind, key, name in self._slots:
                    getattr(module, kind)[key] = parts[name]
                # The module may work in place, and the rows are others' memory.
                return self.template(X.clone()).reshape(len(X), *self._output_shape)
            finally:
                for (module, kind, key, _), own in zip(self._slots, held, strict=True):
                    getattr(module, kind)[key] = own

    def _check(self, rows: Tensor) -> None:
        """Run a few rows together, again, and one by one."""
        parts = {name: part.clone() for name, part in self._parts(self.initial_parameters()).items()}
        before = {name: parts[name].clone() for name in self._fixed}
        try:
            with seeded(0), torch.no_grad():
                together, again = self._run(parts, rows), self._run(parts, rows)
                alone = torch.cat([self._run(parts, row[None]) for row in rows])
        except Exception as error:  # whatever a user's module raises
            raise ValueError(
                f"module must map rows of {rows.shape[1]} features, (n_rows, {rows.shape[1]}), to "
                f"{'one number' if self.n_outputs == 1 else f'{self.n_outputs} numbers'} each: "
                f"{error}"
            ) from error
        if any(not torch.equal(part, parts[name]) for name, part in before.items()):
            raise ValueError("module changes its buffers while it runs: every gradient would be taken on another net.")
        if not torch.allclose(together, again, rtol=0, atol=0, equal_nan=True):
            raise ValueError("module draws random numbers: every gradient would be taken on another net.")
        if not torch.allclose(together, alone, rtol=1e-8, atol=1e-10, equal_nan=True):
            raise ValueError("module lets the output of a row depend on the other rows of its batch.")

    def _read_calls(self, rows: Tensor) -> None:
        """Find the parameters that only layers use, and what their derivatives cost.

        They are those that no other function computes with, in layers that see one row after another, and whose
        derivatives are right: they are compared with the gradients of single rows, at parameters with no special
        values.
        """
        rows, start = rows[torch.arange(_ROWS_TRIED) % len(rows)], self.initial_parameters()
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype)
        try:
            for theta in (start, start + _DISTANCE * noise):
                parts = self._parts(theta)
                expected = self._gradients_by_row(parts, self.shapes, rows)
                outputs, together = self._recorded(parts, self.shapes, rows)
                found = jacobian_parts(together.calls, outputs, self.shapes)
            _, alone = self._recorded(parts, self.shapes, rows[:1])
            FunctionalTangent(self, start, rows).jvp(start[None])  # by passes, in forward mode
        except Exception as error:  # whatever torch cannot differentiate
            raise ValueError(
                f"module cannot be differentiated by torch.func, which explanations need: {error}. Write it with other "
                "operations, or set record=False and give up explanations."
            ) from error
        refused = together.used_otherwise | _not_by_row(together.calls, alone.calls)
        own = {name for name in found if name not in refused and _agree(found[name].dense(), expected[name].dense())}
        self.others = tuple(name for name in self.shapes if name not in own)
        self._n_calls = sum(call.weight in own or call.bias in own for call in together.calls)
        of_calls = [found[name] for name in own]
        widths = [prod(self.shapes[name]) for name in self.others]
        self._pair_operations = sum([part.pair_operations for part in of_calls] + widths)
        self._numbers = self.n_outputs * self._pair_operations + sum(
            call.inputs[0].numel() for call in together.calls if call.weight in own
        )
        self._longest = max((part.column_numbers for part in of_calls), default=0)

    def _count_activations(self, row: Tensor) -> int:
        """Count the numbers that the module's parts put out for one row."""
        counts: list[int] = []

        def count(part: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                counts.append(output.numel())

        hooks = [part.register_forward_hook(count) for part in self.template.modules()]
        try:
            with torch.no_grad():
                self.forward(self.initial_parameters(), row)
        finally:
            for hook in hooks:
                hook.remove()
        return sum(counts)


def _refuse_part(part: nn.Module) -> None:
    """Raise ValueError for a part with no fixed kernel, unless it is switched off."""
    if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
        reason = "dropout takes every gradient on another net, so that no fixed kernel adds up"
    elif isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
        reason = "with batch normalisation the output of a row depends on the rest of its batch"
    else:
        return
    raise ValueError(f"module holds {type(part).__name__}: {reason}. Leave it out, or switch it off with eval().")


def _places(shapes: dict[str, tuple[int, ...]]) -> dict[str, slice]:
    """Say where in theta every parameter lies."""
    ends = list(accumulate(prod(shape) for shape in shapes.values()))
    return {name: slice(end - prod(shape), end) for (name, shape), end in zip(shapes.items(), ends, strict=True)}


def _slots(module: nn.Module) -> Iterator[tuple[nn.Module, str, str, str]]:
    """Yield every place that holds a parameter or buffer, with the name of what it holds: tied ones have one name."""
    names = {id(part): name for name, part in [*module.named_parameters(), *module.named_buffers()]}
    for part in module.modules():
        for kind in ("_parameters", "_buffers"):
            for key, value in getattr(part, kind).items():
                if value is not None:
                    yield part, kind, key, names[id(value)]


def _not_by_row(calls: list[LayerCall], calls_of_one: list[LayerCall]) -> set[str]:
    """Name the parameters of calls whose inputs or outputs do not come row by row, given those for one row."""
    if len(calls) != len(calls_of_one):
        return {name for call in calls for name in (call.weight, call.bias) if name is not None}
    refused: set[str | None] = set()
    for call, one in zip(calls, calls_of_one, strict=True):
        if (len(call.inputs), len(call.output), len(one.output)) != (_ROWS_TRIED, _ROWS_TRIED, 1):
            refused |= {call.weight, call.bias}
    return {name for name in refused if name is not None}


def _agree(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-6, atol=1e-9 * max(1.0, float(expected.abs().max())))


class FunctionalTangent:
    """The Jacobian of the outputs of a block of rows at one theta, never made as a whole but for few rows.

    It is known in parts, one for each parameter: of layers' parameters from one pass back, see `_layer_calls`, and of
    others as an array, from the gradients of single rows. They are made when first asked for, and kept for the next
    product where the rows are few enough for one block.

    Parameters
    ----------
    network : FunctionalNetwork
        The module.
    theta : Tensor of shape (p,)
        Where the Jacobian is taken.
    X : Tensor of shape (n_rows, n_features)
        The rows.
    """

    def __init__(self, network: FunctionalNetwork, theta: Tensor, X: Tensor):
        self.network = network
        self.theta = theta.detach()
        self.X = X
        self._held: dict[str, Part] | None = None

    @property
    def n_pairs(self) -> int:
        """Outputs of all rows of the block."""
        return len(self.X) * self.network.n_outputs

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_pairs, k), for k directions in the parameters, (k, p)."""
        if self._takes_passes(len(directions)):
            with _FORWARD_LEVEL:
                return self._by_columns(lambda one: jvp(self._predict, (self.theta,), (one,))[1], directions).T
        product = directions.new_zeros((self.n_pairs, len(directions)))
        for rows, parts in self._blocks():
            for name, part in parts.items():
                product[rows] += part.jvp(directions[:, self.network.places[name]])
        return product

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, p), for k columns over the outputs, (n_pairs, k)."""
        if self._takes_passes(columns.shape[1]):
            pull_back = vjp(self._predict, self.theta)[1]
            return self._by_columns(lambda column: pull_back(column)[0], columns.T)
        product = columns.new_zeros((columns.shape[1], self.network.n_params))
        for rows, parts in self._blocks():
            for name, part in parts.items():
                product[:, self.network.places[name]] += part.vjp(columns[rows])
        return product

    def kernel(self, other: "FunctionalTangent", input_products: Tensor | None = None) -> Tensor:
        """J J'^T, (n_pairs, n_other_pairs); products of inputs are of no use here."""
        product = self.theta.new_zeros((self.n_pairs, other.n_pairs))
        for columns, there in other._blocks():
            for rows, here in self._blocks():
                for name in here.keys() & there.keys():
                    product[rows, columns] += kernel(here[name], there[name])
        return product

    def gradients(self) -> Tensor:
        """J itself, (n_pairs, p): for few rows only."""
        jacobian = self.theta.new_zeros((self.n_pairs, self.network.n_params))
        for rows, parts in self._blocks():
            for name, part in parts.items():
                jacobian[rows, self.network.places[name]] = part.dense()
        return jacobian

    def _blocks(self) -> Iterator[tuple[slice, dict[str, Part]]]:
        """Yield the parts of the Jacobian in blocks of rows, as slices of their outputs."""
        n_rows, o = len(self.X), self.network.n_outputs
        size = items_per_block(self._bytes_of(1), max(n_rows, 1), _FASTEST_BLOCK)
        if size >= n_rows:
            if self._held is None:
                self._held = self.network.jacobian_parts(self.theta, self.X)
            yield slice(0, n_rows * o), self._held
            return
        for first in range(0, n_rows, size):
            rows = slice(first, min(first + size, n_rows))
            yield pairs_of(rows, o), self.network.jacobian_parts(self.theta, self.X[rows])

    def _takes_passes(self, n_columns: int) -> bool:
        """Whether passes of the whole module, one a direction or column, are cheaper than gradients of single rows."""
        return bool(self.network.others) and self._held is None and n_columns <= _MOST_PASSES

    def _predict(self, theta: Tensor) -> Tensor:
        return self.network.forward(theta, self.X).flatten()

    def _by_columns(self, function: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
        size = items_per_block(self._bytes_of(len(self.X)), max(len(columns), 1), _FASTEST_BLOCK)
        return vmap(function, chunk_size=size)(columns)

    def _bytes_of(self, n_rows: int) -> float:
        return float(self.theta.element_size()) * n_rows * self.network.row_numbers
