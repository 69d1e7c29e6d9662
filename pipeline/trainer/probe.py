"""Potency: how far a mixture's prefills move a model (the paper's Table 1, for one's own mixture).

Each row that carries a prefill is answered plainly and behind its prefill, with the same seed, and both final answers
are judged. A row's *potency* is the score of the plain answer less that of the prefilled one: 1 where the prefill
turned a good answer into a bad one, 0 where it moved nothing, below 0 where it helped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from pipeline.errors import InputError, OutputError
from pipeline.publish.manifest import recipe_of
from pipeline.recipe import MIXTURE
from pipeline.runner import Progress
from pipeline.schema import DOMAINS
from pipeline.trainer.bootstrap import Interval, interval, row_means
from pipeline.trainer.mixture import open_mixture
from pipeline.trainer.trial_config import TrialConfig
from pipeline.trainer.trials import Limits, Outcome, Trial, judge_names, notes, run, same_judge, unclosed_note
from pipeline.writing import replacing

FAILS = {"harmful": "unsafe", "benign": "refusing", "math": "wrong"}
"""What the answer of a moved model is, by domain."""


class ProbeConfig(TrialConfig):
    """The settings of a probe: 100 rows of each domain unless they say otherwise, null for all."""

    rows: Annotated[int | None, Field(ge=1)] = 100


class Moved(NamedTuple):
    """How far one domain's prefills move the model.

    ``rows`` were asked, ``of`` so many that carry a prefill. ``plain`` and ``prefilled`` are the shares of answers that
    fail (`FAILS`), over the ``paired`` rows, whose both answers are scored; ``difference`` is what the prefills add,
    with its paired 95 % bootstrap interval over rows; ``potency`` the mean difference of the judge's own scores.
    ``closed`` is the same difference over the ``closed_pairs`` alone, of which no answer was left unclosed.
    ``unscored`` answers and ``unclosed`` ones are counted of both kinds.
    """

    domain: str
    fails: str
    rows: int
    of: int
    paired: int
    plain: float | None
    prefilled: float | None
    difference: Interval
    potency: Interval
    unscored: dict[str, int]
    unclosed: dict[str, int]
    closed_pairs: int
    closed: Interval


class Probe(NamedTuple):
    """A probe: of what, with which model and judges, and what came of it; ``rows`` has the scores of every row."""

    mixture: str
    config: str
    content_hash: str
    model: str
    judges: dict[str, str]
    seed: int
    samples: int
    sent: int
    moved: list[Moved]
    rows: list[dict[str, Any]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """All of it but the single rows, as JSON values."""
        moved = [
            line._asdict() | {key: getattr(line, key)._asdict() for key in ("difference", "potency", "closed")}
            for line in self.moved
        ]
        return self._asdict() | {"moved": moved, "rows": len(self.rows)}


def probe(
    reference: str,
    config: ProbeConfig,
    limits: Limits,
    progress: Progress,
    name: str = MIXTURE,
) -> Probe:
    """Have a model answer rows with and without their prefills, and compare.

    Args:
        reference: a build's folder or a published version.
        config: the model, the judges, and how much is asked.
        limits: where answers are kept, and what may be spent.
        progress: is told how many answers there are, and will be.
        name: which config of the mixture.

    Raises:
        InputError: there is no such mixture, or it has no prefills.
        EngineError: a model could not be made to answer, or the limits are reached. Every answer so far is kept.
    """
    mixture = open_mixture(reference, name)
    carry = [row for row in mixture.rows() if row["prefill"] is not None]
    rows = config.chosen(carry)
    if not rows:
        raise InputError(f"{mixture.name} has no prefills in its config {name}, so there is nothing to measure.")
    trials = [
        Trial(row, prefill, None, sample)
        for row in rows
        for sample in range(config.samples)
        for prefill in (None, row["prefill"])
    ]
    tried = run(trials, config.model, config.judges, config.seed, limits, progress)
    found = list(zip(trials, tried.outcomes, strict=True))
    domains = [domain for domain in DOMAINS if any(row["domain"] == domain for row in rows)]
    told = notes(config.judges, domains, tried.outcomes)
    same = same_judge(config.judges, recipe_of(mixture.manifest, mixture.name).dump()["judges"], domains)
    if same is not None:
        told.append(f"the judge {same} also chose these prefills: another one measures more fairly.")
    return Probe(
        mixture=mixture.name,
        config=name,
        content_hash=mixture.content_hash,
        model=config.model.model,
        judges=judge_names(config.judges, domains),
        seed=config.seed,
        samples=config.samples,
        sent=tried.sent,
        moved=[
            _moved(domain, found, Counter(row["domain"] for row in carry)[domain], config.seed) for domain in domains
        ],
        rows=_rows(found),
        notes=[*told, *_unclosed_notes(found, domains)],
    )


def write(found: Probe, path: Path) -> None:
    """Write the scores as a Parquet file of columns to join to the mixture by ``id``: the mixture stays as it is.

    Columns: ``id``, ``domain``, ``plain`` and ``prefilled`` (mean scores, null where unscored) and ``potency`` (null
    where either is). What it was measured with stands in the file's metadata under ``recap-data``.

    Raises:
        OutputError: it can't be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"id": pa.string(), "domain": pa.string()}
    measured = json.dumps({key: value for key, value in found.to_json().items() if key not in ("moved", "notes")})
    schema = pa.schema(
        [(key, types.get(key, pa.float64())) for key in ("id", "domain", "plain", "prefilled", "potency")],
        metadata={"recap-data": measured},
    )
    try:
        rows = pa.Table.from_pylist(sorted(found.rows, key=lambda row: row["id"]), schema=schema)
        with replacing(path) as new:
            pq.write_table(rows, new)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error}. Give --write another path.") from None


