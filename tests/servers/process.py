"""A test server in a process of its own: how a test starts one, and how it runs."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@contextmanager
def started(module: str, options: Any) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """Start a server with these options, a dataclass: what it told when it began, and its process.

    It ends with the block, or with this process. A Ctrl-C in the terminal doesn't reach it.
    """
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(options).items()]
    command = [sys.executable, "-m", module, *flags, "--until-stdin-ends"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{module} ended with status {process.wait()} before it began")
            yield json.loads(line), process
        finally:
            process.kill()


def serve(options: type, begin: Callable[[Any], Awaitable[dict[str, Any]]], about: str) -> None:
    """Run a server by the flags of the command line until it's interrupted; `begin` says what it tells."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--until-stdin-ends", action="store_true", help="end when standard input does")
    for option in fields(options):
        kind: Any = _flag if isinstance(option.default, bool) else type(option.default)
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=option.default)
    flags = vars(parser.parse_args())
    until_stdin_ends = flags.pop("until_stdin_ends")

    async def run() -> None:
        print(json.dumps(await begin(options(**flags))), flush=True)
        if until_stdin_ends:
            await asyncio.to_thread(sys.stdin.read)
        else:
            await asyncio.Event().wait()

    asyncio.run(run())


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]
