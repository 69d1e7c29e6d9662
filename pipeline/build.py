"""A build: the list of steps from a recipe to a finished folder, walked with any runner.

pull → dedupe → decontaminate → choose → sample → mix → package. The rows are a pure function of the recipe, the bytes
of the sources and the versions of what computed them; so is every byte of the output.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import __version__, schema, steps, templates
from pipeline.errors import OutputError, ShortageError
from pipeline.funnel import Funnel, story
from pipeline.mixture import Selection, prefilled_count
from pipeline.publish import card, folder
from pipeline.recipe import LoadedRecipe, OpenAIConfig, Prefill, Recipe, Source
from pipeline.runner import Runner
from pipeline.samplers.opening import is_remote
from pipeline.schema import DOMAINS
from pipeline.sources import Located, complete, known, locate

LEDGER = "ledger.sqlite"
"""Name of the ledger where none is given: beside the output, so that builds in one folder share it."""

PACKAGES = ("numpy", "pyarrow", "rensa")
"""Packages whose version can change the bytes of an output."""


class Built(NamedTuple):
    """A finished build: its folder, its manifest, and whether it was there already."""

    out: Path
    manifest: dict[str, Any]
    unchanged: bool


class Plan(NamedTuple):
    """What a build would do.

    ``funnel`` has the steps up to ``choose``, which cost nothing and were really taken; ``prefills`` is by domain:
    ``sampler``, ``rows``, ``words`` (at most), ``attempts``; ``shortages`` says which quotas can't be met; ``notes`` is
    what a user of the known datasets among the sources should know.
    """

    out: Path
    unchanged: bool
    recipe: dict[str, Any]
    sources: list[dict[str, Any]]
    decontaminate: list[dict[str, Any]]
    funnel: list[dict[str, Any]]
    prefills: dict[str, dict[str, Any]]
    rows: dict[str, int]
    shortages: list[str]
    notes: list[str]


class _Inputs(NamedTuple):
    """All that the output depends on, as the manifest states it, and where to read it from."""

    recipe: Recipe
    files: list[steps.SourceFile]
    evaluations: list[tuple[Source, list[Located]]]
    stated: dict[str, Any]


class _Cleaned(NamedTuple):
    shards: int
    funnel: Funnel
    sources: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    close: dict[str, dict[str, Any]]


class _Choice:
    """The selections of all domains over the clean shards, by shard and row."""

    def __init__(self, work: Path, shards: int, recipe: Recipe) -> None:
        tables = [steps.read_table(work / f"clean/{shard}.arrow").select(["id", "domain"]) for shard in range(shards)]
        self.shards = shards
        self._sizes = [len(table) for table in tables]
        starts = np.cumsum([0, *self._sizes])
        self.domains: dict[str, Selection] = {}
        self._rows: dict[str, np.ndarray] = {}
        for domain, part in sorted(recipe.mixture.items(), key=lambda item: DOMAINS.index(item[0])):
            masks = [table["domain"].to_numpy(zero_copy_only=False) == domain for table in tables]
            ids = (i for table, mask in zip(tables, masks, strict=True) for i in table["id"].filter(mask).to_pylist())
            share = part.prefill.share if part.prefill else 0.0
            self.domains[domain] = Selection(ids, recipe.seed, part.rows, share)
            self._rows[domain] = np.flatnonzero(np.concatenate(masks))
        self._starts = starts

    def by_shard(self, domain: str, places: np.ndarray) -> list[list[int]]:
        """The rows of each shard, sorted, that stand at these places among the domain's candidates."""
        rows = np.sort(self._rows[domain][places])
        cuts = np.searchsorted(rows, self._starts)
        return [(rows[a:b] - start).tolist() for a, b, start in zip(cuts, cuts[1:], self._starts, strict=False)]

    def places(self, domain: str, shard: int, rows: Sequence[int]) -> list[int]:
        """The places among the domain's candidates of its rows in a shard."""
        found = np.searchsorted(self._rows[domain], np.array(rows, dtype=np.int64) + self._starts[shard])
        return [int(place) for place in found]

    def fates(self) -> list[np.ndarray]:
        """What became of each row of each shard (`pipeline.steps.SURPLUS` and the following)."""
        fate = np.zeros(self._starts[-1], dtype=np.uint8)
        for domain, selection in self.domains.items():
            for places, what in (
                (selection.chosen(), steps.PLAIN),
                (selection.prefilled(), steps.PREFILLED),
                (np.array(sorted(selection.failed), dtype=np.int64), steps.GIVEN_UP),
            ):
                fate[self._rows[domain][places]] = what
        return [fate[start : start + size] for start, size in zip(self._starts, self._sizes, strict=False)]


