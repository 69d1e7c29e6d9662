"""What changed between two versions of a mixture: rows by id, the recipe, the inputs and the card.

The files of a version are sorted by id, so two versions are read side by side, a few thousand rows at a time, and
memory doesn't grow with them. Nothing that is told quotes a row: ids, counts, columns, and the constant reasons for
which rows were rejected.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.publish.opening import REJECTED, Snapshot
from pipeline.recipe import MIXTURE

BATCH = 8_192
"""Rows read at a time."""

NOT_PULLED = "not in the sources"
"""Stands for the reason of a row that is in one version, and in the other neither in the mixture nor rejected."""

STAGES = ("pull", "dedupe", "decontaminate", "choose", "sample", "mix")
"""The steps that reject rows, first to last. Of an id that was rejected several times the last one is told: its twins
left earlier."""

_INPUTS = ("schema_version", "packages", "templates")


class Group(NamedTuple):
    """What happened to the rows of one domain and source dataset.

    ``reasons`` says why removed rows left, ``before`` why added rows were not in the old version, and ``columns`` which
    columns changed; each with the number of rows.
    """

    domain: str
    dataset: str
    added: int
    removed: int
    changed: int
    reasons: dict[str, int]
    before: dict[str, int]
    columns: dict[str, int]


class Change(NamedTuple):
    """A value that differs, by its dotted path; None where it is not there."""

    path: str
    old: Any
    new: Any


class Diff(NamedTuple):
    """What changed from `old` to `new` in one config of both.

    ``rows`` has the rows of both versions and those that are ``same``, ``added``, ``removed`` and ``changed``; a row
    keeps its id as long as its domain and prompt are the same. ``groups`` has them by domain and source dataset (of a
    changed row: its new one); ``examples`` has the first ids of each kind. ``configs`` are the other configs whose
    content differs, with their content hashes. ``inputs`` are source revisions, templates, packages and the schema;
    ``schema`` lists columns that only one version has, or has with another type. ``card`` are the lines of a unified
    diff.
    """

    old: str
    new: str
    config: str
    content_hash: tuple[str, str]
    rows: dict[str, int]
    groups: list[Group]
    examples: dict[str, list[str]]
    configs: list[Change]
    recipe: list[Change]
    inputs: list[Change]
    schema: list[Change]
    card: list[str]

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        moved = self.rows["added"] + self.rows["removed"] + self.rows["changed"]
        return not (moved or self.configs or self.recipe or self.inputs or self.schema or self.card)

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        listed = ("groups", "configs", "recipe", "inputs", "schema")
        plain = {name: [entry._asdict() for entry in getattr(self, name)] for name in listed}
        return self._asdict() | plain | {"empty": self.empty}


def compare(old: Snapshot, new: Snapshot, examples: int = 5, config: str = MIXTURE) -> Diff:
    """Compare one config of two versions; of each kind of row, `examples` ids are listed.

    Raises:
        InputError: a version has no such config, a file can't be read, is not sorted by id, or `examples` is negative.
    """
    if examples < 0:
        raise InputError(f"{examples} ids can't be listed. Give a number from 0 on.")
    before_files, after_files = _files(old, config), _files(new, config)
    schema, columns = _columns(old.name, before_files, new.name, after_files)
    tally = _Tally(examples)
    gone, come = _Reasons(new), _Reasons(old)
    for before, after in _side_by_side(_Rows(before_files, columns), _Rows(after_files, columns)):
        places = pc.index_in(before["id"], value_set=after["id"].combine_chunks())
        removed = before.filter(pc.is_null(places))
        added = after.filter(pc.invert(pc.is_in(after["id"], value_set=before["id"].combine_chunks())))
        kept = before.filter(pc.is_valid(places))
        tally.remove(removed, gone.of(removed["id"].to_pylist()))
        tally.add(added, come.of(added["id"].to_pylist()))
        tally.change(kept, after.take(places.drop_null()), columns)
    contents = content_hashes(old.manifest), content_hashes(new.manifest)
    return Diff(
        old=old.name,
        new=new.name,
        config=config,
        content_hash=(str(contents[0].get(config)), str(contents[1].get(config))),
        rows=tally.rows(),
        groups=tally.groups(),
        examples=tally.examples,
        configs=[change for change in changes(*contents) if change.path != config],
        recipe=changes(old.manifest.get("recipe"), new.manifest.get("recipe")),
        inputs=input_changes(old.manifest, new.manifest),
        schema=schema,
        card=list(
            difflib.unified_diff(
                old.card.splitlines(), new.card.splitlines(), "old/README.md", "new/README.md", lineterm="", n=1
            )
        ),
    )


def content_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The content hash of every config that a manifest states one of: the mixture, and its variants."""
    variants = manifest.get("variants", {})
    hashes = {MIXTURE: manifest.get("content_hash")} | {
        name: stated["content_hash"] for name, stated in variants.items()
    }
    return {name: content for name, content in hashes.items() if content is not None}


