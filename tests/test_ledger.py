from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import LAYOUT, Entry, Ledger, LedgerError, request_key

REQUEST = {"engine": "openai", "body": {"model": "m", "seed": 1}, "attempt": 0}


def entry(answer: str = "text", **changes: object) -> Entry:
    return Entry("unaligned", "m", REQUEST, answer, "stop", 10, 20, 0.5, 1_000.0, 0)._replace(**changes)


def test_an_answer_is_found_again_and_written_once(tmp_path: Path) -> None:
    key = request_key(REQUEST)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.get(key) is None
        ledger.put([(key, entry("first"))])
        ledger.put([(key, entry("second"))])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.get(key) == entry("first")
        assert ledger.has([key, request_key({"other": 1})]) == 1


def test_two_processes_share_a_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as one, Ledger(tmp_path / "l") as other:
        one.put([(b"a", entry())])
        other.put([(b"b", entry())])
        assert {key for key, _ in one.entries()} == {b"a", b"b"}


def test_a_killed_process_loses_no_answer_that_it_wrote(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from pipeline.ledger import Entry, Ledger
ledger = Ledger(Path(sys.argv[1]))
for i in range(50):
    ledger.put([(bytes([i]), Entry("s", "m", {}, str(i)))])
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "l")], check=False)
    assert done.returncode == -9
    with Ledger(tmp_path / "l") as ledger:
        assert [e.answer for _, e in ledger.entries()] == [str(i) for i in range(50)]


def test_stats_are_by_asker_and_model(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(b"a", entry()), (b"b", entry()), (b"c", entry(asker="judge", prompt_tokens=None))])
        assert [tuple(s) for s in ledger.stats()] == [
            ("judge", "m", 1, 0, 0, 20, 0.5),
            ("unaligned", "m", 2, 0, 20, 40, 1.0),
        ]


def test_old_answers_can_be_removed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(b"a", entry(time=10.0)), (b"b", entry(time=20.0))])
        assert ledger.remove_before(15.0) == 1
        assert [key for key, _ in ledger.entries()] == [b"b"]


def test_an_entry_under_a_wrong_key_is_found(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(request_key(REQUEST), entry())])
        assert ledger.verify() == []
        ledger.put([(b"wrong", entry())])
        assert ledger.verify() == [f"{b'wrong'.hex()} is not the key of its request"]


def test_a_newer_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    Ledger(tmp_path / "l").close()
    with sqlite3.connect(tmp_path / "l") as db:
        db.execute(f"PRAGMA user_version = {LAYOUT + 1}")
    db.close()
    with pytest.raises(LedgerError, match=f"newer recap-data \\(layout {LAYOUT + 1}"):
        Ledger(tmp_path / "l")
    assert (tmp_path / "l").exists()


def test_another_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "l") as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(LedgerError, match="no ledger of recap-data"):
        Ledger(tmp_path / "l")
    assert (tmp_path / "l").exists()


@pytest.mark.parametrize("content", [b"[1, 2]", b"no database at all" * 400, b"\0" * 9_000])
@pytest.mark.parametrize("arguments", [("stats",), ("verify",), ("export",)])
def test_a_file_that_is_no_ledger_is_left_where_it_is(tmp_path: Path, content: bytes, arguments: tuple[str]) -> None:
    (tmp_path / "STAR-1.json").write_bytes(content)
    done = command(*arguments, str(tmp_path / "STAR-1.json"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no ledger of recap-data; it was left as it is" in done.stderr
    with pytest.raises(LedgerError, match="is no ledger"):
        Ledger(tmp_path / "STAR-1.json")
    assert [path.name for path in tmp_path.iterdir()] == ["STAR-1.json"]
    assert (tmp_path / "STAR-1.json").read_bytes() == content


def test_a_broken_ledger_is_told_and_left_where_it_is(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(bytes([i]), entry("x" * 9_000)) for i in range(50)])
    data = bytearray((tmp_path / "l").read_bytes())
    data[4_096:] = b"\xff" * (len(data) - 4_096)
    (tmp_path / "l").write_bytes(data)
    with pytest.raises(LedgerError, match=r"is broken .* it was left as it is.*\.recover"):
        Ledger(tmp_path / "l")
    assert (tmp_path / "l").read_bytes() == bytes(data)


def test_a_read_only_ledger_is_read(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(request_key(REQUEST), entry())])
    before = sorted(path.name for path in tmp_path.iterdir())
    with Ledger(tmp_path / "l", read_only=True) as ledger:
        assert [e.answer for _, e in ledger.entries()] == ["text"]
        assert ledger.verify() == []
        with pytest.raises(LedgerError, match="readonly"):
            ledger.put([(b"more", entry())])
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_ledger_of_layout_1_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "l") as db:
        db.execute(
            "CREATE TABLE answers (key BLOB PRIMARY KEY, asker TEXT NOT NULL, model TEXT, request TEXT NOT NULL, answer"
            " TEXT NOT NULL, finish TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, latency REAL, time REAL NOT"
            " NULL, attempt INTEGER NOT NULL)"
        )
        row = (request_key(REQUEST), "unaligned", "m", json.dumps(REQUEST), "text", "stop", 1, 2, 0.5, 3.0, 0)
        db.execute(f"INSERT INTO answers VALUES ({', '.join('?' * 11)})", row)
        db.execute("PRAGMA application_id = 1380270924")
        db.execute("PRAGMA user_version = 1")
    db.close()
    for read_only in (True, False, True):
        with Ledger(tmp_path / "l", read_only=read_only) as ledger:
            assert [e.answer for _, e in ledger.entries()] == ["text"]
            assert ledger.verify() == []
            assert ledger.stats()[0].answers == 1
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(b"wrong", entry())])


