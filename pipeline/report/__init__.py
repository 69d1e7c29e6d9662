"""The HTML report of a finished build: one self-contained file to decide by whether to train on the data."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline import schema
from pipeline.errors import InputError, OutputError
from pipeline.report import charts, excerpt, figures, folder
from pipeline.writing import write_text

__all__ = ["write_report"]

HITS = 1000
"""How many dropped rows of a stage the page lists at most."""

LISTED_STAGES = ("decontaminate", "dedupe")
"""Stages whose dropped rows are listed beside the text they matched."""

_HERE = Path(__file__).parent


def write_report(build: Path, out: Path | None = None, rows: int = 5000) -> Path:
    """Write the report of a finished build as one HTML file that needs no network.

    The files are read in batches, so memory does not grow with the build. The same folder gives the same bytes.

    Args:
        build: the build's folder (with ``manifest.json``, ``data/`` and ``rejected/``).
        out: the file to write, by default ``report.html`` in the build's folder. Replaced in one move.
        rows: how many rows the page's table holds at most, taken evenly over the ids.

    Returns:
        The path of the file written.

    Raises:
        InputError: the folder is not a finished build, its files are broken, or `rows` is negative.
        OutputError: the file can't be written.
    """
    if rows < 0:
        raise InputError(f"The report can't hold {rows} rows. Give a number from 0 on")
    opened = folder.open_build(build)
    target = out or build / "report.html"
    _replace(target, _page(opened, rows))
    return target


def _page(build: folder.Build, rows: int) -> str:
    manifest = build.manifest
    mixture = figures.Mixture()
    sample = excerpt.Excerpt(manifest.rows.mixture, rows)
    for batch in build.batches(build.mixture, schema.MIXTURE, [n for n in schema.MIXTURE.names if n != "reward"]):
        mixture.add(batch)
        sample.add(batch)

    rejected = figures.Rejected()
    for batch in build.batches(build.rejected, schema.REJECTED, ["domain", "stage", "reason"]):
        rejected.add(batch)
    dropped = {stage: excerpt.Excerpt(rejected.stages[stage], HITS) for stage in LISTED_STAGES}
    if any(part.cap for part in dropped.values()):
        columns = ["id", "domain", "prompt", "origin", "stage", "reason", "match"]
        for batch in build.batches(build.rejected, schema.REJECTED, columns):
            for stage, part in dropped.items():
                part.add(figures.of_stage(batch, stage))

    blob = excerpt.pack(
        {
            "recipe": manifest.recipe,
            "rows": sample.rows,
            "dropped": {stage: part.rows for stage, part in dropped.items()},
        }
    )
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = charts.number
    environment.filters["percent"] = charts.percent
    return environment.get_template("page.html").render(
        manifest=manifest,
        colour=charts.colour,
        domains=charts.domains(mixture),
        funnels=charts.funnels(manifest.funnel),
        charts=charts.draw(mixture),
        reasons=charts.reasons(rejected),
        funnel_dropped=sum(sum(entry.dropped.values()) for entry in manifest.funnel),
        sample=sample,
        dropped=dropped,
        prefilled=mixture.prefilled,
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        blob=blob,
    )


def _hash(text: str) -> str:
    """The text's hash as a content security policy spells it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _replace(target: Path, page: str) -> None:
    try:
        write_text(target, page)
    except OSError as error:
        raise OutputError(f"The report can't be written to {target}: {error.strerror}. Choose another file") from error
