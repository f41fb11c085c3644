"""English from docstrings: what counts as a sentence, no repeats, no leaks, nothing imported."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bertjax.data.python_text import (
    Passage,
    balanced,
    collect,
    docstrings,
    sentences_of,
    split,
)

SAME = "Both packages say this very same sentence about nothing."
MODULE = '''"""The {name} package explains itself in one long sentence here."""
raise RuntimeError("nobody imports this")

class Thing:
    """Holds a number of {name} things and counts them when asked.

    {same}
    """

    def count(self):
        """Returns how many things there are in the box."""

if True:
    def again():
        """Returns how many things there are, in the box!

        The {name} result number 7 is the one that callers want.
        """
'''


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two packages that fail when they are imported."""
    for name, noun in (("quick_first", "zebra"), ("quick_second", "violin")):
        (tmp_path / name / "tests").mkdir(parents=True)
        text = MODULE.format(name=noun, same=SAME)
        (tmp_path / name / "__init__.py").write_text(text, encoding="utf-8")
        (tmp_path / name / "broken.py").write_text("def f(:", encoding="utf-8")
        (tmp_path / name / "tests" / "test_it.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "quick_first", "quick_second"


def test_collect_reads_without_importing_and_leaves_repeats_out(packages: tuple[str, str]):
    found = collect(packages)
    sentences = [s for passage in found for s in passage.sentences]
    assert not {*packages} & {*sys.modules}
    assert {p.file for p in found} == {"__init__.py"}
    assert SAME not in sentences
    assert not any("box" in s for s in sentences), "in both packages, but for a comma"
    assert sentences == [
        "The zebra package explains itself in one long sentence here.",
        "Holds a number of zebra things and counts them when asked.",
        "The zebra result number 7 is the one that callers want.",
        "The violin package explains itself in one long sentence here.",
        "Holds a number of violin things and counts them when asked.",
        "The violin result number 7 is the one that callers want.",
    ]
    assert collect(["no_such_package_anywhere"]) == []


def test_a_repeat_within_one_library_is_kept_once(packages: tuple[str, str]):
    sentences = [s for passage in collect(packages[:1]) for s in passage.sentences]
    assert sum("box" in s for s in sentences) == 1
    assert SAME in sentences


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "Return the sum of all the values. It is zero where there are none at all.",
            [
                "Return the sum of all the values.",
                "It is zero where there are none at all.",
            ],
        ),
        (
            "The :class:`~a.b.Array` that ``values`` of `the text <http://x>`_ become here.",
            [],  # a web address
        ),
        (
            "The :class:`Array` that ``values`` of *this long text* become in [1]_ here.",
            ["The Array that values of this long text become in here."],
        ),
        (
            "Like NumPy, unlike jax.numpy or scikit-learn, it copies what Python gives.",
            ["Like library, unlike library.library or library, it copies what library gives."],
        ),
        (">>> Add all the many small numbers up to one sum.", []),
        ("Parameters\n----------\nx : array_like\n    The values that are to be summed here.", []),
        (
            "Args:\n  x: The values that are to be summed here.",
            ["The values that are to be summed here."],
        ),
        ("Too short a sentence.", []),
        ("no capital stands at the beginning of this sentence.", []),
        ("A_1 B_2 C_3 D_4 E_5 and F_6 are the six of them.", []),
    ],
)
def test_sentences(text: str, found: list[str]):
    assert list(sentences_of(text)) == found


def test_docstrings_of_methods_but_not_of_inner_functions():
    source = (
        'def f():\n  "outer"\n  def g():\n    "inner"\nclass A:\n  def m(self):\n    "method"\n'
    )
    assert list(docstrings(source)) == ["outer", "method"]
    assert list(docstrings("not python at all (")) == []


def passages() -> list[Passage]:
    return [
        Passage(library, f"file{number}.py", tuple(f"{library} {number} {i}." for i in range(4)))
        for library in ("one", "two")
        for number in range(60)
    ]


def test_split_keeps_files_whole():
    corpus = split(passages(), 0.25)
    train, held_out = (
        {(p.library, p.file) for p in part} for part in (corpus.train, corpus.validation)
    )
    assert not train & held_out
    assert len(train | held_out) == 120
    assert 15 <= len(held_out) <= 45
    assert split(passages(), 0.25) == corpus


def test_balanced_draw():
    drawn = balanced(passages(), 50, "salt")
    assert Counter(library for library, _ in drawn) == {"one": 50, "two": 50}
    assert len({sentence for _, sentence in drawn}) == 100
    assert drawn == balanced(reversed(passages()), 50, "salt")
    assert drawn != balanced(passages(), 50, "pepper")


def test_standard_library_has_english_and_the_same_in_every_process():
    code = (
        "from bertjax.data.python_text import collect; import hashlib;"
        "text = '|'.join(s for p in collect(['python'], 200) for s in p.sentences);"
        "print(len(text), hashlib.sha256(text.encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert int(outputs.pop().split()[0]) > 5000
