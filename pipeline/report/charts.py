"""Turns counts into shapes the page draws: bars, histograms and funnels, in the units of their SVG boxes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline import schema
from pipeline.report.figures import SCORE_BINS, Mixture, Rejected
from pipeline.report.folder import Step

TOP_CATEGORIES = 20
LAST_ATTEMPT = 9
WORD_BINS = 20
LINEAR_UP_TO = 40
"""A funnel whose widest band has more than this many times the rows of its narrowest is drawn by square roots."""
STANCES = ("complies", "refuses", "unclear")
SCORE_TICKS = ("0 refuses", "0.5", "1 complies")
ALL = "all"

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """A coloured stretch of a bar: from `start`, `size` long, both in hundredths of the box."""

    colour: str
    start: float
    size: float


@dataclass(frozen=True)
class Bar:
    """One labelled bar and its parts."""

    label: str
    note: str
    count: int
    parts: list[Part]


@dataclass(frozen=True)
class Bin:
    """One bin of a histogram: where it stands and how high its parts are, in hundredths of the box."""

    label: str
    start: float
    width: float
    parts: list[Part]


@dataclass(frozen=True)
class Histogram:
    """One domain's histogram."""

    domain: str
    colour: str
    note: str
    peak: int
    bins: list[Bin]
    ticks: Sequence[str]


@dataclass(frozen=True)
class DomainShare:
    """How much of a domain is prefilled."""

    name: str
    colour: str
    rows: int
    prefilled: int


@dataclass(frozen=True)
class Band:
    """One step of a funnel. ``aside`` counts rows that do not take part in the step; points are an SVG polygon's."""

    step: str
    entered: int
    kept: int
    aside: int
    dropped: list[tuple[str, int]]
    points: str
    aside_points: str
    absent: bool


@dataclass(frozen=True)
class Funnel:
    """A domain's way through the steps."""

    name: str
    colour: str
    bands: list[Band]


@dataclass(frozen=True)
class Funnels:
    """All funnels of a build. ``root`` is true where the widths are square roots of the counts."""

    columns: list[Funnel]
    root: bool


@dataclass(frozen=True)
class Charts:
    """The charts of a mixture."""

    domains: list[Bar]
    datasets: list[Bar]
    categories: list[Bar]
    attempts: list[Bar]
    words: list[Histogram]
    scores: list[Histogram]


def number(count: int) -> str:
    """A count as people write it: 12,345."""
    return f"{count:,}"


def percent(part: int, whole: int) -> str:
    """A share with one decimal: 50.0%."""
    return f"{part / whole:.1%}" if whole else "0.0%"


def colour(domain: str) -> str:
    """The class that paints a domain."""
    return domain if domain in schema.DOMAINS else "ink"


def domains(mixture: Mixture) -> list[DomainShare]:
    """The domains of the mixture in their usual order, each with its rows and prefilled rows."""
    kinds = mixture.kinds
    return [
        DomainShare(name, colour(name), kinds[name, True] + kinds[name, False], kinds[name, True])
        for name in _ordered(domain for domain, _ in kinds)
    ]


def draw(mixture: Mixture) -> Charts:
    """All charts of the mixture."""
    return Charts(
        domains=_domain_bars(mixture),
        datasets=_ranked(mixture.datasets, "no dataset named"),
        categories=_ranked(mixture.categories, "no category", TOP_CATEGORIES),
        attempts=_attempt_bars(mixture),
        words=_word_histograms(mixture),
        scores=_score_histograms(mixture),
    )


def reasons(rejected: Rejected) -> list[tuple[str, list[Bar]]]:
    """For each stage, in order of the count, a bar for each reason, split by domain."""
    stages: dict[str, Counter[tuple[str | None, str]]] = {}
    for (stage, reason, domain), count in sorted(rejected.reasons.items()):
        stages.setdefault(stage, Counter())[reason, domain] += count
    longest = max((_totals(counts).most_common(1)[0][1] for counts in stages.values()), default=1)
    ordered = sorted(stages, key=lambda stage: (-rejected.stages[stage], stage))
    return [(stage, _ranked(stages[stage], "", longest=longest)) for stage in ordered]


