"""The child of `verifying`: reads ``[answer, truth]`` as JSON, a line each, and says what math-verify finds.

It imports nothing of the project, so that it starts fast and wherever it is started from.
"""

from __future__ import annotations

import json
import os
import resource
import sys

_MEMORY = 4 << 30
"""Bytes that it may have: numbers can be written that no memory holds."""


def main() -> None:
    """Verify until standard input ends."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    seconds = int(sys.argv[1])
    import math_verify
    from math_verify.errors import TimeoutException

    def found(answer: str, truth: str) -> str:
        gold = math_verify.parse(f"\\boxed{{{truth}}}", parsing_timeout=seconds)
        if not gold:
            return "no-truth"
        given = math_verify.parse(answer, parsing_timeout=seconds, raise_on_error=True)
        equal = math_verify.verify(gold, given, timeout_seconds=seconds, raise_on_error=True)
        return "equal" if equal else "different"

    print("ready", file=told, flush=True)
    for line in sys.stdin:
        try:
            said = found(*json.loads(line))
        except (Exception, TimeoutException):  # noqa: BLE001
            said = "failed"
        print(said, file=told, flush=True)


if __name__ == "__main__":
    main()
