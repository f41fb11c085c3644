"""Flags of a command: declared once, parsed from ``argv``, explained by ``--help``.

    command = Command("finetune", "Fine-tunes a model on a task.")
    command.config("configs/finetune.py:task=mrpc")
    command.text("workdir", "Folder of the run.", required=True)
    values = command.parse(argv)  # values.config, values.workdir

``--config=FILE.py[:ARGUMENT]`` names an experiment (see :mod:`bertjax.cli.experiment`), and
``--config.key=value`` changes one of its fields. Everything a user can get wrong is a
:class:`UserError` of one sentence.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_flags

from bertjax.cli.experiment import field_paths, load_config
from bertjax.types import UserError, nearest

_WORDS = (
    (absl_flags.BooleanParser, "true or false"),
    (absl_flags.IntegerParser, "a whole number"),
    (absl_flags.FloatParser, "a number"),
)


@dataclasses.dataclass(frozen=True)
class _Flag:
    """A declared flag; ``define`` adds it to the values of one parse."""

    name: str
    kind: str
    description: str
    default: Any
    required: bool
    define: Callable[..., Any]

    @property
    def left(self) -> str:
        return f"--{self.name}={self.kind}" if self.kind else f"--[no]{self.name}"

    @property
    def right(self) -> str:
        if self.required:
            return f"{self.description} (required)"
        shown = "" if self.default in (None, False) else f" (default: {self.default})"
        return f"{self.description}{shown}"


class Command:
    """One command's flags: declared by methods, then read by :meth:`parse`."""

    def __init__(self, name: str, description: str, examples: Sequence[str] = ()) -> None:
        self.name = name
        self._description = description
        self._examples = list(examples)
        self._declared: dict[str, _Flag] = {}
        self._config_default: str | None = None
        self._has_config = False
        self._joins = False

    def text(
        self, name: str, description: str, default: str | None = None, required: bool = False
    ) -> None:
        """A flag whose value is any text."""
        self._declare(name, "TEXT", description, default, absl_flags.DEFINE_string, required)

    def integer(self, name: str, description: str, default: int | None = None) -> None:
        """A flag whose value is a whole number."""
        self._declare(name, "INTEGER", description, default, absl_flags.DEFINE_integer)

    def number(self, name: str, description: str, default: float | None = None) -> None:
        """A flag whose value is a number."""
        self._declare(name, "NUMBER", description, default, absl_flags.DEFINE_float)

    def switch(self, name: str, description: str, default: bool = False) -> None:
        """A flag that is on or off: ``--name``, ``--noname``, ``--name=true``."""
        self._declare(name, "", description, default, absl_flags.DEFINE_boolean)

    def choice(
        self,
        name: str,
        description: str,
        choices: Sequence[str],
        default: str | None = None,
        required: bool = False,
    ) -> None:
        """A flag whose value is one of ``choices``."""
        define = functools.partial(absl_flags.DEFINE_enum, enum_values=choices)
        self._declare(name, "|".join(choices), description, default, define, required)

    def config(self, default: str | None = None) -> None:
        """The flag ``--config`` and its ``--config.key=value``."""
        self._has_config, self._config_default = True, default

    def processes(self) -> None:
        """The flags by which several processes find one another; see ``bertjax.distributed``."""
        self._joins = True
        self.text("coordinator", "HOST:PORT of process 0, for a run of several processes.")
        self.integer("processes", "How many processes the run has.")
        self.integer("process", "The number of this one, from 0.")
        self.integer(
            "heartbeat_timeout",
            "Seconds after which a silent process counts as lost, and the others end.",
            default=60,
        )

    def parse(self, argv: Sequence[str]) -> SimpleNamespace:
        """The values of all flags by name.

        A command with :meth:`processes` has joined the others when this returns.

        A command with :meth:`config` also gets ``config``, a locked ConfigDict, and
        ``config_source``, the value of ``--config``; both are None without an experiment.

        ``--help`` prints the page and ends the process with code 0.

        Raises:
          UserError: for an unknown flag or field, a wrong value, a missing flag.
        """
        source, rest = self._take_config(list(argv))
        if {"--help", "-help", "-h"} & set(rest):
            print(self.help_page(source))
            raise SystemExit(0)
        flags = absl_flags.FlagValues()
        for flag in self._declared.values():
            flag.define(
                name=flag.name, default=flag.default, help=flag.description, flag_values=flags
            )
        config = self._read_config(source, rest, flags)
        self._parse_flags(rest, flags)
        for flag in self._declared.values():
            if flag.required and not flags[flag.name].value:
                raise UserError(f"bertjax {self.name} needs {flag.left}")
        values: dict[str, Any] = {name: flags[name].value for name in self._declared}
        if self._has_config:
            values["config"] = config and config.copy_and_resolve_references().lock()
            values["config_source"] = source
        if self._joins:
            from bertjax.distributed import join

            names = ("coordinator", "processes", "process", "heartbeat_timeout")
            join(*(values.pop(name) for name in names))
        return SimpleNamespace(**values)

    def help_page(self, source: str | None = None) -> str:
        """The text of ``--help``; ``source`` is the config whose fields it lists."""
        declared = self._declared.values()
        needed = "".join(f" {flag.left}" for flag in declared if flag.required)
        parts = [f"usage: bertjax {self.name}{needed} [flags]", "", _wrap(self._description)]
        rows = [(flag.left, flag.right) for flag in declared]
        if self._has_config:
            default = f" (default: {self._config_default})" if self._config_default else ""
            rows.insert(0, ("--config=FILE.py[:ARGUMENT]", f"The experiment.{default}"))
            rows.insert(1, ("--config.FIELD=VALUE", "Changes one field of the experiment."))
        parts += ["", "flags:", *(_two_columns(*row) for row in rows)]
        if source is not None:
            parts += ["", f"fields of {source}:", *_field_rows(source)]
        if self._examples:
            parts += ["", "examples:", *(f"  {line}" for line in self._examples)]
        return "\n".join(parts)

    def _declare(
        self,
        name: str,
        kind: str,
        description: str,
        default: Any,
        define: Callable[..., Any],
        required: bool = False,
    ) -> None:
        self._declared[name] = _Flag(name, kind, description, default, required, define)

    def _take_config(self, argv: list[str]) -> tuple[str | None, list[str]]:
        """The value of ``--config`` and the other arguments."""
        if not self._has_config:
            return None, argv
        source, rest = self._config_default, []
        words = iter(argv)
        for word in words:
            if word in ("--config", "-config"):
                source = next(words, "")
            elif re.match(r"--?config=", word):
                source = word.partition("=")[2]
            else:
                rest.append(word)
        return source, rest

    def _read_config(
        self, source: str | None, argv: list[str], flags: absl_flags.FlagValues
    ) -> ConfigDict | None:
        """Loads the experiment and defines a flag for each field that ``argv`` changes."""
        if not self._has_config:
            return None
        overrides = [m[1] for word in argv if (m := re.match(r"--?(?:no)?config\.([^=\[]+)", word))]
        if source is None:
            if overrides:
                raise UserError(f"--config.{overrides[0]} needs --config=FILE.py beside it")
            return None
        config = load_config(source)
        known = field_paths(config)
        for path in overrides:
            if path not in known:
                raise UserError(f"{source} has no field '{path}'{nearest(path, known)}")
        try:
            config_flags.DEFINE_config_dict(
                "config", config, flag_values=flags, sys_argv=["bertjax", *argv]
            )
        except absl_flags.Error as error:
            raise UserError(f"{source}: {' '.join(str(error).split())}") from error
        return config

    def _parse_flags(self, argv: list[str], flags: absl_flags.FlagValues) -> None:
        try:
            words = flags(["bertjax", *argv])[1:]
        except absl_flags.UnrecognizedFlagError as error:
            known = [*self._declared, *["config"] * self._has_config]
            hint = nearest(error.flagname, known)
            raise UserError(
                f"bertjax {self.name} has no flag '--{error.flagname}'{hint}"
            ) from error
        except absl_flags.Error as error:
            raise UserError(_explain(str(error), flags)) from error
        if words:
            raise UserError(
                f"bertjax {self.name} does not know what to do with '{words[0]}';"
                " flags are written --name=value"
            )


