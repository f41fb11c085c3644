"""Real English that every Python install carries: documentation topics and docstrings.

Files are read with ``ast``; nothing is imported or run. Their order, and so the text, depends only
on what is installed. Names of libraries are replaced by the word ``library``, wherever they stand,
so that which library a sentence comes from has to be told by what the sentence is about.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

LIBRARIES = (
    "python",
    "numpy",
    "scipy",
    "sklearn",
    "jax",
    "flax",
    "optax",
    "orbax",
    "transformers",
    "huggingface_hub",
)
"""``python`` is the standard library; the others are packages that bertjax itself depends on."""

LARGEST_FILE = 1_000_000
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_SKIPPED = {"test", "tests", "_tests", "testing", "site-packages", "dist-packages", "idlelib"}
_NAMES = re.compile(
    r"(?<![a-z])(?:hugging[ _-]?face(?:[ _-]hub)?|scikit[ -]learn|c?python3?|numpy|scipy|sklearn|"
    r"jax|jaxlib|jnp|np|flax|optax|orbax|transformers|hf)(?![a-z])",
    re.IGNORECASE,
)
_MARKUP = (
    (re.compile(r":[\w:+.-]+:`~?([^`<]*?)(?:\s*<[^>`]*>)?`"), r"\1"),  # :class:`Name <target>`
    (re.compile(r"`([^`<]*?)\s*<[^>`]*>`__?"), r"\1"),  # `text <url>`_
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),  # [text](url)
    (re.compile(r"\[(?:`[^`]*`|\d+)\]_?"), ""),  # [`Name`] and [1]_
    (re.compile(r"[`*|]+"), ""),
    (re.compile(r"\s+"), " "),
)
_NOT_PROSE = re.compile(
    r"^\s*(?:>>>|\.\. |\.\.\.|[-=~^+*#|]{3}|@|\$ )|::\s*$|https?:", re.MULTILINE
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•+]|\d+[.)]|\w[\w, ]{0,40}(?:\([^)]*\))?:)\s+")
_SENTENCE_END = re.compile(r"(?<=[a-z\d)\"'][.!?])\s+(?=[A-Z])")
_SENTENCE = re.compile(r"[A-Z][^{}<>\\=]*[.!?]")
_WORD = re.compile(r"[A-Za-z]{2,}")


@dataclasses.dataclass(frozen=True)
class Passage:
    """Sentences that follow one another in one docstring or topic."""

    library: str
    file: str
    """Where it stands, relative to the library's folder."""
    sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The text in two parts that share no file and no sentence."""

    train: list[Passage]
    validation: list[Passage]


def collect(libraries: Iterable[str] = LIBRARIES, sentences: int = 10_000) -> list[Passage]:
    """Passages of each library, until it has given ``sentences`` sentences or has no more.

    A sentence that comes up again, in any library, is left out (digits and signs do not make a
    difference); one that comes up in two libraries is left out of both.
    """
    found: dict[str, list[Passage]] = {}
    for library in libraries:
        found[library], count = [], 0
        for passage in _passages(library):
            found[library].append(passage)
            count += len(passage.sentences)
            if count >= sentences:
                break
    return _without_repeats([passage for passages in found.values() for passage in passages])


def split(passages: Iterable[Passage], share: float = 0.15) -> Corpus:
    """Puts whole files aside for validation: about ``share`` of them, by a digest of their name."""
    corpus = Corpus([], [])
    for passage in passages:
        held_out = _digest(f"{passage.library}/{passage.file}") < share * 2**64
        (corpus.validation if held_out else corpus.train).append(passage)
    return corpus


def balanced(passages: Iterable[Passage], count: int, salt: str) -> list[tuple[str, str]]:
    """(library, sentence) pairs, ``count`` of each library, drawn by a digest of the sentence.

    A library with fewer sentences gives all it has; ``salt`` makes another draw.
    """
    by_library: dict[str, list[str]] = {}
    for passage in passages:
        by_library.setdefault(passage.library, []).extend(passage.sentences)
    pairs = [
        (library, sentence)
        for library, sentences in by_library.items()
        for sentence in sorted(sentences, key=lambda text: _digest(salt + text))[:count]
    ]
    return sorted(pairs, key=lambda pair: _digest(salt + pair[1]))


def sentences_of(text: str) -> Iterator[str]:
    """The whole English sentences of a docstring; code, tables and headings are passed over."""
    for paragraph in re.split(r"\n\s*\n", text):
        if _NOT_PROSE.search(paragraph):
            continue
        for block in _blocks(paragraph):
            plain = block
            for pattern, replacement in _MARKUP:
                plain = pattern.sub(replacement, plain)
            for sentence in _SENTENCE_END.split(plain.strip()):
                if _is_english(sentence):
                    yield _NAMES.sub("library", sentence)


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a Python file's text; none where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    if text := ast.get_docstring(tree):
        yield text
    for node in _definitions(tree.body):
        if text := ast.get_docstring(node):
            yield text


def _definitions(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef | _Function]:
    """Classes and functions in order, methods included; what is inside a function is left out."""
    for node in body:
        if isinstance(node, _Function):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield node
            yield from _definitions(node.body)
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions([*node.body, *node.orelse])


def _passages(library: str) -> Iterator[Passage]:
    if library == "python":
        for topic, text in sorted(_topics().items()):
            yield Passage(library, f"topic {topic}", tuple(sentences_of(inspect.cleandoc(text))))
    for folder in _folders(library):
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.py")]
        for name in sorted((n for n in files if not _SKIPPED & {*n.split("/")}), key=_digest):
            for text in docstrings(_read(folder / name)):
                if sentences := tuple(sentences_of(text)):
                    yield Passage(library, name, sentences)


def _topics() -> dict[str, str]:
    """The texts behind ``help("TOPIC")``; some distributions leave them out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return {}
    return topics


