"""Converting to and from bertjax's own checkpoints takes little memory beside the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from memory import needs_mallinfo, told
from tiny import tiny_model

from bertjax.exchange import read_model, write_model

CONVERT = """
import sys
import jax
from memory import occupied, peak
from bertjax.exchange import read_model, write_model

def convert(name):
    model = read_model(folder + name)
    write_model(model, folder + name + "-converted", form)
    sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)))

folder, form = sys.argv[1:]
sizes = []
convert("/small")
before = occupied()
print((peak(lambda: convert("/large")) - before) / sizes[1])
"""


@needs_mallinfo
@pytest.mark.parametrize("form", ["bertjax", "huggingface"])
def test_peak_memory(tmp_path: Path, form: str) -> None:
    """A model of 119 MB, its largest array a quarter of it: at most 1.3 times its size.

    What is measured is beyond what stays after the conversion of a small model: beyond the
    interpreter, the libraries and their threads.
    """
    sizes = {"hidden_size": 512, "num_layers": 14, "num_heads": 8, "intermediate_size": 1024}
    for name, fields in {"small": {}, "large": sizes}.items():
        tiny_model(tmp_path / (name if form == "bertjax" else f"{name}-folder"), **fields)
        if form == "huggingface":
            model = read_model(str(tmp_path / f"{name}-folder"))
            write_model(model, str(tmp_path / name), "bertjax")
    assert 1 <= told(CONVERT, str(tmp_path), form) <= 1.3
