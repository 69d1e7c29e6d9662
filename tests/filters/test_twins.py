"""Near-duplicates among prefills: which are found, which stay, and that the order doesn't matter."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.filters import find_twins

WORDS = [f"{start}{end}" for start in ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti") for end in "bdfgklmnprst"]


def written(seed: int, words: int = 400) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {*zip(*(words[shift:] for shift in range(5)), strict=False)}


def jaccard(left: str, right: str) -> float:
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


def edited(words: list[str], count: int, seed: int) -> str:
    """The text with so many words changed, as where another prompt is quoted."""
    rng, changed = random.Random(seed), list(words)
    for place in rng.sample(range(len(words)), count):
        changed[place] = f"other{rng.random():.6f}".replace(".", "x")
    return " ".join(changed)


@pytest.mark.parametrize("count", range(8))
def test_prefills_that_differ_in_the_words_they_quote_are_found(count: int) -> None:
    texts = [" ".join(written(seed)) for seed in range(200)]
    texts += [edited(written(seed), count, seed) for seed in range(200)]
    found = find_twins(texts, [str(row) for row in range(400)])
    for seed in range(200):
        similarity = jaccard(texts[seed], texts[seed + 200])
        mine = {row: twin for row, twin in found.items() if row % 200 == seed}
        if similarity >= 0.8:
            ((row, twin),) = mine.items()
            assert {row, twin.keeper} == {seed, seed + 200}
            assert twin.similarity == pytest.approx(similarity)
        else:
            assert not mine


def test_the_order_of_rows_changes_nothing() -> None:
    texts = [edited(written(seed % 60), seed % 9, seed) for seed in range(300)]
    ids = [f"row {seed}" for seed in range(300)]
    expected = {ids[row]: (ids[twin.keeper], twin.similarity) for row, twin in find_twins(texts, ids).items()}
    assert len(expected) > 100
    order = list(range(300))
    random.Random(0).shuffle(order)
    found = find_twins([texts[row] for row in order], [ids[row] for row in order])
    assert {ids[order[row]]: (ids[order[twin.keeper]], twin.similarity) for row, twin in found.items()} == expected


def test_no_two_kept_rows_are_twins_and_each_dropped_one_is_its_keepers() -> None:
    texts = [edited(written(seed % 20), seed % 12, seed) for seed in range(200)]
    found = find_twins(texts, [str(row) for row in range(200)])
    kept = [row for row in range(200) if row not in found]
    for row, twin in found.items():
        assert twin.keeper in kept
        assert twin.similarity >= 0.8
        assert jaccard(texts[row], texts[twin.keeper]) == pytest.approx(twin.similarity)
    for place, left in enumerate(kept):
        for right in kept[place + 1 :]:
            assert jaccard(texts[left], texts[right]) < 0.8


def test_rows_that_stay_are_never_dropped() -> None:
    text = " ".join(written(0))
    for keep in ([True, False, False], [False, True, False], [True, True, False], [True, True, True]):
        found = find_twins([text] * 3, ["a", "b", "c"], keep=keep)
        assert not [row for row in found if keep[row]]
        assert set(found) == {row for row in range(3) if not keep[row]}
        assert all(keep[twin.keeper] for twin in found.values())


def test_case_and_punctuation_make_no_difference() -> None:
    text = " ".join(written(1))
    found = find_twins([text, text.upper().replace(" ", ", ")], ["a", "b"])
    assert [twin.similarity for twin in found.values()] == [1.0]


def test_a_crowd_of_equal_texts_leaves_one() -> None:
    assert len(find_twins([" ".join(written(2))] * 3000, [str(row) for row in range(3000)])) == 2999


def test_template_prefills_are_no_twins(templated: list[tuple[str, str]]) -> None:
    half = len(templated) // 2
    for texts in (templated[:half], templated[half:]):
        by_prompt = dict(texts)
        assert not find_twins([*by_prompt.values()], [*map(str, range(len(by_prompt)))])


@settings(deadline=None)
@given(st.lists(st.text(max_size=40)))
def test_any_texts_can_be_compared(texts: list[str]) -> None:
    found = find_twins(texts, [str(row) for row in range(len(texts))])
    kept = {" ".join(texts[row].split()) for row in range(len(texts)) if row not in found}
    assert all(twin.keeper not in found for twin in found.values())
    assert len(kept) == len(texts) - len(found)
