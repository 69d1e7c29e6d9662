"""What a recipe makes: its configs, the mixture first, and the arms of sampling that they share.

All configs have the same rows and differ in their prefills alone. Prefills that are sampled alike are one *arm*,
sampled once for the largest share that any config shows of them: what is prefilled at .25 is so, in the same words, at
.5 (RECAP, Table 12).
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.recipe.models import Attack, ModelConfig, Part, Prefill, Recipe, RefusalConfig
from pipeline.schema import DOMAINS, Domain

MIXTURE = "mixture"
"""The config that every build has; `datasets.load_dataset` loads it where none is named."""


class Arm(NamedTuple):
    """Prefills of one domain, sampled together.

    The share of ``prefill`` is the largest that a config shows, its ``min_yield`` the least that one asks for.
    """

    name: str
    domain: Domain
    prefill: Prefill


class Shown(NamedTuple):
    """Which prefills of a domain a config shows: those of an arm, in a share of the rows."""

    arm: str
    share: float


class Config(NamedTuple):
    """One config: the prefills that it shows by domain, and what an evaluation does with them."""

    name: str
    shown: dict[Domain, Shown]
    attack: Attack | None


class Configs(NamedTuple):
    """All configs of a recipe and all arms, by name."""

    arms: dict[str, Arm]
    configs: dict[str, Config]


def configs_of(recipe: Recipe) -> Configs:
    """The configs of a recipe, in its order behind the mixture, and the arms that they take their prefills from."""
    arms: dict[str, Arm] = {}
    configs: dict[str, Config] = {}
    for name, parts, attack in _parts(recipe):
        shown: dict[Domain, Shown] = {}
        for domain in DOMAINS:
            prefill = parts[domain].prefill if domain in parts else None
            if prefill is not None and prefill.share:
                arm = _arm(arms, domain, prefill)
                arms[arm.name] = arm
                shown[domain] = Shown(arm.name, prefill.share)
        configs[name] = Config(name, shown, attack)
    return Configs(arms, configs)


def stand_ins(recipe: Recipe) -> list[str]:
    """The domains in which models write prefills and the embedded judge, which reads wording alone, reads them."""
    arms = configs_of(recipe).arms.values()
    by_models = {arm.domain for arm in arms if isinstance(recipe.samplers[arm.prefill.sampler], ModelConfig)}
    return [
        domain
        for domain in DOMAINS
        if domain in by_models and domain != "math" and isinstance(recipe.judges.of(domain), RefusalConfig)
    ]


def _parts(recipe: Recipe) -> list[tuple[str, dict[Domain, Part], Attack | None]]:
    listed = [(MIXTURE, recipe.mixture, recipe.attack)]
    for name, variant in recipe.variants.items():
        listed.append((name, variant.applied(recipe.mixture), variant.attack or recipe.attack))
    return listed


def _arm(arms: dict[str, Arm], domain: Domain, prefill: Prefill) -> Arm:
    """The arm of such prefills, with the share that it has to have for this config as well."""
    alike = {arm.name: arm for arm in arms.values() if arm.domain == domain}
    for arm in alike.values():
        share = max(arm.prefill.share, prefill.share)
        least = min(arm.prefill.min_yield or 0, prefill.min_yield or 0)
        if arm.prefill.model_copy(update={"share": prefill.share, "min_yield": prefill.min_yield}) == prefill:
            return arm._replace(prefill=arm.prefill.model_copy(update={"share": share, "min_yield": least}))
    return Arm(domain if not alike else f"{domain}-{len(alike) + 1}", domain, prefill)
