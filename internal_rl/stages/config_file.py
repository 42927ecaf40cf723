"""Files for `--config`: where they lie, and what they give.

A config file is a program: it is run, as its user's own. Nothing else is: a file that does not
define `get_config` is refused before it is run.
"""

import ast
import importlib.util
import pathlib
import re
import sys
import traceback

from ml_collections import ConfigDict

from internal_rl.errors import ConfigError, UserError
from internal_rl.files import shipped_folders

DEFAULT_CONFIG = "configs/gridworld.py:small"
CONFIG_FILES = {"gridworld-pinpad": "configs/gridworld.py", "ant-pinpad": "configs/ant.py"}
"""Config file of each world of the package."""

CONFIG_FOLDERS = shipped_folders("configs")

_ALLOWED = f"allowed is a file such as {DEFAULT_CONFIG}"


def find_config(specification: str) -> str:
    """A specification with the path of a file that is there.

    `gridworld:small` and `configs/gridworld.py:small` mean the file of the package wherever the
    working directory has no such file.

    Raises:
      ConfigError: the path of the file holds a colon, behind which a preset is looked for.
    """
    path, colon, preset = specification.partition(":")
    if ":" in preset or (colon and pathlib.Path(specification).is_file()):
        raise ConfigError(
            f"config: '{specification}' given, allowed is one colon alone, before the preset: move"
            " the file to a path without any"
        )
    name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", path)
    if name and not pathlib.Path(path).is_file():
        for folder in CONFIG_FOLDERS:
            file = folder / f"{name.group(1)}.py"
            if file.is_file():
                return f"{file}{colon}{preset}"
    return specification


def load_config(specification: str) -> ConfigDict:
    """Builds the config that `--config=<specification>` stands for.

    The file may import modules that lie beside it.

    Args:
      specification: path of a config file, see `find_config`, and, behind a colon, its preset.

    Raises:
      ConfigError: the file is no config file, cannot be run, or does not know the preset.
    """
    path, *arguments = find_config(specification).split(":", 1)
    if not pathlib.Path(path).is_file() or not path.endswith(".py"):
        raise ConfigError(f"config: '{path}' is not there, {_ALLOWED}")
    if not _defines_get_config(path):
        raise ConfigError(f"config: '{path}' defines no get_config, {_ALLOWED}")
    folder = str(pathlib.Path(path).resolve().parent)
    if folder not in sys.path:
        # What lies beside the file is found, as of a script; last, so that it hides nothing.
        sys.path.append(folder)
    module_spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        config = module.get_config(*arguments)
    except UserError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        where = f"{path}, line {lines[-1]}" if lines else path
        raise ConfigError(
            f"config: {where}: {type(error).__name__}: {error}, allowed is a file whose"
            " get_config(preset) returns all settings"
        ) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config: get_config of '{path}' returns {type(config).__name__}, allowed is a"
            " ConfigDict, as make_config gives it"
        )
    return config


def _defines_get_config(path: str) -> bool:
    """Whether a file assigns, defines or imports `get_config` at its top; runs nothing.

    Raises:
      ConfigError: it is no Python or cannot be read.
    """
    try:
        tree = ast.parse(pathlib.Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"config: '{path}' cannot be read as Python ({error}), {_ALLOWED}"
        ) from None
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
        else:
            names = [getattr(node, "name", "")]
        if "get_config" in names:
            return True
    return False
