"""The potency of prefills as a column: a copy of a build whose rows say how far their prefill moved a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import OutputError
from pipeline.publish import card, folder
from pipeline.publish.opening import CARD, Snapshot, open_version
from pipeline.publish.parquet import ContentHash, ShardedWriter
from pipeline.recipe import MIXTURE
from pipeline.trainer.probe import Probe
from pipeline.writing import write_text

COLUMN = pa.field("potency", pa.float64())
"""Of a row that was probed: the score of its plain answer less that of the prefilled one. Null in all others."""


def write_column(found: Probe, reference: str, out: Path) -> None:
    """Write the probed mixture once more, into `out`, with the column ``potency`` in the config that was probed.

    It is a build of its own: its card and manifest say what the potency was measured with, and as a version it is a
    major one, since the columns change. What was probed stays as it is.

    Raises:
        InputError: there is no such mixture.
        OutputError: `out` can't be written, is used by another build, or is none of ours.
    """
    opened = open_version(reference)
    folder.check_output(out)
    try:
        with folder.work_folder(out) as work:
            made = work / "out"
            for name in opened.manifest["files"]:
                if name != CARD and opened.folder / name not in opened.configs[found.config]:
                    (made / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder.inside(opened.folder, name), made / name)
            manifest = _manifest(opened, found, _write(opened, found, made))
            text = card.render(manifest)
            write_text(made / CARD, text)
            names = sorted(path for path in made.rglob("*") if path.is_file())
            manifest["files"] = {path.relative_to(made).as_posix(): folder.file_hash(path) for path in names}
            write_text(made / CARD, card.merge(card.written(opened.folder, opened.manifest), text))
            folder.write_manifest(made, manifest)
            folder.replace(out, made)
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error}. Give --column another folder.") from None


def _write(opened: Snapshot, found: Probe, made: Path) -> str:
    """Write the probed config; the content hash of its rows."""
    potency = {row["id"]: row["potency"] for row in found.rows}
    place = made / ("data" if found.config == MIXTURE else found.config)
    schema, hashed = pq.read_schema(opened.configs[found.config][0]).append(COLUMN), ContentHash()
    with ShardedWriter(place, found.config, schema, opened.manifest["rows"][found.config]) as writer:
        for table in _tables(opened.configs[found.config]):
            values = pa.array([potency.get(id) for id in table["id"].to_pylist()], COLUMN.type)
            scored = table.append_column(COLUMN, values)
            writer.write(scored)
            hashed.update(scored.to_pylist())
    return hashed.hexdigest()


def _tables(files: list[Path]) -> Iterator[pa.Table]:
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(4096):
                yield pa.Table.from_batches([batch])


def _manifest(opened: Snapshot, found: Probe, content_hash: str) -> dict[str, Any]:
    left_out = ("files", "version", "columns")
    manifest = {key: value for key, value in opened.manifest.items() if key not in left_out}
    told = ("config", "content_hash", "model", "judges", "seed", "samples")
    manifest["potency"] = {key: value for key, value in found.to_json().items() if key in told}
    if found.config == MIXTURE:
        return manifest | {"content_hash": content_hash}
    variants = manifest["variants"]
    return manifest | {"variants": variants | {found.config: variants[found.config] | {"content_hash": content_hash}}}