def _folders(library: str) -> Sequence[Path]:
    """Where a library's files are; finding a top-level package does not import it."""
    if library == "python":
        return [Path(sysconfig.get_path("stdlib"))]
    spec = importlib.util.find_spec(library)
    return [Path(place) for place in (spec and spec.submodule_search_locations) or ()]


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _blocks(paragraph: str) -> Iterator[str]:
    """Lines joined to blocks: a list mark, or a change of indentation, begins a new one."""
    block: list[str] = []
    indent = -1
    for line in paragraph.splitlines():
        here = len(line) - len(line.lstrip())
        mark = _LIST_MARK.match(line)
        if block and (mark or here != indent):
            yield " ".join(block)
            block = []
        block.append(line[mark.end() :] if mark else line.strip())
        indent = here if not mark else mark.end()
    yield " ".join(block)


def _is_english(sentence: str) -> bool:
    if not 30 <= len(sentence) <= 300 or not _SENTENCE.fullmatch(sentence):
        return False
    words = sentence.split()
    plain = sum(bool(re.fullmatch(r"[A-Za-z][a-z'-]*[,.;:!?]?", word)) for word in words)
    return len(words) >= 6 and plain >= 0.75 * len(words)


def _without_repeats(passages: Sequence[Passage]) -> list[Passage]:
    home: dict[str, str | None] = {}
    for passage in passages:
        for sentence in passage.sentences:
            key = _key(sentence)
            home[key] = (
                passage.library if home.get(key, passage.library) == passage.library else None
            )
    kept = []
    for passage in passages:
        mine = []
        for sentence in passage.sentences:
            if home.pop(key := _key(sentence), None) is not None:
                mine.append(sentence)
        if mine:
            kept.append(dataclasses.replace(passage, sentences=tuple(mine)))
    return kept


def _key(sentence: str) -> str:
    """What makes a sentence the same as another: its words."""
    return " ".join(_WORD.findall(sentence.lower()))


def _digest(text: str) -> int:
    """64 bits that are the same in every process, unlike ``hash``."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