def funnels(steps: Sequence[Step]) -> Funnels:
    """A funnel for each domain and, with several domains, one for all of them.

    A domain need not take every step: rows that stay out of one are drawn beside its band.
    """
    order = list(dict.fromkeys(step.step for step in steps))
    names = _ordered(step.domain for step in steps)
    flows = {name: _flow([step for step in steps if step.domain == name], order) for name in names}
    if len(names) > 1:
        flows = {ALL: [_sum_of(row) for row in zip(*flows.values(), strict=True)], **flows}
    widths = [max(stage.entered, stage.kept) + stage.aside for flow in flows.values() for stage in flow]
    root = max(widths, default=0) > LINEAR_UP_TO * min((width for width in widths if width), default=1)
    scale: Callable[[float], float] = math.sqrt if root else float
    return Funnels([Funnel(name, colour(name), _bands(flow, order, scale)) for name, flow in flows.items()], root)


@dataclass
class _Stage:
    """A step's counts, and the rows that are on their way but do not take the step."""

    entered: int = 0
    kept: int = 0
    aside: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    absent: bool = True


def _flow(steps: Sequence[Step], order: Sequence[str]) -> list[_Stage]:
    on_the_way = 0
    flow = []
    for name in order:
        stage = _Stage()
        for step in steps:
            if step.step == name:
                stage.entered += step.entered
                stage.kept += step.kept
                stage.dropped.update(step.dropped)
                stage.absent = False
        stage.aside = max(0, on_the_way - stage.entered)
        on_the_way = stage.kept + stage.aside
        flow.append(stage)
    return flow


def _sum_of(stages: Iterable[_Stage]) -> _Stage:
    total = _Stage()
    for stage in stages:
        total.entered += stage.entered
        total.kept += stage.kept
        total.aside += stage.aside
        total.dropped.update(stage.dropped)
        total.absent = total.absent and stage.absent
    return total


def _bands(flow: Sequence[_Stage], order: Sequence[str], scale: Callable[[float], float]) -> list[Band]:
    widest = max((scale(max(stage.entered, stage.kept) + stage.aside) for stage in flow), default=1) or 1

    def width(count: int) -> float:
        return 0.0 if not count else max(1.5, 100 * scale(count) / widest)

    bands = []
    for name, stage in zip(order, flow, strict=True):
        top, bottom = width(stage.entered + stage.aside), width(stage.kept + stage.aside)
        share_top = stage.entered / (stage.entered + stage.aside or 1)
        share_bottom = stage.kept / (stage.kept + stage.aside or 1)
        left_top, left_bottom = 50 - top / 2, 50 - bottom / 2
        cut_top, cut_bottom = left_top + top * share_top, left_bottom + bottom * share_bottom
        bands.append(
            Band(
                name,
                stage.entered,
                stage.kept,
                stage.aside,
                sorted(((k, v) for k, v in stage.dropped.items() if v), key=lambda item: (-item[1], item[0])),
                _polygon((left_top, 0), (cut_top, 0), (cut_bottom, 100), (left_bottom, 100)),
                _polygon((cut_top, 0), (50 + top / 2, 0), (50 + bottom / 2, 100), (cut_bottom, 100)),
                stage.absent,
            )
        )
    return bands


