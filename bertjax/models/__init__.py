"""The encoder and its heads, as pure Linen modules."""

from bertjax.models.electra import Electra
from bertjax.models.layers import Dropout
from bertjax.models.model import Model
from bertjax.models.presets import PRESETS

__all__ = ["PRESETS", "Dropout", "Electra", "Model"]
