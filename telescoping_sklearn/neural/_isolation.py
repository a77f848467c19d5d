"""What torch keeps beside its tensors, held apart from nets and from whoever asks about them.

torch has modes that belong to a thread (no gradients, inference, autocast, a default device) and numbers that belong to
the process (the default dtype, the global generators, how many threads an operation takes). Neither may change a net,
and no net may change them:

- `isolated` enters plain modes. Everything that a caller can start is wrapped in it by `isolates`; the body of a
  generator is, from one item to the next, so that modes are the caller's own between them.
- Nets of ours name the dtype of every tensor and draw from generators of their own. What makes a user's module knows
  neither and is called under `seeded`, one at a time.
- `threads` sets the number of threads where it is called and nowhere else.
- How far products of float32 may be rounded belongs to the process and has no mode of a thread. `isolated` lifts it to
  full precision, for everybody, until the last thread leaves.
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
    """How far the operations of a backend may round float32: what reads it, what sets it, and what rounds nothing."""

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
_ROUNDED: dict[_Precision, str] = {}  # what was lifted to full precision, and what it was


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
        torch.get_num_threads()  # a thread that has no number yet takes the process's, while nobody is changing it
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

    Parameters
    ----------
    function : callable
        The function. A generator must leave every context that it enters before it yields.

    Returns
    -------
    callable
        The same function, isolated.
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
    """Decorate a class whose public methods run in `isolated`; properties and inherited methods stay as they are.

    Parameters
    ----------
    owner : type
        The class.

    Returns
    -------
    type
        The same class.
    """
    for name, member in list(vars(owner).items()):
        if inspect.isfunction(member) and not name.startswith("_"):
            setattr(owner, name, isolates(member))
    return owner


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators, of accelerators too, and put them and the default dtype back afterwards.

    They belong to the process: threads wait for each other here.

    Parameters
    ----------
    seed : int
        The seed. The default dtype is float32 inside.
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
    """Let an operation that is called from this thread use that many threads, and put torch's own number back.

    Parameters
    ----------
    number : int
        Threads of an operation.
    """
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
    """Set the threads of operations that this thread calls, and of no other's.

    torch keeps the number that was last set for threads that have not used it yet. A thread that has not can read that,
    and put it back without a change to this one.
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
