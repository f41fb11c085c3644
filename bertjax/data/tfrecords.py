"""Examples that google-research/bert's ``create_pretraining_data.py`` wrote: masked once for all.

A TFRecord file is a row of records: the length (uint64), its checksum (uint32), the data, and their
checksum (uint32), little-endian; a checksum is a CRC-32C, turned and shifted. The data are a
``tf.train.Example``, a map from names to lists of numbers. TensorFlow is not needed to read them.
"""

from __future__ import annotations

import functools
import glob
import operator
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from bertjax.data.batching import Encoded
from bertjax.types import UserError

HEAD, TAIL = struct.Struct("<QI"), struct.Struct("<I")
GZIP = b"\x1f\x8b"
TOKENS = ("input_ids", "input_mask", "segment_ids")
PREDICTIONS = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
LABEL = "next_sentence_labels"
AGAIN = "get the file anew"

# tf.train.Example as TensorFlow's example.proto and feature.proto describe it, but for the lists of
# bytes: message, field, number, repeated, kind. A map is, as stored, a list of keys and values.
FIELDS = (
    ("FloatList", "value", 1, True, "float"),
    ("Int64List", "value", 1, True, "int64"),
    ("Feature", "float_list", 2, False, "FloatList"),
    ("Feature", "int64_list", 3, False, "Int64List"),
    ("FeatureEntry", "key", 1, False, "string"),
    ("FeatureEntry", "value", 2, False, "Feature"),
    ("Features", "feature", 1, True, "FeatureEntry"),
    ("Example", "features", 1, False, "Features"),
)


class TfExamples(Sequence[Encoded]):
    """The examples of TFRecord files, file by file, read when they are asked for.

    The files are gone through once at first, to find where the records begin. An example has
    ``token_ids`` and ``type_ids``, int32 ``[length]`` without the padding; ``prediction_positions``
    and ``prediction_labels``, int32 ``[predictions]``; and ``label``, 0 where the second text goes
    on with the first and 1 where it is a random one. Threads and copies in other processes can
    read at the same time.

    Args:
      patterns: files, or patterns of them (``*``, ``?``, ``[...]``, ``**``); each pattern's files
        are taken in the order of their names, a file that several patterns match once.
      vocab_size: of the model; an example with another token is an error. None: not checked.
      max_length: of the model; a longer example is an error. None: not checked.

    Raises:
      UserError: if a pattern matches no file, or a file is compressed, cut off, damaged or of
        another kind; and, when a record is read, if it is damaged or not such an example. Records
        are counted from 1 there.
    """

    def __init__(
        self,
        patterns: str | Sequence[str],
        vocab_size: int | None = None,
        max_length: int | None = None,
    ):
        self.paths = _find([patterns] if isinstance(patterns, str) else patterns)
        self.vocab_size = vocab_size
        self.max_length = max_length
        self._offsets = [_scan(path) for path in self.paths]
        self._ends = np.cumsum([len(offsets) for offsets in self._offsets])
        if not self._ends[-1]:
            raise UserError(f"{self.paths[0]} has no records; name a file of examples")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Encoded:
        index = range(len(self))[operator.index(index)]
        file = int(np.searchsorted(self._ends, index, side="right"))
        record = index - int(self._ends[file]) + len(self._offsets[file])
        try:
            return self._checked(_example(self._features(file, record)))
        except _DamageError as error:
            raise _error(self.paths[file], record, str(error)) from None

    @functools.cached_property
    def max_predictions(self) -> int:
        """Places for predictions in a record: the most that a file's first record has.

        A record with more predictions is an error.

        Raises:
          UserError: if a file's first record is damaged or not such an example.
        """
        return max(self._places(file) for file, found in enumerate(self._offsets) if len(found))

    def _places(self, file: int) -> int:
        try:
            return len(self._features(file, 0)["masked_lm_positions"])
        except _DamageError as error:
            raise _error(self.paths[file], 0, str(error)) from None

    def _features(self, file: int, record: int) -> dict[str, np.ndarray]:
        return _features(_read(self.paths[file], int(self._offsets[file][record])))

    def _checked(self, example: dict[str, Any]) -> Encoded:
        """The example, if it suits the model."""
        length = len(example["token_ids"])
        if self.max_length is not None and length > self.max_length:
            raise _DamageError(
                f"has {length} tokens where max_length is {self.max_length}; raise max_length"
            )
        if len(example["prediction_labels"]) > self.max_predictions:
            raise _DamageError(
                f"has {len(example['prediction_labels'])} predictions where the first records have "
                f"room for {self.max_predictions}; {AGAIN}"
            )
        size = self.vocab_size
        for name in ("token_ids", "prediction_labels"):
            largest = int(example[name].max(initial=0))
            if size is not None and largest >= size:
                raise _DamageError(
                    f"has the token {largest} where the vocabulary has {size}; "
                    "use the vocabulary that the file was made with"
                )
        return example


class _DamageError(Exception):
    """What is wrong with a record, and the remedy; the file and the number go in front."""


def _error(path: Path, record: int, text: str) -> UserError:
    return UserError(f"{path}: record {record + 1} {text}")


def _find(patterns: Sequence[str]) -> list[Path]:
    """The files that match, each once."""
    paths: dict[Path, None] = {}
    for pattern in patterns:
        path = os.path.expanduser(pattern)
        found = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
        files = [Path(name) for name in found if os.path.isfile(name)]
        if not files:
            raise UserError(f"no file matches '{pattern}'; name files of TFRecord examples")
        paths.update(dict.fromkeys(files))
    if not paths:
        raise UserError("no files are named; name files of TFRecord examples")
    return list(paths)


