"""Pretraining from prepared text, by recipe: ``--config=configs/pretrain.py:RECIPE``.

    bertjax vocab --input='corpus/*.jsonl' --output=vocabulary
    bertjax prepare --input='corpus/*.jsonl' --tokenizer=vocabulary --output=prepared
    bertjax pretrain --config=configs/pretrain.py:bert_tiny --config.data=prepared \
        --workdir=runs/tiny

Each recipe below says where it comes from and what its authors report. Except where a recipe says
that it was run here, it was not: the numbers are the papers'.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict, config_dict

from bertjax.types import UserError, nearest

ARCHITECTURE = (
    "num_layers",
    "hidden_size",
    "num_heads",
    "intermediate_size",
    "embedding_size",
    "max_positions",
    "activation",
    "initializer_range",
    "hidden_dropout",
    "attention_dropout",
)
MINIATURES = tuple(
    f"bert_l{layers}_h{width}" for layers in (2, 4, 6, 8, 10, 12) for width in (128, 256, 512, 768)
)


def defaults() -> dict[str, Any]:
    """Every field; a recipe changes some."""
    return {
        "model": "preset:bert_base",  # or weights to go on from: a folder, workdir or hub name
        "architecture": {name: config_dict.placeholder(object) for name in ARCHITECTURE},
        "data": (),  # prepared folders, FOLDER or FOLDER=WEIGHT; or tfrecord:GLOB
        "tokenizer": "",  # only with tfrecord: data
        "validation_data": (),
        "held_out": 0.01,  # share of the documents
        "eval_rows": 1024,
        "objective": "masked_lm",  # or replaced_token (ELECTRA)
        "generator_size": 0.25,
        "discriminator_weight": 50.0,
        "sentence_task": "next_sentence",  # or sentence_order, none
        "mask_rate": 0.15,
        "mask_share": 0.8,
        "random_share": 0.1,
        "mask_unit": "token",  # or word, ngram
        "max_ngram": 3,
        "short_share": 0.1,
        "balance": True,
        "cut_sentences": True,
        "pack": True,
        "max_length": 128,
        "batch_size": 256,  # rows a step
        "phases": (),  # {"max_length": …, "share": …, "batch_size": …, "learning_rate": …}
        "accumulation": 1,
        "eval_batch_size": 128,
        "steps": 0,  # one of steps, tokens and minutes
        "tokens": 0.0,
        "minutes": 0.0,
        "learning_rate": 1e-4,
        "schedule": "linear",  # polynomial, cosine, constant, constant_with_cooldown
        "warmup_ratio": 0.01,
        "cooldown_ratio": 0.1,
        "final_ratio": 0.0,
        "power": 1.0,
        "optimizer": "adamw",  # adamw_without_bias_correction, lamb, muon
        "weight_decay": 0.01,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-6,
        "momentum": 0.95,  # of muon
        "clip": 1.0,
        "freeze": (),
        "rates": (),  # pairs, factors of the learning rate: (("encoder/embeddings/.*", 0.5),)
        "dropout": config_dict.placeholder(float),
        "seed": 0,
        "dtype": "float32",
        "unroll": 0,
        "attention": "auto",  # xla, cudnn (NVIDIA), splash (TPU)
        "remat": "none",  # dots, full: slower, with less memory
        "vocab_multiple": 0,  # rows of the tables; 0: 1 on a CPU, 128 elsewhere
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "rules": "fsdp_tensor",  # or data, zero1, fsdp, tensor, zero1_tensor
        "workers": 0,
        "eval_every": 1000,
        "save_every": 1000,
        "keep_every": 0,
        "log_every": 50,
        "peak_flops": 0.0,  # of one device; 0: by its kind
        "export": True,
    }


TWO_PHASES = (
    {"max_length": 128, "share": 0.9},
    {"max_length": 512, "share": 0.1},
)


def bert_tiny() -> dict[str, Any]:
    """BERT-Tiny's shape on a small corpus and a laptop; run here, see README.

    Turc et al. 2019 (arXiv 1908.08962) trained it by the recipe of ``bert_base``. This one is for
    75 minutes on two CPU cores: small batches and a higher learning rate, wider initial weights for
    a narrow model, and no dropout, which a model this small does not need.
    """
    return {
        "model": "preset:bert_tiny",
        "initializer_range": 0.05,
        "max_length": 128,
        "batch_size": 32,
        "minutes": 75.0,
        "learning_rate": 1e-3,
        "warmup_ratio": 0.05,
        "b2": 0.98,
        "dropout": 0.0,
        "log_every": 100,
    }


def bert_base() -> dict[str, Any]:
    """BERT-base as published: Devlin et al. 2019, appendix A.2; google-research/bert.

    Wikipedia and BooksCorpus (3.3 G words), 1,000,000 steps of 256 rows: nine tenths at length 128,
    the rest at 512. Reported: GLUE test average 79.6, SQuAD 1.1 dev F1 88.5.
    """
    return {
        "model": "preset:bert_base",
        "phases": TWO_PHASES,
        "steps": 1_000_000,
        "optimizer": "adamw_without_bias_correction",
        "dtype": "bfloat16",
    }


def bert_large() -> dict[str, Any]:
    """BERT-large as published: Devlin et al. 2019, as ``bert_base``.

    Reported: GLUE test average 82.1, SQuAD 1.1 dev F1 90.9.
    """
    return {**bert_base(), "model": "preset:bert_large"}


def miniature(name: str) -> Callable[[], dict[str, Any]]:
    """One of the 24 of Turc et al. 2019, by BERT's own recipe.

    Reported, GLUE test: BERT-Mini (bert_l4_h256) 65.8, BERT-Small (bert_l4_h512) 71.2, BERT-Medium
    (bert_l8_h512) 73.5.
    """
    return lambda: {**bert_base(), "model": f"preset:{name}"}


def bert_whole_word() -> dict[str, Any]:
    """BERT-large with whole-word masking, google-research/bert of 31 May 2019: SQuAD 1.1 dev F1
    92.8 (uncased).
    """
    return {**bert_large(), "mask_unit": "word"}


def roberta_base() -> dict[str, Any]:
    """RoBERTa-base: Liu et al. 2019 (arXiv 1907.11692), appendix B, table 9.

    160 GB of text, 500,000 steps of 8,192 rows of 512 tokens, no sentence task; rows hold pieces
    of one document each, packed. Prepare with a byte-level vocabulary (``bertjax vocab
    --kind=byte_bpe --size=50265``). Reported: MNLI dev 87.6, SST-2 94.8.
    """
    return {
        "model": "preset:roberta_base",
        "sentence_task": "none",
        "max_length": 512,
        "batch_size": 8192,
        "steps": 500_000,
        "learning_rate": 6e-4,
        "warmup_ratio": 0.048,
        "b2": 0.98,
        "clip": 0.0,
        "dtype": "bfloat16",
    }


def albert_base() -> dict[str, Any]:
    """ALBERT-base: Lan et al. 2020 (arXiv 1909.11942), section 4.1.

    Sentence order, n-gram masking up to 3, LAMB, 125,000 steps of 4,096 rows of 512 tokens;
    vocabulary of 30,000 unigram pieces. Reported (version 2): MNLI dev 84.6, SST-2 92.9, SQuAD 1.1
    dev F1 90.2.
    """
    return {
        "model": "preset:albert_base",
        "sentence_task": "sentence_order",
        "mask_unit": "ngram",
        "max_length": 512,
        "batch_size": 4096,
        "steps": 125_000,
        "learning_rate": 1.76e-3,
        "warmup_ratio": 0.025,
        "optimizer": "lamb",
        "dtype": "bfloat16",
    }


def electra_small() -> dict[str, Any]:
    """ELECTRA-small: Clark et al. 2020 (arXiv 2003.10555), appendix A, table 6.

    1,000,000 steps of 128 rows of 128 tokens, on the data of BERT. Reported: GLUE dev average 79.9
    (four days on one V100).
    """
    return {
        "model": "preset:electra_small",
        "objective": "replaced_token",
        "sentence_task": "none",
        "mask_share": 0.85,
        "random_share": 0.0,
        "max_length": 128,
        "batch_size": 128,
        "steps": 1_000_000,
        "learning_rate": 5e-4,
        "dtype": "bfloat16",
    }


def one_gpu_day() -> dict[str, Any]:
    """One GPU, one day: Izsak et al. 2021 (arXiv 2104.07705), "How to Train BERT with an Academic
    Budget", section 3: a large model at length 128 without a sentence task, large batches, and a
    schedule that follows the clock.

    They trained 24 hours on eight 12 GB Titan-V, and report scores near BERT-base's; one modern GPU
    computes about as much in a day.
    """
    return {
        "model": "preset:bert_large",
        "sentence_task": "none",
        "max_length": 128,
        "batch_size": 4096,
        "accumulation": 32,
        "minutes": 1440.0,
        "learning_rate": 2e-3,
        "warmup_ratio": 0.06,
        "b2": 0.98,
        "clip": 0.0,
        "dtype": "bfloat16",
        "eval_every": 500,
        "save_every": 500,
    }


def tpu_pod_lamb() -> dict[str, Any]:
    """BERT-large in 15,625 steps of 32,768 rows on a Cloud TPU pod: You et al. 2020 (arXiv
    1904.00962), section 4.1 and table 4 of the appendix.

    LAMB, peak 0.005 after a fifth of the run, then linear decay. Reported: SQuAD 1.1 dev F1 91.475.
    """
    return {
        "model": "preset:bert_large",
        "phases": TWO_PHASES,
        "batch_size": 32_768,
        "steps": 15_625,
        "learning_rate": 5e-3,
        "warmup_ratio": 0.2,
        "optimizer": "lamb",
        "dtype": "bfloat16",
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "eval_every": 500,
        "save_every": 500,
    }


RECIPES: dict[str, Callable[[], dict[str, Any]]] = {
    **{name: miniature(name) for name in MINIATURES},
    "bert_mini": miniature("bert_mini"),
    "bert_small": miniature("bert_small"),
    "bert_medium": miniature("bert_medium"),
    "bert_tiny": bert_tiny,
    "bert_base": bert_base,
    "bert_large": bert_large,
    "bert_whole_word": bert_whole_word,
    "roberta_base": roberta_base,
    "albert_base": albert_base,
    "electra_small": electra_small,
    "one_gpu_day": one_gpu_day,
    "tpu_pod_lamb": tpu_pod_lamb,
}


def get_config(argument: str = "bert_base") -> ConfigDict:
    """The config of a recipe."""
    if argument not in RECIPES:
        hint = nearest(argument, RECIPES)
        raise UserError(f"configs/pretrain.py has no recipe '{argument}'{hint}")
    values = {**defaults(), **RECIPES[argument]()}
    values["architecture"] |= {name: values.pop(name) for name in ARCHITECTURE if name in values}
    return ConfigDict(values)
