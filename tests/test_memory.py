"""What memory is available, read from files of the kernel that lie in a folder of the test, and what is refused."""

import os
import sys

import pytest

from telescoping_sklearn import _memory

GIB = 2**30
MEMINFO = (
    "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nHugePages_Total:       0\n"
)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A function that writes files below what stands for the root folder, of a machine with 8 of 16 GiB free."""

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(_memory, "_ROOT", tmp_path)
    write({"proc/meminfo": MEMINFO})
    return write


def second(group, limit, usage, inactive=0):
    """Files of a control group, version 2."""
    folder = f"sys/fs/cgroup/{group}".rstrip("/")
    stat = f"anon 5\ninactive_file {inactive}\nactive_file 7\n"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{usage}\n",
        f"{folder}/memory.stat": stat,
    }


def first(group, limit, usage, inactive=0):
    """Files of a control group, version 1."""
    folder = f"sys/fs/cgroup/memory/{group}".rstrip("/")
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"{folder}/memory.stat": f"inactive_file 3\ntotal_inactive_file {inactive}\n",
    }


SECOND, FIRST = "0::{}\n", "12:cpuset:/\n4:hugetlb,memory:{}\n0::/\n"


@pytest.mark.parametrize(
    ("membership", "groups", "n_bytes", "reason"),
    [
        (None, [], 8 * GIB, "free on this machine, which has 16.0 GiB"),
        (SECOND.format("/"), [], 8 * GIB, "free on this machine"),
        (SECOND.format("/"), [second("", 4 * GIB, 3 * GIB)], GIB, r"limit of 4.0 GiB \(memory.max\)"),
        (SECOND.format("/"), [second("", 4 * GIB, 3 * GIB, inactive=GIB)], 2 * GIB, "limit of 4.0 GiB"),
        (SECOND.format("/"), [second("", 4 * GIB, 5 * GIB)], 0, "limit of 4.0 GiB"),
        (SECOND.format("/"), [second("", 64 * GIB, GIB)], 8 * GIB, "free on this machine"),
        (SECOND.format("/a/b"), [second("a/b", "max", GIB), second("a", 2 * GIB, GIB)], GIB, "limit of 2.0 GiB"),
        (SECOND.format("/a/b"), [second("a/b", 3 * GIB, GIB), second("a", 9 * GIB, GIB)], 2 * GIB, "limit of 3.0 GiB"),
        (SECOND.format("/a/b"), [second("a/c", GIB, GIB)], 8 * GIB, "free on this machine"),
        (SECOND.format("/docker/f00"), [second("", 2 * GIB, GIB)], GIB, "limit of 2.0 GiB"),
        (FIRST.format("/"), [first("", 4 * GIB, 3 * GIB)], GIB, r"limit of 4.0 GiB \(memory.limit_in_bytes\)"),
        (FIRST.format("/a"), [first("a", 4 * GIB, 3 * GIB, inactive=GIB)], 2 * GIB, "limit of 4.0 GiB"),
        (FIRST.format("/a/b"), [first("a/b", 2**63 - 4096, GIB), first("a", 2 * GIB, GIB)], GIB, "limit of 2.0 GiB"),
        (FIRST.format("/docker/f00"), [first("", 2 * GIB, GIB)], GIB, "limit of 2.0 GiB"),
        (FIRST.format("/"), [first("", 4 * GIB, 3 * GIB), second("", "max", GIB)], GIB, "limit of 4.0 GiB"),
    ],
)
def test_the_least_of_the_machine_and_every_control_group_is_available(kernel, membership, groups, n_bytes, reason):
    if membership is not None:
        kernel({"proc/self/cgroup": membership})
    for group in groups:
        kernel(group)
    memory = _memory.available_memory()
    assert memory.n_bytes == n_bytes
    with pytest.raises(MemoryError, match=rf"^This would take 9\.0 GiB, and .* GiB are available: .*{reason}.*\. Do"):
        _memory.refuse_if_too_large(9 * GIB, "This", "Do that.")
    _memory.refuse_if_too_large(n_bytes, "This", "Do that.")


def test_refusals_name_sizes_the_reason_and_the_way_out(kernel):
    kernel({"proc/self/cgroup": "0::/\n", **second("", 4 * GIB, 2 * GIB)})
    with pytest.raises(MemoryError) as refusal:
        _memory.refuse_if_too_large(3 * GIB, "This", "Do that.")
    assert str(refusal.value) == (
        "This would take 3.0 GiB, and 2.0 GiB are available: left of this container's limit of 4.0 GiB (memory.max). "
        "Do that."
    )


@pytest.mark.parametrize("says", ["all that this machine has", "unknown on this platform"])
def test_platforms_without_the_files_say_what_they_know(tmp_path, monkeypatch, says):
    monkeypatch.setattr(_memory, "_ROOT", tmp_path)
    if says.startswith("unknown"):
        monkeypatch.delattr(os, "sysconf")  # as on Windows
        assert _memory.available_memory() == (float("inf"), says)
    else:
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
        assert _memory.available_memory() == (4096000, says)


@pytest.mark.parametrize("succeeds", [True, False])
def test_windows_is_asked_for_free_memory(tmp_path, monkeypatch, succeeds):
    class Windows:
        class kernel32:
            @staticmethod
            def GlobalMemoryStatusEx(status):
                assert bytes(status)[:8] == b"\x40\0\0\0\0\0\0\0"
                assert len(bytes(status)) == 64
                status[1], status[2] = 16 * GIB, 5 * GIB
                return int(succeeds)

    monkeypatch.setattr(_memory, "_ROOT", tmp_path)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(_memory.ctypes, "windll", Windows, raising=False)
    n_bytes, reason = _memory.available_memory()
    assert n_bytes == (5 * GIB if succeeds else float("inf"))
    assert ("16.0 GiB" in reason) == succeeds


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_here_less_is_available_than_there_is():
    with open("/proc/meminfo") as lines:
        kib = int(next(line for line in lines if line.startswith("MemTotal")).split()[1])
    assert 0 < _memory.available_memory().n_bytes < kib * 1024