def build(
    loaded: LoadedRecipe,
    out: Path,
    runner: Runner,
    *,
    allow_short: bool = False,
    ledger: Path | None = None,
    max_requests: int | None = None,
) -> Built:
    """Build a recipe into `out`; does nothing where `out` is that build already.

    The output appears whole or not at all: until the last rename the former one is untouched.

    Answers of models are kept in `ledger` (an SQLite file, beside `out` unless given) and never asked for twice; at
    most `max_requests` are sent.

    Raises:
        InputError: a source is missing or broken.
        ShortageError: a quota can't be met and `allow_short` is False.
        OutputError: `out` can't be written, is used by another build, or is none of ours.
    """
    try:
        folder.check_output(out)
        folder.recover(out)
        inputs = _inputs(loaded)
        if (manifest := _unchanged(out, inputs, allow_short)) is not None:
            return Built(out, manifest, unchanged=True)
        with folder.work_folder(out) as work:
            cleaned = _clean(inputs, work, runner)
            choice = _Choice(work, cleaned.shards, inputs.recipe)
            _check_quotas(choice, cleaned.funnel, allow_short)
            book = ledger or out.parent / LEDGER
            _sample(inputs.recipe, work, choice, cleaned.funnel, runner, allow_short, book, max_requests)
            manifest = _package(inputs, work, choice, cleaned, runner)
            folder.replace(out, work / "out")
            return Built(out, manifest, unchanged=False)
    except OSError as error:
        raise OutputError(
            f"{error.filename or out} can't be written: {_why(error)}. Whatever was in {out} is as it was. "
            "Make room, or give --out another folder, and run the same command again."
        ) from error


def plan(loaded: LoadedRecipe, out: Path, runner: Runner) -> Plan:
    """Say what `build` would do: takes the steps that cost nothing in a temporary folder and writes nothing to `out`.

    Raises like `build`, but for shortages, which are told in the result.
    """
    try:
        folder.check_output(out)
        inputs = _inputs(loaded)
        with folder.work_folder(out) as work:
            cleaned = _clean(inputs, work, runner)
            choice = _Choice(work, cleaned.shards, inputs.recipe)
    except OSError as error:
        raise OutputError(f"{error.filename or out} can't be written: {_why(error)}.") from error
    recipe, rows = inputs.recipe, {d: len(selection.chosen()) for d, selection in choice.domains.items()}
    for domain, selection in choice.domains.items():
        cleaned.funnel.add("choose", domain, rows[domain], {"over the quota": selection.candidates - rows[domain]})
    return Plan(
        out=out,
        unchanged=_unchanged(out, inputs, allow_short=True) is not None,
        recipe=recipe.dump(),
        sources=cleaned.sources,
        decontaminate=cleaned.evaluations,
        funnel=cleaned.funnel.rows(),
        prefills={
            domain: {
                "sampler": part.prefill.sampler,
                "engine": recipe.samplers[part.prefill.sampler].engine,
                "rows": prefilled_count(part.prefill.share, rows[domain]),
                "words": part.prefill.words,
                "attempts": part.prefill.attempts,
            }
            for domain, part in recipe.mixture.items()
            if part.prefill is not None
        },
        rows=rows,
        shortages=_shortages(choice, cleaned.funnel),
        notes=_notes(recipe),
    )


def _why(error: OSError) -> str:
    """The system's own words: those of pyarrow tell of its insides as well."""
    return os.strerror(error.errno) if error.errno else str(error)


def _notes(recipe: Recipe) -> list[str]:
    entries = [
        known(source.dataset)
        for sources in recipe.sources.values()
        for source in sources
        if source.dataset and not source.where
    ]
    return [f"{entry.name}: {entry.advice}" for entry in entries if entry and entry.advice]


