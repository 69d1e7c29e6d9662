"""Publishing as a step of the flow: checked before the build starts, and compared with the version before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.mixture import prefilled_count
from pipeline.publish import release, versions
from pipeline.publish.diff import Diff, compare
from pipeline.publish.opening import HUB, REJECTED, at_hub, open_version, versions_at
from pipeline.publish.release import Permissions, Published
from pipeline.recipe import MIXTURE, Recipe, Source
from pipeline.sources.known import known


def check_asked(recipe: Recipe, publish: bool, permissions: Permissions) -> None:
    """Check what can be known of a publication before anything is built.

    Raises:
        InputError: the recipe says no place, there is no token, or what it makes would be refused there.
    """
    to = recipe.publish.to
    if not publish:
        if any(permissions):
            raise InputError("allow_restricted and public_harmful are for publish: add --publish, or leave them out.")
        return
    if not to:
        raise InputError(
            "The recipe does not say where to publish. Set publish.to, as in --set publish.to=hub:owner/name."
        )
    if not to.startswith(HUB):
        if "://" in to:
            raise InputError(f"{to} is no place to publish to. Set publish.to to hub:owner/name, or to a folder.")
        if any(permissions):
            raise InputError(f"allow_restricted and public_harmful are for the Hub, not for {to}: leave them out.")
        return
    if at_hub(to, None)[1] is not None:
        raise InputError(f"{to}: the next version follows from what changed. Set publish.to to hub:owner/name alone.")
    release.check(release.Release(Path(), to, _expected(recipe), {}), permissions)
    from huggingface_hub import get_token

    if not get_token():
        raise InputError(
            f"Publishing to {to} needs a token that can write: set HF_TOKEN, or log in with hf auth login."
        )


def publish_build(build: Path, to: str, permissions: Permissions) -> Published:
    """Publish a build as `pipeline.publish.release.publish` does; what it tells goes to the log of the run."""
    from prefect import get_run_logger

    log = get_run_logger()
    published = release.publish(build, to, permissions=permissions, tell=log.info)
    for note in published.notes:
        log.info(note)
    return published


def since_last(published: Published) -> Diff | None:
    """What a version changes against the one before it; None for the first one. Raises like `open_version`."""
    version = versions.parse(published.version)
    former = [other for other in versions_at(published.to) if version and other < version]
    if not former:
        return None
    old, new = (open_version(published.to, str(name), (MIXTURE, REJECTED)) for name in (former[-1], version))
    return compare(old, new)


def _expected(recipe: Recipe) -> dict[str, Any]:
    """What the manifest of a build of this recipe will say of sources and prefills, as far as that can be known."""
    mixtures = [recipe.mixture, *(variant.applied(recipe.mixture) for variant in recipe.variants.values())]
    harmful = [mixture["harmful"] for mixture in mixtures if "harmful" in mixture]
    shown = [prefilled_count(part.prefill.share, part.rows) for part in harmful if part.prefill]
    return {
        "recipe": recipe.dump(),
        "sources": [_source(source) for listed in recipe.sources.values() for source in listed],
        "prefilled": {"harmful": max(shown, default=0)},
    }


def _source(source: Source) -> dict[str, Any]:
    """A source without a licence as far as that can be known before it is read."""
    unnamed = bool(source.files) and known(source.dataset) is None
    return {
        "dataset": source.dataset,
        "path": ", ".join(source.files or ()),
        "licence": source.licence or (None if unnamed else "as the source says"),
    }
