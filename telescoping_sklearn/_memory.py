"""How much may be held at once: blocks that fit scikit-learn's ``working_memory``, and refusals in time.

Intermediate arrays are worked in blocks, so they never need refusing. A result that the user asked for cannot be
split: if it would not fit in the machine's memory it is refused before anything is computed.
"""

import math
import os

from sklearn import get_config


def working_memory_bytes() -> int:
    """Bytes that scikit-learn's ``working_memory`` setting (in MiB) allows for temporary arrays."""
    return int(get_config()["working_memory"] * 2**20)


def items_per_block(bytes_per_item: float, n_items: int, most_bytes: float = math.inf) -> int:
    """Count the items, at least one and at most ``n_items``, whose temporaries fit ``working_memory``.

    Parameters
    ----------
    bytes_per_item : float
        Size of the temporaries of one item.
    n_items : int
        Number of items there are.
    most_bytes : float, default=math.inf
        A smaller bound, where larger blocks would only be slower.

    Returns
    -------
    int
        Items of a block.
    """
    fitting = int(min(working_memory_bytes(), most_bytes) // max(bytes_per_item, 1))
    return max(1, min(n_items, fitting))


def machine_memory_bytes() -> int:
    """Physical memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def refuse_if_too_large(n_bytes: float, what: str, instead: str) -> None:
    """Raise MemoryError if ``n_bytes`` exceed the machine's memory, naming the size and the way out.

    Parameters
    ----------
    n_bytes : float
        Size of the result that is about to be made.
    what : str
        The result, as the subject of the message.
    instead : str
        What to do instead, as a full sentence.

    Raises
    ------
    MemoryError
        If the result would not fit.
    """
    available = machine_memory_bytes()
    if n_bytes > available:
        raise MemoryError(
            f"{what} would take {n_bytes / 2**30:.1f} GiB and this machine has {available / 2**30:.1f} GiB. {instead}"
        )
