"""Memory limits: block sizes that fit scikit-learn's ``working_memory``, and refusal of results that are too large.

Intermediate arrays are computed in blocks. A result that the user asked for cannot be split: if it would not fit in the
memory that is available, on the machine and in the process's container, it is refused before anything is computed.
"""

import ctypes
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sklearn import get_config

#: Root of the files of the Linux kernel; tests set another.
_ROOT = Path("/")
#: No limit is "max" in one version of control groups, and a number near 2**63 in the other.
_NO_LIMIT = 2**60
#: By version: mount point, files of limit and usage, and the caches in `memory.stat` that count as used and are dropped
#: when memory is short.
_CONTROL_GROUPS = {
    "v1": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "v2": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}


def working_memory_bytes() -> int:
    """Bytes that scikit-learn's ``working_memory`` setting (in MiB) allows for temporary arrays."""
    return int(get_config()["working_memory"] * 2**20)


def items_per_block(bytes_per_item: float, n_items: int, most_bytes: float = math.inf) -> int:
    """Count the items, from 1 to ``n_items``, whose temporaries fit ``working_memory``, or ``most_bytes`` if less.

    ``most_bytes`` is for places where larger blocks would only be slower.
    """
    fitting = int(min(working_memory_bytes(), most_bytes) // max(bytes_per_item, 1))
    return max(1, min(n_items, fitting))


class Memory(NamedTuple):
    """Memory that may still be taken."""

    n_bytes: float
    reason: str  # what limits it, as a clause for a message


def available_memory() -> Memory:
    """Find how much memory may still be taken: free memory of the machine, or what a container's limit leaves if less.

    It is infinite where the platform does not say.
    """
    return min([_of_machine(), *_of_control_groups()], key=lambda memory: memory.n_bytes)


def _of_machine() -> Memory:
    """Free memory, caches that can be dropped included; or all of it, where only that is known."""
    fields = dict(re.findall(r"^(\w+):\s*(\d+) kB$", _text(_ROOT / "proc/meminfo"), flags=re.MULTILINE))
    if "MemAvailable" in fields:
        total = int(fields["MemTotal"]) * 1024
        return Memory(int(fields["MemAvailable"]) * 1024, f"free on this machine, which has {_gib(total)}")
    if sys.platform == "win32":
        return _of_windows()
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return Memory(math.inf, "unknown on this platform")
    return Memory(total, "all that this machine has")


def _of_windows() -> Memory:
    """Free physical memory, from GlobalMemoryStatusEx."""
    status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: length and load, total, available, and five more
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(status):  # type: ignore[attr-defined]
        return Memory(math.inf, "unknown on this platform")
    return Memory(status[2], f"free on this machine, which has {_gib(status[1])}")


def _of_control_groups() -> Iterator[Memory]:
    """Yield the memory that the limits of control groups leave: those of this process and those that contain them."""
    for line in _text(_ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        kind = "v1" if "memory" in controllers.split(",") else "v2" if not controllers else None
        if kind is None:
            continue
        mount, limit_file, usage_file, cache = _CONTROL_GROUPS[kind]
        root = _ROOT / mount
        # Inside a container the path may be the host's, which is not there: its root then has the container's limit.
        group = root / path.strip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            limit = _text(folder / limit_file).strip()
            if not limit.isdecimal() or int(limit) > _NO_LIMIT:
                continue
            dropped = re.search(rf"^{cache} (\d+)$", _text(folder / "memory.stat"), flags=re.MULTILINE)
            used = int(_text(folder / usage_file) or 0) - int(dropped[1] if dropped else 0)
            reason = f"left of this container's limit of {_gib(int(limit))} ({limit_file})"
            yield Memory(max(int(limit) - max(used, 0), 0), reason)


def _text(file: Path) -> str:
    """Contents of a small file, empty where it cannot be read."""
    try:
        return file.read_text()
    except OSError:
        return ""


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


def refuse_if_too_large(n_bytes: float, what: str, instead: str) -> None:
    """Raise MemoryError if ``n_bytes`` exceed the memory that is available.

    ``what`` is the subject of the message, and ``instead`` the sentence that says what to do instead.
    """
    available = available_memory()
    if n_bytes > available.n_bytes:
        raise MemoryError(
            f"{what} would take {_gib(n_bytes)}, and {_gib(available.n_bytes)} are available: {available.reason}. "
            f"{instead}"
        )
