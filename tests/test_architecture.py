"""The house rules of docs/architecture.md, read from the syntax tree of every file."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bertjax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Room -> floor. A file imports from floors below its own, from its own room, and from FOUNDATIONS.
FLOORS = {
    "types": 1,
    "folders": 1,
    "tokenizers": 1,
    "tokenizer_families": 1,
    "tokenizer_files": 1,
    "tokenizer_layout": 1,
    "tokenizer_vocabularies": 1,
    "optim": 1,
    "clusters": 1,
    "distributed": 1,
    "launcher": 1,
    "models": 2,
    "data": 2,
    "metrics": 2,
    "losses": 2,
    "digests": 2,
    "flops": 2,
    "sharding": 2,
    "corpus": 3,
    "tasks": 3,
    "convert": 3,
    "checkpoint": 3,
    "train": 4,
    "features": 4,
    "predict": 4,
    "exchange": 4,
    "analysis": 5,
    "glue": 5,
    "cli": 6,
    "__main__": 7,
}
FOUNDATIONS = {"types", "folders"}
# A neighbour on the same floor that a room stands on; never the other way round.
BESIDE = {
    "predict": {"train", "features"},
    "exchange": {"train"},
    "distributed": {"clusters"},
    "launcher": {"distributed"},
    "tokenizers": {"tokenizer_families", "tokenizer_files", "tokenizer_layout"},
    "tokenizer_files": {"tokenizer_families", "tokenizer_vocabularies"},
    "tokenizer_vocabularies": {"tokenizer_families"},
}
# Slow to import or absent from the base install: only inside the function that needs them.
HEAVY = {
    "apache_beam",
    "array_record",
    "backports",
    "datasets",
    "matplotlib",
    "scipy",
    "sentencex",
    "seqeval",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "transformers",
}
# The command line must answer --help at once, and choose the platform before JAX starts.
HEAVY_FOR_CLI = HEAVY | {"flax", "grain", "jax", "numpy", "optax", "orbax", "tokenizers"}
FILE_LINES, FUNCTION_LINES, COMMAND_LINES = 350, 40, 100


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_command(path: Path) -> bool:
    """Whether a file of ``cli/`` holds a command, not what commands share."""
    if room_of(path) != "cli" or path.stem == "main":
        return False
    return any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in parse(path).body)


def imported_modules(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    """Dotted names that the import statements among ``nodes`` bind or read from."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_rooms(path: Path) -> set[str]:
    """The rooms of bertjax that ``path`` imports from, wherever in the file."""
    names = imported_modules(ast.walk(parse(path)))
    rooms = {n.split(".")[1] for n in names if n.startswith("bertjax.")}
    return rooms - {"__version__"}


def at_import_time(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported: functions and TYPE_CHECKING left out."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for block in ("body", "orelse", "finalbody"):
            yield from at_import_time(getattr(node, block, []))
        for handler in getattr(node, "handlers", []):
            yield from at_import_time(handler.body)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_floors(path: Path):
    if path == PACKAGE / "__init__.py":
        assert own_rooms(path) <= {"predict"}
        return
    room = room_of(path)
    assert room in FLOORS, f"{room} has no floor: give it one here and in docs/architecture.md"
    for other in own_rooms(path) - FOUNDATIONS - BESIDE.get(room, set()) - {room}:
        assert FLOORS[other] < FLOORS[room], (
            f"{name_of(path)} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"
        )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_nothing_heavy(path: Path):
    heavy = HEAVY_FOR_CLI if room_of(path) == "cli" else HEAVY
    names = list(imported_modules(list(at_import_time(parse(path).body))))
    assert not {n.split(".")[0] for n in names} & heavy
    if room_of(path) == "cli":
        rooms = {n.split(".")[1] for n in names if n.startswith("bertjax.")}
        assert rooms <= {"cli", "types", "__version__"}, "a command imports the rest in main()"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short(path: Path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES
    assert not is_command(path) or lines <= COMMAND_LINES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short(path: Path):
    """Docstrings, comments and blank lines are not counted; signatures and inner functions are."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert function_lines(node, path) <= FUNCTION_LINES, f"{node.name}, line {node.lineno}"


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, path: Path) -> int:
    """Lines of a function without its docstring, blank lines and comment lines."""
    first = node.body[0]
    start = first.lineno
    if ast.get_docstring(node, clean=False) is not None:
        start = (first.end_lineno or start) + 1
    source = path.read_text(encoding="utf-8").splitlines()
    lines = source[node.lineno - 1 : first.lineno - 1] + source[start - 1 : node.end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def test_every_command_has_its_file_and_its_row():
    from bertjax.cli.main import COMMANDS

    assert set(COMMANDS) == {path.stem for path in FILES if is_command(path)}


def test_ml_collections_stays_at_the_edge():
    for path in FILES:
        if room_of(path) != "cli":
            names = imported_modules(ast.walk(parse(path)))
            assert not any(n.startswith("ml_collections") for n in names), name_of(path)


def test_no_file_knows_one_machine():
    """No path of somebody's computer, and none that leaves the repository (.ci/run may)."""
    foreign = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/|\.\./(?:shared|\.)")
    this_test = Path(__file__)
    for pattern in ("*.md", "*.toml", "*.yaml", "**/*.py", "docs/*", "colab/*", "tools/*"):
        for path in ROOT.glob(pattern):
            inside = path.relative_to(ROOT).parts[0]
            if path == this_test or inside.startswith(".") or not path.is_file():
                continue
            if found := foreign.search(path.read_text(encoding="utf-8", errors="ignore")):
                pytest.fail(f"{name_of(path)} names {found[0]}")


def test_readme_names_every_extra_and_command():
    from bertjax.cli.main import COMMANDS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in [*project["optional-dependencies"], *(f"bertjax {name}" for name in COMMANDS)]:
        assert f"`{word}" in readme or f"bertjax {word.split()[-1]}" in readme, word
