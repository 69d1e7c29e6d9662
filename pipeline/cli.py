"""The command line: one short function a command. Whatever is heavy is imported inside the command that needs it."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.errors import InputError, RecapError
from pipeline.stopping import Stopped

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.build import Built, Plan
    from pipeline.ledger import Ledger
    from pipeline.recipe import LoadedRecipe
    from pipeline.verify import Verified


class _Commands(TyperGroup):
    """Typer ends an interrupted command without a word; `main` has one to say."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped from None


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
MixtureConfigOption = Annotated[
    str, typer.Option("--mixture-config", metavar="NAME", help="Which of the mixture's configs, as share-25.")
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
def export(
    reference: Annotated[
        str, typer.Argument(metavar="DIR", help="The folder of a finished build, or hub:owner/name@VERSION.")
    ],
    model: Annotated[
        str, typer.Option("--model", help="The policy, whose tokenizer is used: a folder, or a Hub name.")
    ],
    trainer: Annotated[str, typer.Option("--format", help="Whose format: verl.")] = "verl",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A new folder; out/<name>-verl unless given.")] = None,
    mixture_config: MixtureConfigOption = "mixture",
    max_prompt_tokens: Annotated[
        int, typer.Option(min=1, help="Leave out rows with longer prompts, prefill included.")
    ] = 2048,
    rewards: Annotated[
        Path | None, typer.Option(help="A YAML file that names the judges; embedded stand-ins unless given.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of settings: thinking, template.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help='Override a setting: thinking=["<think>\\n", "</think>"].')
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a mixture as another trainer takes it: for verl, a folder with rows, agent loop, rewards and launch script.

    Prefills are put behind the prompt, inside the thinking, and are never trained on. No row is ever cut.
    """
    if trainer != "verl":
        raise InputError(f"There is no format {trainer!r}. Give --format verl; for TRL, see recap-data train.")
    from pipeline.trainer import verl
    from pipeline.trainer.mixture import open_mixture

    settings = verl.load_export(config, overrides or ())
    mixture = open_mixture(reference, mixture_config)
    done = verl.export(
        mixture,
        model,
        out or Path("out") / f"{mixture.manifest['name']}-verl",
        settings,
        max_prompt_tokens=max_prompt_tokens,
        rewards=rewards,
    )
    if as_json:
        _print_json(done._asdict() | {"out": str(done.out)})
        return
    print(f"exported: {done.rows:,} rows, {done.prefilled:,} with a prefill", file=sys.stderr)
    if done.too_long:
        print(f"left out: {done.too_long:,} with a prompt over {max_prompt_tokens:,} tokens", file=sys.stderr)
    if done.unrendered:
        print(f"left out: {done.unrendered:,} that the chat template can't write", file=sys.stderr)
    print(done.out)


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


ModelOption = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="The model under test.")]
BaseUrlOption = Annotated[
    list[str] | None,
    typer.Option("--base-url", help="Its server, as http://localhost:8000/v1; several share the load."),
]
EngineOption = Annotated[str | None, typer.Option("--engine", help="openai (a server, the default) or vllm (here).")]
TokenizerOption = Annotated[str | None, typer.Option("--tokenizer", help="Its tokenizer; the model's unless given.")]
TrialFileOption = Annotated[
    Path | None, typer.Option("--config", help="A YAML file of settings: model, judges, rows, samples, seed.")
]
TrialSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: judges.safety.model=my-guard, model.max_tokens=4000."),
]
RowsOption = Annotated[
    int | None, typer.Option("--rows", min=1, help="Rows of each domain, the same for every config.")
]
SamplesOption = Annotated[int | None, typer.Option("--samples", min=1, help="How often each row is drawn; once.")]
TrialLedgerOption = Annotated[
    Path, typer.Option("--ledger", help="Where answers are kept, so that none is paid twice.")
]
MaxRequestsOption = Annotated[int | None, typer.Option(min=1, help="Stop, resumably, after so many requests.")]


@app.command("eval")
def evaluate(
    attacks: Annotated[
        str, typer.Option("--attacks", help="The attack set: a folder, a version, or the name of a built recipe.")
    ] = "recap-attacks",
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    engine: EngineOption = None,
    tokenizer: TokenizerOption = None,
    config: TrialFileOption = None,
    overrides: TrialSetOption = None,
    rows: RowsOption = None,
    samples: SamplesOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the result, with each answer's score, here.")
    ] = None,
    ledger: TrialLedgerOption = Path("out/ledger.sqlite"),
    max_requests: MaxRequestsOption = None,
    max_cost: MaxCostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Attack a model with an attack set (plain, prefill, hijack, IPR) and judge its final answers.

    The judge must be another than the one that filtered the set. Killed and run again, it goes on.
    """
    from pipeline.console import progress
    from pipeline.trainer.attacks import evaluate as run_attacks
    from pipeline.trainer.attacks import to_text, write
    from pipeline.trainer.trial_config import EvalConfig, Flags, load_trial
    from pipeline.trainer.trials import Limits

    flags = Flags(model, base_url or (), engine, tokenizer, rows, samples)
    settings = load_trial(EvalConfig, config, flags, overrides or ())
    with _shown(progress(_console())) as shown:
        found = run_attacks(attacks, settings, Limits(ledger, max_requests, max_cost), shown)
    if out is not None:
        write(found, out)
    if as_json:
        _print_json(found.to_json())
    else:
        print(to_text(found))


@app.command()
def probe(
    mixture: Annotated[str, typer.Argument(metavar="DIR", help="A build's folder, or hub:owner/name@VERSION.")],
    model: ModelOption = None,
    base_url: BaseUrlOption = None,
    engine: EngineOption = None,
    tokenizer: TokenizerOption = None,
    config: TrialFileOption = None,
    overrides: TrialSetOption = None,
    rows: RowsOption = None,
    samples: SamplesOption = None,
    mixture_config: MixtureConfigOption = "mixture",
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write each row's potency as Parquet, to join by id.")
    ] = None,
    column: Annotated[
        Path | None, typer.Option("--column", metavar="DIR", help="Write the mixture once more, with a column potency.")
    ] = None,
    ledger: TrialLedgerOption = Path("out/ledger.sqlite"),
    max_requests: MaxRequestsOption = None,
    max_cost: MaxCostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how far a mixture's prefills move a model: its answers with and without each, judged and compared.

    The mixture stays as it is. Killed and run again, it goes on.
    """
    from pipeline.console import progress
    from pipeline.trainer.probe import ProbeConfig, to_text
    from pipeline.trainer.probe import probe as probe_mixture
    from pipeline.trainer.probe import write as write_potency
    from pipeline.trainer.trial_config import Flags, load_trial
    from pipeline.trainer.trials import Limits

    flags = Flags(model, base_url or (), engine, tokenizer, rows, samples)
    settings = load_trial(ProbeConfig, config, flags, overrides or ())
    with _shown(progress(_console())) as shown:
        found = probe_mixture(mixture, settings, Limits(ledger, max_requests, max_cost), shown, mixture_config)
    if write is not None:
        write_potency(found, write)
    if column is not None:
        from pipeline.trainer.column import write_column

        write_column(found, mixture, column)
    if as_json:
        _print_json(found.to_json())
    else:
        print(to_text(found))


@app.command()
def train(
    reference: Annotated[
        str, typer.Argument(metavar="REPO_OR_DIR", help="A mixture: a folder, or hub:owner/name@VERSION.")
    ],
    model: Annotated[str, typer.Option("--model", help="The policy: a folder, or a name on the Hub.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A YAML file: grpo, lora, rewards, dynamic_sampling, stop."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: grpo.learning_rate=1e-6.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Checkpoints and the trained policy; out/<mixture>-grpo.")
    ] = None,
    mixture_config: MixtureConfigOption = "mixture",
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a policy on a mixture with TRL's GRPO, by the paper's settings unless told otherwise.

    Killed and run again, it goes on from its newest checkpoint. It stops, with a checkpoint, where a judge's answers
    can't be read for too long (stop), and waits for a judge that restarts (patience). Needs TRL: the extra trainer.
    """
    from pipeline.trainer.config import load_config
    from pipeline.trainer.launch import train as train_policy
    from pipeline.trainer.mixture import open_mixture

    settings = load_config(config, overrides or ())
    mixture = open_mixture(reference, mixture_config)
    folder = out or Path("out") / f"{mixture.manifest['name']}-grpo"
    answers = ledger or folder.parent / "ledger.sqlite"
    done = train_policy(mixture, model, settings, folder, answers, lambda line: print(line, file=sys.stderr))
    if as_json:
        _print_json(done._asdict() | {"policy": str(done.policy)})
    else:
        print(f"{'already trained' if done.already else 'trained'}: {done.steps:,} steps", file=sys.stderr)
        print(done.policy)


@app.command("sampler-sft")
def sampler_sft(
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="The model to tune: a folder, or a Hub name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the tuned model goes, LoRA merged into it.")],
    data: Annotated[str, typer.Option("--data", help="A dataset of the Hub, or a file.")] = "UCSC-VLAA/STAR-1",
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of settings: sft, lora, prompt, …")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: sft.learning_rate=1e-5, lora.r=32.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights, and no LoRA.")] = False,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the data; 5 unless given.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Take the first so many rows.")] = None,
    measure: Annotated[
        Path | None,
        typer.Option(
            "--measure", metavar="FILE", help="Benign prompts (field prompt): measure refusals before and after."
        ),
    ] = None,
    measure_rows: Annotated[int, typer.Option("--measure-rows", min=1, help="Measure on the first so many.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Make the over-cautious sampler: fine-tune a model on the safety-only STAR-1 set, and print the recipe's lines.

    Interrupted, run it again: it goes on from its newest checkpoint.
    """
    from pipeline.trainer.refusals import effect, read_prompts
    from pipeline.trainer.sft import load_sft, recipe_lines, tune

    given = [f"limit={limit}"] if limit is not None else []
    given += [f"sft.num_train_epochs={epochs}"] if epochs is not None else []
    settings = load_sft(config, [*given, *(["lora=null"] if full else []), *(overrides or [])])
    prompts = read_prompts(measure, limit=measure_rows) if measure is not None else []
    tuned = tune(model, data, settings, out, lambda line: print(line, file=sys.stderr, flush=True))
    measured = effect(model, tuned.model, prompts, settings) if prompts else []
    if as_json:
        refusals = [each.to_json() for each in measured]
        _print_json(tuned._asdict() | {"model": str(tuned.model), "refusals": refusals})
        return
    print("already there" if tuned.already else f"{tuned.steps:,} steps", file=sys.stderr)
    for line in [line for each in measured for line in each.lines()]:
        print(line, file=sys.stderr)
    print(recipe_lines(tuned.model))


ledger_app = typer.Typer(no_args_is_help=True, help="Look into a ledger: the answers of models, kept and paid once.")
app.add_typer(ledger_app, name="ledger")
LedgerArgument = Annotated[Path, typer.Argument(metavar="LEDGER", help="The ledger's file, as out/ledger.sqlite.")]


@ledger_app.command("stats")
def ledger_stats(path: LedgerArgument, as_json: JsonOption = False) -> None:
    """Answers, refusals, tokens and seconds, by sampler or judge and model."""
    with _ledger(path, read_only=True) as ledger:
        listed = ledger.stats()
    if as_json:
        _print_json([stats._asdict() for stats in listed])
        return
    heads = ("answers", "refused", "prompt tokens", "answer tokens", "seconds")
    print("asker                model                                   ", *(f"{head:>13}" for head in heads))
    for s in listed:
        counts = (s.answers, s.refused, s.prompt_tokens, s.completion_tokens, round(s.seconds))
        print(f"{s.asker:<20} {s.model or '':<40}", *(f"{count:>13,}" for count in counts))


@ledger_app.command("export")
def ledger_export(path: LedgerArgument) -> None:
    """Print every request and answer as JSON lines. They may hold harmful text."""
    with _ledger(path, read_only=True) as ledger:
        for key, entry in ledger.entries():
            print(json.dumps({"key": key.hex(), **entry._asdict()}))


@ledger_app.command("verify")
def ledger_verify(path: LedgerArgument) -> None:
    """Check the file and its keys; exit code 1 where something is wrong."""
    with _ledger(path, read_only=True) as ledger:
        found = ledger.verify()
    if found:
        raise RecapError(f"{path} is damaged:\n" + "\n".join(f"  {line}" for line in found[:20]))
    print(f"{path}: intact")


@ledger_app.command("gc")
def ledger_gc(
    path: LedgerArgument,
    older_than_days: Annotated[float | None, typer.Option(min=0, help="Remove answers older than this.")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Remove what servers refused or left empty.")] = False,
) -> None:
    """Remove old answers, or refusals, and shrink the file. A build that needs one asks for it again."""
    if older_than_days is None and not refused:
        raise InputError("What is to be removed? give --older-than-days or --refused.")
    with _ledger(path) as ledger:
        removed = ledger.forget_refusals() if refused else 0
        if older_than_days is not None:
            removed += ledger.remove_before(time.time() - older_than_days * 86_400)
    print(f"{path}: {removed:,} answers removed")


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 the user's input. SIGTERM ends it as Ctrl-C does."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
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
        print(f"recap-data: {Stopped()}", file=sys.stderr)
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


def _ledger(path: Path, *, read_only: bool = False) -> Ledger:
    from pipeline.ledger import Ledger

    if not path.is_file():
        raise InputError(f"There is no ledger {path}. A build keeps it beside its output, as in out/ledger.sqlite.")
    return Ledger(path, read_only=read_only)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_built(built: Built, as_json: bool) -> None:
    manifest = built.manifest
    if as_json:
        keys = ("name", "fingerprint", "content_hash", "rows", "prefilled", "shortages", "funnel")
        run = {"unchanged": built.unchanged, "requests": built.requests, "cost": built.cost}
        _print_json({"out": str(built.out)} | run | {key: manifest[key] for key in keys})
        return
    from pipeline.console import funnel_table

    console = _console()
    console.print(funnel_table(manifest["funnel"]))
    console.print()
    for line in manifest["shortages"]:
        console.print(f"short: {line}", style="yellow")
    rows, prefilled = manifest["rows"]["mixture"], sum(manifest["prefilled"].values())
    state = "unchanged" if built.unchanged else "built"
    paid = (
        f", {built.requests:,} requests" + (f", cost {built.cost:.4g}" if built.cost else "") if built.requests else ""
    )
    content = manifest["content_hash"][:12]
    console.print(f"{state}: {rows:,} rows, {prefilled:,} with a prefill, content {content}{paid}")
    print(built.out)


def _print_verified(found: Verified, as_json: bool) -> None:
    if as_json:
        listed = {key: [change._asdict() for change in getattr(found, key)] for key in ("variants", "causes")}
        _print_json(found._asdict() | listed | {"verified": found.verified})
    else:
        verified = "verified" if found.verified else "NOT verified"
        answers = f", with {found.answers:,} answers as the ledger kept them" if found.answers else ""
        print(f"{found.name}: {verified}, content {found.content_hash[:12]}{answers}")
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
            f"sample: {prefill['rows']:,} {prefill['stance']} prefills for {prefill['domain']} with "
            f"{prefill['sampler']} ({prefill['engine']}), at most {prefill['words']} words, "
            f"up to {prefill['attempts']} attempts each"
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
