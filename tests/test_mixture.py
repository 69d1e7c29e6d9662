from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mixture import Selection, prefilled_count, rank_order

IDS = [f"{i:032x}" for i in range(200)]


def prefilled(share: float, rows: int = 100, seed: int = 0, ids: list[str] = IDS) -> set[str]:
    return {ids[place] for place in Selection(ids, seed, rows, {"arm": share}).prefilled("arm")}


def test_exactly_the_share_is_prefilled_and_shares_nest() -> None:
    sets = [prefilled(share) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert [len(s) for s in sets] == [0, 25, 50, 75, 100]
    assert all(small < large for small, large in pairwise(sets))


def test_a_larger_quota_holds_a_smaller_one() -> None:
    small, large = (Selection(IDS, 0, rows, {"arm": 0.5}) for rows in (60, 120))
    assert set(small.chosen()) < set(large.chosen())
    assert set(small.prefilled("arm")) < set(large.prefilled("arm"))


def test_another_seed_chooses_other_rows() -> None:
    assert prefilled(0.5, seed=0) != prefilled(0.5, seed=1)


def test_the_order_of_candidates_does_not_matter() -> None:
    shuffled = random.Random(0).sample(IDS, len(IDS))
    assert prefilled(0.5) == prefilled(0.5, ids=shuffled)


@given(st.floats(0, 1), st.integers(0, 10_000))
def test_the_count_is_the_rounded_product(share: float, rows: int) -> None:
    assert abs(prefilled_count(share, rows) - share * rows) <= 0.5
    assert 0 <= prefilled_count(share, rows) <= rows


@given(st.integers(1, 60), st.floats(0, 1), st.sets(st.sampled_from(IDS[:80])), st.integers(0, 5))
def test_failed_rows_are_replaced_and_shares_still_nest(rows: int, share: float, failing: set[str], seed: int) -> None:
    def run(share: float) -> Selection:
        selection = Selection(IDS[:80], seed, rows, {"arm": share})
        while len(places := selection.to_sample("arm")):
            selection.sampled("arm", places.tolist(), [p for p in places.tolist() if IDS[p] in failing])
        return selection

    whole = run(share)
    left = min(rows, 80 - len(whole.failed))
    assert len(whole.chosen()) == left
    assert len(whole.prefilled("arm")) == prefilled_count(share, left)
    assert not {IDS[p] for p in whole.prefilled("arm")} & failing
    assert whole.missing == rows - left
    half = run(share / 2)
    if not (whole.missing or half.missing):
        assert set(half.prefilled("arm")) <= set(whole.prefilled("arm"))


@given(st.integers(1, 40), st.lists(st.sets(st.sampled_from(IDS[:80])), min_size=2, max_size=2), st.integers(0, 5))
def test_all_arms_end_with_the_same_rows_and_none_that_failed_anywhere(
    rows: int, failing: list[set[str]], seed: int
) -> None:
    failing_of = dict(zip(("long", "short"), failing, strict=True))
    selection = Selection(IDS[:80], seed, rows, {"long": 1.0, "short": 0.5})
    left: list[int] = []
    while any(len(selection.to_sample(arm)) for arm in failing_of):
        for arm, fail in failing_of.items():
            places = selection.to_sample(arm).tolist()
            left += selection.sampled(arm, places, [p for p in places if IDS[p] in fail])
    assert sorted(left) == sorted(selection.failed)
    chosen = {IDS[p] for p in selection.chosen()}
    assert len(chosen) == rows - selection.missing
    assert not chosen & failing_of["long"]
    assert not {IDS[p] for p in selection.prefilled("short")} & failing_of["short"]
    assert set(selection.prefilled("short")) <= set(selection.prefilled("long")) == set(selection.chosen())


def test_no_row_is_sampled_twice() -> None:
    selection, seen = Selection(IDS, 0, 60, {"arm": 0.5}), []
    while len(places := selection.to_sample("arm")):
        seen += places.tolist()
        selection.sampled("arm", places.tolist(), [place for place in places.tolist() if place % 2])
    assert len(seen) == len(set(seen)) > 50
    assert len(selection.prefilled("arm")) == 30


def test_ranks_are_a_permutation() -> None:
    assert sorted(rank_order(IDS, 3)) == list(range(len(IDS)))
    assert rank_order([], 3).tolist() == []


def test_a_quota_that_cannot_be_met_is_known() -> None:
    selection = Selection(IDS[:30], 0, 50, {"arm": 0.5})
    assert selection.missing == 20
    assert len(selection.prefilled("arm")) == 15


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_of_the_scale(share: float) -> None:
    assert len(prefilled(share, rows=7)) == 7 * share
