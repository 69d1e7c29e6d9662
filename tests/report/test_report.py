"""The report: what it counts, what it refuses, and how it behaves in a real browser."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from pipeline import report, schema
from pipeline.errors import InputError, OutputError
from pipeline.report import charts, excerpt, folder

Row = dict[str, Any]
Manifest = dict[str, Any]

ROOT = Path(report.__file__).parents[2]

NASTY = [
    "</script><script>window.hacked = true</script>",
    "<img src=x onerror='window.hacked = true'> & <b>bold</b>",
    "مرحبا بالعالم \u202eabc",
    "nul \x00 bell \x07 tab \t end",
    "emoji 👩‍👩‍👧 and \U0001d518\U0001d52b İstanbul",
    "W" * 3000,
]


def row(number: int, domain: str = "benign", prefill: str | None = None, **changes: Any) -> Row:
    """A harmless row; every text holds its number, so that each can be found."""
    stance = "complies" if domain == "harmful" else "refuses"
    made: Row = {
        "id": f"{number:08x}",
        "domain": domain,
        "prompt": [{"role": "user", "content": f"prompt number {number}: how do gardens grow?"}],
        "prefill": prefill,
        "reward": "helpfulness",
        "ground_truth": str(number) if domain == "math" else None,
        "origin": {
            "dataset": f"org/{domain}-set",
            "config": None,
            "split": "train",
            "revision": "a" * 40,
            "row": number,
            "category": None if domain == "math" else f"category {number % 30}",
            "licence": "mit",
        },
        "sampling": None,
        "verdict": None,
    }
    if prefill is not None:
        made["sampling"] = {"sampler": "grower", "attempt": number % 3, "words": len(prefill.split())}
        made["verdict"] = {"stance": stance, "judge": "phrases", "score": number % 11 / 10}
    return made | changes


def mixed_rows(count: int = 60) -> list[Row]:
    """Rows of all domains in turn; half the harmful and benign ones carry a prefill."""
    rows = []
    for number in range(count):
        domain = schema.DOMAINS[number % 3]
        prefill = f"secret thought {number} " + "and so on " * (number % 40)
        rows.append(row(number, domain, prefill if domain != "math" and number % 2 else None))
    return rows


def dropped(number: int, stage: str, domain: str = "benign", reason: str = "near duplicate") -> Row:
    match = {"id": f"twin-{number}", "dataset": "org/eval", "text": f"matched text {number}", "similarity": 0.875}
    return row(number, domain) | {"stage": stage, "reason": reason, "match": match}


def make_build(path: Path, rows: Sequence[Row] | None = None, rejected: Sequence[Row] = (), **changes: Any) -> Path:
    """Write a finished build's folder; `changes` replace entries of the manifest."""
    mixture = mixed_rows() if rows is None else list(rows)
    (path / "data").mkdir(parents=True)
    (path / "rejected").mkdir()
    half = len(mixture) // 2
    for place, part in enumerate([mixture[:half], mixture[half:]]):
        pq.write_table(pa.Table.from_pylist(part, schema=schema.MIXTURE), path / f"data/mixture-{place:05}.parquet")
    if rejected:
        table = pa.Table.from_pylist(list(rejected), schema=schema.REJECTED)
        pq.write_table(table, path / "rejected/rejected-00000.parquet")
    funnel = []
    for domain in sorted({made["domain"] for made in mixture}):
        kept = sum(made["domain"] == domain for made in mixture)
        funnel += [
            {"step": "pull", "domain": domain, "in": 12345, "kept": kept + 7, "dropped": {"where: safe": 12338 - kept}},
            {"step": "mix", "domain": domain, "in": kept + 7, "kept": kept, "dropped": {"<i>not needed</i>": 7}},
        ]
    source: Manifest = {
        "dataset": "org/harmful-set",
        "config": None,
        "split": "train",
        "revision": "a" * 40,
        "files": [],
        "licence": "cc-by-4.0",
        "read": 12345,
        "selected": 20,
    }
    manifest = {
        "name": "garden <mix>",
        "schema_version": schema.VERSION,
        "recipe": {"name": "garden", "seed": 0},
        "fingerprint": "f" * 64,
        "content_hash": "0123456789abcdef" * 4,
        "rows": {"mixture": len(mixture), "rejected": len(rejected)},
        "sources": [{"domain": "harmful", **source}],
        "decontaminate": [{**source, "dataset": "org/eval"}],
        "templates": {"grow": "b" * 64},
        "packages": {"pyarrow": "26.0.1"},
        "funnel": funnel,
        "shortages": [],
        "files": {},
    } | changes
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return path


