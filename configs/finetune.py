"""Fine-tuning of one task, by the recipe of BERT's paper (Devlin et al. 2019, appendix A.3).

    bertjax finetune --config=configs/finetune.py:task=mrpc --workdir=runs/mrpc \
        --config.model=MODEL --config.data=files:GLUE

Tasks: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli (GLUE); squad, squad2; conll2003,
wikiann; swag, race, dream; xnli, imdb, chnsenticorp; and classification, regression, multi_label,
ner, pos and multiple_choice for one's own data. Several at once: task=mnli+rte. A task's own
fields are `options`; docs/finetuning.md has a recipe for each. The paper's grid: batch size 16 or
32, learning rate 5e-5, 3e-5 or 2e-5, 2 to 4 epochs. MRPC with the 22.7 M parameter MiniLM takes
about five minutes on two CPU cores.
"""

from ml_collections import ConfigDict, config_dict

from bertjax.tasks.several import data_fields, default_data, options_of, usual_length
from bertjax.types import UserError


def get_config(argument: str = "") -> ConfigDict:
    """The config; ``argument`` is ``task=NAME``."""
    name, _, task = argument.partition("=")
    if name not in ("", "task"):
        raise UserError(f"configs/finetune.py:{argument}: write configs/finetune.py:task=NAME")
    return ConfigDict(
        {
            "model": "bert-base-uncased",  # folder, trained workdir or hub name
            "task": task,
            "data": default_data(task),  # tfds:NAME, hf:OWNER/NAME or files:DIR
            # With task=classification or task=regression:
            "text_columns": config_dict.placeholder(tuple),
            "label_column": config_dict.placeholder(str),
            "labels": config_dict.placeholder(tuple),
            "options": options_of(task),  # the task's own
            "task_data": data_fields(task),  # of several tasks, what `data` does not say
            "alpha": 0.75,  # several tasks are drawn by size**alpha
            "max_train_examples": 0,
            "max_length": usual_length(task),
            "batch_size": 32,
            "accumulation": 1,
            "eval_batch_size": 64,
            "pack": True,
            "epochs": 3.0,
            "steps": 0,  # if not 0, replaces epochs
            "learning_rate": 5e-5,
            "schedule": "linear",  # polynomial, cosine, constant, constant_with_cooldown
            "warmup_ratio": 0.1,
            "cooldown_ratio": 0.1,
            "final_ratio": 0.0,
            "power": 1.0,
            "optimizer": "adamw",  # adamw_without_bias_correction, lamb, muon
            "weight_decay": 0.01,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "momentum": 0.95,  # of muon
            "clip": 1.0,
            "freeze": (),  # such as ("encoder/embeddings/.*", "encoder/layers/[0-3]/.*")
            "rates": (),  # pairs, factors of the learning rate: (("heads/.*", 10.0),)
            "layer_decay": 1.0,  # below 1 the lower layers learn more slowly; ELECTRA: 0.8
            "reinit": (),  # such as ("encoder/layers/1[01]/.*", "encoder/pooler/.*")
            "reinit_layers": 0,  # so many top layers, and the pooler, begin anew
            "dropout": config_dict.placeholder(float),
            "new_head": False,
            "seed": 0,
            "dtype": "float32",
            "unroll": 0,
            "attention": "auto",  # xla, cudnn (NVIDIA), splash (TPU)
            "remat": "none",  # dots, full: slower, with less memory
            "vocab_multiple": 0,  # rows of the tables; 0: 1 on a CPU, 128 elsewhere
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "rules": "fsdp_tensor",  # or data, zero1, fsdp, tensor, zero1_tensor
            "eval_every": 0,  # steps; 0: each epoch
            "save_every": 1000,
            "log_every": 20,
            "patience": 0,
            "export": True,
        }
    )
