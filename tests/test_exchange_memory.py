"""Converting to and from bertjax's own checkpoints takes little memory beside the model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model

from bertjax.exchange import read_model, write_model

CONVERT = """
import sys
import jax
from bertjax.exchange import read_model, write_model

def resident(field):
    (line,) = [l for l in open("/proc/self/status") if l.startswith(field)]
    return int(line.split()[1]) * 1024

def convert(source, folder, form):
    model = read_model(source)
    write_model(model, folder, form)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))

folder, form = sys.argv[1:]
convert(folder + "/small", folder + "/small-converted", form)
before = resident("VmRSS")
size = convert(folder + "/large", folder + "/large-converted", form)
print((resident("VmHWM") - before) / size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("form", ["bertjax", "huggingface"])
def test_peak_memory(tmp_path: Path, form: str) -> None:
    """A model of 119 MB, its largest array a quarter of it: at most 1.3 times its size.

    What is measured is beyond what stays after the conversion of a small model: beyond the
    interpreter, the libraries and their threads. (Its peak would be too much to take off: in it is
    what it gave back.) Freed blocks go back at once, so that none of them is counted: glibc keeps
    some of those below 32 MB, which for a model this small is much.
    """
    sizes = {"hidden_size": 512, "num_layers": 14, "num_heads": 8, "intermediate_size": 1024}
    for name, fields in {"small": {}, "large": sizes}.items():
        tiny_model(tmp_path / (name if form == "bertjax" else f"{name}-folder"), **fields)
        if form == "huggingface":
            model = read_model(str(tmp_path / f"{name}-folder"))
            write_model(model, str(tmp_path / name), "bertjax")
    command = [sys.executable, "-c", CONVERT, str(tmp_path), form]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    told = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert told.returncode == 0, told.stderr
    assert 1 <= float(told.stdout) <= 1.3
