"""Google's TFRecord examples: what is read is what was written; damage is told in a sentence."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.data.tfrecords import TfExamples
from bertjax.types import UserError

LENGTH, PREDICTIONS = 16, 4


def crc32c(data: bytes) -> int:
    """Bit by bit, by the polynomial's definition (RFC 3720)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data: bytes) -> bytes:
    """A record as TFRecord frames it."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    head = b""
    while value >= 128:
        head += bytes([value & 127 | 128])
        value >>= 7
    return head + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def serialized(features: Mapping[str, Sequence[float]]) -> bytes:
    """A tf.train.Example: weights as floats, all others as integers."""
    entries = b""
    for name, values in features.items():
        if name.endswith("weights"):
            feature = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = field(3, field(1, b"".join(varint(int(value)) for value in values)))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def padded(values: Sequence[float], size: int) -> list[float]:
    return [*values, *[0] * (size - len(values))]


def features(number: int = 0, **changes: Any) -> dict[str, Sequence[float]]:
    """One example as create_pretraining_data.py lays it out; each has a length of its own."""
    length = 6 + number % 10
    token_ids = [101, *range(1000 + number, 1000 + number + length - 2), 102]
    return {
        "input_ids": padded(token_ids, LENGTH),
        "input_mask": padded([1] * length, LENGTH),
        "segment_ids": padded([0] * 3 + [1] * (length - 3), LENGTH),
        "masked_lm_positions": padded([2, 4], PREDICTIONS),
        "masked_lm_ids": padded([70_000, 7 + number], PREDICTIONS),
        "masked_lm_weights": padded([1.0, 1.0], PREDICTIONS),
        "next_sentence_labels": [number % 2],
        **changes,
    }


def write(path: Path, examples: Sequence[Mapping[str, Sequence[float]]]) -> Path:
    path.write_bytes(b"".join(framed(serialized(example)) for example in examples))
    return path


def assert_is(example: Mapping[str, Any], number: int) -> None:
    """That an example is the one that :func:`features` makes of a number."""
    length = 6 + number % 10
    assert example["token_ids"].tolist() == features(number)["input_ids"][:length]
    assert example["type_ids"].tolist() == [0] * 3 + [1] * (length - 3)
    assert example["prediction_positions"].tolist() == [2, 4]
    assert example["prediction_labels"].tolist() == [70_000, 7 + number]
    assert example["label"] == number % 2
    assert isinstance(example["label"], int)
    names = ("token_ids", "type_ids", "prediction_positions", "prediction_labels")
    assert {example[name].dtype for name in names} == {np.dtype(np.int32)}


def test_checksum_of_this_test():
    assert crc32c(b"123456789") == 0xE3069283


def test_files_in_order(tmp_path: Path):
    """By pattern and by name; each file once; any place at any time."""
    write(tmp_path / "b.tfrecord", [features(number) for number in range(3, 7)])
    write(tmp_path / "a.tfrecord", [features(number) for number in range(3)])
    write(tmp_path / "c.tfrecord", [])
    examples = TfExamples([str(tmp_path / "*.tfrecord"), str(tmp_path / "a.tfrecord")])
    assert len(examples) == 7
    for number, example in zip(range(7), examples, strict=True):
        assert_is(example, number)
    for number in (5, 0, 3, 6, 2):
        assert_is(examples[number], number)
    assert_is(examples[-1], 6)
    with pytest.raises(IndexError):
        examples[7]
    assert_is(TfExamples(str(tmp_path / "b.tfrecord"))[0], 3)


def test_threads_and_copies(tmp_path: Path):
    examples = TfExamples(str(write(tmp_path / "a", [features(n) for n in range(60)])))
    copy = pickle.loads(pickle.dumps(examples))
    with ThreadPoolExecutor(8) as pool:
        for number, example in enumerate(pool.map(copy.__getitem__, list(range(60)) * 4)):
            assert_is(example, number % 60)


def test_tensorflow_writes_the_same(tmp_path: Path):
    """TensorFlow's own writer and messages: what it wrote is read, byte for byte as here."""
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow writes these files")
    train = tensorflow.train
    path = tmp_path / "tf_examples.tfrecord"
    with tensorflow.io.TFRecordWriter(str(path)) as writer:
        for number in range(20):
            lists = {}
            for name, values in features(number).items():
                if name.endswith("weights"):
                    lists[name] = train.Feature(float_list=train.FloatList(value=values))
                else:
                    integers = train.Int64List(value=[int(value) for value in values])
                    lists[name] = train.Feature(int64_list=integers)
            example = train.Example(features=train.Features(feature=lists))
            writer.write(example.SerializeToString())
    examples = TfExamples(str(path))
    assert len(examples) == 20
    for number, example in zip(range(20), examples, strict=True):
        assert_is(example, number)
    ours = write(tmp_path / "ours", [features(number) for number in range(20)])
    assert path.stat().st_size == ours.stat().st_size
    read = tensorflow.data.TFRecordDataset(str(ours)).map(
        lambda data: tensorflow.io.parse_single_example(
            data, {"input_ids": tensorflow.io.FixedLenFeature([LENGTH], tensorflow.int64)}
        )
    )
    for number, values in enumerate(read.as_numpy_iterator()):
        assert values["input_ids"].tolist() == features(number)["input_ids"]


