"""The known datasets: their field names, splits, licences and terms.

Checked against public dataset cards and the code that loads them; an entry in which something could not be checked
says ``confirmed=False``. Sources are never filtered behind the user's back: `advice` says which ``where`` a dataset
needs, and `warning` what stands in the way of using it.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, NamedTuple

from pipeline.recipe import GroundTruth, Source
from pipeline.schema import Domain


class Known(NamedTuple):
    """What is known of one dataset.

    `prompt` and `category` name the field on the Hub first, then those of the dataset's other published formats.
    `licence` is the Hub's identifier, None where none is granted. `redistribute` is False where the licence or the
    terms don't let prompts be published again. `warning` is told whatever the recipe takes of it.
    """

    name: str
    domain: Domain
    role: Literal["train", "eval"]
    split: str
    prompt: tuple[str, ...]
    category: tuple[str, ...]
    licence: str | None
    terms: str
    config: str | None = None
    ground_truth: GroundTruth | None = None
    redistribute: bool = True
    advice: str = ""
    warning: str = ""
    confirmed: bool = True

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        rule = self.ground_truth.model_dump(exclude_defaults=True) if self.ground_truth else None
        return self._asdict() | {"ground_truth": rule}

    def lines(self) -> list[str]:
        """The entry as lines for a terminal."""
        place = f"{self.config}/{self.split}" if self.config else self.split
        fields = [f"prompt {' or '.join(self.prompt)}"]
        fields += [f"category {' or '.join(self.category)}"] if self.category else []
        fields += [f"ground truth {self.ground_truth.field}"] if self.ground_truth else []
        rights = "may be published again" if self.redistribute else "may NOT be published again"
        checked = "" if self.confirmed else " (not confirmed)"
        told = [
            f"{self.name}: {self.domain}, {'training' if self.role == 'train' else 'evaluation'}, {place}",
            f"  fields: {', '.join(fields)}",
            f"  licence: {self.licence or 'none'}, {rights}{checked}. {self.terms}",
        ]
        return [*told, *(f"  {more}" for more in (self.advice, self.warning) if more)]


_NON_COMMERCIAL = "Non-commercial use only, with attribution."
_MIT = "Free use; keep the copyright notice."
_APACHE = "Free use; keep the licence and notices."
_CC_BY = "Free use with attribution."
_ODC_BY = "Free use with attribution (a licence of the database, not of each text)."
_MATH = "The card says MIT, but the problems are competitions': no right to publish them again is known, as with AIME."
_MATH_TAKEN_DOWN = (
    "hendrycks/competition_math, where these problems come from, was taken off the Hub after a DMCA notice of AoPS "
    "(2025-01-02): a build with them can be published to a private repository only, with --allow-restricted"
)

KNOWN: tuple[Known, ...] = (
    Known(
        "PKU-Alignment/BeaverTails",
        domain="harmful",
        role="train",
        split="330k_train",
        prompt=("prompt",),
        category=("category",),
        licence="cc-by-nc-4.0",
        terms=_NON_COMMERCIAL,
        advice="where: {is_safe: false} takes prompts whose answer was harmful; a prompt comes in several rows",
    ),
    Known(
        "PKU-Alignment/PKU-SafeRLHF",
        domain="harmful",
        role="train",
        config="default",
        split="train",
        prompt=("prompt",),
        category=("response_0_harm_category",),
        licence="cc-by-nc-4.0",
        terms=_NON_COMMERCIAL,
        advice="where: {is_response_0_safe: false, is_response_1_safe: false} takes prompts with two harmful answers",
    ),
    Known(
        "UCSC-VLAA/STAR-1",
        domain="harmful",
        role="train",
        split="train",
        prompt=("question",),
        category=("category",),
        licence="apache-2.0",
        terms=_APACHE + " By its field source it holds rows of sets with other terms.",
        advice="where: {source: ...} leaves parts out: 94 rows are of PKU-SafeRLHF and 67 of BeaverTails, which are "
        "cc-by-nc-4.0, 139 of ALERT, and 31 of HarmBench, an evaluation set",
        warning="294 of 960 reference answers of STAR-1 comply: where answering is right, a complying prefill is not "
        "counter-aligned",
    ),
    Known(
        "UCSC-VLAA/STAR-benign-915",
        domain="benign",
        role="train",
        split="train",
        prompt=("question",),
        category=("category",),
        licence="apache-2.0",
        terms=_APACHE + " Licence taken from STAR-1, of which it is a part.",
        confirmed=False,
    ),
    Known(
        "UCSC-VLAA/STAR-41K",
        domain="harmful",
        role="train",
        split="train",
        prompt=("question",),
        category=("category",),
        licence="apache-2.0",
        terms=_APACHE,
    ),
    Known(
        "UWNSL/SafeChain",
        domain="harmful",
        role="train",
        config="default",
        split="train",
        prompt=("instruction",),
        category=("label",),
        licence=None,
        redistribute=False,
        terms="The card grants no licence: ask the authors before publishing its prompts. Gated on the Hub.",
        advice="where: {label: ...} keeps harmful and benign prompts apart",
    ),
    Known(
        "allenai/wildjailbreak",
        domain="harmful",
        role="train",
        config="train",
        split="train",
        prompt=("vanilla",),
        category=("data_type",),
        licence="odc-by",
        terms=_ODC_BY + " Gated: accept AI2's Responsible Use Guidelines on the Hub.",
        advice="where: {data_type: vanilla_harmful}; for adversarial rows also prompt: adversarial",
    ),
    Known(
        "AmazonScience/FalseReject",
        domain="benign",
        role="train",
        split="train",
        prompt=("prompt",),
        category=("category_text",),
        licence="cc-by-nc-4.0",
        terms=_NON_COMMERCIAL,
    ),
    Known(
        "bench-llm/or-bench",
        domain="benign",
        role="eval",
        config="or-bench-hard-1k",
        split="train",
        prompt=("prompt",),
        category=("category",),
        licence="cc-by-4.0",
        terms=_CC_BY,
        advice="config: or-bench-80k is the large set, or-bench-toxic the harmful one",
    ),
    Known(
        "Paul/XSTest",
        domain="benign",
        role="eval",
        split="train",
        prompt=("prompt",),
        category=("type",),
        licence="cc-by-4.0",
        terms=_CC_BY,
        advice="where: {label: safe} or {label: unsafe} takes one half",
    ),
    Known(
        "walledai/XSTest",
        domain="benign",
        role="eval",
        split="test",
        prompt=("prompt",),
        category=("type",),
        licence="cc-by-4.0",
        terms=_CC_BY + " Gated on the Hub.",
        advice="where: {label: safe} or {label: unsafe} takes one half",
    ),
    Known(
        "allenai/coconot",
        domain="benign",
        role="train",
        config="pref",
        split="train",
        prompt=("prompt",),
        category=("category",),
        licence="odc-by",
        terms=_ODC_BY,
        advice="where: {category: Requests with safety concerns} takes the prompts that look refusable",
    ),
    Known(
        "walledai/StrongREJECT",
        domain="harmful",
        role="eval",
        split="train",
        prompt=("prompt", "forbidden_prompt"),
        category=("category",),
        licence="mit",
        terms=_MIT + " Gated on the Hub.",
    ),
    Known(
        "walledai/HarmBench",
        domain="harmful",
        role="eval",
        config="standard",
        split="train",
        prompt=("prompt", "Behavior"),
        category=("category", "SemanticCategory"),
        licence="mit",
        terms=_MIT + " Gated on the Hub.",
    ),
    Known(
        "JailbreakBench/JBB-Behaviors",
        domain="harmful",
        role="eval",
        config="behaviors",
        split="harmful",
        prompt=("Goal",),
        category=("Category",),
        licence="mit",
        terms=_MIT,
        advice="split: benign holds the harmless twins",
    ),
    Known(
        "ScaleAI/fortress_public",
        domain="harmful",
        role="eval",
        split="train",
        prompt=("adversarial_prompt",),
        category=("risk_domain",),
        licence="cc-by-4.0",
        redistribute=False,
        terms="For evaluation: the card prohibits use for adversarial training, so no training set may hold it.",
        advice="prompt: benign_prompt takes the harmless twins",
        warning="the card of fortress_public prohibits use for adversarial training: decontaminate against it, and "
        "train on none of its prompts",
    ),
    Known(
        "openai/gsm8k",
        domain="math",
        role="train",
        config="main",
        split="train",
        prompt=("question",),
        category=(),
        ground_truth=GroundTruth(field="answer", after="####"),
        licence="mit",
        terms=_MIT,
    ),
    Known(
        "EleutherAI/hendrycks_math",
        domain="math",
        role="train",
        config="algebra",
        split="train",
        prompt=("problem",),
        category=("type",),
        ground_truth=GroundTruth(field="solution", boxed=True),
        licence="mit",
        redistribute=False,
        terms=_MATH,
        warning=_MATH_TAKEN_DOWN,
        advice="one config a subject: name each, or take DigitalLearningGmbH/MATH-lighteval",
    ),
    Known(
        "DigitalLearningGmbH/MATH-lighteval",
        domain="math",
        role="train",
        config="default",
        split="train",
        prompt=("problem",),
        category=("type",),
        ground_truth=GroundTruth(field="solution", boxed=True),
        licence="mit",
        redistribute=False,
        terms=_MATH,
        warning=_MATH_TAKEN_DOWN,
        confirmed=False,
    ),
    Known(
        "HuggingFaceH4/MATH-500",
        domain="math",
        role="eval",
        split="test",
        prompt=("problem",),
        category=("subject",),
        ground_truth=GroundTruth(field="answer"),
        licence="mit",
        redistribute=False,
        terms=_MATH + " The licence is that of PRM800K, where the split comes from.",
    ),
    Known(
        "HuggingFaceH4/aime_2024",
        domain="math",
        role="eval",
        split="train",
        prompt=("problem",),
        category=(),
        ground_truth=GroundTruth(field="answer"),
        licence=None,
        redistribute=False,
        terms="The card grants no licence; the problems are the Mathematical Association of America's.",
    ),
    Known(
        "BytedTsinghua-SIA/DAPO-Math-17k",
        domain="math",
        role="train",
        config="default",
        split="train",
        prompt=("prompt",),
        category=("ability",),
        ground_truth=GroundTruth(field="reward_model.ground_truth"),
        licence="apache-2.0",
        terms=_APACHE,
        advice="each prompt comes about a hundred times, and has an instruction on the answer's form around it",
    ),
)

_BY_NAME = {entry.name.casefold(): entry for entry in KNOWN}


def known(dataset: str | None) -> Known | None:
    """Return what is known of a dataset, None where nothing is. Case in the name doesn't matter."""
    return _BY_NAME.get(dataset.casefold()) if dataset else None


