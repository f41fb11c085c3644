"""The folder that a corpus is prepared in: what it was begun with, what of it is there, its end.

While shards are made, ``progress/`` holds the plan (settings, inputs, tokenizer) and a record of
each shard that is finished. At the end the manifest is written and ``progress/`` is removed. A
folder that was finished and has lost or spoilt shards since is taken up again in the same way.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from etils import epath

from bertjax.corpus.plan import Plan
from bertjax.corpus.shards import PROGRESS, Finished, Group, Job, Preparation, part_name
from bertjax.data.documents import (
    LENGTHS,
    MANIFEST,
    RECORDS,
    Manifest,
    Shard,
    read_manifest,
    tokenizer_hash,
)
from bertjax.tokenizers import Tokenizer, load_tokenizer
from bertjax.types import UserError, from_mapping

TOKENIZER, PLAN, LOCK = "tokenizer", "plan.json", "lock"


class Output:
    """A folder for a corpus, opened for one plan; one process at a time may have it open.

    Raises:
      UserError: if the folder holds something else or a corpus of another plan, or if another
        process prepares it at this moment.
    """

    def __init__(
        self, folder: epath.PathLike, plan: Plan, groups: Sequence[Group], tokenizer: Tokenizer
    ):
        self.folder = epath.Path(folder).expanduser()
        self._plan = plan
        self._groups = groups
        self._tokenizer = tokenizer
        self._progress = self.folder / PROGRESS
        _refuse_foreign(self.folder)
        self._before = self._read_before()
        self._lock = self._begin()
        self._finished = self._check(self._listed())

    def missing(self, preparation: Preparation) -> Job | None:
        """What is left to do; None: nothing."""
        if self._before is not None and self._has_all(self._before):
            return None
        groups = {n: group for n, group in enumerate(self._groups) if not self._has_group(n)}
        if not groups:
            return None
        finished = frozenset(self._finished)
        return Job(str(self.folder), preparation, self._tokenizer, groups, finished)

    def finish(self) -> Manifest:
        """Writes the manifest, and removes what is not part of the corpus.

        Raises:
          UserError: if shards are missing, or are others than they were, or hold no document.
        """
        self._finished |= self._records()
        manifest = self._manifest() if self._before is None else self._mended(self._before)
        self._write(self.folder / MANIFEST, manifest.to_json())
        self._clean(manifest)
        return manifest

    def _manifest(self) -> Manifest:
        if not all(map(self._has_group, range(len(self._groups)))):
            raise self._incomplete()
        shards = sorted((one.shard for one in self._finished.values()), key=_order)
        manifest = Manifest(
            tokenizer=self._plan.tokenizer,
            vocab_size=self._plan.vocab_size,
            words="marked" if self._plan.settings["words"] == "spaces" else "vocabulary",
            settings=self._plan.settings,
            shards=tuple(shard for shard in shards if shard.documents),
        )
        if not manifest.shards:
            raise UserError("the inputs hold no text; check --input and --format")
        return manifest

    def _mended(self, before: Manifest) -> Manifest:
        if not self._has_all(before):
            raise self._incomplete()
        made = {one.shard for one in self._finished.values() if one.shard.documents}
        if made != set(before.shards):
            raise UserError(
                f"shards of {self.folder} that were made again are others than before: the inputs "
                "or bertjax's libraries have changed since; prepare the corpus in a new folder"
            )
        return before

    def _incomplete(self) -> UserError:
        return UserError(f"{self.folder} is not complete; run the same command again")

    def _read_before(self) -> Manifest | None:
        """The manifest of a corpus of this plan; None if there is none, or a spoilt one."""
        try:
            manifest = read_manifest(self.folder)
        except UserError:
            path = self._progress / PLAN
            if path.exists() and any(self._progress.glob("documents-*.json")):
                there = from_mapping(Plan, json.loads(path.read_text()), str(path))
                self._refuse(self._plan.obstacles(there))
            return None
        there = Plan(manifest.tokenizer, manifest.vocab_size, manifest.settings)
        self._refuse(self._plan.differences(there))
        return manifest

    def _refuse(self, differences: list[str]) -> None:
        if differences:
            raise UserError(
                f"{self.folder} holds a corpus that was prepared otherwise "
                f"({'; '.join(differences)}); name a new folder with --output, or remove that one"
            )

    def _begin(self) -> IO[bytes] | None:
        self._progress.mkdir(parents=True, exist_ok=True)
        lock = None if "://" in str(self.folder) else _lock(self.folder, self._progress / LOCK)
        self._write(self._progress / PLAN, self._plan.to_json())
        if not self._has_tokenizer():
            self._save_tokenizer()
        return lock

    def _save_tokenizer(self) -> None:
        (self.folder / TOKENIZER).mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as place:  # the folder may be an object store's
            self._tokenizer.save(place)
            for path in Path(place).iterdir():
                (self.folder / TOKENIZER / path.name).write_bytes(path.read_bytes())

    def _has_tokenizer(self) -> bool:
        try:
            there = load_tokenizer(str(self.folder / TOKENIZER))
        except UserError:
            return False
        return tokenizer_hash(there) == self._plan.tokenizer

    def _write(self, path: epath.Path, text: str) -> None:
        """Writes a file that appears under its name when it is whole."""
        staged = self._progress / (path.name + ".part")
        staged.write_text(text)
        staged.replace(path)

    def _listed(self) -> dict[str, Finished]:
        """Shards that the manifest or a record says are there."""
        found = {}
        shards = () if self._before is None else self._before.shards
        for number, group in itertools.groupby(shards, key=lambda shard: _order(shard)[0]):
            *others, end = group
            key = self._groups[number].key
            found |= {shard.name: Finished(shard, False, key) for shard in others}
            found[end.name] = Finished(end, True, key)
        return found | self._records()

    def _records(self) -> dict[str, Finished]:
        found = {}
        for path in self._progress.glob("documents-*.json"):
            finished = _read_record(path)
            if finished is not None and finished.key == self._key(finished.shard):
                found[finished.shard.name] = finished
        return found

    def _key(self, shard: Shard) -> str | None:
        number = _order(shard)[0]
        return self._groups[number].key if number < len(self._groups) else None

    def _check(self, listed: Mapping[str, Finished]) -> dict[str, Finished]:
        """Those of the shards that are whole."""
        from tqdm import tqdm

        bar = tqdm(listed.items(), "checking", unit="shard", delay=2, disable=None)
        return {name: one for name, one in bar if is_whole(self.folder, one.shard)}

    def _has_all(self, manifest: Manifest) -> bool:
        return all(shard.name in self._finished for shard in manifest.shards)

    def _has_group(self, group: int) -> bool:
        """Whether all shards of a group are there."""
        for number in itertools.count():
            finished = self._finished.get(part_name(group, number))
            if finished is None or finished.last:
                return finished is not None
        return False

    def _clean(self, manifest: Manifest) -> None:
        wanted = {shard.name for shard in manifest.shards}
        for path in self.folder.glob("documents-*"):
            if path.name.partition(".")[0] not in wanted:
                path.unlink()
        self._progress.rmtree()


def _order(shard: Shard) -> tuple[int, int]:
    """The numbers of a shard's group and part."""
    _, group, part = shard.name.split("-")
    return int(group), int(part)


