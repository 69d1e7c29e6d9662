"""What a build shows while it works, and the tables at its end. All of it goes to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline.funnel import yielded

if TYPE_CHECKING:
    from pipeline.cost import Estimate


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed
        known = task.fields.get("counted") and task.completed and seconds
        return Text(f"{task.completed / seconds:,.0f} rows/s" if known and seconds else "", style="dim")


class _Bars(Progress):
    """Bars, and a line below them."""

    below = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, style="dim", no_wrap=True, overflow="ellipsis")


class Live:
    """A `pipeline.runner.Progress` as bars in a terminal: rows done, rate and time left of each step."""

    def __init__(self, console: Console) -> None:
        self._bars = _Bars(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._bars.start()
        self._step = self._bars.add_task("", visible=False)

    def start(self, step: str, rows: int | None) -> None:
        """See `pipeline.runner.Progress`."""
        self._step = self._bars.add_task(step, total=rows, counted=rows is not None)

    def advance(self, rows: int) -> None:
        """See `pipeline.runner.Progress`."""
        self._bars.advance(self._step, rows)

    def finish(self) -> None:
        """See `pipeline.runner.Progress`."""
        task = self._bars.tasks[self._step]
        self._bars.below = ""
        self._bars.update(self._step, total=task.total or 1, completed=task.total or 1)

    def tried(self, accepted: int, rejected: Mapping[str, int]) -> None:
        """See `pipeline.runner.Progress`."""
        self._bars.below = yielded(accepted, rejected)

    def tell(self, line: str) -> None:
        """See `pipeline.runner.Progress`."""
        self._bars.console.print(line)

    def close(self) -> None:
        """Stop drawing."""
        self._bars.stop()


class Lines:
    """A `pipeline.runner.Progress` as plain lines: one when a step is done, and one every ten seconds in between.

    Args:
        write: takes a line.
        told: takes what should be known at once, unless it is to be written like the rest.
    """

    EVERY = 10.0

    def __init__(self, write: Callable[[str], None], told: Callable[[str], None] | None = None) -> None:
        self._write, self._tell = write, told or write
        self._step, self._rows, self._done = "", 0, 0
        self._yields = ""
        self._began = self._told = time.monotonic()

    def start(self, step: str, rows: int | None) -> None:
        """See `pipeline.runner.Progress`."""
        self._step, self._rows, self._done = step, rows or 0, 0
        self._yields = ""
        self._began = self._told = time.monotonic()

    def advance(self, rows: int) -> None:
        """See `pipeline.runner.Progress`."""
        self._done += rows
        self._now_and_then()

    def finish(self) -> None:
        """See `pipeline.runner.Progress`."""
        spent = time.monotonic() - self._began
        rows = f"{self._rows:,} rows, " if self._rows else ""
        self._print(f"{rows}{spent:.1f} s{self._yields}")

    def tried(self, accepted: int, rejected: Mapping[str, int]) -> None:
        """See `pipeline.runner.Progress`."""
        self._yields = f" · {yielded(accepted, rejected)}"
        self._now_and_then()

    def tell(self, line: str) -> None:
        """See `pipeline.runner.Progress`."""
        self._tell(line)

    def close(self) -> None:
        """There is nothing to stop."""

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if self._rows and self._done < self._rows and now - self._told >= self.EVERY:
            rate = self._done / (now - self._began)
            left = f", {(self._rows - self._done) / rate:.0f} s left" if rate else ""
            self._print(f"{self._done:,}/{self._rows:,} rows, {rate:,.0f} rows/s{left}{self._yields}")
            self._told = now

    def _print(self, text: str) -> None:
        self._write(f"{self._step}: {text}")


def progress(console: Console) -> Live | Lines:
    """Bars where standard error is a terminal, plain lines elsewhere."""
    return Live(console) if console.is_terminal else Lines(lambda line: print(line, file=sys.stderr, flush=True))


def funnel_table(funnel: list[dict[str, Any]]) -> Table:
    """The funnel as a table."""
    table = Table("step", "domain", box=None, pad_edge=False, header_style="bold")
    table.add_column("in", justify="right")
    table.add_column("kept", justify="right", style="bold")
    table.add_column("dropped")
    last = None
    for row in funnel:
        if last is not None and row["step"] != last:
            table.add_row()
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in row["dropped"].items())
        step = row["step"] if row["step"] != last else ""
        table.add_row(step, row["domain"], f"{row['in']:,}", f"{row['kept']:,}", Text(dropped, style="dim"))
        last = row["step"]
    return table


def estimate_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    """What models will be asked and paid: a line for each sampler or judge and domain, and one for the sum."""
    for line in estimates:
        seconds = "" if line.seconds is None else f", {line.seconds:,.0f} s as measured"
        yield (
            f"ask: {line.asker} ({line.model}) for {line.domain}: {line.requests:,} requests and {line.found:,} in the "
            f"ledger, {line.prompt_tokens:,} + {line.completion_tokens:,} tokens ({line.counted})"
            f"{_cost(line.cost, line.most_cost)}{seconds}"
        )
    requests, most = (sum(getattr(line, name) for line in estimates) for name in ("requests", "most_requests"))
    cost, most_cost = (sum(getattr(line, name) for line in estimates) for name in ("cost", "most_cost"))
    yield (
        f"ask: {requests:,} requests in all if each first prefill is accepted, {most:,} at most"
        f"{_cost(cost, most_cost) or '; the recipe states no prices'}"
    )


def _cost(cost: float, most: float) -> str:
    return f", cost {_money(cost)}, at most {_money(most)}" if most else ""


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.2g}"