def _checksum(data: bytes) -> int:
    """A TFRecord's: the CRC-32C turned right by 15 bits, plus a constant."""
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _scan(path: Path) -> np.ndarray:
    """Where each record's head begins, int64 ``[records]``; the checksums of lengths are tested."""
    offsets, place = [], 0
    try:
        with path.open("rb", buffering=1 << 18) as file:
            size = os.fstat(file.fileno()).st_size
            while place < size:
                length = _length(path, len(offsets), file.read(HEAD.size))
                offsets.append(place)
                place += HEAD.size + length + TAIL.size
                if place > size:
                    raise _error(path, len(offsets) - 1, f"is cut off; {AGAIN}")
                file.seek(place)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from None
    return np.array(offsets, np.int64)


def _length(path: Path, record: int, head: bytes) -> int:
    """A record's length, by its head."""
    if record == 0 and head.startswith(GZIP) and not _is_head(head):
        raise UserError(f"{path} is compressed with gzip; unpack it first (gunzip)")
    if len(head) == HEAD.size and _is_head(head):
        return HEAD.unpack(head)[0]
    if record == 0:
        raise UserError(f"{path} is not a TFRecord file, or its first bytes are damaged; {AGAIN}")
    damage = "is cut off" if len(head) < HEAD.size else "is damaged: its length has changed"
    raise _error(path, record, f"{damage}; {AGAIN}")


def _is_head(head: bytes) -> bool:
    """Whether a length agrees with its checksum."""
    return _checksum(head[:8]) == int.from_bytes(head[8:], "little")


def _read(path: Path, offset: int) -> bytes:
    """A record's data, if they agree with their checksum."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            head = file.read(HEAD.size)
            if len(head) < HEAD.size or not _is_head(head):
                raise _DamageError("has changed since it was found; start again")
            length = HEAD.unpack(head)[0]
            data = file.read(length + TAIL.size)
    except OSError as error:
        raise _DamageError(f"cannot be read ({error.strerror}); {AGAIN}") from None
    if len(data) < length + TAIL.size:
        raise _DamageError(f"is cut off; {AGAIN}")
    if TAIL.unpack(data[length:])[0] != _checksum(data[:length]):
        raise _DamageError(f"is damaged: its data have changed; {AGAIN}")
    return data[:length]


@functools.cache
def _message() -> Any:
    """The class of ``tf.train.Example``: as much of it as :data:`FIELDS` tells."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="bertjax")
    messages = {}
    for message, name, number, repeated, kind in FIELDS:
        if message not in messages:
            messages[message] = file.message_type.add(name=message)
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        field = messages[message].field.add(name=name, number=number, label=label)
        if kind in messages:
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".bertjax.{kind}"
        else:
            field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bertjax.Example"))


def _features(data: bytes) -> dict[str, np.ndarray]:
    """The features that an example has, each ``[values]``."""
    message = _message()()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise _DamageError("is not a tf.train.Example; name files of such examples") from None
    there = {entry.key: entry.value for entry in message.features.feature}
    found = {}
    for name in (*TOKENS, *PREDICTIONS, LABEL):
        if name not in there:
            raise _DamageError(
                f"has no feature '{name}'; name files that create_pretraining_data.py wrote"
            )
        dtype, kind = np.int64, "int64_list"
        if name == "masked_lm_weights":
            dtype, kind = np.float32, "float_list"
        if not there[name].HasField(kind):
            raise _DamageError(f"has a feature '{name}' that is no {kind}; {AGAIN}")
        found[name] = np.array(getattr(there[name], kind).value, dtype)
    return found


def _example(features: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The encoded example, without padding."""
    for names in (TOKENS, PREDICTIONS):
        if len(lengths := {len(features[name]) for name in names}) > 1:
            raise _DamageError(
                f"has features of unequal lengths {sorted(lengths)}: {', '.join(names)}; {AGAIN}"
            )
    length = int(features["input_mask"].sum())
    chosen = features["masked_lm_weights"] > 0
    positions, labels = (features[name][chosen] for name in PREDICTIONS[:2])
    token_ids, type_ids = features["input_ids"][:length], features["segment_ids"][:length]
    mask = np.arange(len(features["input_mask"])) < length
    _require(length > 0, "input_mask", "has no token")
    _require(features["input_mask"] == mask, "input_mask", "is not ones, then zeros")
    _require(features["masked_lm_weights"] == chosen, "masked_lm_weights", "is not 0 or 1")
    _require(type_ids >> 1 == 0, "segment_ids", "is not 0 or 1")
    for name, values in (("input_ids", token_ids), ("masked_lm_ids", labels)):
        _require(values >> 31 == 0, name, "has a number that is no token")
    within = (positions >= 0) & (positions < length)
    _require(within, "masked_lm_positions", f"is not within the {length} tokens")
    label = features[LABEL]
    _require(len(label) == 1 and label[0] in (0, 1), LABEL, "is not one 0 or 1")
    return {
        "token_ids": token_ids.astype(np.int32),
        "type_ids": type_ids.astype(np.int32),
        "prediction_positions": positions.astype(np.int32),
        "prediction_labels": labels.astype(np.int32),
        "label": int(label[0]),
    }


def _require(holds: np.ndarray | bool, name: str, fault: str) -> None:
    if not np.all(holds):
        raise _DamageError(f"is not an example to pretrain on: its '{name}' {fault}; {AGAIN}")