# What the function promises


def test_default_place_and_no_leftovers(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build")
    assert report.write_report(build) == build / "report.html"
    assert sorted(path.name for path in build.iterdir()) == ["data", "manifest.json", "rejected", "report.html"]
    other = tmp_path / "new" / "folder" / "page.html"
    assert report.write_report(build, other) == other
    assert other.read_bytes() == (build / "report.html").read_bytes()


def test_no_text_of_a_row_stands_in_the_html(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build", rejected=[dropped(1000, "dedupe", "harmful")])
    html = report.write_report(build).read_text(encoding="utf-8")
    for text in ("prompt number", "secret thought", "matched text"):
        assert text not in html


def broken(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        build = make_build(path / "build", rejected=[dropped(1, "dedupe")])
        change(build)
        return build

    return make


def edit_manifest(build: Path, **changes: Any) -> None:
    file = build / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "not a folder"),
        (lambda path: path, "not a finished build: it has no manifest.json. Run recap-data build first"),
        (broken(lambda path: (path / "manifest.json").write_text("{")), "not the manifest of a build"),
        (
            broken(lambda path: (path / "manifest.json").write_text("{}")),
            "manifest.json lacks content_hash, decontaminate",
        ),
        (broken(lambda path: edit_manifest(path, schema_version=99)), "schema version 99"),
        (
            broken(lambda path: edit_manifest(path, rows={"mixture": 61, "rejected": 1})),
            "60 rows in 2 files, but manifest.json counts 61",
        ),
        (broken(lambda path: (path / "data/mixture-00001.parquet").unlink()), "30 rows in 1 files"),
        (broken(lambda path: (path / "data/mixture-00001.parquet").write_bytes(b"junk")), "broken Parquet file"),
        (broken(lambda path: (path / "rejected/rejected-00000.parquet").unlink()), "0 rows in 0 files"),
        (
            broken(lambda path: pq.write_table(pa.table({"id": ["x"]}), path / "rejected/rejected-00000.parquet")),
            "columns missing or of another type: domain, prompt",
        ),
    ],
)
def test_broken_folders_are_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    build = make(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        report.write_report(build)
    assert str(build) in str(caught.value)
    assert not (build / "report.html").exists()


def test_negative_row_limit_and_unwritable_place(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build")
    with pytest.raises(InputError, match="-1 rows"):
        report.write_report(build, rows=-1)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="can't be written"):
        report.write_report(build, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "taken"]


def test_rows_are_read_in_batches(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build", rows=[row(0)])
    count, bytes_ = 40_000, random.Random(0).randbytes
    with pq.ParquetWriter(build / "data/mixture-00000.parquet", schema.MIXTURE) as writer:
        for start in range(0, count, 1000):
            rows = [row(number, "harmful", bytes_(1000).hex()) for number in range(start, start + 1000)]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema.MIXTURE))
    edit_manifest(build, rows={"mixture": count + 1, "rejected": 0})

    script = (
        "import sys, pathlib, pyarrow; from pipeline.report import write_report; "
        "write_report(pathlib.Path(sys.argv[1]), rows=10); print(pyarrow.default_memory_pool().max_memory())"
    )
    run = subprocess.run([sys.executable, "-c", script, build], check=True, capture_output=True, text=True, cwd=ROOT)
    assert "10 of 40,001 rows" in (build / "report.html").read_text()
    assert 0 < int(run.stdout) < (build / "data/mixture-00000.parquet").stat().st_size / 2


