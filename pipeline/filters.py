"""What a prefill must be. One function a rule; the first that fails names the reason."""

from __future__ import annotations

from pipeline.judges import COUNTER_ALIGNED, Verdict
from pipeline.thinking import Prefix, control_token

TOO_SHORT = "prefill too short"
CONTROL_TOKEN = "prefill holds a control token"
UNCLEAR = "prefill's stance is unclear"
ALIGNED = "prefill is not counter-aligned"
REFUSED = "request refused by the server"


def reject_text(prefix: Prefix, min_words: int) -> str | None:
    """Why the text can't be a prefill, whatever its stance; None where it can."""
    if prefix.words < min_words:
        return TOO_SHORT
    if control_token(prefix.text):
        return CONTROL_TOKEN
    return None


def reject_stance(domain: str, verdict: Verdict) -> str | None:
    """Why the stance is not that of a counter-aligned prefill of the domain; None where it is.

    A verdict that is unclear, or could not be read, is never a pass.
    """
    if verdict.stance == COUNTER_ALIGNED[domain]:
        return None
    return UNCLEAR if verdict.stance == "unclear" else ALIGNED
