"""Evaluation under attack (RECAP, Sec. 2 and 5.4, App. B): a model answers an attack set, and its answers are judged.

The set is built by a recipe with an ``attack`` (`recap-attacks`); each of its configs asks the same prompts in another
way. The judge that filtered the set's prefills must not judge the answers: it would find what it let pass.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import InputError, OutputError
from pipeline.publish.manifest import recipe_of
from pipeline.publish.opening import open_version
from pipeline.publish.references import HUB, repository
from pipeline.recipe import MIXTURE
from pipeline.runner import Progress
from pipeline.schema import DOMAINS
from pipeline.trainer.bootstrap import Interval, interval, row_means
from pipeline.trainer.mixture import COLUMNS, open_mixture
from pipeline.trainer.trial_config import EvalConfig
from pipeline.trainer.trials import Limits, Outcome, Trial, judge_names, notes, run, same_judge, unclosed_note
from pipeline.writing import write_text

HOLDS = {"harmful": "safe", "benign": "helpful", "math": "correct"}
"""What an answer is that withstands, by domain."""

_PLAIN = "plain"


class Line(NamedTuple):
    """What came of one config and domain.

    ``share`` of the ``scored`` rows withstood, ``low`` and ``high`` is its 95 % bootstrap interval over rows, ``score``
    the mean of the judge's own scores. Thinking that is ``unclosed``, or followed by nothing (``empty``), withstood
    nothing and is among them; ``closed`` is the share without the unclosed ones, with its own interval. ``unscored``
    rows are not, by reason. Counts are of answers: rows times samples.
    """

    config: str
    domain: str
    attack: str
    rows: int
    holds: str
    share: float | None
    low: float | None
    high: float | None
    score: float | None
    scored: int
    unclosed: int
    empty: int
    unscored: dict[str, int]
    closed: Interval


class Evaluation(NamedTuple):
    """An evaluation: of what, by which judges, and what came of it; ``rows`` has the outcome of every answer."""

    attacks: str
    content_hash: str
    model: str
    judges: dict[str, str]
    seed: int
    samples: int
    sent: int
    lines: list[Line]
    rows: list[dict[str, Any]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """All of it but the single rows, as JSON values."""
        lines = [line._asdict() | {"closed": line.closed._asdict()} for line in self.lines]
        return self._asdict() | {"lines": lines, "rows": len(self.rows)}


def evaluate(attacks: str, config: EvalConfig, limits: Limits, progress: Progress) -> Evaluation:
    """Have a model answer an attack set and judge its final answers.

    Args:
        attacks: a folder, a published version, or the name of a recipe that was built (``out/<name>``).
        config: the model, the judges, and how much is asked.
        limits: where answers are kept, and what may be spent.
        progress: is told how many answers there are, and will be.

    Raises:
        InputError: there is no such set or config, it holds no attacks, or its own judge would judge the answers.
        EngineError: a model could not be made to answer, or the limits are reached. Every answer so far is kept.
    """
    reference = _place(attacks)
    manifest = open_version(reference, configs=()).manifest
    recipe = recipe_of(manifest, reference).dump()
    if not recipe["attack"]:
        raise InputError(
            f"{reference} is no attack set: its recipe has no attack. Build one, as recap-attacks, or ask for the "
            "potency of a training mixture with recap-data probe."
        )
    listed = [MIXTURE, *(manifest.get("variants") or {})]
    unknown = [name for name in config.configs if name not in listed]
    if unknown:
        raise InputError(f"{reference} has no config {unknown[0]!r}. It has: {', '.join(listed)}.")
    trials: list[tuple[str, Trial]] = []
    for name in config.configs or listed:
        rows = config.chosen(list(open_mixture(reference, name).rows((*COLUMNS, "attack"))))
        trials += [
            (name, Trial(row, row["prefill"], row["attack"], sample))
            for row in rows
            for sample in range(config.samples)
        ]
    domains = [domain for domain in DOMAINS if any(trial.row["domain"] == domain for _, trial in trials)]
    same = same_judge(config.judges, recipe["judges"], domains)
    if same is not None:
        raise InputError(
            f"The judge {same} chose the prefills of {reference}, so it can't judge what they do: the judge that "
            "filters is not the judge that evaluates. Set judges.safety and judges.helpfulness to other ones."
        )
    tried = run([trial for _, trial in trials], config.model, config.judges, config.seed, limits, progress)
    found = [(name, trial, outcome) for (name, trial), outcome in zip(trials, tried.outcomes, strict=True)]
    lines = _lines(found, config.seed)
    return Evaluation(
        attacks=reference,
        content_hash=str(manifest["content_hash"]),
        model=config.model.model,
        judges=judge_names(config.judges, domains),
        seed=config.seed,
        samples=config.samples,
        sent=tried.sent,
        lines=lines,
        rows=[_row(*each) for each in found],
        notes=[*notes(config.judges, domains, tried.outcomes), *_unclosed_notes(lines)],
    )


def write(evaluation: Evaluation, path: Path) -> None:
    """Write the evaluation as JSON, the outcome of every answer with it. Raises OutputError where it can't be."""
    text = json.dumps(evaluation.to_json() | {"rows": evaluation.rows}, indent=1)
    try:
        write_text(path, text + "\n")
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error}. Give --out another path.") from None


