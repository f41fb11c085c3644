"""Classification beyond GLUE: sets of their own layout, one entry of the table each.

* ``xnli``: option ``language``. Files are those of XNLI-1.0.zip (``xnli.dev.tsv``,
  ``xnli.test.tsv``: all languages) and of XNLI-MT-1.0.zip (``multinli/multinli.train.fr.tsv``:
  MultiNLI, translated by machine), both from https://github.com/facebookresearch/XNLI, unpacked
  into one folder. ``tfds:xtreme_xnli`` has another translation of train; its other splits are those
  of ``tfds:xnli``. ``hf:facebook/xnli/fr`` names the language itself.
* ``imdb``: files are those of https://ai.stanford.edu/~amaas/data/sentiment/, ``tfds:imdb_reviews``
  and ``hf:stanfordnlp/imdb`` the same. It has no validation split: it is the test split that is
  evaluated, as everywhere in the literature, so the best checkpoint is chosen on it.
* ``chnsenticorp``: ``train.tsv`` and ``dev.tsv`` with ``text TAB label`` and no header, the labels
  as words; ``test.tsv`` with the columns ``qid`` and ``text_a`` and no labels. For one of the many
  other layouts take task ``classification``.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from bertjax.data.layout import Layout
from bertjax.tasks.text import TextTask
from bertjax.types import TextSchema, UserError, nearest

INFERENCE = ("entailment", "neutral", "contradiction")
LANGUAGES = (
    *("ar", "bg", "de", "el", "en", "es", "fr", "hi"),
    *("ru", "sw", "th", "tr", "ur", "vi", "zh"),
)


def xnli_layout(language: str) -> Layout:
    """How XNLI lies in its sources, for one language."""
    return Layout(
        folder="XNLI-1.0",
        files={
            "train": f"multinli.train.{language}.tsv",
            "validation": "xnli.dev.tsv",
            "test": "xnli.test.tsv",
        },
        file_columns={"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
        language=language,
        by_split={
            "train": {
                "folder": "XNLI-MT-1.0/multinli",
                "file_columns": {"hypothesis": "hypo"},
                "file_labels": ("entailment", "neutral", "contradictory"),
                "file_of_language": True,
            },
            "validation": {"elsewhere": {"tfds:xtreme_xnli": "tfds:xnli"}},
            "test": {"elsewhere": {"tfds:xtreme_xnli": "tfds:xnli"}},
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossLingualTask(TextTask):
    """A task whose data are in several languages, of which one is read."""

    layout: Layout = dataclasses.field(default_factory=lambda: xnli_layout("en"))
    language: str = "en"

    OPTIONS: ClassVar[tuple[str, ...]] = ("truncation", "head_length", "class_weights", "language")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in LANGUAGES:
            hint = nearest(self.language, LANGUAGES)
            raise UserError(f"task '{self.name}' has no language '{self.language}'{hint}")

    @property
    def _sources(self) -> Layout:
        return xnli_layout(self.language)


BEYOND_GLUE = {
    task.name: task
    for task in (
        CrossLingualTask(
            name="xnli",
            schema=TextSchema(("premise", "hypothesis"), labels=INFERENCE),
            metrics=("accuracy",),
            description="Does the premise entail the hypothesis? In one of 15 languages.",
            citation="Conneau et al., 2018, https://aclanthology.org/D18-1269",
        ),
        TextTask(
            name="imdb",
            usual_length=512,
            schema=TextSchema(("text",), labels=("neg", "pos")),
            metrics=("accuracy",),
            layout=Layout(
                folder="aclImdb",
                files={"train": "train", "validation": "test", "test": "test"},
                class_folders=("neg", "pos"),
                hub_splits={"validation": "test"},
            ),
            description="Does the long film review praise or pan? Evaluated on its test split.",
            citation="Maas et al., 2011, https://aclanthology.org/P11-1015",
        ),
        TextTask(
            name="chnsenticorp",
            schema=TextSchema(("text",), labels=("negative", "positive")),
            metrics=("accuracy",),
            layout=Layout(
                folder="chnsenticorp",
                files={"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"},
                headers=dict.fromkeys(("train", "validation"), ("text", "label")),
                by_split={"test": {"file_columns": {"text": "text_a"}}},
            ),
            description="Does the Chinese review of a hotel, book or notebook praise or pan?",
            citation="Tan and Zhang, 2008, https://doi.org/10.1016/j.eswa.2007.05.028",
        ),
    )
}
