"""Verifying a finished build or a published version: made once more from its own manifest and the ledger, and compared.

Nothing is asked of a model: an answer that the ledger lacks is an error.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.build import LEDGER, build
from pipeline.clients.batch import BatchesOpen
from pipeline.engine import BudgetSpent
from pipeline.errors import InputError, RecapError, SourceError
from pipeline.publish.diff import Change, changes, content_hashes, input_changes
from pipeline.publish.folder import intact
from pipeline.publish.manifest import Whole, recipe_of
from pipeline.publish.opening import CARD, HUB, find
from pipeline.recipe import MIXTURE, LoadedRecipe, Recipe
from pipeline.runner import Runner


class Verified(NamedTuple):
    """What rebuilding a build came to.

    ``name`` is what the user calls it. ``content_hash`` is the manifest's, ``rebuilt_hash`` that of the rows made anew;
    ``variants`` are the further configs that were made anew with another content hash. ``damaged`` are files that are
    not what the manifest says, ``different`` those that the rebuild has with other bytes, or not at all. ``causes`` are
    the inputs that are not what they were: packages, templates, revisions of sources. ``answers`` of models were taken
    from the ledger: what it kept is what counts, whatever a server would say now.
    """

    name: str
    content_hash: str
    rebuilt_hash: str
    variants: list[Change]
    damaged: list[str]
    different: list[str]
    causes: list[Change]
    answers: int

    @property
    def rows_equal(self) -> bool:
        """Whether the rows made anew, in every config, are those that the manifest states."""
        return self.content_hash == self.rebuilt_hash and not self.variants

    @property
    def verified(self) -> bool:
        """Whether the build is what its manifest says, and that can be made again.

        A card may have been edited. Files of other bytes with equal rows must have a cause: another version of what
        wrote them.
        """
        return self.rows_equal and not set(self.damaged) - {CARD} and (not self.different or bool(self.causes))

    def lines(self) -> list[str]:
        """What is not as it was, a line each."""
        equal = self.content_hash == self.rebuilt_hash
        rows = [] if equal else [f"the rows made anew are others: content {self.rebuilt_hash[:12]}"]
        rows += [f"the rows of {name} made anew are others: content {_short(new)}" for name, _, new in self.variants]
        damaged = [f"{name} is not what the manifest says: it was changed" for name in self.damaged]
        different = [f"{name} was made anew with other bytes" for name in self.different]
        causes = [f"{change.path} was {change.old}, is {change.new}" for change in self.causes]
        return rows + damaged + different + causes


def verify(reference: str, runner: Runner, *, base: Path | None = None, ledger: Path | None = None) -> Verified:
    """Rebuild a finished build from its manifest in a temporary folder and compare.

    Files of sources are found relative to `base` (the current folder unless given), as the manifest has their paths as
    the recipe did. Answers come from `ledger` (``ledger.sqlite`` beside the build's folder unless given; a version on
    the Hub has none beside it), and no request is sent.

    Args:
        reference: a folder, or a version on the Hub, as `pipeline.publish.opening.open_version` takes it.
        runner: who walks the steps.
        base: the folder of the recipe.
        ledger: the ledger that it was built with.

    Raises:
        InputError: `reference` is no version, its recipe is none that this version reads, or a source is missing.
        RecapError: the ledger lacks an answer, the rebuild failed, or the Hub can't be reached.
    """
    if ledger is not None and not ledger.is_file():
        raise InputError(f"There is no ledger {ledger}.")
    found = find(reference, model=Whole)
    name, path, manifest = found.name, found.folder, found.manifest
    beside = None if reference.startswith(HUB) else path.absolute().parent / LEDGER
    where, book = base or Path(), ledger or beside
    loaded = LoadedRecipe(_with_tokenizers(recipe_of(manifest, name), where), where)
    damaged = [file for file in manifest["files"] if not intact(path, {"files": {file: manifest["files"][file]}})]
    pinned = [*manifest["sources"], *manifest["decontaminate"]]
    with tempfile.TemporaryDirectory(prefix="recap-verify-") as scratch:
        place = Path(scratch)
        try:
            made = build(
                loaded,
                place / "out" / "again",
                runner,
                allow_short=True,
                ledger=book if book and book.is_file() else place / LEDGER,
                max_requests=0,
                wait=False,
                pinned=pinned,
            ).manifest
        except (BudgetSpent, BatchesOpen):
            has = "no ledger was given" if book is None else f"there is no {book}"
            has = f"{book} lacks it" if book and book.is_file() else has
            raise RecapError(
                f"{name} can't be verified: an answer of a model is needed, and {has}. "
                "Give the ledger that it was built with: --ledger. Nothing was asked."
            ) from None
        except SourceError as error:
            raise SourceError(
                f"{name} can't be verified: {error} verify reads files relative to {where.absolute()}; "
                "give the folder of the recipe as --base."
            ) from None
    names = sorted((manifest["files"].keys() | made["files"].keys()) - ({CARD} - manifest["files"].keys()))
    return Verified(
        name=name,
        content_hash=manifest["content_hash"],
        rebuilt_hash=made["content_hash"],
        variants=[
            change for change in changes(content_hashes(manifest), content_hashes(made)) if change.path != MIXTURE
        ],
        damaged=damaged,
        different=[file for file in names if manifest["files"].get(file) != made["files"].get(file)],
        causes=input_changes(manifest, made),
        answers=sum(used["answers"] for used in made["answers"].values()),
    )


def _with_tokenizers(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with tokenizers read in `base` where they are there: publishing cuts where the folders of them lay."""

    def found(config: Any) -> Any:
        named = getattr(config, "tokenizer", None)
        place = base / named if named and not Path(named).is_absolute() else None
        return config.model_copy(update={"tokenizer": str(place)}) if place and place.is_dir() else config

    judges = recipe.judges
    given = {name: found(config) for name, config in recipe.samplers.items()}
    judged = {name: found(getattr(judges, name)) for name in type(judges).model_fields}
    return recipe.model_copy(update={"samplers": given, "judges": judges.model_copy(update=judged)})


def _short(content_hash: str | None) -> str:
    return "none" if content_hash is None else content_hash[:12]
