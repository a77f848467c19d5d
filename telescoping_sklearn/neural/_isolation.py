"""Keep torch's modes and global settings from changing a net, and a net from changing them.

torch has modes that belong to a thread (no gradients, inference, autocast, a default device) and settings that belong
to the process (the default dtype, the global generators, the number of threads of an operation).

- `isolated` enters plain modes. Every public function is wrapped in it by `isolates`; a generator leaves it whenever it
  yields, so that the caller's own modes hold between two items.
- Our nets name the dtype of every tensor and draw from generators of their own. A user's module does neither, so it is
  made under `seeded`, one at a time.
- `threads` sets the number of threads of the thread that calls it, and of no other.
- How far products of float32 may be rounded is a setting of the process. `isolated` raises it to full precision, for
  all threads, until the last one leaves.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch

_AUTOCAST = ("cpu", "cuda", "mps", "xpu", "hpu")
_GENERATORS = threading.RLock()  # what makes a module may fit another net
_THREADS = threading.Lock()
_PRECISION = threading.Lock()


class _Precision(NamedTuple):
    """The float32 precision of a backend: its getter, its setter, and the values that round nothing."""

    read: Callable[[], str]
    set: Callable[[str], None]
    full: tuple[str, ...]


if hasattr(torch.backends.mkldnn, "matmul"):
    _PRECISIONS = [
        _Precision(partial(getattr, part, "fp32_precision"), partial(setattr, part, "fp32_precision"), ("ieee", "none"))
        for part in (
            torch.backends.cuda.matmul,
            *(getattr(torch.backends.mkldnn, operation) for operation in ("matmul", "conv", "rnn")),
        )
    ]
else:  # torch before 2.9
    _PRECISIONS = [_Precision(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, ("highest",))]

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


_INSIDE: set[object] = set()
_ROUNDED: dict[_Precision, str] = {}  # settings raised to full precision, with their values before


@contextmanager
def _full_precision() -> Iterator[None]:
    """Full precision from when the first thread enters to when the last one leaves."""
    token = object()
    try:
        with _PRECISION:
            _INSIDE.add(token)
            for precision in _PRECISIONS:
                if (value := precision.read()) not in precision.full:
                    _ROUNDED[precision] = value
                    precision.set(precision.full[0])
        yield
    finally:
        with _PRECISION:
            _INSIDE.discard(token)
            while _ROUNDED and not _INSIDE:
                precision, value = _ROUNDED.popitem()
                if precision.read() in precision.full:  # else somebody has set it meanwhile
                    precision.set(value)


@contextmanager
def isolated() -> Iterator[None]:
    """Enter the modes that torch starts with; the caller's are back afterwards."""
    with _THREADS:
        torch.get_num_threads()  # a thread that has no number yet takes the process's, while no other thread changes it
    with ExitStack() as modes:
        # Default devices, like every mode that looks at calls, are __torch_function__; torch has no other way out.
        modes.enter_context(_full_precision())
        modes.enter_context(torch._C.DisableTorchFunction())
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        yield


def isolates(function: Function) -> Function:
    """Decorate a function or generator function whose body runs in `isolated`.

    A generator must leave every context that it enters before it yields.
    """
    if not inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with isolated():
                return function(*args, **kwargs)

        return cast(Function, call)

    @functools.wraps(function)
    def items(*args: Any, **kwargs: Any) -> Iterator[Any]:
        body = function(*args, **kwargs)
        try:
            while True:
                with isolated():
                    try:
                        item = next(body)
                    except StopIteration:
                        return
                yield item
        finally:
            body.close()

    return cast(Function, items)


def isolates_public_methods(owner: Class) -> Class:
    """Decorate a class whose public methods run in `isolated`; properties and inherited methods stay as they are."""
    for name, member in list(vars(owner).items()):
        if inspect.isfunction(member) and not name.startswith("_"):
            setattr(owner, name, isolates(member))
    return owner


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators, of accelerators too, and restore them and the default dtype afterwards.

    The default dtype is float32 inside. All of this belongs to the process, so threads wait for each other here.
    """
    with _GENERATORS, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Set the number of threads of operations that this thread calls, and restore torch's own number afterwards."""
    with _THREADS:
        before = torch.get_num_threads()
    if before == number:
        yield
        return
    _set_threads_here(number)
    try:
        yield
    finally:
        _set_threads_here(before)


def _set_threads_here(number: int) -> None:
    """Set the number of threads of operations that this thread calls, and of no other's.

    `torch.set_num_threads` also changes the number that other threads start with. A new thread reads that number
    before, and sets it again after.
    """
    with _THREADS:
        kept = _in_new_thread(torch.get_num_threads)
        torch.set_num_threads(number)
        _in_new_thread(lambda: torch.set_num_threads(kept))


def _in_new_thread(function: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]
