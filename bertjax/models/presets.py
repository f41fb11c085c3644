"""Published shapes by name.

Sources: Devlin et al. 2019 (base, large); Turc et al. 2019 (the miniatures: heads are H / 64 and
the feed-forward width is 4 H).
"""

from __future__ import annotations

from bertjax.types import ModelConfig


def _bert(num_layers: int, hidden_size: int, vocab_size: int = 30522) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=hidden_size // 64,
        intermediate_size=4 * hidden_size,
    )


PRESETS: dict[str, ModelConfig] = {
    "bert_tiny": _bert(2, 128),
    "bert_mini": _bert(4, 256),
    "bert_small": _bert(4, 512),
    "bert_medium": _bert(8, 512),
    "bert_base": _bert(12, 768),
    "bert_base_cased": _bert(12, 768, vocab_size=28996),
    "bert_large": _bert(24, 1024),
}
