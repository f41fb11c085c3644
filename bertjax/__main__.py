"""``python -m bertjax COMMAND``: the same as ``bertjax COMMAND``."""

from bertjax.cli.main import run

run()
