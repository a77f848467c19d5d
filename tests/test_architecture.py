"""Which module may import which, what an import loads, and that docstrings agree with signatures."""

import ast
import dataclasses
import importlib
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString

import telescoping_sklearn

ROOT = Path(telescoping_sklearn.__file__).parent
PACKAGE = "telescoping_sklearn"

# A module is named by its first part below the package; "" is the package itself.
ALLOWED = {
    "_memory": set(),
    "_numbers": set(),
    "_refit": set(),
    "_telescope": {"_memory"},
    "_unwrap": set(),
    "_estimates": {"_memory", "_telescope"},
    "_answers": {"_estimates", "_memory", "_telescope"},
    "losses": {"_memory"},
    "irregularity": {"irregularity"},
    "datasets": {"_memory", "datasets"},
    "base": {"_answers", "_estimates", "_refit", "_telescope"},
    "metrics": {"base", "_telescope", "_unwrap"},
    "fitted": {"base", "_refit", "_unwrap", "boosting"},
    "displays": {"metrics", "_telescope", "displays"},
    "boosting": {"_answers", "_estimates", "_refit", "base", "_telescope", "losses", "_memory", "_numbers", "boosting"},
    "neural": {"_answers", "_refit", "base", "_telescope", "losses", "_memory", "_numbers", "neural"},
    "benchmark": {"", "benchmark", "metrics", "datasets", "displays"},  # public names only
    "attribution": {"", "attribution", "benchmark", "boosting", "datasets", "neural"},
    "__main__": {"", "attribution", "benchmark"},
}
ONLY_IN = {
    "lightgbm": {"boosting"},
    "xgboost": {"boosting"},
    "catboost": {"boosting"},
    "torch": {"neural"},
    "skorch": {"neural"},
    "matplotlib": {"displays", "benchmark"},
}


def module_files():
    """Every module of the package, with the first part of its name."""
    files = sorted(ROOT.rglob("*.py"))
    return [(path, path.relative_to(ROOT).with_suffix("").parts[0].replace("__init__", "")) for path in files]


FILES = module_files()
IDS = [str(path.relative_to(ROOT)) for path, _ in FILES]


def is_module(name):
    return (ROOT / f"{name}.py").exists() or (ROOT / name).is_dir()


def imported(tree):
    """Dotted names that a tree imports, submodules in ``from package import submodule`` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            for alias in node.names:
                submodule = node.module == PACKAGE and is_module(alias.name)
                yield f"{PACKAGE}.{alias.name}" if submodule else node.module


def at_module_level(node):
    """Statements that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_module_level(child)


def parse(path):
    return ast.parse(path.read_text())


def test_the_walk_finds_the_modules_that_are_there():
    groups = {group for _, group in FILES}
    assert {"", "base", "_telescope", "_memory", "losses", "irregularity", "datasets", "boosting", "neural"} <= groups
    assert len(FILES) >= 19
    arrows = {name for path, _ in FILES for name in imported(parse(path))}
    assert {"lightgbm", "torch", "skorch", "telescoping_sklearn._telescope", "telescoping_sklearn.base"} <= arrows


def test_every_module_has_a_rule():
    assert {group for _, group in FILES} - {""} <= set(ALLOWED)


@pytest.mark.parametrize(
    ("path", "group"), [item for item in FILES if item[1]], ids=[i for i in IDS if i != "__init__.py"]
)
def test_arrows_point_down_only(path, group):
    ours = {name for name in imported(parse(path)) if name.split(".")[0] == PACKAGE}
    reached = {".".join(name.split(".")[1:2]) for name in ours}
    assert reached <= ALLOWED[group]


@pytest.mark.parametrize(("path", "group"), FILES, ids=IDS)
def test_heavy_libraries_stay_where_they_belong(path, group):
    libraries = {name.split(".")[0] for name in imported(parse(path))}
    assert not {library for library in libraries & set(ONLY_IN) if group not in ONLY_IN[library]}
    assert "lightgbm" not in libraries or path.is_relative_to(ROOT / "boosting" / "libraries" / "lightgbm")


@pytest.mark.parametrize(("path", "group"), FILES, ids=IDS)
def test_matplotlib_is_imported_inside_functions_only(path, group):
    statements = ast.Module(body=list(at_module_level(parse(path))), type_ignores=[])
    outside = [node for node in statements.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name for node in outside for name in imported(ast.Module(body=[node], type_ignores=[]))]
    assert not [name for name in names if name.split(".")[0] == "matplotlib"]


