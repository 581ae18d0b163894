"""Your program. Nothing in it knows of HTTP, of logins or of the wrapper, unless it wants to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from syp_wrapper import Caller, Refused

GREETING = os.environ["GREETING"]  # wrapper.toml has a default, `sypctl up --env GREETING=...` says another


def greet(name: str, times: int = 1, caller: Caller | None = None) -> dict[str, object]:
    """POST / with {"name": "Ada"}."""
    if times > 100:
        raise Refused("TOO_MANY", "at most 100 greetings")
    return {"greeting": " ".join([f"{GREETING}, {name}!"] * times), "you": caller.user if caller else None}


async def count(to: int = 3, seconds: float = 0.1) -> AsyncIterator[dict[str, int]]:
    """WRAPPER_CALLABLE=app:count serves this one instead: a stream, an item a line."""
    for n in range(1, to + 1):
        await asyncio.sleep(seconds)
        yield {"n": n}
