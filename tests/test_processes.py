"""Several processes compute what one with as many devices computes."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from disturbed import lines
from process_worker import Ended, run_processes
from safetensors.numpy import load_file
from tiny import WORDS, tiny_glue, tiny_model
from tiny_pretraining import command as pretrain_command

from bertjax.checkpoint import Checkpoints
from bertjax.cli import main as cli
from bertjax.train.pretrain import assemble
from bertjax.train.pretrain_config import PretrainConfig
from bertjax.train.state import abstract_state, create_state
from bertjax.train.workdir import experiment_of
from bertjax.types import HeadConfig

STEPS = 5
EXAMPLES = 872
"""As SST-2 has to validate on; no multiple of a batch."""
COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]

Commands = Callable[[Path], list[list[str]]]


@pytest.fixture(scope="module")
def commands(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Pretraining with packed rows, fine-tuning with packed examples, both with dropout, then an
    evaluation and a prediction of 872 examples, and at last something that is wrong.
    """
    given = tmp_path_factory.mktemp("given")
    model, glue = tiny_model(given / "model", num_layers=1), tiny_glue(given / "glue")
    scorer = tiny_model(
        given / "scorer",
        head=HeadConfig("classification", 2),
        labels=("unacceptable", "acceptable"),
        num_layers=1,
        initializer_range=0.3,
    )
    many = sentences(given / "many")
    fields = {
        "model": model,
        "data": f"files:{glue}",
        "max_length": 32,
        "batch_size": 16,
        "steps": STEPS,
        "learning_rate": 1e-4,
        "dropout": 0.1,
        "log_every": 1,
    }
    finetune = ["finetune", "--config=configs/finetune.py:task=mrpc"]
    finetune += [f"--config.{name}={value}" for name, value in fields.items()]
    score = [f"--model={scorer}", "--task=cola", f"--data=files:{many}", "--split=validation"]
    changes = {"steps": STEPS, "learning_rate": 1e-4, "dropout": 0.1, "accumulation": 2}
    changes |= {"batch_size": 16, "eval_batch_size": 16}

    def made(root: Path) -> list[list[str]]:
        pretrain = pretrain_command(tiny_prepared, root / "pretrained", **changes)
        return [
            pretrain,
            [*finetune, f"--workdir={root / 'finetuned'}"],
            [*pretrain, f"--workdir={root / 'resumed'}"],
            ["predict", *score, f"--output={root / 'answers.jsonl'}"],
            ["evaluate", *score],
            [*pretrain, "--config.seed=1"],
        ]

    return made


def sentences(folder: Path) -> Path:
    """CoLA's folder with many sentences to validate on."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(EXAMPLES):
        text = " ".join(draw.choice(WORDS[5:19], draw.integers(1, 25)))
        rows.append(f"gj04\t{draw.integers(2)}\t*\t{text}\n")
    (folder / "CoLA").mkdir(parents=True)
    (folder / "CoLA" / "dev.tsv").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def alone(
    commands: Commands, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float]]:
    """The folder that one process leaves, and its metrics of the 872 examples."""
    root, printed = tmp_path_factory.mktemp("alone"), io.StringIO()
    pretrain, finetune, _, *others, _ = commands(root)
    with contextlib.redirect_stdout(printed):
        for command in (pretrain, finetune, *others):
            assert cli.main(command) == 0
    return root, json.loads(printed.getvalue().splitlines()[-1])


@pytest.fixture(scope="module", params=COUNTS)
def together(
    request: pytest.FixtureRequest,
    commands: Commands,
    alone: tuple[Path, dict[str, float]],
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Ended]:
    """The folder that several processes leave, and how they ended."""
    root = tmp_path_factory.mktemp("together")
    ignored = shutil.ignore_patterns("result.json", "huggingface")
    shutil.copytree(alone[0] / "pretrained", root / "resumed", ignore=ignored)
    ended = run_processes(
        commands(root), request.param, jax.device_count(), root / "logs", repository
    )
    return root, ended


def test_training_is_the_same(alone: tuple[Path, dict[str, float]], together: tuple[Path, Ended]):
    for run in ("pretrained", "finetuned"):
        mine, theirs = (lines(root / run) for root in (together[0], alone[0]))
        assert [line["step"] for line in mine] == [line["step"] for line in theirs]
        assert len([line for line in mine if "train/loss" in line]) == STEPS
        for line, other in zip(mine, theirs, strict=True):
            assert line == pytest.approx(other, rel=1e-5, abs=1e-9)
        weights = [
            load_file(root / run / "huggingface" / "model.safetensors")
            for root in (together[0], alone[0])
        ]
        assert weights[0].keys() == weights[1].keys()
        for name, value in weights[1].items():
            np.testing.assert_allclose(weights[0][name], value, rtol=0, atol=1e-5, err_msg=name)


def test_one_process_reads_what_several_saved(together: tuple[Path, Ended]):
    """Parameters and optimizer have the digests that the processes computed of them."""
    root = together[0]
    assert (root / "pretrained" / "checkpoints" / str(STEPS) / "optimizer").exists()
    parts = assemble(PretrainConfig.from_mapping(experiment_of(str(root / "pretrained"))))
    state = create_state(parts.trained, parts.config.optim, parts.mesh, seed=1)
    shapes = abstract_state(state)
    checkpoints = Checkpoints(root / "pretrained", read_only=True)
    assert checkpoints.restore(STEPS, shapes.params, shapes.optimizer).step == STEPS
    checkpoints.close()


def test_several_processes_read_what_one_saved(
    alone: tuple[Path, dict[str, float]], together: tuple[Path, Ended]
):
    """They go on from its last step: evaluate it again, and export the same bits."""
    mine, theirs = together[0] / "resumed", alone[0] / "pretrained"
    assert lines(mine) == lines(theirs)
    exports = [folder / "huggingface" / "model.safetensors" for folder in (mine, theirs)]
    assert exports[0].read_bytes() == exports[1].read_bytes()


def test_every_example_counts_once(
    alone: tuple[Path, dict[str, float]], together: tuple[Path, Ended]
):
    """The same metrics, to the last digit, and the same answers in the same order."""
    found = json.loads(together[1][0][1].splitlines()[-1])
    assert found["examples"] == EXAMPLES
    assert found == alone[1]
    answers = [(root / "answers.jsonl").read_text() for root in (together[0], alone[0])]
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) == EXAMPLES


def test_only_the_first_process_speaks(together: tuple[Path, Ended]):
    """Notes and results come once, and so does what is wrong, which ends all of them."""
    (_, out, err), *others = together[1]
    assert "pretrained " in out
    assert "parameters, to be trained for" in err
    assert "step 5: " in err
    assert [out for _, out, _ in others] == [""] * len(others)
    assert [code for code, _, _ in together[1]] == [2] * len(together[1])
    told = "".join(err for _, _, err in together[1])
    assert told.count(" parameters, to be trained for ") == 2  # once in each pretraining
    assert told.count("holds a run with another config (seed: 0 there, 1 here)") == 1
    assert told.count("bertjax: error:") == 1
    assert "Traceback" not in told
