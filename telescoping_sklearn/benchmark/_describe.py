"""Canonical JSON of the settings: hashed as the key of a task, stored beside its results, and shown in reports."""

import hashlib
import json
import math
from typing import Any

import numpy as np
import pandas as pd


def describe(value: Any) -> Any:
    """Convert a setting to JSON types, the same in every process.

    A setting is a number, text, None, array, table, function, class, estimator, scipy distribution, or a container of
    these. A float that is not finite becomes text. TypeError is raised for a value that has no representation that is
    the same in every process.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> describe({"alpha": np.float64(0.5), "model": Ridge(alpha=2.0)})["model"]["params"]["alpha"]
    2.0
    """
    if isinstance(value, np.generic):  # first: some are Python floats too, with another repr
        return describe(value.item())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((describe(item) for item in value), key=to_json)
    if isinstance(value, np.ndarray):
        return {"array": list(value.shape), "sha256": hash_of(describe(value.tolist()))}
    if isinstance(value, pd.DataFrame | pd.Series):
        return {"table": list(value.shape), "sha256": fingerprint(pd.DataFrame(value))}
    return _describe_object(value)


def _describe_object(value: Any) -> Any:
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        name = f"{value.__module__}.{value.__qualname__}"
        if "<" in name:
            raise TypeError(f"{name} has no name that another process finds; give a function of a module")
        return name
    path = f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "get_params") and not isinstance(value, type):
        return {"estimator": path, "params": describe(value.get_params(deep=False))}
    if hasattr(value, "rvs") and hasattr(value, "dist"):
        return {"distribution": value.dist.name, "args": describe(value.args), "kwds": describe(value.kwds)}
    text = repr(value)
    if " at 0x" in text:
        raise TypeError(f"{text} cannot be written down, so its results could not be told from others'")
    return {"object": path, "repr": text}


def to_json(value: Any) -> str:
    """Write JSON types as text, in one way only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_of(value: Any) -> str:
    """Hash JSON types: SHA-256 of their one text."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def fingerprint(table: pd.DataFrame) -> str:
    """Hash a table's names, kinds and values, in their order; the row labels do not count."""
    digest = hashlib.sha256()
    for name in table:
        column = table[name]
        digest.update(to_json([str(name), str(column.dtype.name), len(column)]).encode())
        digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
    return digest.hexdigest()
