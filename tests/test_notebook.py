"""The notebooks run top to bottom on a tiny model and a few sentences, and are kept stripped."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

WORDS = ["the", "a", "cat", "dog", "bird", "man", "sees", "hears", "likes", "old", "small", "red"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NOTEBOOKS = sorted((Path(__file__).parents[1] / "colab").glob("*.ipynb"))


def write_model(folder: Path, width: int = 16, layers: int = 2) -> None:
    """A Hugging Face folder of a very small BERT with random weights."""
    from safetensors.numpy import save_file

    folder.mkdir()
    vocabulary = SPECIAL + WORDS
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}', encoding="utf-8")
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
        "type_vocab_size": 2,
        "vocab_size": len(vocabulary),
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = {
        "embeddings.word_embeddings": (len(vocabulary), width),
        "embeddings.position_embeddings": (128, width),
        "embeddings.token_type_embeddings": (2, width),
        "pooler.dense": (width, width),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}.attention.{name}"] = (width, width)
        shapes[f"{layer}.intermediate.dense"] = (2 * width, width)
        shapes[f"{layer}.output.dense"] = (width, 2 * width)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    generator = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = generator.normal(0, 0.1, shape).astype(np.float32)
        if "_embeddings" not in name:
            tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    for name in norms:
        tensors[f"{name}.weight"] = np.ones(width, np.float32)
        tensors[f"{name}.bias"] = np.zeros(width, np.float32)
    save_file(tensors, folder / "model.safetensors")


def write_mrpc(folder: Path) -> None:
    """Paraphrase pairs in the layout of GLUE's MRPC: equal sentences, or two different ones."""
    folder.mkdir(parents=True)
    pick = random.Random(0)
    for name, rows in (("train", 24), ("dev", 10)):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for row in range(rows):
            first = " ".join(pick.choices(WORDS, k=6))
            second = first if row % 2 else " ".join(pick.choices(WORDS, k=6))
            lines.append(f"{row % 2}\t{2 * row}\t{2 * row + 1}\t{first}\t{second}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_stripped(path: Path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_finetune_glue(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in ("matplotlib", "ipykernel"):
        pytest.importorskip(module, reason=f"running notebooks needs {module}")
    nbclient = pytest.importorskip("nbclient", reason="running notebooks needs nbclient")
    import nbformat

    write_model(tmp_path / "model")
    write_mrpc(tmp_path / "glue" / "MRPC")
    settings = {
        "PYTHONPATH": str(repository),  # so that the install cell never has anything to do
        "MODEL": str(tmp_path / "model"),
        "DATA": f"files:{tmp_path / 'glue'}",
        "EPOCHS": "3",
        "WORKDIR": str(tmp_path / "run"),
        "EXPORT": str(tmp_path / "export"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TASK", raising=False)
    notebook = nbformat.read(repository / "colab" / "finetune_glue.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()

    outputs = {cell["id"]: cell.get("outputs", []) for cell in notebook.cells}
    assert any("image/png" in output.get("data", {}) for output in outputs["curve"])
    assert "equivalent" in "".join(output.get("text", "") for output in outputs["predict"])
    assert {"config.json", "model.safetensors"} <= {p.name for p in (tmp_path / "export").iterdir()}
    assert (tmp_path / "run" / "result.json").is_file()
