"""Upkeep of a running hub: notes the uses of artifacts, forgets old jobs and requests, every now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from service.builds.board import JobBoard
from service.ground.errors import StoreFullError
from service.store.interface import Catalogue

log = logging.getLogger(__name__)

UPKEEP_SECONDS = 30.0


async def run_maintenance(
    catalogue: Catalogue, board: JobBoard, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Runs until it is cancelled; a full disk is logged and tried again.

    Args:
        catalogue: gets the uses that were noted in memory, and loses the oldest of too many rows.
        board: loses the jobs that finished too long ago.
        sleep: waits between rounds.
    """
    while True:
        await sleep(UPKEEP_SECONDS)
        board.expire()
        try:
            await asyncio.to_thread(catalogue.flush_uses)
            await asyncio.to_thread(catalogue.trim)
        except StoreFullError as error:
            log.warning("catalogue not written", extra={"code": error.code})
