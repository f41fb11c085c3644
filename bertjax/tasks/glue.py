"""GLUE: nine tasks and the diagnostic set, one entry of the table each.

Class names and their order are those of the Hugging Face and TFDS data sets, so that a head
trained here means the same elsewhere. Splits are called ``train``, ``validation`` and ``test``;
MNLI's plain ones are the matched ones. Files are as https://gluebenchmark.com/tasks gives them
(for QQP its cleaned archive ``QQP-clean.zip``: the older one has rows broken over two lines).
Metrics are the official ones of Wang et al., 2019 (https://arxiv.org/abs/1804.07461).
"""

from __future__ import annotations

from bertjax.data.sources import Layout
from bertjax.tasks.text import TextTask
from bertjax.types import TextSchema

FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
MNLI_FILES = {
    "train": "train.tsv",
    "validation": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
    "test": "test_matched.tsv",
    "test_mismatched": "test_mismatched.tsv",
}
COLA_COLUMNS = ("source", "label", "source_mark", "sentence")
PAIR = ("sentence1", "sentence2")
INFERENCE = ("entailment", "neutral", "contradiction")
DIGITS = ("0", "1")
HIDDEN = -1

GLUE = {
    task.name: task
    for task in (
        TextTask(
            name="cola",
            schema=TextSchema(("sentence",), labels=("unacceptable", "acceptable")),
            metrics=("matthews",),
            layout=Layout(
                folder="CoLA",
                files=FILES,
                headers={"train": COLA_COLUMNS, "validation": COLA_COLUMNS},
                file_labels=DIGITS,
                hidden_label=HIDDEN,
            ),
            description="Is the sentence acceptable English?",
            citation="Warstadt et al., 2018, https://arxiv.org/abs/1805.12471",
        ),
        TextTask(
            name="sst2",
            schema=TextSchema(("sentence",), labels=("negative", "positive")),
            metrics=("accuracy",),
            layout=Layout(folder="SST-2", files=FILES, file_labels=DIGITS, hidden_label=HIDDEN),
            description="Does the film review praise or pan?",
            citation="Socher et al., 2013, https://aclanthology.org/D13-1170",
        ),
        TextTask(
            name="mrpc",
            schema=TextSchema(PAIR, labels=("not_equivalent", "equivalent")),
            metrics=("f1", "accuracy"),
            layout=Layout(
                folder="MRPC",
                files=FILES,
                file_columns={
                    "sentence1": "#1 String",
                    "sentence2": "#2 String",
                    "label": "Quality",
                },
                file_labels=DIGITS,
                hidden_label=HIDDEN,
            ),
            description="Do the two sentences say the same?",
            citation="Dolan and Brockett, 2005, https://aclanthology.org/I05-5002",
        ),
        TextTask(
            name="stsb",
            schema=TextSchema(PAIR),
            metrics=("pearson", "spearman"),
            kind="regression",
            layout=Layout(
                folder="STS-B", files=FILES, file_columns={"label": "score"}, hidden_label=HIDDEN
            ),
            description="How alike in meaning are the two sentences, from 0 to 5?",
            citation="Cer et al., 2017, https://aclanthology.org/S17-2001",
        ),
        TextTask(
            name="qqp",
            schema=TextSchema(("question1", "question2"), labels=("not_duplicate", "duplicate")),
            metrics=("f1", "accuracy"),
            layout=Layout(
                folder="QQP",
                files=FILES,
                file_columns={"label": "is_duplicate"},
                file_labels=DIGITS,
                hidden_label=HIDDEN,
            ),
            description="Do the two questions ask the same?",
            citation="Iyer et al., 2017, Quora Question Pairs",
        ),
        TextTask(
            name="mnli",
            schema=TextSchema(("premise", "hypothesis"), labels=INFERENCE),
            metrics=("accuracy",),
            layout=Layout(
                folder="MNLI",
                files=MNLI_FILES,
                file_columns={
                    "premise": "sentence1",
                    "hypothesis": "sentence2",
                    "label": "gold_label",
                },
                hub_splits={"validation": "validation_matched", "test": "test_matched"},
                hidden_label=HIDDEN,
            ),
            description="Does the premise entail, contradict or leave open the hypothesis?",
            citation="Williams et al., 2018, https://aclanthology.org/N18-1101",
        ),
        TextTask(
            name="qnli",
            schema=TextSchema(("question", "sentence"), labels=("entailment", "not_entailment")),
            metrics=("accuracy",),
            layout=Layout(folder="QNLI", files=FILES, hidden_label=HIDDEN),
            description="Does the sentence hold the answer to the question?",
            citation="Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250",
        ),
        TextTask(
            name="rte",
            schema=TextSchema(PAIR, labels=("entailment", "not_entailment")),
            metrics=("accuracy",),
            layout=Layout(folder="RTE", files=FILES, hidden_label=HIDDEN),
            description="Does the first text entail the second?",
            citation="Dagan et al., 2006, and its sequels, https://arxiv.org/abs/1804.07461",
        ),
        TextTask(
            name="wnli",
            schema=TextSchema(PAIR, labels=("not_entailment", "entailment")),
            metrics=("accuracy",),
            layout=Layout(folder="WNLI", files=FILES, file_labels=DIGITS, hidden_label=HIDDEN),
            description="Does the sentence entail the one with its pronoun resolved?",
            citation="Levesque et al., 2012, the Winograd Schema Challenge",
        ),
        TextTask(
            name="ax",
            schema=TextSchema(("premise", "hypothesis"), labels=INFERENCE),
            metrics=("matthews",),
            layout=Layout(
                folder="AX",
                files={"test": "diagnostic.tsv"},
                file_columns={"premise": "sentence1", "hypothesis": "sentence2"},
                hidden_label=HIDDEN,
            ),
            description="Diagnostics by linguistic phenomenon, for a model trained on MNLI.",
            citation="Wang et al., 2019, https://arxiv.org/abs/1804.07461",
        ),
    )
}
