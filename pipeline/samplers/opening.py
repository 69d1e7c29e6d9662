"""From the recipe's samplers to open ones."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.clients.opening import Clients
from pipeline.recipe import ModelConfig, SamplerConfig
from pipeline.samplers import Sampler
from pipeline.samplers.model import ModelSampler
from pipeline.samplers.template import TemplateSampler


def open_samplers(configs: Mapping[str, SamplerConfig], clients: Clients) -> dict[str, Sampler]:
    """The samplers by name. Raises InputError where one can't be asked as the recipe says."""
    opened: dict[str, Sampler] = {}
    for name, config in sorted(configs.items()):
        if isinstance(config, ModelConfig):
            sampler = ModelSampler(name, config, clients.open(config))
            clients.checks.append(sampler.check)
            opened[name] = sampler
        else:
            opened[name] = TemplateSampler(name)
    return opened
