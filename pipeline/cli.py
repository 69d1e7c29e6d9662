"""The command line: one short function a command. Whatever is heavy is imported inside the command that needs it."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.errors import InputError, RecapError

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.build import Built, Plan
    from pipeline.ledger import Ledger
    from pipeline.recipe import LoadedRecipe
    from pipeline.verify import Verified

_STOPPED = "stopped. The last finished output is as it was; run the same command again."


class _Commands(TyperGroup):
    """Typer ends an interrupted command without a word; `main` has one to say."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise RecapError(_STOPPED) from None


app = typer.Typer(
    name="recap-data",
    cls=_Commands,
    help="Counter-aligned prefill mixtures for RECAP (arXiv 2510.00938).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A named recipe, or the path of a YAML file.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder; out/<name> unless given.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value of the recipe: mixture.harmful.rows=200.")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes that share the shards; the result is the same.")]
MaxCostOption = Annotated[
    float | None, typer.Option(min=0, help="Stop, resumably, before the recipe's prices add up to more.")
]
LedgerOption = Annotated[
    Path | None, typer.Option(help="Where answers of models are kept; ledger.sqlite beside the output unless given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]


@app.command()
def build(
    recipe: RecipeArgument = "demo",
    out: OutOption = None,
    overrides: SetOption = None,
    allow_short: Annotated[bool, typer.Option(help="Build what there is where a quota can't be met.")] = False,
    workers: WorkersOption = 1,
    ledger: LedgerOption = None,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Stop, resumably, after so many requests.")] = None,
    max_cost: MaxCostOption = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Submit batches (batch: true) and leave; run again to collect them.")
    ] = False,
    prefect: Annotated[bool, typer.Option("--prefect", help="Run as a Prefect flow.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a mixture: pull, clean, choose, sample, judge, mix, package.

    The output is a folder that datasets.load_dataset reads. It appears whole or not at all, and equal inputs give
    equal bytes; run again with nothing changed, it does nothing.
    """
    loaded = _load(recipe, overrides)
    if prefect:
        if no_wait:
            raise InputError("--no-wait is not for --prefect: a flow waits for its batches. Remove one of them.")
        if workers != 1:
            raise InputError(
                "--workers is not for --prefect: the flow has a task runner of its own. Remove one of them."
            )
        # A server that Prefect has to start for the flow gets more than its 20 seconds.
        os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
        from flows.build import run

        out = _out(out, loaded)
        result = run(
            recipe,
            overrides or [],
            out,
            allow_short=allow_short,
            ledger=ledger,
            max_requests=max_requests,
            max_cost=max_cost,
        )
    else:
        from pipeline.build import build as build_recipe
        from pipeline.console import progress
        from pipeline.runner import local_runner

        with _shown(progress(_console())) as shown, local_runner(workers, shown) as runner:
            result = build_recipe(
                loaded,
                _out(out, loaded),
                runner,
                allow_short=allow_short,
                ledger=ledger,
                max_requests=max_requests,
                max_cost=max_cost,
                wait=not no_wait,
            )
    _print_built(result, as_json)


@app.command()
def plan(
    recipe: RecipeArgument = "demo",
    out: OutOption = None,
    overrides: SetOption = None,
    workers: WorkersOption = 1,
    ledger: LedgerOption = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Ask models for 16 rows, which is paid, to measure time and length.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a build would do, step by step, without doing it: rows, requests, tokens, money.

    Prompts are read and cleaned to count them, which costs nothing; no output is written, and without --probe nothing
    is sampled.
    """
    loaded = _load(recipe, overrides)
    from pipeline.build import plan as plan_recipe
    from pipeline.console import progress
    from pipeline.runner import local_runner

    with _shown(progress(_console())) as shown, local_runner(workers, shown) as runner:
        planned = plan_recipe(loaded, _out(out, loaded), runner, ledger=ledger, probe=probe)
    _print_plan(planned, as_json)


@app.command()
def report(
    build_folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished build.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file; DIR/report.html unless given.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many rows the page's table holds at most.")] = 5000,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about a build: funnel, figures, and a table of rows."""
    from pipeline.report import write_report

    path = write_report(build_folder, out, rows)
    if as_json:
        _print_json({"report": str(path)})
    else:
        print(path)


@app.command()
def diff(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="OLD NEW | PLACE OLD NEW",
            help="Folders of builds, or versions of a place: hub:owner/name (alone its newest version, its newest tag; "
            "with @, a tag, branch or commit), or a folder that publish --to made.",
        ),
    ],
    config: Annotated[str, typer.Option("--config", help="Which config's rows are compared.")] = "mixture",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the result as Markdown.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="How many ids of each kind are listed.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Say what changed between two versions: rows by domain and source, with reasons; recipe, inputs, card.

    As in diff out/v1 out/v2, or diff hub:owner/name v1.2.0 v1.3.0. No prompt or prefill is printed.
    """
    if markdown and as_json:
        raise InputError("--markdown and --json can't both be printed. Remove one of them.")
    if len(references) not in (2, 3):
        raise InputError("Give two versions, OLD NEW, or where they are and both: hub:owner/name v1.2.0 v1.3.0.")
    from pipeline.publish.diff import compare, to_markdown, to_text
    from pipeline.publish.opening import REJECTED, open_version

    named = [(references[0], version) for version in references[1:]]
    pairs = named if len(references) == 3 else [(reference, None) for reference in references]
    old, new = (open_version(reference, version, (config, REJECTED)) for reference, version in pairs)
    found = compare(old, new, examples, config)
    if as_json:
        _print_json(found.to_json())
    else:
        print(to_markdown(found) if markdown else to_text(found))


@app.command()
def verify(
    reference: Annotated[
        str, typer.Argument(metavar="DIR", help="The folder of a finished build, or hub:owner/name@VERSION.")
    ],
    base: Annotated[
        Path | None, typer.Option(help="What the sources' paths are relative to: the folder of the recipe.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Where the models' answers are; ledger.sqlite beside DIR unless given.")
    ] = None,
    workers: WorkersOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Rebuild a finished build from its manifest and the ledger, elsewhere, and compare. No model is asked.

    Exit code 1 where the rows made anew are others, or files are not what the manifest says.
    """
    from pipeline.console import progress
    from pipeline.runner import local_runner
    from pipeline.verify import verify as verify_build

    with _shown(progress(_console())) as shown, local_runner(workers, shown) as runner:
        found = verify_build(reference, runner, base=base, ledger=ledger)
    _print_verified(found, as_json)


@app.command()
def sources(as_json: JsonOption = False) -> None:
    """List the known datasets: fields, licence, terms, and whether their prompts may be published again."""
    from pipeline.sources.known import KNOWN

    if as_json:
        _print_json([entry.to_json() for entry in KNOWN])
    else:
        print("\n".join(line for entry in KNOWN for line in entry.lines()))


@app.command()
def publish(
    build_folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished build.")],
    to: Annotated[
        str | None, typer.Option("--to", help="hub:owner/name, or a folder of versions; publish.to unless given.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="X.Y.Z", help="A later version than the rule gives.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Into a repository that everybody sees.")] = False,
    allow_restricted: Annotated[
        bool, typer.Option("--allow-restricted", help="Private, though a source forbids redistribution.")
    ] = False,
    public_harmful: Annotated[
        bool, typer.Option("--public-harmful", help="With --public: harmful prefills too are for everybody.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a finished build as a version that never changes: one commit and one tag, or a folder.

    Major where the columns change, minor where rows do, patch where only the card does; the same content is no new
    version. A new repository is private and gated. Interrupted, run it again: it goes on where it stopped.
    """
    from pipeline.publish.release import Permissions
    from pipeline.publish.release import publish as publish_build

    permissions = Permissions(public, allow_restricted, public_harmful)
    published = publish_build(
        build_folder,
        to,
        version=version,
        permissions=permissions,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if as_json:
        _print_json(published._asdict())
        return
    for note in published.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"already {published.version}" if published.unchanged else f"published {published.version}", file=sys.stderr)
    print(published.url)


@app.command()
def recipes(as_json: JsonOption = False) -> None:
    """List the named recipes."""
    from flows.recipes import named, summary

    listed = named()
    if as_json:
        _print_json({name: str(path) for name, path in listed.items()})
    else:
        for name, path in listed.items():
            print(f"{name:<16} {summary(path)}\n{'':<16} {path}")


@app.command()
def schedule(
    recipe: RecipeArgument,
    cron: Annotated[str, typer.Option(help="When: minute, hour, day, month, weekday, as in '0 3 * * 1'.")],
    timezone: Annotated[str, typer.Option(help="Whose clock the times are of, as in Europe/Berlin.")] = "UTC",
    out: OutOption = None,
    overrides: SetOption = None,
    allow_short: Annotated[bool, typer.Option(help="Build what there is where a quota can't be met.")] = False,
    ledger: LedgerOption = None,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Stop a run after so many requests.")] = None,
    max_cost: MaxCostOption = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish what was built, to the recipe's publish.to.")
    ] = False,
    allow_restricted: Annotated[
        bool, typer.Option("--allow-restricted", help="With --publish: private, though a source forbids it.")
    ] = False,
    public_harmful: Annotated[
        bool, typer.Option("--public-harmful", help="With --publish: harmful prefills too are for everybody.")
    ] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Leave the schedule off until it is switched on.")] = False,
) -> None:
    """Serve the build as a Prefect deployment that runs on a schedule, here, until interrupted.

    One run at a time; one that falls due while another runs is cancelled. A run with nothing new ends as unchanged,
    and publishes nothing. Needs a Prefect server or Prefect Cloud, found by Prefect's own settings.
    """
    from flows.schedule import check_server, coming, parameters, serve

    called_with = parameters(
        recipe,
        overrides or [],
        out,
        allow_short=allow_short,
        ledger=ledger,
        max_requests=max_requests,
        max_cost=max_cost,
        publish=publish,
        allow_restricted=allow_restricted,
        public_harmful=public_harmful,
    )
    times = coming(cron, timezone)
    check_server()
    name = _load(recipe, overrides).recipe.name
    state = "paused; when switched on, next" if paused else "next"
    listed = ", ".join(f"{time:%a %Y-%m-%d %H:%M %z}" for time in times)
    print(f"recap-data build/{name}: {state} {listed}. Ctrl-C ends it and pauses the schedule.", file=sys.stderr)
    serve(name, cron, timezone, called_with, paused=paused)


ledger_app = typer.Typer(no_args_is_help=True, help="Look into a ledger: the answers of models, kept and paid once.")
app.add_typer(ledger_app, name="ledger")
LedgerArgument = Annotated[Path, typer.Argument(metavar="LEDGER", help="The ledger's file, as out/ledger.sqlite.")]


@ledger_app.command("stats")
def ledger_stats(path: LedgerArgument, as_json: JsonOption = False) -> None:
    """Answers, tokens and seconds, by sampler or judge and model."""
    with _ledger(path) as ledger:
        listed = ledger.stats()
    if as_json:
        _print_json([stats._asdict() for stats in listed])
        return
    print(f"{'asker':<20} {'model':<40} {'answers':>9} {'prompt tokens':>14} {'answer tokens':>14} {'seconds':>10}")
    for s in listed:
        print(
            f"{s.asker:<20} {s.model or '':<40} {s.answers:>9,} {s.prompt_tokens:>14,} {s.completion_tokens:>14,} "
            f"{s.seconds:>10,.0f}"
        )


@ledger_app.command("export")
def ledger_export(path: LedgerArgument) -> None:
    """Print every request and answer as JSON lines. They may hold harmful text."""
    with _ledger(path) as ledger:
        for key, entry in ledger.entries():
            print(json.dumps({"key": key.hex(), **entry._asdict()}))


@ledger_app.command("verify")
def ledger_verify(path: LedgerArgument) -> None:
    """Check the file and its keys; exit code 1 where something is wrong."""
    with _ledger(path) as ledger:
        found = ledger.verify()
    if found:
        raise RecapError(f"{path} is damaged:\n" + "\n".join(f"  {line}" for line in found[:20]))
    print(f"{path}: intact")


@ledger_app.command("gc")
def ledger_gc(
    path: LedgerArgument,
    older_than_days: Annotated[float, typer.Option(min=0, help="Remove answers older than this.")],
) -> None:
    """Remove old answers and shrink the file. A build that needs one asks for it again."""
    with _ledger(path) as ledger:
        removed = ledger.remove_before(time.time() - older_than_days * 86_400)
    print(f"{path}: {removed:,} answers removed")


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 the user's input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except RecapError as error:
        print(f"recap-data: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        print(f"recap-data: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(f"recap-data: {_STOPPED}", file=sys.stderr)
        raise SystemExit(1) from None


def _load(name: str, overrides: list[str] | None) -> LoadedRecipe:
    from flows.recipes import find
    from pipeline.recipe import load

    return load(find(name), overrides or ())


def _out(out: Path | None, loaded: LoadedRecipe) -> Path:
    return out if out is not None else Path("out") / loaded.recipe.name


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=not sys.stderr.isatty())


@contextmanager
def _shown(progress: Any) -> Iterator[Any]:
    try:
        yield progress
    finally:
        progress.close()


def _ledger(path: Path) -> Ledger:
    from pipeline.ledger import Ledger

    if not path.is_file():
        raise InputError(f"There is no ledger {path}. A build keeps it beside its output, as in out/ledger.sqlite.")
    return Ledger(path)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_built(built: Built, as_json: bool) -> None:
    manifest = built.manifest
    if as_json:
        keys = ("name", "fingerprint", "content_hash", "rows", "prefilled", "shortages", "funnel")
        _print_json({"out": str(built.out), "unchanged": built.unchanged} | {key: manifest[key] for key in keys})
        return
    from pipeline.console import funnel_table

    console = _console()
    console.print(funnel_table(manifest["funnel"]))
    console.print()
    for line in manifest["shortages"]:
        console.print(f"short: {line}", style="yellow")
    rows, prefilled = manifest["rows"]["mixture"], sum(manifest["prefilled"].values())
    state = "unchanged" if built.unchanged else "built"
    console.print(f"{state}: {rows:,} rows, {prefilled:,} with a prefill, content {manifest['content_hash'][:12]}")
    print(built.out)


def _print_verified(found: Verified, as_json: bool) -> None:
    if as_json:
        listed = {key: [change._asdict() for change in getattr(found, key)] for key in ("variants", "causes")}
        _print_json(found._asdict() | listed | {"verified": found.verified})
    else:
        print(f"{found.name}: {'verified' if found.verified else 'NOT verified'}, content {found.content_hash[:12]}")
        for line in found.lines():
            print(f"  {line}")
    if not found.verified:
        raise typer.Exit(1)


def _print_plan(planned: Plan, as_json: bool) -> None:
    if as_json:
        estimates = [line._asdict() for line in planned.estimates]
        _print_json(planned._asdict() | {"out": str(planned.out), "estimates": estimates})
        return
    from pipeline.console import funnel_table

    console = _console()
    console.print(funnel_table(planned.funnel))
    console.print()
    for prefill in planned.prefills.values():
        console.print(
            f"sample: {prefill['rows']:,} prefills for {prefill['domain']} with {prefill['sampler']} "
            f"({prefill['engine']}), at most {prefill['words']} words, up to {prefill['attempts']} attempts each"
        )
    if planned.estimates:
        from pipeline.console import estimate_lines

        for line in estimate_lines(planned.estimates):
            console.print(line)
    total = sum(planned.rows.values())
    parts = ", ".join(f"{count:,} {domain}" for domain, count in planned.rows.items())
    console.print(f"mix: {total:,} rows ({parts})")
    if planned.configs[1:]:
        console.print(f"configs on the same rows: {', '.join(planned.configs)}")
    for line in planned.notes:
        console.print(f"note: {line}")
    for line in planned.shortages:
        console.print(f"short: {line}. build will stop here unless --allow-short is given", style="yellow")
    state = "is this build already, nothing to do" if planned.unchanged else "would be written"
    console.print(f"package: {planned.out} {state}")


if __name__ == "__main__":
    main()