def _polygon(*points: tuple[float, float]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _domain_bars(mixture: Mixture) -> list[Bar]:
    shares = domains(mixture)
    longest = max((share.rows for share in shares), default=1)
    return [
        Bar(
            share.name,
            f"{number(share.prefilled)} prefilled, {number(share.rows - share.prefilled)} plain",
            share.rows,
            _parts([(share.colour, share.prefilled), (f"{share.colour} pale", share.rows - share.prefilled)], longest),
        )
        for share in shares
    ]


def _ranked(
    counts: Mapping[tuple[str | None, str], int], missing: str, top: int | None = None, longest: int | None = None
) -> list[Bar]:
    """Bars by falling count, split by domain; those after the first `top` are put together as "other"."""
    totals = _totals(counts)
    order = sorted(totals, key=lambda label: (-totals[label], label or ""))
    groups = [(missing if label is None else label, [label]) for label in order[:top]]
    rest = order[top:] if top is not None else []
    if rest:
        groups.append((f"other ({number(len(rest))})", rest))
    present = _ordered(domain for _, domain in counts)
    sums = [[sum(counts.get((label, domain), 0) for label in labels) for domain in present] for _, labels in groups]
    longest = longest or max(map(sum, sums), default=1)
    return [
        Bar(
            label or "(empty)",
            "",
            sum(split),
            _parts([(colour(domain), count) for domain, count in zip(present, split, strict=True)], longest),
        )
        for (label, _), split in zip(groups, sums, strict=True)
    ]


def _totals(counts: Mapping[tuple[str | None, str], int]) -> Counter[str | None]:
    totals: Counter[str | None] = Counter()
    for (label, _), count in counts.items():
        totals[label] += count
    return totals


def _attempt_bars(mixture: Mixture) -> list[Bar]:
    counts: Counter[int] = Counter()
    for (attempt,), count in mixture.attempts.items():
        counts[min(attempt, LAST_ATTEMPT)] += count
    if not counts:
        return []
    longest, all_rows = max(counts.values()), counts.total()
    return [
        Bar(
            f"attempt {attempt}" + (" or later" if attempt == LAST_ATTEMPT else ""),
            percent(counts[attempt], all_rows),
            counts[attempt],
            _parts([("ink", counts[attempt])], longest),
        )
        for attempt in range(max(counts) + 1)
    ]


def _word_histograms(mixture: Mixture) -> list[Histogram]:
    if not mixture.words:
        return []
    width = _round_up(max(words for _, words in mixture.words) / WORD_BINS)
    bins = max(words for _, words in mixture.words) // width + 1
    charts = []
    for domain in _ordered(domain for domain, _ in mixture.words):
        lengths = Counter({words: count for (name, words), count in mixture.words.items() if name == domain})
        heights: Counter[tuple[int, str]] = Counter()
        for words, count in lengths.items():
            heights[words // width, colour(domain)] += count
        starts = range(0, bins * width, width)
        labels = [f"{low} to {low + width - 1} words" if width > 1 else f"{low} words" for low in starts]
        note = (
            f"{number(lengths.total())} prefills, {number(min(lengths))} to {number(max(lengths))} words, "
            f"median {number(_median(lengths))}"
        )
        ticks = [number(0), number(bins * width // 2), f"{number(bins * width)} words"]
        charts.append(_histogram(domain, note, labels=labels, heights=heights, colours=[colour(domain)], ticks=ticks))
    return charts


def _score_histograms(mixture: Mixture) -> list[Histogram]:
    charts = []
    labels = [f"{low / SCORE_BINS:.2f} to {(low + 1) / SCORE_BINS:.2f}" for low in range(SCORE_BINS)]
    for domain in _ordered(domain for domain, _, _ in mixture.scores):
        heights: Counter[tuple[int, str]] = Counter()
        stances: Counter[str] = Counter()
        for (name, stance, place), count in mixture.scores.items():
            if name == domain:
                heights[place, stance if stance in STANCES else "unclear"] += count
                stances[stance] += count
        note = ", ".join(f"{number(count)} {stance}" for stance, count in sorted(stances.items()))
        charts.append(_histogram(domain, note, labels=labels, heights=heights, colours=STANCES, ticks=SCORE_TICKS))
    return charts


def _histogram(
    domain: str,
    note: str,
    *,
    labels: Sequence[str],
    heights: Mapping[tuple[int, str], int],
    colours: Sequence[str],
    ticks: Sequence[str],
) -> Histogram:
    totals: Counter[int] = Counter()
    for (place, _), count in heights.items():
        totals[place] += count
    peak = max(totals.values())
    step = 100 / len(labels)
    bins = []
    for place, label in enumerate(labels):
        split = [(colour, heights.get((place, colour), 0)) for colour in colours]
        text = f"{label}: {number(totals[place])} rows"
        if len(colours) > 1 and totals[place]:
            text += " (" + ", ".join(f"{number(count)} {name}" for name, count in split if count) + ")"
        bins.append(Bin(text, round(place * step, 3), round(step, 3), _parts(split, peak)))
    return Histogram(domain, colour(domain), note, peak, bins, ticks)


def _parts(split: Iterable[tuple[str, int]], longest: int) -> list[Part]:
    parts: list[Part] = []
    start = 0.0
    for colour, count in split:
        if count:
            size = max(0.6, 100 * count / longest)
            parts.append(Part(colour, round(start, 3), round(size, 3)))
            start += size
    return parts


def _median(counts: Mapping[int, int]) -> int:
    """The lower median of values that occur as often as `counts` says."""
    half = (sum(counts.values()) + 1) // 2
    for value in sorted(counts):
        half -= counts[value]
        if half <= 0:
            return value
    raise ValueError("the median of nothing")


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 25, 50, 100, … from `width` on."""
    power = 1
    while True:
        for step in (1, 2, 2.5, 5):
            if step * power >= width and float(step * power).is_integer():
                return int(step * power)
        power *= 10


def _ordered(names: Iterable[str]) -> list[str]:
    """Each domain once: the known ones in their usual order, then others by name."""
    found = set(names)
    known = [name for name in schema.DOMAINS if name in found]
    return known + sorted(found.difference(known))