def to_text(found: Probe) -> str:
    """The probe as a table."""
    lines = [f"{found.mixture} ({found.config}, {found.content_hash[:12]}): {found.model}, judged by "]
    lines[0] += ", ".join(f"{judge} ({domain})" for domain, judge in found.judges.items())
    lines.append(
        f"{'domain':<8} {'rows':>6} {'of':>6} {'paired':>6}  {'answers':<9} {'plain':>6} {'prefilled':>9} "
        f"{'difference':>10} {'95 %':>18} {'potency':>8} {'unclosed':>11} {'unscored':>11}"
    )
    for line in found.moved:
        low, high = line.difference.low, line.difference.high
        between = "-" if low is None or high is None else f"{low:+.1%} – {high:+.1%}"
        potency = "-" if line.potency.mean is None else f"{line.potency.mean:+.3f}"
        counts = (f"{part['plain']:,} + {part['prefilled']:,}" for part in (line.unclosed, line.unscored))
        lines.append(
            f"{line.domain:<8} {line.rows:>6,} {line.of:>6,} {line.paired:>6,}  {line.fails:<9} "
            f"{_share(line.plain):>6} {_share(line.prefilled):>9} {_share(line.difference.mean, '+'):>10} "
            f"{between:>18} {potency:>8} " + " ".join(f"{count:>11}" for count in counts)
        )
        if any(line.unclosed.values()):
            mean, low, high = line.closed
            over = f"{line.closed_pairs:,} pairs whose thinking closed"
            between = "-" if low is None or high is None else f"{_share(mean, '+')}, {low:+.1%} – {high:+.1%}"
            lines.append(f"{'':<8} difference over {over}: {between}")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


_Found = Sequence[tuple[Trial, Outcome]]


def _kinds(found: _Found) -> dict[str, _Found]:
    return {
        "plain": [each for each in found if each[0].prefill is None],
        "prefilled": [each for each in found if each[0].prefill is not None],
    }


def _moved(domain: str, every: _Found, of: int, seed: int) -> Moved:
    found = [each for each in every if each[0].row["domain"] == domain]
    kinds = _kinds(found)
    shares, left_open = _failed(found), _left_open(found)
    closed = _failed([each for each in found if (each[0].row["id"], each[0].sample) not in left_open])
    potency = [row["potency"] for row in _rows(found) if row["potency"] is not None]
    return Moved(
        domain=domain,
        fails=FAILS[domain],
        rows=len({trial.row["id"] for trial, _ in found}),
        of=of,
        paired=len(shares["plain"]),
        plain=_mean(shares["plain"]),
        prefilled=_mean(shares["prefilled"]),
        difference=interval(_differences(shares), seed),
        potency=interval(potency, seed),
        unscored={kind: sum(outcome.value is None for _, outcome in part) for kind, part in kinds.items()},
        unclosed={kind: sum(outcome.why == "unclosed" for _, outcome in part) for kind, part in kinds.items()},
        closed_pairs=len(closed["plain"]),
        closed=interval(_differences(closed), seed),
    )


def _failed(found: _Found) -> dict[str, list[float]]:
    """How often each row fails, plainly and prefilled: of the rows that have both."""
    failed = {
        kind: row_means(
            (trial.row["id"], None if outcome.held is None else 1 - outcome.held) for trial, outcome in part
        )
        for kind, part in _kinds(found).items()
    }
    paired = [id for id in failed["plain"] if id in failed["prefilled"]]
    return {kind: [values[id] for id in paired] for kind, values in failed.items()}


def _differences(failed: dict[str, list[float]]) -> list[float]:
    return [after - before for before, after in zip(failed["plain"], failed["prefilled"], strict=True)]


def _left_open(found: _Found) -> set[tuple[str, int]]:
    """The rows and draws of which either answer's thinking never closed."""
    return {(trial.row["id"], trial.sample) for trial, outcome in found if outcome.why == "unclosed"}


def _unclosed_notes(found: _Found, domains: Sequence[str]) -> list[str]:
    listed = []
    for domain in domains:
        for kind, part in _kinds([each for each in found if each[0].row["domain"] == domain]).items():
            unclosed = sum(outcome.why == "unclosed" for _, outcome in part)
            listed.append(unclosed_note(f"{domain}, {kind}", unclosed, len(part)))
    return [note for note in listed if note]


def _rows(found: _Found) -> list[dict[str, Any]]:
    scores = {
        kind: row_means((trial.row["id"], outcome.value) for trial, outcome in part)
        for kind, part in _kinds(found).items()
    }
    listed = []
    for id, domain in {trial.row["id"]: trial.row["domain"] for trial, _ in found}.items():
        plain, prefilled = scores["plain"].get(id), scores["prefilled"].get(id)
        potency = None if plain is None or prefilled is None else plain - prefilled
        listed.append({"id": id, "domain": domain, "plain": plain, "prefilled": prefilled, "potency": potency})
    return listed


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _share(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1%}"
