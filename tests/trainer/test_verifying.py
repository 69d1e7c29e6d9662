"""Math answers, verified by the real math-verify."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from pipeline.trainer.rewards import RewardsConfig, Rollout, Score, Scorer

pytest.importorskip("math_verify", reason="needs math-verify (pip install 'recap-data[trainer]')")
psutil = pytest.importorskip("psutil", reason="looks at the processes")

RIGHT, WRONG = Score(1.0, "scored"), Score(0.0, "scored")
UNVERIFIED, NO_TRUTH = Score(None, "unverified"), Score(None, "no-truth")


def rollout(answer: str, truth: str | None) -> Rollout:
    return Rollout("a", "math", "math", "How many?", f"Let me see, 7 or so.</think>\n\n{answer}", truth, opened=True)


def score(folder: Path, *asked: tuple[str, str | None]) -> list[Score]:
    with Scorer(RewardsConfig(), folder / "ledger") as scorer:
        return scorer.score([rollout(*one) for one in asked])


def test_answers_are_equal_as_numbers_and_not_as_words(tmp_path: Path) -> None:
    asked = {
        ("The answer is 18.", "18"): RIGHT,
        (r"So \boxed{1000} clips.", "1,000"): RIGHT,
        ("It is 0.5", r"\frac{1}{2}"): RIGHT,
        (r"\boxed{(3, \pi/2)}", r"(3, \frac{\pi}{2})"): RIGHT,
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"): RIGHT,
        ("$1 + x^2$", "x^2+1"): RIGHT,
        ("The answer is 19.", "18"): WRONG,
        (r"\boxed{17} or \boxed{18}", "18"): WRONG,
        ("I can't tell.", "18"): WRONG,
        ("8", "7"): WRONG,
    }
    assert dict(zip(asked, score(tmp_path, *asked), strict=True)) == asked


def test_a_truth_that_is_missing_or_unreadable_is_no_number(tmp_path: Path) -> None:
    assert score(tmp_path, ("18", None), ("18", ""), ("18", "   "), ("18", "}{")) == [NO_TRUTH] * 4


def test_what_is_not_worked_out_in_time_is_no_number_and_stops_nobody(tmp_path: Path) -> None:
    bombs = [r"\boxed{9^{9^{9^{9}}}}", "9**9**9**9", "1" * 100_000]
    found = score(tmp_path, *((bomb, "7") for bomb in bombs), *[("It is 7.", "7")] * 4)
    assert found == [UNVERIFIED] * 3 + [RIGHT] * 4


def test_odd_texts_are_answers_like_any_other(tmp_path: Path) -> None:
    odd = ["7\n8\n", "\ud800 7", "\x00", '"]\n["', "{" * 3000, "ready", "equal", "7" + " and" * 50_000]
    found = score(tmp_path, *((text, "9") for text in odd), ("9", "9"))
    assert [one.value for one in found[:-1]].count(1.0) == 0
    assert found[-1] == RIGHT


def test_a_verifier_that_dies_costs_one_score_and_none_is_left_behind(tmp_path: Path) -> None:
    def children() -> list[psutil.Process]:
        return [child for child in psutil.Process(os.getpid()).children() if "_verifier.py" in str(child.cmdline())]

    with Scorer(RewardsConfig(), tmp_path / "ledger") as scorer:
        scorer.check()
        (child,) = children()
        child.kill()
        assert scorer.score([rollout("7", "7")]) == [UNVERIFIED]
        assert scorer.score([rollout("7", "7")] * 50) == [RIGHT] * 50
        assert children()
    assert not children()


def test_it_works_in_any_thread(tmp_path: Path) -> None:
    found: list[Score] = []
    thread = threading.Thread(target=lambda: found.extend(score(tmp_path, ("7", "7"))))
    thread.start()
    thread.join()
    assert found == [RIGHT]


def test_published_solutions_are_found_right(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "math" / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    answers = [json.loads(line)["answer"] for line in lines]
    truths = [answer.rpartition("####")[2].strip() for answer in answers]
    right = score(tmp_path, *zip(answers, truths, strict=True))
    wrong = score(tmp_path, *((answer, f"{truth}1") for answer, truth in zip(answers, truths, strict=True)))
    assert (right, wrong) == ([RIGHT] * 300, [WRONG] * 300)