def _inputs(loaded: LoadedRecipe) -> _Inputs:
    recipe, base = loaded.recipe, loaded.folder
    sources = {d: tuple(complete(s) for s in recipe.sources[d]) for d in DOMAINS if d in recipe.sources}
    against = tuple(complete(source) for source in recipe.clean.decontaminate.against)
    decontaminate = recipe.clean.decontaminate.model_copy(update={"against": against})
    clean = recipe.clean.model_copy(update={"decontaminate": decontaminate})
    recipe = recipe.model_copy(update={"sources": sources, "clean": clean})

    places = [
        (domain, priority, source, located)
        for domain, listed in sources.items()
        for priority, source in enumerate(listed)
        for located in locate(source, base)
    ]
    files = [steps.SourceFile(number, *place) for number, place in enumerate(places)]
    evaluations = [(source, locate(source, base)) for source in against]
    stated = {
        "recipe": recipe.dump(),
        "fingerprint": recipe.fingerprint,
        "revisions": sorted({f.located.revision for f in files} | {p.revision for _, ps in evaluations for p in ps}),
        "templates": _templates(recipe),
        "packages": {"recap-data": __version__, **{name: version(name) for name in PACKAGES}},
        "schema_version": schema.VERSION,
    }
    return _Inputs(recipe, files, evaluations, stated)


def _templates(recipe: Recipe) -> dict[str, str]:
    """Every template that writes something of this build, by hash."""
    names: set[str] = set()
    for part in recipe.mixture.values():
        if part.prefill is None:
            continue
        sampler = recipe.samplers[part.prefill.sampler]
        if isinstance(sampler, OpenAIConfig):
            names |= {name for name in (sampler.system, sampler.user) if name is not None}
        else:
            names |= {"template-comply", "template-refuse"}
    card_template = {"mixture": templates.load("mixture", "data_cards").sha256}
    return card_template | {name: templates.load(name).sha256 for name in sorted(names)}


def _unchanged(out: Path, inputs: _Inputs, allow_short: bool) -> dict[str, Any] | None:
    """The manifest of `out` where it is the build of these very inputs, with every file as it was written."""
    manifest = folder.read_manifest(out)
    if manifest is None or any(manifest.get(key) != value for key, value in inputs.stated.items()):
        return None
    if manifest["shortages"] and not allow_short:
        return None
    return manifest if folder.intact(out, manifest) else None


def _clean(inputs: _Inputs, work: Path, runner: Runner) -> _Cleaned:
    recipe, funnel = inputs.recipe, Funnel()
    pulled = runner.map("pull", steps.pull_file, [(work, file, recipe.clean.max_chars) for file in inputs.files])
    for file, (_, _, (kept, dropped)) in zip(inputs.files, pulled, strict=True):
        funnel.add("pull", file.domain, kept, dropped)
    (evaluation_rows,) = runner.map("pull evaluation sets", steps.pull_evaluations, [(work, inputs.evaluations)])

    total = sum(kept for _, _, (kept, _) in pulled)
    shards = steps.shard_count(total)
    (sizes,) = runner.map("sort", steps.spread, [(work, len(inputs.files), shards)], [total])
    exact = runner.map("dedupe, exact", steps.drop_exact, [(work, shard) for shard in range(shards)], sizes)
    (close,) = runner.map("dedupe, near", steps.find_near, [(work, shards, recipe.clean.dedupe.near)], [total])
    jobs = [(work, shard, recipe.clean) for shard in range(shards)]
    cleaned = runner.map("decontaminate", steps.clean_shard, jobs, sizes)
    for first, (near, _) in zip(exact, cleaned, strict=True):
        for domain, (_, dropped) in first.items():
            funnel.add("dedupe", domain, 0, dropped)
        for domain, (kept, dropped) in near.items():
            funnel.add("dedupe", domain, kept, dropped)
    for _, leaked in cleaned:
        for domain, (kept, dropped) in leaked.items():
            funnel.add("decontaminate", domain, kept, dropped)
    sources = [
        _stated_source(file.located, file.domain) | {"read": read, "selected": selected}
        for file, (read, selected, _) in zip(inputs.files, pulled, strict=True)
    ]
    places = [place for _, listed in inputs.evaluations for place in listed]
    stated = [_stated_source(place, None) | {"read": read} for place, read in zip(places, evaluation_rows, strict=True)]
    return _Cleaned(shards, funnel, sources, stated, close)


def _stated_source(located: Located, domain: str | None) -> dict[str, Any]:
    stated = {
        "dataset": located.dataset,
        "config": located.config,
        "split": located.split,
        "revision": located.revision,
        "path": located.path,
        "licence": located.licence,
    }
    return stated if domain is None else {"domain": domain, **stated}


def _shortages(choice: _Choice, funnel: Funnel) -> list[str]:
    return [
        f"mixture.{domain}.rows asks for {len(s.chosen()) + s.missing:,}, {len(s.chosen()):,} are left, "
        f"{s.missing:,} too few ({story(funnel.rows(), domain) or 'nothing was pulled'})"
        for domain, s in choice.domains.items()
        if s.missing
    ]