def changes(old: Any, new: Any, path: str = "") -> list[Change]:
    """The values that differ between two pieces of JSON, by dotted path; places of lists are numbers."""
    below = f"{path}." if path else ""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [change for key in keys for change in changes(old.get(key), new.get(key), f"{below}{key}")]
    if isinstance(old, list) and isinstance(new, list) and any(isinstance(item, dict | list) for item in (*old, *new)):
        return changes(dict(enumerate(old)), dict(enumerate(new)), path)
    return [] if old == new else [Change(path, old, new)]


def input_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What two manifests were made from, where it differs: schema, packages, templates, revisions of sources."""
    return changes(_inputs(old), _inputs(new))


def _inputs(manifest: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {key: manifest.get(key) for key in _INPUTS}
    for kind in ("sources", "decontaminate"):
        for source in manifest.get(kind, ()):
            parts = [source.get(key) for key in ("domain", "dataset", "config", "split", "path")]
            found[f"{kind}.{'/'.join(part for part in parts if part)}"] = source.get("revision")
    return found


class _Rows:
    """The rows of a config in order of id, of which as much is held as was read and not yet taken."""

    def __init__(self, files: Sequence[Path], columns: Sequence[str]) -> None:
        self._batches = _read(files, columns)
        self._held: pa.Table | None = None
        self.more()

    @property
    def last(self) -> str | None:
        """The last id held, None where there are no more rows."""
        return None if self._held is None else self._held["id"][-1].as_py()

    def more(self) -> None:
        """Read on where nothing is held."""
        if self._held is None:
            batch = next(self._batches, None)
            self._held = None if batch is None else pa.Table.from_batches([batch])

    def take(self, limit: str, empty: pa.Table | None = None) -> pa.Table | None:
        """Take the rows held whose id is not after `limit`."""
        if self._held is None:
            return empty
        count = pc.sum(pc.less_equal(self._held["id"], limit)).as_py()
        taken, rest = self._held.slice(0, count), self._held.slice(count)
        self._held = rest if len(rest) else None
        self.more()
        return taken


def _side_by_side(old: _Rows, new: _Rows) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The rows of both, so that equal ids come together."""
    while limits := [last for last in (old.last, new.last) if last is not None]:
        limit = min(limits)
        before, after = old.take(limit), new.take(limit)
        some = before if before is not None else after
        if some is not None:
            yield before if before is not None else some.slice(0, 0), after if after is not None else some.slice(0, 0)


class _Reasons:
    """Why a version rejected rows; asked for ids in rising order."""

    def __init__(self, version: Snapshot) -> None:
        self._batches = _read(version.configs.get(REJECTED, []), ("id", "stage", "reason"), repeated=True)
        self._held: pa.RecordBatch | None = next(self._batches, None)

    def of(self, ids: Sequence[str]) -> list[str]:
        """For each id, the last stage that rejected it and why; `NOT_PULLED` where none did."""
        found: dict[str, tuple[int, str]] = {}
        wanted = pa.array(ids, pa.string())
        while ids and self._held is not None:
            for row in self._held.filter(pc.is_in(self._held["id"], value_set=wanted)).to_pylist():
                stage = row["stage"]
                rank = STAGES.index(stage) if stage in STAGES else len(STAGES)
                found[row["id"]] = max(found.get(row["id"], (-1, "")), (rank, f"{stage}: {row['reason']}"))
            if self._held["id"][-1].as_py() > ids[-1]:
                break
            self._held = next(self._batches, None)
        return [found[row][1] if row in found else NOT_PULLED for row in ids]


