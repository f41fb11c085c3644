"""The quickstart's data: the English that Python carries as text files, vocabulary and corpora.

``text`` holds the sentences to learn from and those held out, one a line, a blank line between
libraries; ``data`` the labelled ones for fine-tuning; ``vocabulary`` a tokenizer; ``prepared`` a
corpus of each text. What is there already is left as it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from etils import epath

from bertjax.corpus.inputs import Reading, find_inputs
from bertjax.corpus.prepare import prepare
from bertjax.corpus.shards import Preparation
from bertjax.corpus.vocabulary import VocabularySettings
from bertjax.corpus.vocabulary_folder import make_vocabulary
from bertjax.data.documents import Manifest
from bertjax.data.python_text import LIBRARIES, Corpus, Passage, balanced, collect, split
from bertjax.types import UserError

TEXTS = ("train", "validation")
"""The two parts of the text; the second is held out."""

Say = Callable[[str], None]
Pair = tuple[str, str]
"""A library and a sentence of it."""


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Sizes; the default takes about two minutes on two CPU cores."""

    steps: int = 2500
    """Of the pretraining."""
    seed: int = 0
    sources: tuple[str, ...] = LIBRARIES
    sentences: int = 8000
    """Read of each library, at most."""
    held_out: int = 400
    """Rows on which the pretraining is evaluated, at most."""
    classes: int = 8
    """Libraries to be told apart: those with the most held-out sentences."""
    train_sentences: int = 50
    """Labelled sentences of each library."""
    validation_sentences: int = 40
    test_sentences: int = 120
    vocab_size: int = 4096
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    initializer_range: float = 0.06
    """Larger than BERT's 0.02, as suits a narrow model."""
    max_length: int = 64
    batch_size: int = 16
    learning_rate: float = 2.5e-3
    mask_rate: float = 0.33
    """A short run learns more from more masks (Wettig et al. 2023, https://arxiv.org/abs/2202.08005)."""
    finetune_max_length: int = 32
    finetune_epochs: float = 15.0
    finetune_batch_size: int = 32
    finetune_learning_rate: float = 1e-3
    finetune_eval_every: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")


def write_text(config: QuickstartConfig, folder: epath.Path, say: Say) -> None:
    """Writes ``folder/text`` and ``folder/data``, the latter last.

    Raises:
      UserError: if Python carries too little text.
    """
    if (folder / "data").exists():
        return
    say("Reading English: the interpreter's help topics and the docstrings of installed libraries")
    corpus = split(collect(config.sources, config.sentences))
    labelled = label(config, corpus)
    counts = Counter(p.library for p in corpus.train for _ in p.sentences)
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
    say(f"  {sum(counts.values()):,} sentences to learn from: {listed}")
    texts = {f"{name}.txt": _text(getattr(corpus, name)) for name in TEXTS}
    _write_folder(folder / "text", texts)
    tables = {f"{name}.jsonl": _table(pairs) for name, pairs in labelled.items()}
    _write_folder(folder / "data", tables)


def label(config: QuickstartConfig, corpus: Corpus) -> dict[str, list[Pair]]:
    """(library, sentence) pairs of each split, equally many of each library.

    Raises:
      UserError: if fewer than two libraries have enough sentences.
    """
    wanted = config.validation_sentences + config.test_sentences
    salt = str(config.seed)
    held_out = balanced(corpus.validation, wanted, salt)
    counts = Counter(library for library, _ in held_out)
    there = Counter(p.library for p in corpus.validation for _ in p.sentences)
    libraries = [n for n, _ in there.most_common() if counts[n] == wanted][: config.classes]
    if len(libraries) < 2:
        raise UserError(
            "this Python carries too little English: fewer than two of the libraries "
            f"{', '.join(config.sources)} have {wanted} sentences to hold out"
        )
    seen: Counter[str] = Counter()
    parts: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    for library, sentence in held_out:
        seen[library] += 1
        name = "validation" if seen[library] <= config.validation_sentences else "test"
        parts[name].append((library, sentence))
    parts["train"] = balanced(corpus.train, config.train_sentences, salt)
    return {name: [p for p in pairs if p[0] in libraries] for name, pairs in parts.items()}


def _text(passages: Iterable[Passage]) -> str:
    """A document for each library: its sentences, one a line."""
    documents: dict[str, list[str]] = {}
    for passage in passages:
        documents.setdefault(passage.library, []).extend(passage.sentences)
    return "\n".join("".join(f"{line}\n" for line in lines) for lines in documents.values())


def _table(pairs: Sequence[Pair]) -> str:
    """One JSON object a line."""
    rows = ({"text": sentence, "label": library} for library, sentence in pairs)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_folder(folder: epath.Path, files: Mapping[str, str]) -> None:
    """Writes a folder of text files; it is there only when it is whole."""
    part = folder.with_name(folder.name + ".part")
    part.mkdir(exist_ok=True)
    for name, text in files.items():
        (part / name).write_text(text, encoding="utf-8")
    if folder.exists():
        folder.rmtree()
    part.replace(folder)


def write_vocabulary(config: QuickstartConfig, folder: epath.Path, say: Say) -> None:
    """Writes ``folder/vocabulary``, as ``bertjax vocab`` does."""
    if (folder / "vocabulary").exists():
        return
    settings = VocabularySettings(size=config.vocab_size, lower_case=True)
    files = find_inputs([str(folder / "text" / "train.txt")])
    done = make_vocabulary(files, Reading("text"), settings, str(folder / "vocabulary"))
    say(
        f"Trained a WordPiece vocabulary of {done.size:,} pieces "
        f"({done.tokens_a_word:.2f} to a word)"
    )


def prepare_text(folder: epath.Path, say: Say) -> dict[str, Manifest]:
    """Writes ``folder/prepared``, a corpus of each text, as ``bertjax prepare`` does."""
    preparation = Preparation(Reading("text"), sentences="lines")
    corpora = {}
    for name in TEXTS:
        text, corpus = folder / "text" / f"{name}.txt", folder / "prepared" / name
        tokenizer = str(folder / "vocabulary")
        # The text is too short for more processes than this one.
        done = prepare([str(text)], tokenizer, corpus, preparation, workers=1, note=say)
        corpora[name] = done.manifest
    return corpora