def three(tmp_path: Path) -> tuple[Path, int, int]:
    """A file of three records, and where the second and the third begin."""
    records = [framed(serialized(features(number))) for number in range(3)]
    path = tmp_path / "tf_examples.tfrecord"
    path.write_bytes(b"".join(records))
    return path, len(records[0]), len(records[0]) + len(records[1])


@pytest.mark.parametrize(
    ("after_second", "message"),
    [
        (-1, "record 2 is cut off"),
        (5, "record 3 is cut off"),
        (12, "record 3 is cut off"),
        (60, "record 3 is cut off"),
    ],
)
def test_cut_off(tmp_path: Path, after_second: int, message: str):
    path, _, third = three(tmp_path)
    path.write_bytes(path.read_bytes()[: third + after_second])
    with pytest.raises(UserError) as error:
        TfExamples(str(path))
    assert str(error.value) == f"{path}: {message}; get the file anew"


def test_every_flipped_bit_is_found(tmp_path: Path):
    """Wherever in the second record it is; the others can still be read where it is in its data."""
    path, second, third = three(tmp_path)
    whole = path.read_bytes()
    for place in range(second, third):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"record 2 is damaged: its (length|data)") as error:
            TfExamples(str(path))[1]
        assert str(path) in str(error.value)
        if place >= second + 12:
            assert_is(TfExamples(str(path))[0], 0)
            assert_is(TfExamples(str(path))[2], 2)


def test_changed_since_it_was_found(tmp_path: Path):
    path, _, _ = three(tmp_path)
    examples = TfExamples(str(path))
    path.write_bytes(b"\0" + path.read_bytes())
    with pytest.raises(UserError, match="record 3 has changed since"):
        examples[2]
    path.write_bytes(path.read_bytes()[1:-1])
    with pytest.raises(UserError, match="record 3 is cut off"):
        examples[2]
    path.unlink()
    with pytest.raises(UserError, match="record 1 cannot be read"):
        examples[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(framed(serialized(features())), mtime=0), "is compressed with gzip"),
        (b"a text, and no records at all", "is not a TFRecord file"),
        (b"short", "is not a TFRecord file"),
        (b"", "has no records"),
    ],
)
def test_other_files(tmp_path: Path, data: bytes, message: str):
    path = tmp_path / "examples"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        TfExamples(str(path))
    assert str(path) in str(error.value)


def test_no_file(tmp_path: Path):
    for pattern in ("*.tfrecord", "none", "."):
        with pytest.raises(UserError, match="no file matches"):
            TfExamples([str(tmp_path / pattern)])
    with pytest.raises(UserError, match="no files are named"):
        TfExamples([])


