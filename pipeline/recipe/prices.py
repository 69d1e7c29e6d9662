"""Whether a cost can be kept to: what is asked has to have a price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import InputError
from pipeline.recipe.models import ModelConfig, ServedModel


def check_prices(asked: Mapping[str, Any], max_cost: float | None) -> None:
    """Check that everything that will be asked has a price where no more than `max_cost` may be spent.

    A model in this process (``engine: vllm``) is paid for by the hour, not by the token: without a price it is free.
    What asks no model is free as well.

    Args:
        asked: configs by where they stand (``samplers.unaligned``).
        max_cost: what may be spent, None for anything.

    Raises:
        InputError: one has none; all of them are named.
    """
    if max_cost is None:
        return
    lacking = [
        f"  {place}: {config.model}"
        for place, config in asked.items()
        if isinstance(config, ServedModel) and config.price is None and not _here(config)
    ]
    if lacking:
        raise InputError(
            "What may be spent (max_cost) can't be kept to, since these models have no price:\n"
            + "\n".join(lacking)
            + "\nGive each one, per million tokens: price: {prompt: 0.5, completion: 2.0}; 0 for what costs nothing. "
            "Nothing was asked."
        )


def _here(config: ServedModel) -> bool:
    return isinstance(config, ModelConfig) and config.engine == "vllm"
