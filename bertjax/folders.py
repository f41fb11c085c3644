"""Where a model's folder is, and the small JSON files in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.types import UserError


def local_folder(source: str | Path, patterns: Sequence[str]) -> Path:
    """The local folder that ``source`` names: itself, or the hub's files matching ``patterns``.

    Raises:
      UserError: if it is neither a folder nor a hub name that can be reached.
    """
    name = str(source)
    path = Path(source).expanduser()
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise UserError(f"{source} is a file, but a model is a folder; name the folder it lies in")
    if name.startswith((".", "~")) or path.is_absolute() or name.count("/") > 1 or not name:
        raise UserError(f"there is no folder '{name}'; check the path")
    return _download(name, patterns)


def _download(name: str, patterns: Sequence[str]) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns)))
    except errors.HFValidationError:
        reason = "and is not a valid hub name"
    except errors.GatedRepoError:
        reason = "and on the hub it is gated: accept its terms there, then run `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "and the hub has no model of that name (or it is private)"
    except errors.LocalEntryNotFoundError:
        reason = "and is not in the hub's cache, and the hub cannot be reached (offline?)"
    except Exception as error:  # whatever the network and the disk can do
        reason = f"and the hub did not deliver it ({type(error).__name__}: {first_line(error)})"
    raise UserError(f"'{name}' is no folder here {reason}; check the name or give a local folder")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      UserError: if the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({first_line(error)}); get the file anew"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; get the file anew")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes ``value`` as indented JSON, keys sorted."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def first_line(error: Exception) -> str:
    """What an error says, cut to its first line."""
    return (str(error).splitlines() or [""])[0]