def to_text(evaluation: Evaluation) -> str:
    """The evaluation as a table."""
    lines = [f"{evaluation.attacks} ({evaluation.content_hash[:12]}): {evaluation.model}, judged by "]
    lines[0] += ", ".join(f"{judge} ({domain})" for domain, judge in evaluation.judges.items())
    lines.append(
        f"{'config':<12} {'domain':<8} {'rows':>6}  {'withstood':<9} {'share':>6} {'95 %':>15} {'score':>6} "
        f"{'unclosed':>8} {'empty':>6} {'unscored':>8}"
    )
    for line in evaluation.lines:
        between = "-" if line.low is None or line.high is None else f"{line.low:.1%} – {line.high:.1%}"
        lines.append(
            f"{line.config:<12} {line.domain:<8} {line.rows:>6,}  {line.holds:<9} {_share(line.share):>6} "
            f"{between:>15} {_share(line.score):>6} {line.unclosed:>8,} {line.empty:>6,} "
            f"{sum(line.unscored.values()):>8,}"
        )
        if line.unclosed:
            mean, low, high = line.closed
            between = "-" if low is None or high is None else f"{_share(mean)}, {low:.1%} – {high:.1%}"
            lines.append(f"{'':<21} {line.holds}, of the answers whose thinking closed: {between}")
    return "\n".join([*lines, *(f"note: {note}" for note in evaluation.notes)])


def _place(attacks: str) -> str:
    built = Path("out") / attacks
    if attacks.startswith(HUB) or Path(attacks).exists():
        return attacks
    if not built.is_dir():
        place = repository(attacks) or "hub:owner/name@VERSION"
        raise InputError(
            f"There is no attack set {attacks}: neither a folder, nor a build {built}. Build it with recap-data build, "
            f"or give --attacks a folder or {place}."
        )
    return str(built)


def _lines(found: Sequence[tuple[str, Trial, Outcome]], seed: int) -> list[Line]:
    groups: dict[tuple[str, str], list[tuple[Trial, Outcome]]] = {}
    for name, trial, outcome in found:
        groups.setdefault((name, trial.row["domain"]), []).append((trial, outcome))
    configs = dict.fromkeys(name for name, _ in groups)
    keys = [(name, domain) for name in configs for domain in DOMAINS if (name, domain) in groups]
    return [_line(*key, groups[key], seed) for key in keys]


def _line(config: str, domain: str, group: Sequence[tuple[Trial, Outcome]], seed: int) -> Line:
    held = row_means((trial.row["id"], outcome.held) for trial, outcome in group)
    values = [outcome.value for _, outcome in group if outcome.value is not None]
    whys = Counter(outcome.why for _, outcome in group)
    attack: Mapping[str, Any] = next((trial.attack for trial, _ in group if trial.attack), {"kind": _PLAIN})
    share = interval(list(held.values()), seed)
    closed = row_means((trial.row["id"], outcome.held) for trial, outcome in group if outcome.why != "unclosed")
    return Line(
        config=config,
        domain=domain,
        attack=str(attack["kind"]),
        rows=len({trial.row["id"] for trial, _ in group}),
        holds=HOLDS[domain],
        share=share.mean,
        low=share.low,
        high=share.high,
        score=round(sum(values) / len(values), 4) if values else None,
        scored=len(values),
        unclosed=whys["unclosed"],
        empty=whys["empty"],
        unscored=dict(sorted(Counter(outcome.why for _, outcome in group if outcome.value is None).items())),
        closed=interval(list(closed.values()), seed),
    )


def _unclosed_notes(lines: Sequence[Line]) -> list[str]:
    found = (
        unclosed_note(f"{line.config}, {line.domain}", line.unclosed, line.scored + sum(line.unscored.values()))
        for line in lines
    )
    return [note for note in found if note]


def _row(config: str, trial: Trial, outcome: Outcome) -> dict[str, Any]:
    asked = {"config": config, "id": trial.row["id"], "domain": trial.row["domain"], "sample": trial.sample}
    return asked | {"score": outcome.value, "why": outcome.why}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
