"""What decides the bytes of a corpus: the inputs, the settings and the tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from bertjax.corpus.inputs import TextFile
from bertjax.corpus.shards import Group, Preparation, group_files
from bertjax.data.documents import tokenizer_hash
from bertjax.data.tables import reading
from bertjax.tokenizers import Tokenizer

INPUTS, ERRORS, MAX_LINE = "inputs", "errors", "max_line"
ENDS = 1 << 16
"""Bytes at the beginning and at the end of an input by which a change of it is noticed."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that decides the bytes of a corpus; it names no place of this machine."""

    tokenizer: str
    """Its hash."""
    vocab_size: int
    settings: dict[str, Any]

    def to_json(self) -> str:
        """The text of ``plan.json``; the same plan gives the same text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    def differences(self, there: Plan, ignore: Sequence[str] = ()) -> list[str]:
        """What another plan has otherwise, in words."""
        told = ["another tokenizer"] * (self.tokenizer != there.tokenizer)
        for name in sorted(self.settings | there.settings):
            ours, theirs = self.settings.get(name), there.settings.get(name)
            if ours != theirs and name not in ignore:
                told.append(f"{name}: {_shown(theirs)} there, {_shown(ours)} here")
        return told

    def obstacles(self, there: Plan) -> list[str]:
        """What hinders this plan from going on with what another one has begun.

        Other inputs do not, for each shard knows its own, nor does it that more is allowed of them:
        what has been read would be read in the same way.
        """
        ignore = [INPUTS]
        if self.settings[ERRORS] == "replace":
            ignore.append(ERRORS)
        if self.settings[MAX_LINE] >= there.settings.get(MAX_LINE, 0):
            ignore.append(MAX_LINE)
        return self.differences(there, ignore)


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return f"{value['files']} files of {value['bytes']:,} bytes with hash {value['sha256'][:8]}"


def make_plan(
    files: Sequence[TextFile], tokenizer: Tokenizer, preparation: Preparation
) -> tuple[Plan, list[Group]]:
    """The plan of a corpus, and its files in groups.

    Raises:
      UserError: if an input cannot be read.
    """
    marks = {file.path: _mark(file) for file in files}
    settings = preparation.settings()
    total = sum(file.size for file in files)
    inputs = {"files": len(files), "bytes": total, "sha256": _hash(marks.values())}
    plan = Plan(tokenizer_hash(tokenizer), tokenizer.vocab_size, settings | {INPUTS: inputs})
    read_alike = {k: v for k, v in settings.items() if k not in (ERRORS, MAX_LINE)}
    base = json.dumps([plan.tokenizer, read_alike], sort_keys=True)
    groups = group_files(files, preparation.shard_size)
    keys = [_hash([base, *(marks[path] for path in paths)]) for paths in groups]
    return plan, [Group(paths, key) for paths, key in zip(groups, keys, strict=True)]


def _mark(file: TextFile) -> str:
    """A hash of a file's name, size, and both ends of its contents."""
    digest = hashlib.sha256(f"{os.path.basename(file.path)}\0{file.size}\0".encode())
    with reading(file.path), epath.Path(file.path).open("rb") as stream:
        digest.update(stream.read(ENDS))
        stream.seek(max(file.size - ENDS, 0))
        digest.update(stream.read(ENDS))
    return digest.hexdigest()


def _hash(texts: Any) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
