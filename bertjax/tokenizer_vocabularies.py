"""Readers of vocabulary files: words a line, merges a line, and SentencePiece's binary model."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from bertjax.folders import first_line
from bertjax.tokenizer_families import Vocabulary
from bertjax.types import UserError


def looks_lower_cased(words: Iterable[str]) -> bool:
    """Whether no word of a WordPiece vocabulary has a capital."""
    return all(word == word.lower() or word.startswith("[") for word in words)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as UTF-8 text ({first_line(error)}); get the file anew"
        ) from None
    return lines[:-1] if lines[-1] == "" else lines


def read_words(path: Path) -> dict[str, int]:
    """Word to id: the number of its line."""
    return {word: index for index, word in enumerate(_lines(path))}


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding, a pair a line, the first line a version."""
    pairs = []
    for number, line in enumerate(_lines(path), start=1):
        if line.startswith("#version") or not line.strip():
            continue
        words = line.split(" ")
        if len(words) != 2:
            raise UserError(f"{path}: line {number} is not two words; get the file anew")
        pairs.append((words[0], words[1]))
    return pairs


def read_pieces(path: Path, name: str, settings: Mapping[str, Any]) -> Vocabulary:
    """A SentencePiece file, the words in the order in which the class numbers them."""
    try:
        pieces, character_map = _parse_pieces(path.read_bytes())
    except (OSError, ValueError, struct.error) as error:
        raise UserError(
            f"{path} is not a readable SentencePiece unigram model ({first_line(error)}); "
            "get the file anew"
        ) from None
    words = [(word, score) for word, score, _ in pieces]
    pad, unknown, mask = (settings[role] for role in ("pad_token", "unk_token", "mask_token"))
    if name == "XLMRobertaTokenizer":
        head = [settings["bos_token"], pad, settings["eos_token"], unknown]
        words = [*((word, 0.0) for word in head), *words[3:], (mask, 0.0)]
    if name == "CamembertTokenizer":
        head = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unknown, 0.0)]
        words = [*head, ("<unk>NOTUSED", -100.0), *words[1:], (mask, 0.0)]
    symbols = [
        AddedToken(word, normalized=False, special=kind == 3)
        for word, _, kind in pieces
        if kind in (3, 4)  # control symbols, symbols of the user
    ]
    return Vocabulary(words, character_map=character_map, symbols=symbols)


def _parse_pieces(data: bytes) -> tuple[list[tuple[str, float, int]], bytes | None]:
    """Word, score and kind of each piece, and the compiled normalisation, of a ModelProto.

    The message is described in sentencepiece's ``sentencepiece_model.proto``: field 1 is a piece
    (1 its word, 2 its score, 3 its kind), field 2 says how it was trained (3: 1 is unigram, the
    default), field 3 how text is normalised (2: the compiled map).
    """
    pieces, character_map = [], None
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
            pieces.append((piece[1].decode("utf-8"), score, piece.get(3, 1)))
        elif number == 2 and dict(_fields(value)).get(3, 1) != 1:
            raise ValueError("it was trained with another algorithm")
        elif number == 3:
            character_map = dict(_fields(value)).get(2) or None
    if not pieces:
        raise ValueError("it has no pieces")
    return pieces, character_map


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer message: an int, or bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        if key & 7 == 0:
            value, position = _varint(data, position)
        else:
            if key & 7 == 2:
                size, position = _varint(data, position)
            else:
                size = {1: 8, 5: 4}.get(key & 7, len(data) + 1)
            value, position = data[position : position + size], position + size
        if position > len(data):
            raise ValueError("it is damaged or cut off")
        yield key >> 3, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the position after it."""
    value = shift = 0
    while position < len(data):
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("it is damaged or cut off")
