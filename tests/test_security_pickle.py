"""Nothing that comes from a cache, a database, a file or the network is run: no pickle, no eval, no shell."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from segkit.cache import Cache, name_of
from segkit.settings import load

PACKAGE = Path(__file__).parent.parent / "segkit"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "shared" not in path.relative_to(PACKAGE).parts)
#: Modules that run what they read.
RUNNING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "code", "codeop", "imp"}
#: Calls that do, by their last names; the value is the argument that makes them harmless, with what it must be.
CALLS: dict[str, tuple[str, bool] | None] = {
    "eval": None,
    "exec": None,
    "compile": None,
    "read_pickle": None,
    "unsafe_load": None,
    "full_load": None,
    "system": None,
    "popen": None,
    "load_module": None,
}
#: Owner and name of calls that need an argument.
CAREFUL = {("np", "load"): ("allow_pickle", False), ("numpy", "load"): ("allow_pickle", False), ("torch", "load"): ("weights_only", True)}
CAREFUL |= {("np", "save"): ("allow_pickle", False)}
#: What looks like one of these and is another: the methods of networks and expressions.
METHODS = {"eval", "compile"}


def faults(source: str) -> Iterator[str]:
    """Say what in a module would run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {each.name}" for each in node.names if each.name.split(".")[0] in RUNNING)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in RUNNING:
            yield f"from {node.module}"
        elif isinstance(node, ast.Call):
            yield from faults_of_call(node)


def faults_of_call(node: ast.Call) -> Iterator[str]:
    function, given = node.func, {each.arg: getattr(each.value, "value", ...) for each in node.keywords}
    name = function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    owner = function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
    if name in CALLS and not (name in METHODS and isinstance(function, ast.Attribute)):
        yield f"{name}()"
    if (owner, name) in CAREFUL:
        argument, wanted = CAREFUL[owner, name]
        if given.get(argument) is not wanted:
            yield f"{owner}.{name}() without {argument}={wanted}"
    if given.get("shell", False) is not False or given.get("allow_pickle", False) is not False:
        yield f"{name}() with {given}"


def test_no_module_runs_what_it_reads() -> None:
    found = {str(path.relative_to(PACKAGE)): told for path in MODULES if (told := list(faults(path.read_text())))}
    assert len(MODULES) > 150
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "import numpy as np\nnp.load(file)",
        "np.load(file, allow_pickle=True)",
        "torch.load(path)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "pandas.read_pickle(path)",
    ],
)
def test_the_scan_would_find_it(source: str) -> None:
    assert list(faults(source))


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_a_pickle_in_the_cache_is_thrown_away(tmp_path: Path, valkey_url: str) -> None:
    mark, key = tmp_path / "unpickled", (1, "images")
    pickle.loads(pickle.dumps(Touch(mark))).close()
    assert mark.exists(), "it would"
    mark.unlink()
    cache = Cache(load(home=str(tmp_path), redis_url=valkey_url))
    with redis.Redis.from_url(valkey_url) as other:
        other.set(name_of("images", key), pickle.dumps(Touch(mark)))
        assert cache.read("images", key, lambda: b"[]") == b"[]"
        assert cache.statistics().garbage == 1
        kept = other.get(name_of("images", key))
        assert isinstance(kept, bytes)
        with pytest.raises(pickle.UnpicklingError):
            pickle.loads(kept)
    cache.close()
    assert not mark.exists()


def test_numpy_loads_no_objects(tmp_path: Path) -> None:
    """What the scan asks of each call does what it is asked for."""
    mark, path = tmp_path / "unpickled", tmp_path / "a.npy"
    np.save(path, np.array([Touch(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(path, allow_pickle=False)
    assert not mark.exists()