def test_swapped_and_changed_answers_are_found(tmp_path: Path) -> None:
    keys = [request_key({"i": i}) for i in range(4)]
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(key, entry(f"answer {i}")._replace(request={"i": i})) for i, key in enumerate(keys)])
        assert ledger.verify() == []
    with sqlite3.connect(tmp_path / "l") as db:
        db.execute("UPDATE answers SET answer = 'answer 1' WHERE key = ?", (keys[0],))
        db.execute("UPDATE answers SET answer = 'answer 0' WHERE key = ?", (keys[1],))
        db.execute("UPDATE answers SET request = '[[[' WHERE key = ?", (keys[2],))
    db.close()
    with Ledger(tmp_path / "l") as ledger:
        found = ledger.verify()
        with pytest.raises(LedgerError, match="can't be read"):
            ledger.get(keys[2])
    assert sorted(found) == sorted(
        [
            *(f"{key.hex()[:16]} has another answer than was written: it was changed or swapped" for key in keys[:2]),
            f"{keys[2].hex()[:16]} can't be read",
        ]
    )


def test_only_a_refusal_makes_way_for_an_answer(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.put([(b"a", entry("no", finish="refused")), (b"b", entry("", finish="filtered"))]) == {}
        assert ledger.put([(b"a", entry("yes")), (b"b", entry("yes"))]).keys() == {b"b"}
        assert ledger.put([(b"a", entry("another"))])[b"a"].answer == "yes"
        assert ledger.stats()[0].refused == 1
        assert ledger.forget_refusals() == 1
        assert [key for key, _ in ledger.entries()] == [b"a"]


def test_what_could_not_be_written_is_read_in_the_next_time(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        kept = ledger.set_aside([(b"a", entry("half an emoji \ufffd")), (b"b", entry())])
        assert kept.parent == tmp_path
    with Ledger(tmp_path / "l") as ledger:
        assert [e.answer for _, e in ledger.entries()] == ["half an emoji \ufffd", "text"]
        assert ledger.verify()[0].endswith("is not the key of its request")
    assert not kept.exists()


CLAIMS = """
import sys
from pathlib import Path
from pipeline.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
print(ledger.claim(b"one"), ledger.claim(b"two"), flush=True)
sys.stdin.read()
"""


def test_claims_leave_no_file_and_find_each_other_when_it_was_removed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.claim(b"one")
        (tmp_path / "l-inflight").unlink()
        assert ledger.claim(b"three")
        line = [sys.executable, "-c", CLAIMS, str(tmp_path / "l")]
        done = subprocess.run(line, input="", capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "True"]
        assert (tmp_path / "l-inflight").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["l"]


def test_a_request_is_claimed_by_one_process_and_free_once_that_is_dead(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger, Ledger(tmp_path / "l") as twin:
        assert ledger.claim(b"one")
        assert not ledger.claim(b"one")
        assert not twin.claim(b"one")
        with subprocess.Popen(
            [sys.executable, "-c", CLAIMS, str(tmp_path / "l")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().split() == ["False", "True"]
            assert not ledger.claim(b"two")
            process.kill()
        assert ledger.claim(b"two")
        ledger.release(b"one")
        assert twin.claim(b"one")


def test_a_locked_ledger_is_not_taken_for_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ledger.LOCK_SECONDS", 0.1)
    holder = sqlite3.connect(tmp_path / "l", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="can't be used: database is locked"):
        Ledger(tmp_path / "l")
    holder.close()
    assert not list(tmp_path.glob("l.broken-*"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_a_key_depends_on_what_is_asked_and_not_on_its_order(request_: dict[str, object]) -> None:
    assert request_key(request_) == request_key(dict(reversed(request_.items())))
    assert request_key(request_) == request_key(json.loads(json.dumps(request_)))
    assert request_key(request_) != request_key({**request_, "one more": 1})


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pipeline.cli", "ledger", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_line_shows_exports_checks_and_clears(tmp_path: Path) -> None:
    path = str(tmp_path / "l")
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(request_key(REQUEST), entry())])
    assert json.loads(command("stats", path, "--json").stdout)[0]["completion_tokens"] == 20
    assert "unaligned" in command("stats", path).stdout
    assert json.loads(command("export", path).stdout)["answer"] == "text"
    assert "intact" in command("verify", path).stdout
    assert "0 answers removed" in command("gc", path, "--refused").stdout
    assert "give --older-than-days or --refused" in command("gc", path).stderr
    assert "1 answers removed" in command("gc", path, "--older-than-days", "1").stdout
    none = command("stats", str(tmp_path / "none"))
    assert (none.returncode, none.stdout) == (2, "")
    assert "There is no ledger" in none.stderr
    assert not (tmp_path / "none").exists()


def test_a_damaged_ledger_fails_its_check(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.put([(b"wrong", entry())])
    done = command("verify", str(tmp_path / "l"))
    assert done.returncode == 1
    assert "is not the key of its request" in done.stderr
