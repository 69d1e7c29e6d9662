"""The recipe: what to build, as pydantic models, read from YAML with every mistake told at once.

A mistake is told with its place (file, line and column, or the ``--set`` it came from), its path, its value, what is
allowed, and the nearest known name. YAML is read as its 1.2 core schema has it: ``no`` is a string, ``1e-3`` a number,
and a key given twice is a mistake.
"""

from pipeline.recipe.models import (
    Clean,
    Decontaminate,
    Dedupe,
    GroundTruth,
    GuardConfig,
    GuardFamily,
    JudgeConfig,
    Judges,
    ModelConfig,
    Part,
    Prefill,
    Price,
    Publish,
    Recipe,
    RefusalConfig,
    RubricConfig,
    SamplerConfig,
    Sees,
    ServedModel,
    Source,
    TemplateConfig,
    answering,
)
from pipeline.recipe.reading import LoadedRecipe, load, parse

__all__ = [
    "Clean",
    "Decontaminate",
    "Dedupe",
    "GroundTruth",
    "GuardConfig",
    "GuardFamily",
    "JudgeConfig",
    "Judges",
    "LoadedRecipe",
    "ModelConfig",
    "Part",
    "Prefill",
    "Price",
    "Publish",
    "Recipe",
    "RefusalConfig",
    "RubricConfig",
    "SamplerConfig",
    "Sees",
    "ServedModel",
    "Source",
    "TemplateConfig",
    "answering",
    "load",
    "parse",
]