def _read_record(path: epath.Path) -> Finished | None:
    try:
        return Finished.from_json(path.read_text())
    except (UserError, ValueError, KeyError, TypeError):
        return None


def _refuse_foreign(folder: epath.Path) -> None:
    """Raises UserError for a file, or a folder with anything that ``prepare`` does not write."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a new folder with --output")
    for path in folder.iterdir():
        if path.name not in (MANIFEST, TOKENIZER, PROGRESS) and "documents-" not in path.name:
            raise UserError(
                f"{folder} holds something else than a prepared corpus ('{path.name}'); name a "
                "new folder with --output"
            )


def _lock(folder: epath.Path, path: epath.Path) -> IO[bytes]:
    """Holds the folder until this process ends."""
    import fcntl

    file = open(path, "wb")  # noqa: SIM115  it stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process prepares {folder} at this moment; wait for its end"
        ) from None
    except OSError:  # a file system without locks
        pass
    return file


def is_whole(folder: epath.Path, shard: Shard) -> bool:
    """Whether both files of a shard are there, with the contents that it had."""
    records, lengths = folder / (shard.name + RECORDS), folder / (shard.name + LENGTHS)
    try:
        if records.stat().length != shard.size:
            return False
        with records.open("rb") as file:
            blocks = iter(lambda: file.read(1 << 20), b"")
            digest = hashlib.sha256()
            for block in blocks:
                digest.update(block)
        with lengths.open("rb") as file:
            numbers = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    counts = int((numbers == 0).sum()), int((numbers > 0).sum()), int(numbers.sum())
    expected = shard.documents, shard.sentences, shard.tokens
    return digest.hexdigest() == shard.sha256 and counts == expected
