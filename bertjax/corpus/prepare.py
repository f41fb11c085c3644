"""``bertjax prepare``: raw text becomes a prepared corpus (see :mod:`bertjax.data.documents`).

A preparation that was stopped, however, goes on where it was when it is run again, and ends with
the same bytes as one that was not.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import time
from collections.abc import Callable, Sequence

from etils import epath

from bertjax.corpus.inputs import find_inputs
from bertjax.corpus.output import Output
from bertjax.corpus.plan import make_plan
from bertjax.corpus.sentences import check_language
from bertjax.corpus.shards import Job, Preparation, Watch
from bertjax.corpus.workers import run_local
from bertjax.data.documents import Manifest
from bertjax.tokenizers import Tokenizer, load_tokenizer
from bertjax.types import UserError

Run = Callable[[Job, Watch], None]
"""Makes the shards of a job, and tells how far it is."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a preparation has come to."""

    manifest: Manifest
    text_bytes: int
    """Of the text that was tokenized this time."""
    seconds: float
    was_done: bool
    """Whether nothing was left to do."""


def prepare(
    inputs: str | Sequence[str],
    tokenizer: str,
    output: epath.PathLike,
    preparation: Preparation | None = None,
    *,
    workers: int | None = None,
    run: Run | None = None,
    note: Callable[[str], None] = print,
) -> Prepared:
    """Prepares a corpus, or what is missing of it.

    Args:
      inputs: as :func:`bertjax.corpus.inputs.find_inputs` takes them.
      tokenizer: a folder or hub name.
      output: a folder that is new, or that an earlier call with the same arguments has begun.
      preparation: how the text is read, split and cut.
      workers: processes that tokenize; None: one a core.
      run: what makes the shards; None: processes on this machine.
      note: is told what the user should know.

    Raises:
      UserError: if the inputs, the tokenizer or the output are not what they should be.
    """
    begun = time.perf_counter()
    preparation = preparation or Preparation()
    workers = _cores() if workers is None else workers
    if workers < 1:
        raise UserError(f"--workers={workers} does no work; give at least 1")
    if preparation.sentences == "split" and (notice := check_language(preparation.language)):
        note(notice)
    settled = _settled(load_tokenizer(tokenizer), tokenizer, preparation)
    files = find_inputs(inputs)
    place = Output(output, *make_plan(files, settled, preparation), settled)
    job = place.missing(preparation)
    size = 0
    if job is not None:
        if job.finished:
            note(f"{len(job.finished)} shards are there already; going on with the others")
        make = run or (lambda job, watch: run_local(job, workers, watch))
        with _Bar() as bar:
            make(job, bar.advance)
        size = bar.text_bytes
    return Prepared(place.finish(), size, time.perf_counter() - begun, job is None)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settled(tokenizer: Tokenizer, source: str, preparation: Preparation) -> Tokenizer:
    """The tokenizer as it will be read from the corpus's folder.

    Raises:
      UserError: if it is of no use for pretraining, or for text that marks its words.
    """
    if tokenizer.mask_id is None:
        raise UserError(
            f"the tokenizer of {source} has no mask token, which pretraining needs; name it as "
            "mask_token in tokenizer_config.json, or make a vocabulary with bertjax vocab"
        )
    marked = tokenizer.backend.encode(["a", "a"], is_pretokenized=True, add_special_tokens=False)
    plain = tokenizer.backend.encode("a a", add_special_tokens=False)
    if preparation.words == "spaces" and marked.ids != plain.ids:
        raise UserError(
            f"--words=spaces is not for the tokenizer of {source}, which tells words by the space "
            "before them; leave it out"
        )
    return pickle.loads(pickle.dumps(tokenizer))


class _Bar:
    """Megabytes and documents, on a terminal."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.text_bytes = self._documents = 0
        self._bar = tqdm(desc="prepare", unit="B", unit_scale=True, disable=None)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, size: int, documents: int) -> None:
        """Counts text that has been tokenized."""
        self.text_bytes += size
        self._documents += documents
        self._bar.set_postfix_str(f"{self._documents:,} documents", refresh=False)
        self._bar.update(size)
