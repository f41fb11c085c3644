"""``bertjax COMMAND ...``: finds the command, readies the process, turns errors into sentences.

A command is a module of this package with ``main(argv: list[str]) -> int | None`` and one row in
:data:`COMMANDS`. It is imported only when it is called, after the platform has been chosen, because
JAX reads ``JAX_PLATFORMS`` when it starts.

Exit codes: 0 done, 2 wrong input, 75 another process of the run has ended, 130 interrupted, 143
terminated; a command returns any other itself.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from bertjax import __version__
from bertjax.types import Interrupted, UserError, nearest

COMMANDS = {
    "quickstart": "Watch a very small BERT learn, on this machine, without a download.",
    "pretrain": "Pretrain an encoder on prepared text.",
    "prepare": "Prepare raw text for pretraining.",
    "finetune": "Fine-tune a model on a task.",
    "evaluate": "Score a trained model on a split of a task's data.",
    "predict": "Label the lines of a file, or of standard input.",
    "glue": "Fine-tune on all of GLUE, with a report and a submission.",
    "submission": "Write or check the zip for the GLUE server.",
    "convert": "Write a model in another format.",
    "launch": "Run a command in several processes of this machine.",
    "benchmark": "Time the pretraining step on this machine.",
    "plan": "Tell what a training step needs on TPUs that are not here.",
    "vocab": "Learn the vocabulary of a tokenizer from raw text.",
}

WITHOUT_A_TPU = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # What the compiler warns of goes to standard error, not into a file, and is listened to there:
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "0",
    "TPU_STDERR_LOG_LEVEL": "0",
}
"""How libtpu compiles where no TPU is, or where others use it: it asks nobody and locks nothing."""

_INTERRUPTED = 128 + signal.SIGINT

_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EACCES: "choose another place, or change its permissions",
    errno.EPERM: "choose another place, or change its permissions",
    errno.EROFS: "choose a place that can be written",
}

_ACCELERATOR_DEVICES = (
    "/dev/accel*",  # TPU v2 to v4
    "/dev/vfio/[0-9]*",  # TPU v5e and later
    "/dev/nvidia[0-9]*",
    "/dev/nvidiactl",
    "/dev/dxg",  # a GPU under WSL
    "/dev/kfd",  # AMD
)
_GOOGLE_VENDOR = "0x1ae0"
_GOOGLE_NETWORK_CARD = "0x0042"


def run() -> NoReturn:
    """The process ``bertjax``: :func:`main`, and a Ctrl-C that ends it at once.

    The training loop takes the signal over while there is a state to save. Elsewhere nothing is
    lost, and Python's KeyboardInterrupt can get lost in a callback, is printed by an extension
    module that is being imported, and leaves JAX's threads to crash in Python's own exit.
    """
    from bertjax import distributed

    signal.signal(signal.SIGINT, _stop)
    try:
        code = main()
    except Exception:
        if not distributed.is_several():
            raise
        traceback.print_exc()
        code = 1
    if code:
        distributed.end(code)
    if code == _INTERRUPTED:
        os._exit(code)
    sys.exit(code)


def _stop(*_: object) -> None:
    from bertjax.launcher import is_spokesman

    if is_spokesman():
        os.write(2, b"bertjax: interrupted\n")
    os._exit(_INTERRUPTED)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; ``argv`` excludes the program's name and defaults to the process's own."""
    from bertjax import distributed

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(str(error))
    except Interrupted as stop:
        if distributed.is_first():
            print(f"bertjax: {stop}", file=sys.stderr)
        distributed.leave()
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("bertjax: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if lost := distributed.lost_peer(error):
            return _fail(lost, distributed.LOST)
        sentence = environment_sentence(error)
        if sentence is None:
            raise
        return _fail(sentence)


def help_page() -> str:
    """The text of ``bertjax --help``."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: bertjax COMMAND [flags]",
            "",
            "commands:",
            *rows,
            "",
            "'bertjax COMMAND --help' explains a command; 'bertjax --version' prints the version.",
        ]
    )


def environment_sentence(error: Exception) -> str | None:
    """A sentence for a full disk, missing permission or read-only place; None for anything else.

    Checkpoint libraries wrap the system's error in their own, so its words are looked for as well.
    """
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        place = f": {error.filename}" if error.filename else ""
        return f"{os.strerror(error.errno)}{place}; {_REMEDIES[error.errno]}"
    for number, remedy in _REMEDIES.items():
        if os.strerror(number) in str(error):
            return f"{' '.join(str(error).split())}; {remedy}"
    return None


def has_accelerator() -> bool:
    """Whether a TPU or GPU is visible to this machine; anything unclear counts as yes."""
    if any(name.startswith("TPU_") for name in os.environ):
        return True
    if any(glob.glob(pattern) for pattern in _ACCELERATOR_DEVICES):
        return True
    return any(map(_is_tpu_card, glob.glob("/sys/bus/pci/devices/*")))


def _is_tpu_card(folder: str) -> bool:
    try:
        with open(f"{folder}/vendor") as vendor, open(f"{folder}/device") as device:
            return (
                vendor.read().strip() == _GOOGLE_VENDOR
                and device.read().strip() != _GOOGLE_NETWORK_CARD
            )
    except OSError:
        return False


def _run(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "--help"
    if command in ("--help", "-h", "help"):
        print(help_page())
        return 0
    if command == "--version":
        print(f"bertjax {__version__}")
        return 0
    if command not in COMMANDS:
        raise UserError(f"there is no command '{command}'{nearest(command, COMMANDS)}")
    _ready_process(command)
    with _notes_to_stderr():
        return importlib.import_module(f"bertjax.cli.{command}").main(arguments[1:]) or 0


def _ready_process(command: str) -> None:
    """Chooses the CPU where there is nothing else, and silences the chatter of libraries.

    Without this, an installed libtpu fills standard error with its search for a TPU, and orbax and
    asyncio log the tracebacks of errors that orbax also raises.
    """
    from bertjax.launcher import end_with_launcher

    if command == "plan":
        os.environ.update(WITHOUT_A_TPU)
    elif sys.platform == "linux" and not has_accelerator():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    end_with_launcher()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _notes_to_stderr() -> Iterator[None]:
    """Prints what bertjax logs, as it is and once, also where a library gave the root a handler."""
    from bertjax.distributed import is_first

    notes = logging.getLogger("bertjax")
    handler = logging.StreamHandler(sys.stderr)
    before = notes.level, notes.propagate
    notes.addHandler(handler)
    notes.setLevel(logging.INFO if is_first() else logging.ERROR)
    notes.propagate = False
    try:
        yield
    finally:
        notes.removeHandler(handler)
        notes.setLevel(before[0])
        notes.propagate = before[1]


def _fail(sentence: str, code: int = 2) -> int:
    """Tells an error; of several processes one does."""
    from bertjax import distributed

    if distributed.may_speak():
        print(f"bertjax: error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    run()
