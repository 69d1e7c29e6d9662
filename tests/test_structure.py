"""The rooms of the house: imports go one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = [
    {"errors", "schema", "thinking", "claims", "documents", "words", "writing"},
    {"recipe", "templates", "ledger", "stopping"},
    {"engine", "servers", "budget"},
    {"clients"},
    {"judges", "sources", "clean", "samplers", "filters", "mixture", "publish", "report", "funnel", "runner"},
    {"steps"},
    {"choice", "separation"},
    {"rounds", "cost"},
    {"build"},
    {"verify"},
    {"trainer"},
    {"console", "flows"},
    {"cli"},
]
"""From the ground up: a room may import from lower layers and from rooms beside it, never from above."""


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "flows" if parts[0] == "flows" else parts[1]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
            names = [f"pipeline.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "flows":
                found.add("flows")
            elif first == "pipeline" and rest:
                found.add(rest[0])
    return found - {"__version__"}


FILES = [
    path
    for name in ("pipeline", "flows")
    for path in (ROOT / name).rglob("*.py")
    if path.parent.name != "flows/recipes"
]


def level(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_arrow_runs_upward(path: Path) -> None:
    if path == ROOT / "pipeline" / "__init__.py":
        assert not imported(path)
        return
    for name in imported(path) - {room(path)}:
        assert level(name) <= level(room(path)), f"{path} imports {name}"


def test_rooms_make_no_circle() -> None:
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        if path != ROOT / "pipeline" / "__init__.py":
            arrows.setdefault(room(path), set()).update(imported(path) - {room(path)})
    open_rooms = set(arrows)
    while open_rooms:
        free = {name for name in open_rooms if not arrows[name] & open_rooms}
        assert free, f"a circle among {sorted(open_rooms)}"
        open_rooms -= free


COMMANDS = (
    *("build", "plan", "report", "diff", "verify", "sources", "publish", "schedule"),
    *("train", "export", "eval", "probe", "sampler-sft"),
)


@pytest.mark.parametrize("command", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    script = f"""
import sys
sys.argv = ["recap-data", *{command!r}]
from pipeline.cli import main
try:
    main()
except SystemExit as done:
    heavy = {{"numpy", "pyarrow", "pandas", "datasets", "prefect", "openai", "huggingface_hub", "jinja2", "torch"}}
    print(sorted(heavy & set(sys.modules)), done.code, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] 0"
    assert "Usage: recap-data" in done.stdout