def test_an_excerpt_is_even_and_blind_to_batches() -> None:
    table = pa.table({"place": list(range(1000))})
    picks = []
    for size in (1, 7, 300, 1000):
        part = excerpt.Excerpt(1000, 8)
        for batch in table.to_batches(max_chunksize=size):
            part.add(batch)
        picks.append([picked["place"] for picked in part.rows])
    assert picks == [[0, 125, 250, 375, 500, 625, 750, 875]] * 4


def test_funnel_shows_rows_that_skip_a_step() -> None:
    steps = [
        folder.Step.model_validate({"step": step, "domain": domain, "in": entered, "kept": kept, "dropped": {}})
        for step, domain, entered, kept in [
            ("pull", "math", 30, 30),
            ("pull", "harmful", 20, 10),
            ("sample", "harmful", 5, 4),
            ("mix", "harmful", 9, 9),
            ("mix", "math", 30, 30),
        ]
    ]
    everything, harmful, math = charts.funnels(steps).columns
    assert [(band.step, band.entered, band.kept, band.aside) for band in harmful.bands] == [
        ("pull", 20, 10, 0),
        ("sample", 5, 4, 5),
        ("mix", 9, 9, 0),
    ]
    assert [(band.absent, band.aside) for band in math.bands] == [(False, 0), (True, 30), (False, 0)]
    assert [(band.entered, band.kept, band.aside) for band in everything.bands] == [
        (50, 40, 0),
        (5, 4, 35),
        (39, 39, 0),
    ]


# What a browser makes of it


