"""Files for `--config`: where they lie, and what they give."""

import importlib.util
import pathlib
import re

from ml_collections import ConfigDict

from internal_rl.errors import ConfigError
from internal_rl.files import shipped_folders

DEFAULT_CONFIG = "configs/gridworld.py:small"
CONFIG_FILES = {"gridworld-pinpad": "configs/gridworld.py", "ant-pinpad": "configs/ant.py"}
"""Config file of each world of the package."""

CONFIG_FOLDERS = shipped_folders("configs")


def find_config(specification: str) -> str:
    """A specification with the path of a file that is there.

    `gridworld:small` and `configs/gridworld.py:small` mean the file of the package wherever the
    working directory has no such file.
    """
    path, colon, preset = specification.partition(":")
    name = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", path)
    if name and not pathlib.Path(path).is_file():
        for folder in CONFIG_FOLDERS:
            file = folder / f"{name.group(1)}.py"
            if file.is_file():
                return f"{file}{colon}{preset}"
    return specification


def load_config(specification: str) -> ConfigDict:
    """Builds the config that `--config=<specification>` stands for.

    Args:
      specification: path of a config file, see `find_config`, and, behind a colon, its preset.

    Raises:
      ConfigError: the file is no config file, or does not know the preset.
    """
    path, *arguments = find_config(specification).split(":", 1)
    if not pathlib.Path(path).is_file() or not path.endswith(".py"):
        raise ConfigError(
            f"config: '{path}' is not there, allowed is a file such as {DEFAULT_CONFIG}"
        )
    module_spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    try:
        return module.get_config(*arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from None
