"""BERT on JAX: fine-tune, evaluate, predict and convert, from a laptop to a TPU pod.

The public Python surface is :func:`load`; every other documented function lives in its module.
``import bertjax`` imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax.predict import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from bertjax.predict import load

        return load
    raise AttributeError(f"module 'bertjax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