class _Tally:
    """Counts what happened to rows."""

    def __init__(self, most: int) -> None:
        self._most, self._same = most, 0
        self.examples: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
        self._counts: dict[str, Counter[tuple[str, str]]] = {kind: Counter() for kind in self.examples}
        self._why: dict[str, dict[tuple[str, str], Counter[str]]] = {kind: {} for kind in self.examples}

    def add(self, rows: pa.Table, reasons: Sequence[str]) -> None:
        self._count("added", rows, [[reason] for reason in reasons])

    def remove(self, rows: pa.Table, reasons: Sequence[str]) -> None:
        self._count("removed", rows, [[reason] for reason in reasons])

    def change(self, before: pa.Table, after: pa.Table, columns: Sequence[str]) -> None:
        changed: dict[int, list[str]] = {}
        for column in columns:
            for name, rows in _differing(column, before[column].combine_chunks(), after[column].combine_chunks()):
                for row in rows:
                    changed.setdefault(row, []).append(name)
        self._same += len(before) - len(changed)
        places = sorted(changed)
        self._count("changed", after.take(pa.array(places, pa.int64())), [changed[place] for place in places])

    def rows(self) -> dict[str, int]:
        added, removed, changed = (self._counts[kind].total() for kind in ("added", "removed", "changed"))
        both = self._same + changed
        return {
            "old": both + removed,
            "new": both + added,
            "same": self._same,
            "added": added,
            "removed": removed,
            "changed": changed,
        }

    def groups(self) -> list[Group]:
        keys = sorted({key for counts in self._counts.values() for key in counts})
        counts, why = self._counts, self._why
        told = {kind: {key: dict(counted.most_common()) for key, counted in why[kind].items()} for kind in why}
        return [
            Group(
                *key,
                added=counts["added"][key],
                removed=counts["removed"][key],
                changed=counts["changed"][key],
                reasons=told["removed"].get(key, {}),
                before=told["added"].get(key, {}),
                columns=told["changed"].get(key, {}),
            )
            for key in keys
        ]

    def _count(self, kind: str, rows: pa.Table, why: Sequence[Sequence[str]]) -> None:
        if not len(rows):
            return
        room = self._most - len(self.examples[kind])
        self.examples[kind] += rows["id"].slice(0, max(room, 0)).to_pylist()
        datasets = pc.struct_field(rows["origin"], "dataset").to_pylist()
        for key, reasons in zip(zip(rows["domain"].to_pylist(), datasets, strict=True), why, strict=True):
            group = (key[0], key[1] or "?")
            self._counts[kind][group] += 1
            self._why[kind].setdefault(group, Counter()).update(reasons)


def _differing(name: str, old: pa.Array, new: pa.Array) -> Iterator[tuple[str, list[int]]]:
    """The rows in which a column differs; those of a struct by its fields, where both rows have it."""
    if old.type.equals(new.type) and old.equals(new):
        return
    here = _places(pc.xor(old.is_valid(), new.is_valid()))
    if here:
        yield name, here
    if pa.types.is_struct(old.type) and pa.types.is_struct(new.type):
        both = pc.and_(old.is_valid(), new.is_valid())
        for field in (field.name for field in old.type if new.type.get_field_index(field.name) >= 0):
            for path, rows in _differing(f"{name}.{field}", pc.struct_field(old, field), pc.struct_field(new, field)):
                if inside := [row for row in rows if both[row].as_py()]:
                    yield path, inside
    elif pa.types.is_nested(old.type) or not old.type.equals(new.type):
        pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
        if rows := [row for row, (a, b) in enumerate(pairs) if a is not None and b is not None and a != b]:
            yield name, rows
    elif rows := _places(pc.not_equal(old, new)):
        yield name, rows


def _places(mask: pa.Array) -> list[int]:
    return list(pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist())


def _files(version: Snapshot, config: str) -> list[Path]:
    """The files of a config that has a row an id."""
    there = [name for name in version.configs if name != REJECTED]
    if config not in there:
        named = ", ".join(there) or "none"
        raise InputError(f"{version.name} has no config {config!r} that can be compared. Those there are: {named}.")
    return version.configs[config]


def _columns(
    old: str, old_files: Sequence[Path], new: str, new_files: Sequence[Path]
) -> tuple[list[Change], list[str]]:
    """What differs between the two schemas, and the columns that both versions have."""
    before, after = _types(old_files), _types(new_files)
    shared = [name for name in before if name in after]
    lacking = [name for name in ("id", "domain", "origin") if name not in shared]
    if lacking:
        raise InputError(f"{old} and {new} can't be compared: no column {lacking[0]!r} in one of them.")
    return changes(before, after), shared


def _types(files: Sequence[Path]) -> dict[str, str]:
    try:
        return {field.name: str(field.type) for field in pq.read_schema(files[0])}
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{files[0]} can't be read as Parquet: {error}. Build it again.") from error


def _read(files: Sequence[Path], columns: Sequence[str], *, repeated: bool = False) -> Iterator[pa.RecordBatch]:
    """Batches that hold rows, checked to be sorted by id (`repeated`: in which an id may come again)."""
    follows = pc.greater_equal if repeated else pc.greater
    last: str | None = None
    for path in files:
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(BATCH, columns=list(columns)):
                    if not len(batch):
                        continue
                    ids = batch["id"]
                    before = pa.concat_arrays([pa.array([last], pa.string()), ids.slice(0, len(ids) - 1)])
                    if not pc.all(follows(ids, before), min_count=0).as_py():
                        raise InputError(f"{path} is not sorted by id: it was changed. Build it again.")
                    last = ids[-1].as_py()
                    yield batch
        except (pa.ArrowException, OSError, KeyError) as error:
            raise InputError(f"{path} can't be read: {error}. Build it again.") from error


