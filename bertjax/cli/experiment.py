"""Reads an experiment: a Python file whose ``get_config([argument])`` returns a ConfigDict."""

from __future__ import annotations

import runpy
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from bertjax.types import UserError


def load_config(source: str) -> ConfigDict:
    """The locked config of ``FILE.py`` or ``FILE.py:ARGUMENT``.

    A field that is None takes any Python literal from the command line; give it
    ``config_dict.placeholder(int)`` instead to have its type checked.

    Raises:
      UserError: where the file is missing, fails, or returns something else.
    """
    name, colon, argument = source.partition(":")
    path = find_config(name)
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise UserError(f"{name} defines no function get_config")
        config = get_config(argument) if colon else get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}{_line(error, path)}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict | dict):
        raise UserError(f"get_config of {name} returns {type(config).__name__}, not a ConfigDict")
    if isinstance(config, dict):
        config = ConfigDict(config)
    _open_empty_fields(config)
    return config.lock()


def find_config(name: str) -> Path:
    """The file ``name``: from the working folder, else as it comes with bertjax.

    Raises:
      UserError: where there is no such file.
    """
    package = Path(__file__).parents[1]
    for folder in (Path(), package.parent, package):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"there is no config file '{name}'; give --config=FILE.py")


def field_paths(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted path to value of every field, inner ones included."""
    paths: dict[str, Any] = {}
    for key, value in config.items():
        paths[f"{prefix}{key}"] = value
        if isinstance(value, ConfigDict):
            paths |= field_paths(value, f"{prefix}{key}.")
    return paths


def _open_empty_fields(config: ConfigDict) -> None:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _open_empty_fields(value)
        elif config.get_type(key) is type(None):
            config[key] = config_dict.placeholder(object)


def _line(error: Exception, path: Path) -> str:
    """`` line N`` of the file where ``error`` arose."""
    if isinstance(error, SyntaxError):
        return f" line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f" line {frames[-1].lineno}" if frames else ""
