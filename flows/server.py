"""The Prefect server that is set, asked whether it is there."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from pipeline.errors import RecapError


def check_answers() -> bool:
    """Ask the server. False where none is set, in ``PREFECT_API_URL`` or a profile.

    Raises:
        RecapError: it doesn't answer.
    """
    url = PREFECT_API_URL.value()
    if not url:
        return False
    with get_client(sync_client=True) as client:
        failed = client.api_healthcheck()
    if failed is not None:
        raise RecapError(
            f"No Prefect server answers at {url} ({type(failed).__name__}). Start it, or correct PREFECT_API_URL."
        )
    return True