def to_text(diff: Diff) -> str:
    """The diff as lines for a terminal."""
    rows = diff.rows
    lines = [f"{diff.old} -> {diff.new}{_of(diff)}"]
    if diff.empty:
        return "\n".join([*lines, f"nothing differs: {rows['new']:,} rows, content {diff.content_hash[1][:12]}"])
    lines.append(_sum(rows))
    for group in diff.groups:
        lines.append(f"  {group.domain}, {group.dataset}: {_moved(group)}")
        lines += [f"    {label}: {text}" for label, text in _whys(group)]
    lines += [f"  {kind}, as {', '.join(ids)}" for kind, ids in diff.examples.items() if ids]
    if diff.configs:
        lines.append(f"other configs: {len(diff.configs)} changed")
        lines += [f"  {change.path}: {_content(change.old)} -> {_content(change.new)}" for change in diff.configs]
    for label, listed in (("recipe", diff.recipe), ("inputs", diff.inputs), ("schema", diff.schema)):
        if listed:
            lines.append(f"{label}: {len(listed)} changed")
            lines += [f"  {change.path}: {_shown(change.old)} -> {_shown(change.new)}" for change in listed]
    if diff.card:
        lines.append(f"card: {_card(diff)}")
    return "\n".join(lines)


def to_markdown(diff: Diff) -> str:
    """The diff as Markdown, for a release's notes or a Prefect artifact."""
    lines = [f"# {diff.old} → {diff.new}{_of(diff)}", ""]
    if diff.empty:
        return "\n".join([*lines, "Nothing differs.", ""])
    lines += [f"{_sum(diff.rows).capitalize()}.", ""]
    if diff.groups:
        lines += ["| domain | source | added | removed | changed | why |", "|---|---|---:|---:|---:|---|"]
        for group in diff.groups:
            why = "; ".join(f"{label}: {text}" for label, text in _whys(group))
            cells = (_cell(group.domain), _cell(group.dataset), f"{group.added:,}", f"{group.removed:,}")
            lines.append(f"| {' | '.join(cells)} | {group.changed:,} | {_cell(why)} |")
        lines.append("")
    if diff.configs:
        lines += ["## Other configs", "", "| | old content | new content |", "|---|---|---|"]
        lines += [f"| `{_cell(c.path)}` | {_content(c.old)} | {_content(c.new)} |" for c in diff.configs]
        lines.append("")
    for label, listed in (("Recipe", diff.recipe), ("Inputs", diff.inputs), ("Schema", diff.schema)):
        if listed:
            lines += [f"## {label}", "", "| | old | new |", "|---|---|---|"]
            lines += [f"| `{_cell(c.path)}` | {_cell(_shown(c.old))} | {_cell(_shown(c.new))} |" for c in listed]
            lines.append("")
    if diff.card:
        lines += ["## Card", "", f"{_card(diff).capitalize()}.", "", "````diff", *diff.card, "````", ""]
    return "\n".join(lines)


def _of(diff: Diff) -> str:
    return "" if diff.config == MIXTURE else f", config {diff.config}"


def _content(content_hash: str | None) -> str:
    return "not there" if content_hash is None else content_hash[:12]


def _sum(rows: Mapping[str, int]) -> str:
    moved = ", ".join(f"{rows[kind]:,} {kind}" for kind in ("added", "removed", "changed", "same"))
    return f"rows: {rows['old']:,} -> {rows['new']:,} ({moved})"


def _moved(group: Group) -> str:
    counts = (("added", group.added), ("removed", group.removed), ("changed", group.changed))
    return ", ".join(f"{count:,} {kind}" for kind, count in counts if count)


def _whys(group: Group) -> list[tuple[str, str]]:
    labelled = (("removed", group.reasons), ("added, before", group.before), ("changed", group.columns))
    return [
        (label, ", ".join(f"{count:,} {why}" for why, count in counted.items()))
        for label, counted in labelled
        if counted
    ]


def _card(diff: Diff) -> str:
    body = [line for line in diff.card if not line.startswith(("---", "+++"))]
    plus, minus = (sum(line.startswith(sign) for line in body) for sign in "+-")
    return f"{plus:,} lines added, {minus:,} removed"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
