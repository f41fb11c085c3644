"""Reads folders that hold one text a file, as IMDb's: ``train/neg/0_3.txt``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from etils import epath

from bertjax.data.tables import reading
from bertjax.types import UserError


def read_text_folders(path: str, folders: Sequence[str]) -> tuple[list[str], list[int]]:
    """Every text under ``path``, class after class, each in the order of the files' numbers.

    Args:
      path: the folder of a split.
      folders: those of the classes in it, in the order of their ids.

    Returns:
      The texts, and the class id of each.

    Raises:
      UserError: where a folder is missing or has no ``.txt`` file, or a file is not UTF-8.
    """
    texts: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(folders):
        folder = epath.Path(path) / name
        with reading(str(folder)):
            if not folder.is_dir():
                raise UserError(f"there is no folder {folder} with the texts of '{name}'")
            files = [file for file in folder.iterdir() if file.suffix == ".txt"]
        if not files:
            raise UserError(f"{folder} holds no .txt file")
        texts += [_read(file) for file in sorted(files, key=_order)]
        labels += [number] * len(files)
    return texts, labels


def _order(file: epath.Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", file.name)], file.name


def _read(file: epath.Path) -> str:
    with reading(str(file)):
        try:
            return file.read_bytes().decode().removeprefix("\ufeff")
        except UnicodeDecodeError:
            raise UserError(f"{file} is not UTF-8; save the file as UTF-8") from None