# -- what an import loads ----------------------------------------------------------------------------------------------

SLOW_TO_IMPORT = {"torch", "lightgbm", "xgboost", "catboost", "skorch", "matplotlib", "dask", "distributed"}


def modules_that_import_quickly():
    """Dotted names of all modules but those of nets, tree libraries, LightGBM's trees and a Dask cluster."""
    slow = {ROOT / "boosting" / "_estimators.py", ROOT / "benchmark" / "_cluster.py"}
    readers = [ROOT / "boosting" / "libraries" / name for name in ("lightgbm", "xgboost", "catboost")]
    found = [path for path, group in FILES if group != "neural" and path not in slow]
    quick = [path for path in found if not any(path.is_relative_to(reader) for reader in readers)]
    names = [".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]) for path in quick]
    return sorted(name.removesuffix(".__init__") for name in names)


def run_python(code):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_package_alone_loads_no_library():
    run_python(f"import sys, {PACKAGE}; assert not {{'numpy', 'pandas', 'sklearn'}} & set(sys.modules)")


def test_slow_libraries_are_not_loaded_before_they_are_used():
    modules = modules_that_import_quickly()
    names = ("irregularity", "metrics", "benchmark", "__main__", "fitted", "boosting", "boosting._ensemble")
    assert {PACKAGE, *(f"{PACKAGE}.{name}" for name in names)} <= {*modules}
    run_python(
        "import sys\n"
        "from importlib import import_module\n"
        f"for name in {modules}:\n"
        "    import_module(name)\n"
        f"    loaded = {SLOW_TO_IMPORT} & set(sys.modules)\n"
        "    assert not loaded, (name, loaded)\n"
    )


def test_telescopes_of_another_library_load_no_tree_library():
    """Each module in a process of its own: one that was loaded before must not hide what another loads."""
    for name in ("boosting._ensemble", "boosting._checked", "boosting._leaf_telescope", "boosting._stopping", "fitted"):
        run_python(
            f"import sys, {PACKAGE}.{name}; loaded = {SLOW_TO_IMPORT} & set(sys.modules); assert not loaded, loaded"
        )
    run_python(
        "import sys\n"
        "import numpy as np\n"
        "from sklearn.ensemble import GradientBoostingRegressor\n"
        f"from {PACKAGE} import telescope\n"
        "X, y = np.arange(40.0).reshape(20, 2), np.arange(20.0)\n"
        "explained = telescope(GradientBoostingRegressor(n_estimators=3).fit(X, y), X, y)\n"
        "explained.stopping_curve(criteria=['gcv'])\n"
        f"loaded = {SLOW_TO_IMPORT} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )


def test_the_package_of_trees_knows_its_names_only():
    boosting = telescoping_sklearn.boosting
    assert "TelescopingGBTRegressor" in dir(boosting)
    assert boosting.TelescopingGBTRegressor is telescoping_sklearn.TelescopingGBTRegressor
    with pytest.raises(AttributeError, match="no attribute 'TelescopingForest'"):
        getattr(boosting, "TelescopingForest")  # noqa: B009


@pytest.mark.parametrize("name", telescoping_sklearn.__all__)
def test_public_names_are_imported_when_first_used(name, monkeypatch):
    monkeypatch.delitem(vars(telescoping_sklearn), name, raising=False)
    assert name in dir(telescoping_sklearn)
    value = getattr(telescoping_sklearn, name)
    assert value.__name__ == name
    assert vars(telescoping_sklearn)[name] is value
    assert pickle.loads(f"c{PACKAGE}\n{name}\n.".encode()) is value


def test_type_checkers_read_the_names_that_are_imported():
    block = next(node for node in ast.walk(parse(ROOT / "__init__.py")) if isinstance(node, ast.If))
    read = {alias.name: node.module.removeprefix(f"{PACKAGE}.") for node in block.body for alias in node.names}
    assert read == telescoping_sklearn._MODULE_OF
    assert set(read) == set(telescoping_sklearn.__all__)


def test_public_modules_are_attributes_of_the_package():
    public = {group for _, group in FILES if group and not group.startswith("_")}
    assert set(telescoping_sklearn._SUBMODULES) == public <= set(dir(telescoping_sklearn))
    for name in public:
        assert telescoping_sklearn.__getattr__(name) is importlib.import_module(f"{PACKAGE}.{name}")


def test_everything_listed_can_be_used():
    members = dict(inspect.getmembers(telescoping_sklearn))
    assert set(members) >= {*telescoping_sklearn.__all__, *telescoping_sklearn._SUBMODULES}
    namespace = {}
    exec(f"from {PACKAGE} import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(telescoping_sklearn.__all__)


def test_unknown_names_are_missing_as_in_any_module():
    with pytest.raises(AttributeError, match="has no attribute 'TelescopingForest'"):
        telescoping_sklearn.TelescopingForest  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from {PACKAGE} import TelescopingForest")


# -- docstrings --------------------------------------------------------------------------------------------------------

PUBLIC_MODULES = [PACKAGE] + [
    f"{PACKAGE}.{name}"
    for name in ("datasets", "metrics", "displays", "benchmark", "attribution", "fitted")
    if is_module(name)
]


def public_objects():
    """Every name in ``__all__``, with its object."""
    modules = [importlib.import_module(name) for name in PUBLIC_MODULES]
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in getattr(module, "__all__", ())
    }


def own_members(klass):
    """Public functions and properties of a class that are written in this package."""
    ours = [base for base in klass.__mro__ if base.__module__.split(".")[0] == PACKAGE]
    members = {name: value for base in reversed(ours) for name, value in vars(base).items() if not name.startswith("_")}
    functions = {name: value for name, value in members.items() if inspect.isfunction(value)}
    return functions, {name: value for name, value in members.items() if isinstance(value, property)}


def documented_callables():
    """Functions, classes and methods whose parameters a reader sees."""
    for name, value in public_objects().items():
        if not callable(value):
            continue
        yield name, value
        if inspect.isclass(value):
            yield from ((f"{name}.{method}", function) for method, function in own_members(value)[0].items())


CALLABLES = dict(documented_callables())
PROPERTIES = {
    f"{name}.{attribute}": value
    for name, klass in public_objects().items()
    if inspect.isclass(klass)
    for attribute, value in own_members(klass)[1].items()
}


def signature_parameters(function):
    """Parameters by name, without self; none where a class has no constructor of its own."""
    if inspect.isclass(function):
        own = any("__init__" in vars(base) for base in function.__mro__ if base.__module__.split(".")[0] == PACKAGE)
        return dict(inspect.signature(function).parameters) if own else {}
    return {
        name: value for name, value in inspect.signature(function).parameters.items() if name not in ("self", "cls")
    }


def documented_parameters(function):
    """Type texts by parameter name."""
    parsed = NumpyDocString(inspect.getdoc(function))["Parameters"]
    return {name.strip().lstrip("*"): entry.type for entry in parsed for name in entry.name.split(",")}


def test_public_names_were_found():
    assert len(telescoping_sklearn.__all__) == len(set(telescoping_sklearn.__all__)) >= 12
    assert f"{PACKAGE}.TelescopingMLPRegressor.kernel_weights" in CALLABLES
    assert f"{PACKAGE}.TelescopingGBTRegressor.kernel_weights_" in PROPERTIES


@pytest.mark.parametrize("name", sorted(CALLABLES | PROPERTIES | public_objects()))
def test_public_names_have_docstrings(name):
    documented = (public_objects() | CALLABLES | PROPERTIES)[name]
    assert len(inspect.getdoc(documented) or "") > 10


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_docstrings_list_the_parameters_of_the_signature_in_order(name):
    assert list(documented_parameters(CALLABLES[name])) == list(signature_parameters(CALLABLES[name]))


def default_of(function, parameter):
    """Default of a parameter; that of a dataclass's mutable field is what its factory makes."""
    fields = {field.name: field for field in dataclasses.fields(function)} if dataclasses.is_dataclass(function) else {}
    factory = getattr(fields.get(parameter.name), "default_factory", dataclasses.MISSING)
    return parameter.default if factory is dataclasses.MISSING else factory()


def as_value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_docstrings_state_the_defaults_of_the_signature(name):
    documented = documented_parameters(CALLABLES[name])
    for parameter in signature_parameters(CALLABLES[name]).values():
        stated = re.search(r"default=(.+)$", documented[parameter.name])
        if parameter.default is inspect.Parameter.empty:
            assert stated is None, parameter.name
        else:
            assert stated is not None, parameter.name
            default = default_of(CALLABLES[name], parameter)
            assert as_value(stated[1]) == default or stated[1] == repr(default), parameter.name
