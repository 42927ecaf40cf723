"""What `SECURITY.md` promises of files: nothing is pickled, archives stay in their folder."""

import ast
import pathlib

import numpy as np
import pytest

from internal_rl.errors import StorageError
from internal_rl.training.stage_directory import StageDirectory
from internal_rl.training.stage_results import load_artifacts

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = ("internal_rl", "experiments", "configs", "benchmarks", "examples")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def test_nothing_is_pickled():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "name")]
            names += [getattr(node, "module", None) or ""]
            if isinstance(node, ast.Import | ast.ImportFrom):
                found += [(path, name) for name in names if name.split(".")[0] in PICKLING]
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found += [(path, "allow_pickle")] * (ast.unparse(node.value) != "False")
    assert FILES and not found


def test_pickled_objects_in_artifacts_are_refused_and_not_run(tmp_path):
    directory = StageDirectory(tmp_path, "toy", 0)
    directory.path.mkdir(parents=True)
    mark = tmp_path / "ran"

    class Harmful:
        def __reduce__(self):
            return mark.write_text, ("x",)

    np.savez(directory.path / "artifacts.npz", a=np.array([Harmful()], dtype=object))
    mark.unlink(missing_ok=True)
    with pytest.raises(StorageError, match="artifacts.npz: damaged"):
        load_artifacts(tmp_path, "toy", 0)
    assert not mark.exists()