def _check_quotas(choice: _Choice, funnel: Funnel, allow_short: bool) -> None:
    shortages = _shortages(choice, funnel)
    empty = [domain for domain, selection in choice.domains.items() if not len(selection.chosen())]
    if empty or (shortages and not allow_short):
        advice = (
            f"Nothing is left for {', '.join(empty)}: add a source."
            if empty
            else "Lower rows, add a source, or build what there is with --allow-short."
        )
        raise ShortageError(
            "The quotas can't be met:\n" + "\n".join(f"  {line}." for line in shortages) + f"\n{advice}"
        )


def _sample(
    recipe: Recipe,
    work: Path,
    choice: _Choice,
    funnel: Funnel,
    runner: Runner,
    allow_short: bool,
    ledger: Path,
    max_requests: int | None,
) -> None:
    prefills: dict[str, Prefill] = {
        domain: part.prefill for domain, part in recipe.mixture.items() if part.prefill is not None
    }
    dropped: dict[str, Counter[str]] = {domain: Counter() for domain in prefills}
    sampling = steps.Sampling(recipe.seed, prefills, recipe.samplers, recipe.judges.stance, ledger, max_requests)
    remote = any(is_remote(recipe.samplers[prefill.sampler]) for prefill in prefills.values())
    turn = 0
    while True:
        wanted = {domain: choice.by_shard(domain, choice.domains[domain].to_sample()) for domain in prefills}
        shards = {shard: {domain: rows[shard] for domain, rows in wanted.items()} for shard in range(choice.shards)}
        shards = {shard: rows for shard, rows in shards.items() if any(rows.values())}
        if not shards:
            break
        groups = [shards] if remote else [{shard: rows} for shard, rows in shards.items()]
        sizes = [sum(len(places) for rows in group.values() for places in rows.values()) for group in groups]
        jobs = [(work, turn, group, sampling) for group in groups]
        for outcomes, sent in runner.map("sample", steps.sample, jobs, sizes, live=remote):
            if sampling.max_requests is not None:
                sampling = sampling._replace(max_requests=sampling.max_requests - sent)
            for shard, outcome in outcomes.items():
                for domain, rows in shards[shard].items():
                    given_up = choice.places(domain, shard, outcome.given_up[domain])
                    choice.domains[domain].sampled(choice.places(domain, shard, rows), given_up)
                    dropped[domain].update(outcome.dropped[domain])
        turn += 1
    for domain, selection in choice.domains.items():
        entered = len(selection.chosen()) + len(selection.failed)
        funnel.add("choose", domain, entered, {"over the quota": selection.candidates - entered})
        if domain in prefills:
            funnel.add("sample", domain, len(selection.chosen()), dropped[domain])
    _check_quotas(choice, funnel, allow_short)
    for domain, selection in choice.domains.items():
        funnel.add("mix", domain, len(selection.chosen()), {})


def _package(inputs: _Inputs, work: Path, choice: _Choice, cleaned: _Cleaned, runner: Runner) -> dict[str, Any]:
    (work / "chosen").mkdir(exist_ok=True)
    for shard, fate in enumerate(choice.fates()):
        np.save(work / f"chosen/{shard}.npy", fate)
    funnel = cleaned.funnel.rows()
    rows = sum(len(selection.chosen()) for selection in choice.domains.values())
    dropped = sum(sum(row["dropped"].values()) for row in funnel)
    (mixed,) = runner.map("mix", steps.mix, [(work, cleaned.shards, rows, dropped)], [rows])
    out = work / "out"
    manifest = {
        "name": inputs.recipe.name,
        **inputs.stated,
        "content_hash": mixed.content_hash,
        "rows": {"mixture": mixed.rows, "rejected": mixed.rejected},
        "prefilled": {domain: mixed.prefilled.get(domain, 0) for domain in choice.domains},
        "shortages": _shortages(choice, cleaned.funnel),
        "sources": cleaned.sources,
        "decontaminate": cleaned.evaluations,
        "close": cleaned.close,
        "funnel": funnel,
    }
    (out / "README.md").write_text(card.render(manifest), encoding="utf-8")
    manifest["files"] = {
        path.relative_to(out).as_posix(): folder.file_hash(path) for path in sorted(out.rglob("*")) if path.is_file()
    }
    folder.write_manifest(out, manifest)
    return manifest
