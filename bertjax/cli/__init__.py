"""The command line: one short file a command, dispatched by :mod:`bertjax.cli.main`."""