def _explain(message: str, flags: absl_flags.FlagValues) -> str:
    """The message of absl about a value, in words for a user."""
    if found := re.match(r"Missing value for flag (\S+)", message):
        return f"{found[1]} needs a value: {found[1]}=VALUE"
    found = re.match(r"flag --([\w.]+)=(.*?): ", message, re.DOTALL)
    if found is None or found[1] not in flags:
        return " ".join(message.split())
    name, value = found[1], found[2]
    parser: Any = flags[name].parser
    if isinstance(parser, absl_flags.EnumParser):
        return f"--{name}={value} is not one of the choices{nearest(value, parser.enum_values)}"
    for kind, words in _WORDS:
        if isinstance(parser, kind):
            return f"--{name}={value} is not {words}"
    return " ".join(message.split())


def _wrap(text: str, indent: str = "") -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    return textwrap.fill(
        " ".join(text.split()), width, initial_indent=indent, subsequent_indent=indent
    )


def _two_columns(left: str, right: str) -> str:
    return f"  {left}\n{_wrap(right, '      ')}"


def _field_rows(source: str) -> list[str]:
    try:
        config = load_config(source)
    except UserError as error:
        return [f"  {error}"]
    leaves = [(path, value) for path, value in field_paths(config).items()]
    return [f"  {path} = {value!r}" for path, value in leaves if not isinstance(value, ConfigDict)]
