"""The steps of a build, each a function from files in the work folder to files in it.

Rows lie in *shards*: after they are pulled, a row's id says which shard it belongs to, so that shard after shard is
sorted by id as a whole, an exact duplicate is always in its twin's shard, and no step holds more than a shard of rows
in memory. Every function is given a small tuple of arguments and returns counts, so that any runner can call it
anywhere the work folder is.

Files of the work folder (Arrow IPC), with ``S`` for the shard's number:

=================================  ==================================================================================
``pulled/J.arrow``                 what source file ``J`` gave (`CANDIDATES`); ``pulled/J.rejected.arrow``
``spread/S.arrow``                 the same rows by shard
``exact/S.arrow``                  without exact duplicates, sorted, with ``text``, the normalised prompt
``exact/S.npy``                    their sketches
``near/S.arrow``                   rows of ``exact/S`` to drop as near-duplicates: ``row`` and ``match``
``evaluation.arrow``               the evaluation texts: ``dataset``, ``text``, ``normal``
``clean/S.arrow``                  what may be chosen (`CANDIDATES`), sorted by id
``samples/S-R.arrow``              what round ``R`` of sampling gave: ``row``, ``arm``, ``prefill``, ``sampling``,
                                   ``verdict``, ``reason`` where the row was given up
``tries/R-S.jsonl``                the tries of round ``R`` that were rejected, from shard ``S`` on
``chosen/S.npy``                   a row's rank among the chosen of its domain; `SURPLUS` or `GIVEN_UP`
``rejected/S-*.arrow``             rows dropped on the way (`REJECTED`)
=================================  ==================================================================================
"""

from pipeline.steps.cleaning import (
    SourceFile,
    clean_shard,
    drop_exact,
    find_near,
    pull_evaluations,
    pull_file,
    spread,
)
from pipeline.steps.giving_up import ACCEPTED, GaveUp, Tries, leave_rejected
from pipeline.steps.packaging import GIVEN_UP, SURPLUS, Show, mix
from pipeline.steps.sampling import (
    Sampled,
    Sampling,
    Spent,
    Wanted,
    drop_twins,
    judge_thought,
    judged,
    request_of,
    sample,
)
from pipeline.steps.shards import read_table, shard_count, write_array

__all__ = [
    "ACCEPTED",
    "GIVEN_UP",
    "SURPLUS",
    "GaveUp",
    "Sampled",
    "Sampling",
    "Show",
    "SourceFile",
    "Spent",
    "Tries",
    "Wanted",
    "clean_shard",
    "drop_exact",
    "drop_twins",
    "find_near",
    "judge_thought",
    "judged",
    "leave_rejected",
    "mix",
    "pull_evaluations",
    "pull_file",
    "read_table",
    "request_of",
    "sample",
    "shard_count",
    "spread",
    "write_array",
]