def view(browser: Chrome, width: int, height: int) -> None:
    """Give the page a viewport of the size, that of a phone when it is narrow."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def scheme(browser: Chrome, name: str) -> None:
    """Prefer the colour scheme ``light`` or ``dark``."""
    features = [{"name": "prefers-color-scheme", "value": name}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def open_page(browser: Chrome, path: Path) -> None:
    browser.get(path.as_uri())
    WebDriverWait(browser, 10).until(
        lambda driver: driver.execute_script("return document.documentElement.dataset.ready === 'true'")
    )


def show(browser: Chrome, build: Path, rows: int = 5000) -> None:
    open_page(browser, report.write_report(build, rows=rows))


def one(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser: Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def count_line(browser: Chrome, root: str = "#table") -> str:
    return one(browser, f"{root} .pager.top .count").text.replace("\u2013", "-")


def page_line(browser: Chrome, root: str = "#table") -> str:
    return one(browser, f"{root} .pager.top .page").text


def press(browser: Chrome, root: str, name: str) -> None:
    click(browser, one(browser, f"{root} .pager.top button[aria-label='{name}']"))


def click(browser: Chrome, node: WebElement) -> None:
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", node)
    node.click()


def search(browser: Chrome, text: str) -> None:
    before = one(browser, "#table tbody")
    browser.execute_script("arguments[0].dataset.old = 'true'; arguments[0].firstChild?.remove()", before)
    box = one(browser, "#search")
    box.clear()
    box.send_keys(text, Keys.ENTER)


def choose(browser: Chrome, name: str, start: str) -> None:
    select = Select(one(browser, f"#filter-{name}"))
    select.select_by_visible_text(next(option.text for option in select.options if option.text.startswith(start)))


def shown(browser: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('#table tbody tr')].map(row => row.textContent)"
    return cast(list[str], browser.execute_script(script))


def text_filter(browser: Chrome, node: WebElement) -> str:
    return cast(str, browser.execute_script("return getComputedStyle(arguments[0]).filter", node))


def console(browser: Chrome) -> list[Any]:
    return cast(list[Any], browser.get_log("browser"))  # type: ignore[no-untyped-call]


def overflow(browser: Chrome, width: int) -> int:
    """How many pixels the page is wider than a viewport of `width`."""
    view(browser, width, 844)
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return cast(int, browser.execute_script(script))


def test_no_console_message_and_no_request(browser: Chrome, tmp_path: Path) -> None:
    nasty = [
        row(place, domain, text, prompt=[{"role": "user", "content": text}])
        for domain, start in (("benign", 0), ("harmful", 100))
        for place, text in enumerate(NASTY, start)
    ]
    show(browser, make_build(tmp_path / "build", nasty, [dropped(1000, "dedupe", reason=NASTY[0])]))
    click(browser, one(browser, "#reveal"))
    assert console(browser) == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return 'hacked' in window") is False
    policy = one(browser, "meta[http-equiv]").get_attribute("content") or ""
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_texts_are_shown_literally(browser: Chrome, tmp_path: Path) -> None:
    rows = [row(place, prompt=[{"role": "user", "content": text}]) for place, text in enumerate(NASTY)]
    show(browser, make_build(tmp_path / "build", rows))
    texts = browser.execute_script(
        "return [...document.querySelectorAll('#table .text')].map(node => node.textContent)"
    )
    assert texts == [text.replace("\x00", "\u2400").replace("\x07", "\u2407") for text in NASTY]
    assert browser.title == "garden <mix>: mixture report"
    for width in (1280, 390):
        assert overflow(browser, width) <= 0


def test_numbers_are_the_manifests(browser: Chrome, tmp_path: Path) -> None:
    rejected = [dropped(1000 + place, "dedupe", "benign", f"reason {place % 2}") for place in range(5)]
    build = make_build(tmp_path / "build", rejected=rejected)
    manifest: Manifest = json.loads((build / "manifest.json").read_text())
    show(browser, build)
    assert one(browser, "#total-rows").text == "60"
    assert one(browser, "#total-rejected").text == "5"
    tiles = {tile.get_attribute("data-domain"): tile.text for tile in every(browser, ".tiles div[data-domain]")}
    assert tiles == {
        "harmful": "harmful\n20 rows\n50.0% prefilled",
        "benign": "benign\n20 rows\n50.0% prefilled",
        "math": "math\n20 rows\n0.0% prefilled",
    }
    click(browser, one(browser, "#funnel summary"))
    table = [
        [cell.text for cell in line.find_elements(By.TAG_NAME, "td")]
        for line in every(browser, "#funnel-table tbody tr")
    ]
    assert table == [
        [
            entry["step"],
            entry["domain"],
            f"{entry['in']:,}",
            f"{entry['kept']:,}",
            ", ".join(f"{count:,} {reason}" for reason, count in entry["dropped"].items()),
        ]
        for entry in manifest["funnel"]
    ]
    flows = [[cell.text for cell in flow.find_elements(By.TAG_NAME, "b")] for flow in every(browser, ".flow")]
    assert flows == [[kept] for kept in ("81", "60", "27", "20", "27", "20", "27", "20")]
    everything = one(browser, ".funnels section").text
    for text in ("37,035", "36,954 where: safe", "21 <i>not needed</i>"):
        assert text in everything
    reasons = every(browser, "#dropped .bars li")
    assert [reason.text.split("\n") for reason in reasons] == [["reason 0", "3"], ["reason 1", "2"]]
    categories = [item.text for item in every(browser, "#composition .wide .bars li .count")]
    assert sum(map(int, categories)) == 60
    assert len(categories) == charts.TOP_CATEGORIES + 1
    attempts = [int(item.text) for item in every(browser, "#prefills .bars .count")]
    assert sum(attempts) == 20
    hash_button = one(browser, "header .copy")
    assert hash_button.get_attribute("data-copy") == manifest["content_hash"]
    assert hash_button.text.startswith("0123456789ab")
    sources = one(browser, "#sources").text
    assert "cc-by-4.0" in sources
    assert "org/eval" in sources


def test_shortages_are_a_warning(browser: Chrome, tmp_path: Path) -> None:
    show(browser, make_build(tmp_path / "with", shortages=["harmful: 5 of 10 rows"]))
    assert "harmful: 5 of 10 rows" in one(browser, ".shortage").text
    show(browser, make_build(tmp_path / "without"))
    assert every(browser, ".shortage") == []


def test_harmful_text_is_blurred_until_clicked(browser: Chrome, tmp_path: Path) -> None:
    show(browser, make_build(tmp_path / "build", rejected=[dropped(1000, "decontaminate", "harmful", "exact match")]))
    blurred = every(browser, "#table .veil .blur")
    assert blurred
    for node in blurred:
        assert text_filter(browser, node).startswith("blur(")
        assert node.get_attribute("aria-hidden") == "true"
        assert node.value_of_css_property("user-select") == "none"
    document = browser.execute_script("return document.body.innerText")
    assert "prompt number 0:" not in document
    assert "prompt number 1:" in document
    assert "matched text 1000" not in document

    first = one(browser, "#table .veil")
    assert "hidden" in (first.get_attribute("aria-label") or "")
    click(browser, first)
    text = browser.switch_to.active_element
    assert text.text == "prompt number 0: how do gardens grow?"
    assert text_filter(browser, text) == "none"
    assert len(every(browser, "#table .veil")) == len(blurred) - 1

    click(browser, one(browser, "#reveal"))
    assert one(browser, "#reveal").text == "Hide all harmful text"
    assert every(browser, ".veil") == []
    assert "matched text 1000" in browser.execute_script("return document.body.innerText")
    click(browser, one(browser, "#reveal"))
    assert len(every(browser, "#table .veil")) == len(blurred)
    assert "matched text 1000" not in browser.execute_script("return document.body.innerText")


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_keyboard_reveals_one_text(browser: Chrome, tmp_path: Path, key: str) -> None:
    show(browser, make_build(tmp_path / "build", [row(1, "harmful", "first secret"), row(2, "harmful", "second")]))
    one(browser, "#reset").send_keys(Keys.TAB)
    veil = browser.switch_to.active_element
    while "veil" not in (veil.get_attribute("class") or ""):
        veil.send_keys(Keys.TAB)
        veil = browser.switch_to.active_element
    veil.send_keys(key)
    assert browser.switch_to.active_element.text == "prompt number 1: how do gardens grow?"
    assert len(every(browser, "#table .veil")) == 3


def test_search_narrows_and_counts(browser: Chrome, tmp_path: Path) -> None:
    show(browser, make_build(tmp_path / "build"))
    assert count_line(browser) == "1-20 of 60 rows"
    one(browser, "#search").send_keys("PROMPT number 31:")
    WebDriverWait(browser, 5).until(lambda driver: count_line(driver) == "1-1 of 1 hit")
    assert [text for text in shown(browser) if "prompt number 31:" in text] == shown(browser)
    assert one(browser, "#table mark").text == "prompt number 31:"
    search(browser, "secret thought 3 ")
    assert count_line(browser) == "1-1 of 1 hit"
    search(browser, "0000001f")
    assert count_line(browser) == "1-1 of 1 hit"
    search(browser, ".*")
    assert count_line(browser) == "0 hits"
    click(browser, one(browser, "#reset"))
    WebDriverWait(browser, 5).until(lambda driver: count_line(driver) == "1-20 of 60 rows")


def test_pages(browser: Chrome, tmp_path: Path) -> None:
    show(browser, make_build(tmp_path / "build"))
    first = shown(browser)
    press(browser, "#table", "Previous page")
    assert page_line(browser) == "Page 1 of 3"
    press(browser, "#table", "Next page")
    assert page_line(browser) == "Page 2 of 3"
    assert count_line(browser) == "21-40 of 60 rows"
    assert not set(first) & set(shown(browser))
    press(browser, "#table", "Last page")
    press(browser, "#table", "Next page")
    assert page_line(browser) == "Page 3 of 3"
    press(browser, "#table", "First page")
    assert shown(browser) == first


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("domain", "math", 20),
        ("kind", "prefilled", 20),
        ("source", "org/harmful-set", 20),
        ("category", "category 0 ", 2),
        ("stance", "refuses", 10),
    ],
)
def test_filters(browser: Chrome, tmp_path: Path, name: str, value: str, count: int) -> None:
    show(browser, make_build(tmp_path / "build"))
    choose(browser, name, value)
    assert count_line(browser).endswith(f" of {count} hits")
    assert len(shown(browser)) == min(count, 20)


def test_filters_and_search_combine(browser: Chrome, tmp_path: Path) -> None:
    show(browser, make_build(tmp_path / "build"))
    choose(browser, "domain", "benign")
    choose(browser, "kind", "plain")
    search(browser, "number 1")
    assert count_line(browser) == "1-2 of 2 hits"


def test_row_limit_is_stated(browser: Chrome, tmp_path: Path) -> None:
    show(browser, make_build(tmp_path / "build"), rows=6)
    assert "6 of 60 rows, taken evenly over the ids" in one(browser, "#cap").text
    ids = [node.text for node in every(browser, "#table dl dd:first-of-type")]
    assert ids == [f"{number:08x}" for number in range(0, 60, 10)]


def test_dropped_rows_are_listed_and_capped(browser: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "HITS", 8)
    rejected = [dropped(1000 + place, "dedupe") for place in range(16)]
    rejected += [dropped(2000, "decontaminate", reason="exact match"), dropped(3000, "sample", reason="too short")]
    show(browser, make_build(tmp_path / "build", rejected=rejected))
    duplicates, hits = one(browser, "#dedupe"), one(browser, "#decontaminate")
    assert "8 of 16 dropped rows" in duplicates.text
    assert count_line(browser, "#dedupe") == "1-5 of 8 dropped rows"
    press(browser, "#dedupe", "Next page")
    assert count_line(browser, "#dedupe") == "6-8 of 8 dropped rows"
    assert "matched text 1014" in duplicates.text
    for text in ("prompt number 2000:", "matched text 2000", "org/eval", "0.875"):
        assert text in hits.text


def test_empty_parts(browser: Chrome, tmp_path: Path) -> None:
    show(browser, make_build(tmp_path / "plain", [row(1), row(2, "math")], sources=[], decontaminate=[], funnel=[]))
    assert "No row carries a prefill" in one(browser, "#prefills").text
    assert "No dropped row is kept" in one(browser, "#dropped").text
    assert "Not decontaminated" in one(browser, "#sources").text
    show(browser, make_build(tmp_path / "nothing", []))
    assert one(browser, "#total-rows").text == "0"
    assert count_line(browser) == "0 rows"
    unscored = row(1, "harmful", "x", verdict={"stance": None, "judge": "j", "score": float("nan")}, sampling=None)
    show(browser, make_build(tmp_path / "unscored", [unscored | {"origin": None}]))
    assert "No scores are recorded" in one(browser, "#prefills").text
    assert count_line(browser) == "1-1 of 1 rows"
    assert console(browser) == []


@pytest.mark.parametrize("width", [1280, 800, 390, 320])
def test_no_sideways_scrolling(browser: Chrome, tmp_path: Path, width: int) -> None:
    rejected = [dropped(1000, "dedupe", reason="r" * 200), dropped(1001, "decontaminate")]
    long = row(3, origin={"dataset": "d" * 150, "category": "c" * 150, "row": 1}, prefill="p" * 500)
    show(browser, make_build(tmp_path / "build", [*mixed_rows(), long], rejected, name="n" * 120))
    assert overflow(browser, width) <= 0


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", ["light", "dark"])
def test_schemes_differ_and_are_readable(browser: Chrome, tmp_path: Path, name: str) -> None:
    scheme(browser, name)
    show(browser, make_build(tmp_path / "build"))
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) > 384) == (name == "light")

    def value(variable: str) -> str:
        script = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
        return cast(str, browser.execute_script(script, f"--{variable}"))

    pairs = [(text, ground) for text in ("text", "muted", "link", "warn") for ground in ("page", "surface")]
    for text, ground in [*pairs, ("text", "warn-surface"), ("warn", "warn-surface"), ("mark-text", "mark")]:
        dark, light = sorted([luminance(value(text)), luminance(value(ground))])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_long_texts_unfold(browser: Chrome, tmp_path: Path) -> None:
    show(browser, make_build(tmp_path / "build", [row(1, "benign", "and so on " * 500)]))
    text = one(browser, "#table td:last-child .text")
    before = text.size["height"]
    click(browser, one(browser, "#table .more"))
    assert text.size["height"] > 2 * before
    assert one(browser, "#table .more").text == "Show less"
