"""Finds the files of a corpus, and reads them, compressed or not, as blocks of whole lines.

Nothing here holds more than one block, or one line where that is longer, so memory stays flat
whatever a file's size. Places in messages count the bytes of the decompressed text.
"""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import glob
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from etils import epath

from bertjax.data.tables import reading
from bertjax.folders import first_line
from bertjax.types import UserError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file of a corpus."""

    path: str
    size: int
    """In bytes, as it lies on the disk."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole lines of a file, one after the other; the last line of a file may lack its end."""

    data: bytes
    offset: int
    """Of its first byte in the decompressed file."""
    line: int
    """The number of its first line, from 1."""


def find_inputs(patterns: str | Sequence[str]) -> list[TextFile]:
    """The files that patterns name, each once, sorted by path.

    Args:
      patterns: paths, globs (``*``, ``?``, ``[ab]``, and ``**`` for any depth on a local disk), or
        folders, which stand for all files in them at any depth; as a list, or as one text with
        commas between. Hidden files (``.name``) are left out unless a pattern names them itself.

    Raises:
      UserError: if a pattern matches no file, or cannot be looked up.
    """
    if isinstance(patterns, str):
        whole = patterns.strip()
        patterns = [whole] if _exists(whole) else [part.strip() for part in whole.split(",")]
    found: dict[str, TextFile] = {}
    for pattern in patterns:
        files = {file.path: file for file in _match(pattern)}
        if not files:
            raise UserError(f"no file matches '{pattern}'; check the path and its wildcards")
        found.update(files)
    return [found[path] for path in sorted(found)]


def _exists(path: str) -> bool:
    if "://" not in path:
        return os.path.exists(os.path.expanduser(path))  # False for a list too long to be a path
    with reading(path), _reaching(path):
        return epath.Path(path).exists()


def _match(pattern: str) -> Iterator[TextFile]:
    if not pattern:
        return
    with reading(pattern), _reaching(pattern):
        for path in _expand(epath.Path(pattern).expanduser()):
            if path.is_dir():
                yield from _files_in(path)
            elif path.exists():
                yield TextFile(str(path), path.stat().length)


@contextlib.contextmanager
def _reaching(path: str) -> Iterator[None]:
    """Turns what a remote file system raises within, which has errors of its own, into a sentence.

    Raises:
      UserError: if ``path`` is remote and anything goes wrong.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if "://" not in path:
            raise
        raise UserError(
            f"cannot reach {path} ({type(error).__name__}: {first_line(error)}); check the "
            "address, the network, and your rights there"
        ) from None


def _expand(pattern: epath.Path) -> list[epath.Path]:
    text = str(pattern)
    if not glob.has_magic(text) or pattern.exists():
        return [pattern]
    if "://" not in text:
        return [epath.Path(name) for name in glob.glob(text, recursive=True)]
    if "**" in text:
        raise UserError(f"'{text}': ** is for local disks only; name the folder without it")
    first = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    base = epath.Path(*pattern.parts[:first])
    return list(base.glob("/".join(pattern.parts[first:])))


def _files_in(folder: epath.Path) -> Iterator[TextFile]:
    for root, folders, names in folder.walk():
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = root / name
                yield TextFile(str(path), path.stat().length)


def stem(path: str) -> str:
    """The path without the ending of a compression."""
    return next((path[: -len(end)] for end in COMPRESSED if path.lower().endswith(end)), path)


def is_compressed(path: str) -> bool:
    """Whether a file is compressed, by its ending."""
    return stem(path) != path


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """A file opened for reading, decompressed as its ending says.

    Raises:
      UserError: if it cannot be read. What :func:`read_chunk` reads is checked there.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(reading(path))
        with _reaching(path):
            raw = stack.enter_context(epath.Path(path).open("rb"))
        ending = path.lower()[len(stem(path)) :]
        yield _decompressed(raw, ending)


def _decompressed(raw: IO[bytes], ending: str) -> Any:
    if ending == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if ending == ".bz2":
        return bz2.BZ2File(raw)
    if ending == ".xz":
        return lzma.LZMAFile(raw)
    if ending == ".zst":
        return _zstd().ZstdFile(raw)
    return raw


def _zstd() -> Any:
    try:
        from compression import zstd  # pyright: ignore[reportMissingImports]  # from Python 3.14 on
    except ImportError:
        from backports import zstd
    return zstd


def _damage(path: str) -> tuple[type[Exception], ...]:
    """What the decompressor of a path raises for bytes that it cannot read."""
    errors = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, OSError)
    return (*errors, _zstd().ZstdError) if path.lower().endswith(".zst") else errors


def read_chunk(file: IO[bytes], path: str, offset: int, size: int = BLOCK) -> bytes:
    """The next bytes of a file from :func:`open_bytes`; empty at its end.

    Raises:
      UserError: if the file is cut off or damaged.
    """
    if not is_compressed(path):
        with _reaching(path):
            return file.read(size)
    try:
        return file.read(size)
    except _damage(path) as error:
        reason = "it is cut off" if isinstance(error, EOFError) else first_line(error)
        raise UserError(
            f"{path} cannot be decompressed after byte {offset} of its text ({reason}); get the "
            "file anew"
        ) from None


def read_blocks(path: str, max_line: int) -> Iterator[Block]:
    """The lines of a file in blocks of about a megabyte; a byte-order mark is left out.

    Raises:
      UserError: if the file cannot be read or decompressed, holds NUL bytes, or a line of more
        than ``max_line`` bytes, which is not read to its end.
    """
    begin, line, offset = 0, 1, 0
    pieces: list[bytes] = []
    with open_bytes(path) as file:
        while chunk := read_chunk(file, path, offset):
            if (zero := chunk.find(0)) >= 0:
                raise _binary(path, offset + zero)
            offset += len(chunk)
            if end := chunk.rfind(b"\n") + 1:
                data = b"".join((*pieces, chunk[:end]))
                yield _block(path, data, begin, line, max_line)
                begin, line = begin + len(data), line + data.count(b"\n")
                pieces = [chunk[end:]]
            else:
                pieces.append(chunk)
            if offset - begin > max_line:
                raise _too_long(path, line, max_line)
    if offset > begin:
        yield _block(path, b"".join(pieces), begin, line, max_line)


def _block(path: str, data: bytes, begin: int, line: int, max_line: int) -> Block:
    if len(data) > max_line:
        for number, one in enumerate(data.split(b"\n"), start=line):
            if len(one) > max_line:
                raise _too_long(path, number, max_line)
    if begin == 0 and data.startswith(b"\xef\xbb\xbf"):
        return Block(data[3:], 3, line)
    return Block(data, begin, line)


def _binary(path: str, offset: int) -> UserError:
    return UserError(
        f"{path} holds a NUL byte at byte {offset}, so it is binary or not UTF-8; leave it out of "
        "--input, or save it as UTF-8"
    )


def _too_long(path: str, line: int, max_line: int) -> UserError:
    return UserError(
        f"{path}:{line} is a line of more than {max_line} bytes; break it up, leave the file out "
        "of --input, or allow longer ones with --max_line"
    )