FAULTS = {
    "unequal tokens": ({"input_mask": [1] * 6}, "unequal lengths [6, 16]: input_ids, input_mask"),
    "unequal predictions": ({"masked_lm_ids": [7]}, "unequal lengths [1, 4]: masked_lm_positions"),
    "no token": ({"input_mask": [0] * LENGTH}, "'input_mask' has no token"),
    "hole": ({"input_mask": padded([1, 0, 1], LENGTH)}, "'input_mask' is not ones, then zeros"),
    "two": ({"input_mask": padded([2], LENGTH)}, "'input_mask' is not ones, then zeros"),
    "weight": ({"masked_lm_weights": [0.5, 1, 0, 0]}, "'masked_lm_weights' is not 0 or 1"),
    "negative": ({"input_ids": [-1] * LENGTH}, "'input_ids' has a number that is no token"),
    "large": ({"masked_lm_ids": [1 << 31] * 4}, "'masked_lm_ids' has a number that is no token"),
    "type": ({"segment_ids": [2] * LENGTH}, "'segment_ids' is not 0 or 1"),
    "position": ({"masked_lm_positions": [0, 6, 0, 0]}, "is not within the 6 tokens"),
    "before": ({"masked_lm_positions": [0, -1, 0, 0]}, "is not within the 6 tokens"),
    "label": ({"next_sentence_labels": [2]}, "'next_sentence_labels' is not one 0 or 1"),
    "labels": ({"next_sentence_labels": [0, 1]}, "'next_sentence_labels' is not one 0 or 1"),
}


@pytest.mark.parametrize(("changes", "message"), FAULTS.values(), ids=FAULTS)
def test_faulty_examples(tmp_path: Path, changes: dict[str, Any], message: str):
    path = write(tmp_path / "examples", [features(), features(**changes)])
    examples = TfExamples(str(path))
    assert_is(examples[0], 0)
    with pytest.raises(UserError) as error:
        examples[1]
    assert str(error.value).startswith(f"{path}: record 2 ")
    assert message in str(error.value)


def test_missing_and_mistaken_features(tmp_path: Path):
    for name in features():
        rest = {key: values for key, values in features().items() if key != name}
        path = write(tmp_path / "examples", [rest])
        with pytest.raises(UserError, match=f"record 1 has no feature '{name}'"):
            TfExamples(str(path))[0]
    path = tmp_path / "examples"
    path.write_bytes(framed(field(1, field(1, field(1, b"input_ids") + field(2, field(2, b""))))))
    with pytest.raises(UserError, match="record 1 has a feature 'input_ids' that is no int64_list"):
        TfExamples(str(path))[0]
    path.write_bytes(framed(b"\x0a\xffno message"))
    with pytest.raises(UserError, match=r"record 1 is not a tf\.train\.Example"):
        TfExamples(str(path))[0]


def test_the_model_must_suit(tmp_path: Path):
    """A token or a length beyond the model is told, where a gather would clip it silently."""
    path = str(write(tmp_path / "examples", [features(number) for number in range(3)]))
    assert_is(TfExamples(path, vocab_size=70_001, max_length=8)[2], 2)
    with pytest.raises(
        UserError, match="record 1 has the token 70000 where the vocabulary has 700"
    ):
        TfExamples(path, vocab_size=70_000)[0]
    with pytest.raises(UserError, match="record 3 has 8 tokens where max_length is 7"):
        TfExamples(path, max_length=7)[2]


def test_places_for_predictions(tmp_path: Path):
    """The most of any file: rows of one width hold the examples of all."""
    five = [3, 4, 5, 3, 4]
    wide = features(0, masked_lm_positions=five, masked_lm_ids=five, masked_lm_weights=[1.0] * 5)
    write(tmp_path / "a", [])
    write(tmp_path / "b", [features()])
    write(tmp_path / "c", [wide])
    assert TfExamples(str(tmp_path / "[ab]")).max_predictions == 4
    assert TfExamples(str(tmp_path / "*")).max_predictions == 5
    assert len(TfExamples(str(tmp_path / "*"))[1]["prediction_labels"]) == 5
    late = TfExamples(str(write(tmp_path / "d", [features(), wide])))
    with pytest.raises(UserError, match="record 2 has 5 predictions where the first records have"):
        late[1]
    (tmp_path / "e").write_bytes(framed(b"") + framed(serialized(features())))
    with pytest.raises(UserError, match="e: record 1 has no feature 'input_ids'"):
        TfExamples(str(tmp_path / "[de]")).max_predictions  # noqa: B018