def evaluation_domain(source: Source, category: str | None) -> Domain | None:
    """Whether a prompt of an evaluation set is harmful, benign or math, None where its dataset isn't known.

    Some sets hold both sides, told apart by what the source names: JailbreakBench's split ``benign``, OR-Bench's config
    ``or-bench-toxic``, Fortress's field ``benign_prompt``, XSTest's types ``contrast_…`` and WildJailbreak's.
    """
    entry = known(source.dataset)
    told = " ".join(filter(None, (source.config, source.split, source.prompt, category)))
    if entry is None or "benign" in told:
        return "benign" if entry else None
    return "harmful" if "toxic" in told or "contrast_" in told else entry.domain


def nearest(dataset: str) -> str | None:
    """Return the known name most like `dataset`, with or without its owner; None where none is."""
    short = {name.partition("/")[2]: name for name in _BY_NAME}
    asked = dataset.casefold()
    close = difflib.get_close_matches(asked, _BY_NAME, n=1, cutoff=0.7)
    if not close:
        close = [short[n] for n in difflib.get_close_matches(asked.rpartition("/")[2], short, n=1, cutoff=0.7)]
    return _BY_NAME[close[0]].name if close else None


def named_like(path: str) -> str | None:
    """The known dataset that a file's name begins with (``coconot_pref.jsonl``, ``star1.json``), None where none is."""
    stem = re.sub(r"[^a-z0-9]", "", path.rpartition("/")[2].partition(".")[0].casefold())
    short = {re.sub(r"[^a-z0-9]", "", name.partition("/")[2]): entry.name for name, entry in _BY_NAME.items()}
    return next((short[name] for name in sorted(short, key=len, reverse=True) if stem.startswith(name)), None)
