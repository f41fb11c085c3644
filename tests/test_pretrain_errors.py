"""Every mistake a user can make with ``bertjax pretrain``: one sentence, exit code 2."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_errors import refused
from test_pretrain import masked_examples
from tiny import WORDS, tiny_model
from tiny_pretraining import ARCHITECTURE, command, tiny_corpus, tiny_tokenizer

from bertjax.cli import main as cli


@dataclasses.dataclass(frozen=True)
class Given:
    """What is right, and a folder in which a test may make it wrong."""

    corpus: Path
    other: Path
    """A corpus with another vocabulary."""
    model: Path
    tokenizer: Path
    records: Path
    folder: Path

    def run(self, data: object = None, **changes: object) -> list[str]:
        """Arguments of a run of a few seconds; ``changes`` of the config."""
        return command(self.corpus if data is None else data, self.folder / "run", **changes)

    def damaged(self, name: str, change: Callable[[bytes], bytes] | None) -> Path:
        """The corpus with a file changed, or without it; ``*`` stands for a shard."""
        there = self.folder / "corpus"
        shutil.copytree(self.corpus, there)
        path = sorted(there.glob(name))[0]
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes()))
        return there

    def warm(self, **changes: object) -> list[str]:
        """Arguments of a warm start."""
        return self.run(model=self.model, **changes)

    def records_run(self, change: Callable[[bytes], bytes], **changes: object) -> list[str]:
        """Arguments of a run on a changed TFRecord file."""
        path = self.folder / "examples.tfrecord"
        path.write_bytes(change(self.records.read_bytes()))
        return self.run(f"tfrecord:{path}", **{"tokenizer": self.tokenizer, **changes})


@pytest.fixture(scope="module")
def base(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("given")
    return Given(
        tiny_prepared,
        tiny_corpus(folder / "other", 5, vocabulary=[*WORDS, "more"]),
        tiny_model(folder / "model", **ARCHITECTURE),
        tiny_tokenizer(folder / "tokenizer"),
        masked_examples(folder / "examples.tfrecord"),
        folder,
    )


@pytest.fixture
def given(base: Given, tmp_path: Path) -> Given:
    return dataclasses.replace(base, folder=tmp_path)


def _fields(**changes: object) -> Callable[[Given], list[str]]:
    return lambda given: given.run(**changes)


def _phases(*phases: dict[str, Any], **changes: object) -> Callable[[Given], list[str]]:
    return _fields(**{"steps": 8, "phases": repr(phases), **changes})


def _damaged(name: str, change: Callable[[bytes], bytes] | None) -> Callable[[Given], list[str]]:
    return lambda given: given.run(given.damaged(name, change))


def _empty(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"shards": [], "totals": {}}).encode()


SHORT, LONG = {"max_length": 16, "share": 0.5}, {"max_length": 32, "share": 0.5}
ELECTRA = {"model": "preset:electra_small", "objective": "replaced_token"}

WRONG: dict[str, tuple[Callable[[Given], list[str]], str]] = {
    # The data.
    "no data": (_fields(data=""), "config field 'data' is not set; give --config.data=FOLDER"),
    "no corpus": (
        lambda g: g.run(g.model),
        r"is no prepared corpus \(it has no manifest.json\); run bertjax prepare again",
    ),
    "no such folder": (lambda g: g.run("/no/corpus"), "/no/corpus is no prepared corpus"),
    "cut shard": (_damaged("*.array_record", lambda b: b[:-7]), "the shard .* cut off or changed"),
    "no shard": (_damaged("*.array_record", None), "the shard .* is missing; restore it"),
    "cut lengths": (_damaged("*.lengths.npy", lambda b: b[:-7]), "lengths.npy cannot be read"),
    "no lengths": (_damaged("*.lengths.npy", None), "lengths.npy cannot be read"),
    "cut manifest": (_damaged("manifest.json", lambda b: b[:99]), "manifest.json is damaged"),
    "empty corpus": (_damaged("manifest.json", _empty), "the corpus .* is empty; prepare another"),
    "tokenizer of another": (
        _damaged("tokenizer/tokenizer.json", lambda b: b.replace(b'"cat"', b'"cab"')),
        "was prepared with another tokenizer than the one in ",
    ),
    "tokenizer given": (
        lambda g: g.run(g.other, tokenizer=g.tokenizer),
        "the corpus .* was prepared with another tokenizer than .*; prepare it anew with this one",
    ),
    "corpora of two tokenizers": (
        lambda g: g.run(f"('{g.corpus}','{g.other}')"),
        "the corpus .* was prepared with another tokenizer than the one of ",
    ),
    "validation of another": (
        lambda g: g.run(validation_data=g.other),
        "the corpus .* was prepared with another tokenizer than the one of ",
    ),
    "weight": (
        lambda g: g.run(f"{g.corpus}=0"),
        "config field 'data': the weight of '.*' must be above 0, not 0",
    ),
    "weight of nothing": (
        lambda g: g.run(f"('{g.corpus}=1','{g.corpus}=nan')"),
        "config field 'data': the weight of '.*' must be above 0, not nan",
    ),
    "held out all": (_fields(held_out=0.99), "40 documents or records, too few to hold any out"),
    "held out": (_fields(held_out=1), r"config field 'held_out' must be in \[0, 1\), not 1"),
    # TFRecords.
    "no tokenizer": (
        lambda g: g.run(f"tfrecord:{g.records}"),
        "config field 'tokenizer' is not set; with tfrecord: data name its folder",
    ),
    "no records": (lambda g: g.run("tfrecord:/no/*"), "no file matches '/no/.*'; name files of"),
    "not records": (lambda g: g.records_run(lambda b: b"x" * 99), "is not a TFRecord file, or its"),
    "cut records": (lambda g: g.records_run(lambda b: b[:-3]), "record 40 is cut off; get the fi"),
    "damaged record": (
        lambda g: g.records_run(lambda b: b[:20] + bytes([b[20] ^ 1]) + b[21:]),
        "record 1 is damaged: its data have changed",
    ),
    "long records": (
        lambda g: g.records_run(lambda b: b, max_length=16),
        "tokens where max_length is 16; raise max_length",
    ),
    "records and their labels": (
        lambda g: g.records_run(lambda b: b, sentence_task="sentence_order"),
        "examples.tfrecord has labels of the next-sentence task, not of sentence_order; set",
    ),
    "records and a corpus": (
        lambda g: g.run(f"('{g.corpus}','tfrecord:{g.records}')"),
        "examples.tfrecord and .*prepared cannot be mixed: tfrecord: examples only go together",
    ),
    "records of another model": (
        lambda g: g.run(f"tfrecord:{g.records}", model=g.model, tokenizer=g.other / "tokenizer"),
        "config field 'tokenizer': .* is another one than that of .*; name the model's",
    ),
    # The model.
    "preset": (_fields(model="preset:bert_tinny"), "'model': no preset 'bert_tinny'; did you mean"),
    "no model": (_fields(model="/no/model"), "no folder '/no/model'; check"),
    "architecture of weights": (
        lambda g: [*g.warm(), "--config.architecture.num_layers=3"],
        "config field 'architecture' only goes with a preset; leave out num_layers",
    ),
    "weights of another tokenizer": (
        lambda g: g.run(g.other, model=g.model),
        "the corpus .* was prepared with another tokenizer than the one of .*model",
    ),
    "heads": (
        lambda g: [*g.run(), "--config.architecture.num_heads=5"],
        "hidden_size 32 is not divisible by num_heads 5",
    ),
    "architecture type": (
        lambda g: [*g.run(), "--config.architecture.hidden_size=wide"],
        "config field 'architecture': hidden_size must be a whole number above 0, not 'wide'",
    ),
    "architecture size": (
        lambda g: [*g.run(), "--config.architecture.num_heads=0"],
        "config field 'architecture': num_heads must be a whole number above 0, not 0",
    ),
    "architecture share": (
        lambda g: [*g.run(), "--config.architecture.hidden_dropout=1.5"],
        r"config field 'architecture': hidden_dropout must be in \[0, 1\), not 1.5",
    ),
    "activation": (
        lambda g: [*g.run(), "--config.architecture.activation=gelo"],
        "config field 'architecture': activation is unknown: 'gelo'; did you mean 'gelu'?",
    ),
    "too long": (_fields(max_length=128), "max_length 128 is more than the 64 positions of"),
    "phase too long": (_phases(SHORT, LONG | {"max_length": 128}), "128 is more than the 64 posi"),
    "weights too short": (lambda g: g.warm(max_length=65), "65 is more than the 64 positions of"),
    # The objective.
    "objective": (_fields(objective="mlm"), "config field 'objective': unknown 'mlm'; known: mas"),
    "sentence task": (_fields(sentence_task="nsp"), "config field 'sentence_task': unknown 'nsp'"),
    "ELECTRA": (_fields(**ELECTRA), "ELECTRA has no sentence task; set config field sentence_task"),
    "generator": (
        _fields(**ELECTRA, sentence_task="none", generator_size=0),
        r"config field 'generator_size' must be in \(0, 1\], not 0",
    ),
    "discriminator": (
        _fields(**ELECTRA, sentence_task="none", discriminator_weight=-1),
        "config field 'discriminator_weight' must be 0 or more, not -1",
    ),
    "mask unit": (_fields(mask_unit="words"), "'mask_unit': unknown 'words'; did you mean 'word'?"),
    "mask rate": (_fields(mask_rate=0), "mask_rate is 0.0; set it above 0 and to at most 1"),
    "mask shares": (_fields(mask_share=0.95), "mask_share and random_share are 1.05 together"),
    "n-grams": (_fields(max_ngram=0), "config field 'max_ngram' must be at least 1, not 0"),
    "short share": (_fields(short_share=-0.1), r"'short_share' must be in \[0, 1\), not -0.1"),
    "short": (_fields(max_length=4), "config field 'max_length' must be at least 8, not 4"),
    # Budgets and phases.
    "no budget": (_fields(steps=0), "set one of the config fields steps, tokens, minutes"),
    "two budgets": (
        _fields(tokens=1000),
        "steps, tokens, minutes to a number above 0, not steps and tokens; set the others to 0",
    ),
    "endless": (_fields(steps=0, minutes="inf"), "steps, tokens, minutes to a number above 0"),
    "few tokens": (_fields(steps=0, tokens=9), "phase 1 has no step; train longer"),
    "shares": (_phases(SHORT, {**LONG, "share": 0.6}), "'phases': the shares make 1.1, not 1"),
    "share": (_phases({**SHORT, "share": -1}), "'phases': share must be a number of 0 to 1, not"),
    "no share": (_phases({"max_length": 16}), "config field 'phases' lacks a field"),
    "phase field": (_phases({**SHORT, "lr": 1}), "'phases' has no field 'lr'; known: batch_size"),
    "phase length": (
        _phases({**SHORT, "max_length": "16"}),
        "'phases': max_length must be a whole number of 8 to inf, not '16'",
    ),
    "phase batch": (
        _phases({**SHORT, "batch_size": 0}),
        "'phases': batch_size must be a whole number of 1 to inf, not 0",
    ),
    "phase batch and devices": (
        _phases(SHORT, {**LONG, "batch_size": 12}),
        "batch_size 12 is not divisible by .* 8 devices that share it; the next size that is: 16",
    ),
    "phase of no step": (
        _phases({**SHORT, "share": 0.98}, {**LONG, "share": 0.02}),
        "phase 2 has no step; train longer",
    ),
    "phase warm-up": (
        _phases(SHORT, {**LONG, "warmup_ratio": 0.1}),
        "the schedule goes on through phase 2, so it has no warmup_ratio; give it a learning_rate",
    ),
    "phase rate": (
        _phases(SHORT, {**LONG, "learning_rate": 0.1}, learning_rate=0),
        "config field 'phases': learning_rate needs one of the run above 0",
    ),
    "phases by the clock": (
        _phases(SHORT, LONG, steps=0, minutes=1),
        "a budget in minutes has one phase; give steps or tokens for several",
    ),
    "no phases": (_fields(phases="(3,)"), "config field 'phases' is no list of phases; give "),
    # The rest.
    "recipe": (
        lambda g: ["pretrain", "--config=configs/pretrain.py:bert_tinny", "--workdir=run"],
        "configs/pretrain.py has no recipe 'bert_tinny'; did you mean 'bert_tiny'?",
    ),
    "unknown field": (_fields(learing_rate=1), "no field 'learing_rate'; did you mean 'learning"),
    "wrong type": (_fields(batch_size="many"), "--config.batch_size=many is not a whole number"),
    "batch and devices": (
        _fields(batch_size=12),
        "batch_size 12 is not divisible by .* 8 devices that share it; the next size that is: 16",
    ),
    "accumulation": (_fields(accumulation=3), "not divisible by accumulation 3 times the 8 dev"),
    "mesh": (_fields(**{"mesh.data": 3}), "data=3, fsdp=1, .* to the 8 devi"),
    "freeze": (
        _fields(freeze="('encoder/layer/.*',)"),
        "config field 'freeze': 'encoder/layer/.*' matches no parameter",
    ),
    "schedule": (_fields(schedule="linaer"), "unknown schedule 'linaer'; did you mean 'linear'?"),
    "optimizer": (_fields(optimizer="adamm"), "unknown optimizer 'adamm'; did you mean 'adamw'?"),
    "dtype": (_fields(dtype="fp32"), "'dtype': unknown 'fp32'; known: bfloat16, float32"),
    "warm-up": (_fields(warmup_ratio=1.5), r"warmup_ratio must be in \[0, 1\), not 1.5"),
    "learning rate": (_fields(learning_rate="nan"), "learning_rate must be 0 or more, not nan"),
    "seed": (_fields(seed=-1), r"config field 'seed' must be in \[0, 2\*\*32\), not -1"),
    "dropout": (_fields(dropout=1.0), r"'dropout' must be in \[0, 1\), not 1.0"),
    "workers": (_fields(workers=-1), "config field 'workers' must be at least 0, not -1"),
    "log": (_fields(log_every=0), "config field 'log_every' must be at least 1, not 0"),
    "no workdir": (lambda g: ["pretrain"], "bertjax pretrain needs --workdir=TEXT"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence(name: str, given: Given, capsys: pytest.CaptureFixture[str]):
    """And nothing is left behind."""
    arguments, words = WRONG[name]
    sentence = refused(arguments(given), capsys)
    assert re.search(words, sentence), sentence
    assert "\n" not in sentence
    assert not (given.folder / "run").exists()


def test_another_config_in_the_same_workdir(given: Given, capsys: pytest.CaptureFixture[str]):
    """What would change the result is refused; how often it is logged may change."""
    workdir = given.folder / "run"
    assert cli.main(given.run(steps=2)) == 0
    for changes, words in (
        ({"mask_rate": 0.2}, "mask_rate: 0.15 there, 0.2 here"),
        ({"phases": repr((SHORT, LONG))}, r"phases: \[\] there, \[{'max_length': 16"),
        ({"seed": 4}, "seed: 0 there, 4 here"),
    ):
        sentence = refused(given.run(**{"steps": 2, **changes}), capsys)
        assert re.search(f"holds a run with another config .*{words}.*; choose another", sentence)
    before = (workdir / "metrics.jsonl").read_bytes()
    same = {"log_every": 7, "save_every": 5, "workers": 1, "peak_flops": 1e9}
    assert cli.main(given.run(steps=2, **same)) == 0
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_another_corpus_in_the_same_place(given: Given, capsys: pytest.CaptureFixture[str]):
    """A run that has begun goes on with its own corpus only."""
    corpus = given.folder / "corpus"
    shutil.copytree(given.corpus, corpus)
    assert cli.main(given.run(corpus, steps=2)) == 0
    shutil.rmtree(corpus)
    shutil.copytree(tiny_corpus(given.folder / "anew", seed=1), corpus)
    sentence = refused(given.run(corpus, steps=2), capsys)
    assert re.search(r"the corpus .*corpus is another one than when the run in .* began", sentence)


def test_a_shard_that_was_changed_inside(given: Given, capsys: pytest.CaptureFixture[str]):
    """Its size is right, so it only shows when the documents are read."""
    corpus = given.damaged("*.array_record", lambda b: b[:100] + bytes(3000) + b[3100:])
    sentence = refused(given.run(corpus), capsys)
    assert re.search(r"the shard .* is damaged \(.*\); run bertjax prepare again", sentence)
