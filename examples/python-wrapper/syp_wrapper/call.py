"""One call of the callable, whatever kind it is: its place among the others, its time, its end.

A thread can't be ended from outside. A plain function that is over its time is answered for (504) and keeps its place until it
really returns, so that there are never more than `concurrency` of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .errors import Refused
from .logs import log
from .target import Target

_END = object()


class Places:
    """So many calls at a time, and so many that wait."""

    def __init__(self, calls: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(calls)
        self._room = waiting
        self._waiting = 0
        self.pool = ThreadPoolExecutor(calls, thread_name_prefix="call")
        self.taken = 0

    async def take(self) -> None:
        if self._free.locked() and self._waiting >= self._room:
            raise Refused("BUSY", "all places are taken: try again in a moment", 503, headers={"retry-after": "1"})
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self.taken += 1

    def give(self) -> None:
        self.taken -= 1
        self._free.release()


class Call:
    """A call that has its place. `close` gives the place back, when nothing of the call runs any more."""

    def __init__(self, target: Target, places: Places) -> None:
        self._target, self._places = target, places
        self._context = contextvars.copy_context()
        self._thread: Future[Any] | None = None
        self._items: Any = None

    async def result(self, arguments: dict[str, Any], until: float, seconds: float) -> Any:
        """What the callable returns; `streams` says whether it has items."""
        out = await _in_time(self._run(arguments), until, seconds)
        if isinstance(out, AsyncIterator | Iterator):
            self._items = out
        return out

    async def _run(self, arguments: dict[str, Any]) -> Any:
        f = self._target.function
        out = f(**arguments) if self._target.asynchronous else await self._in_thread(lambda: f(**arguments))
        return await out if inspect.isawaitable(out) else out

    @property
    def streams(self) -> bool:
        return self._items is not None

    async def items(self, seconds: float) -> AsyncIterator[Any]:
        """The items of a stream; each may take so long."""
        loop = asyncio.get_running_loop()
        while (item := await _in_time(self._next(), loop.time() + seconds, seconds)) is not _END:
            yield item

    async def _next(self) -> Any:
        items = self._items
        if isinstance(items, AsyncIterator):
            return await anext(items, _END)
        return await self._in_thread(lambda: next(items, _END))

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        self._thread = self._places.pool.submit(self._context.run, _guarded, work)
        # the thread goes on when we are cancelled, so it must not be cancelled with us
        return await asyncio.shield(asyncio.wrap_future(self._thread))

    async def close(self) -> None:
        """Ends what is open of it."""
        if isinstance(self._items, AsyncIterator):
            await self._quietly(getattr(self._items, "aclose", None))
        if self._thread is None or self._thread.done():
            self._end()
        else:
            loop = asyncio.get_running_loop()
            self._thread.add_done_callback(lambda _: _call_soon(loop, self._end))

    def _end(self) -> None:
        close = getattr(self._items, "close", None)
        if isinstance(self._items, Iterator) and close is not None:
            # its `finally` may take its time: in its thread again
            done = self._places.pool.submit(self._context.run, close)
            loop = asyncio.get_running_loop()
            done.add_done_callback(lambda _: _call_soon(loop, self._places.give))
        else:
            self._places.give()

    @staticmethod
    async def _quietly(close: Any) -> None:
        if close is None:
            return
        try:
            await close()
        except Exception:
            log.exception("the stream did not end well")


async def _in_time(work: Coroutine[Any, Any, Any], until: float, seconds: float) -> Any:
    """A TimeoutError of the callable's own is its failure; this clock's is an answer."""
    clock = asyncio.timeout_at(until)
    try:
        async with clock:
            return await work
    except TimeoutError:
        if clock.expired():
            raise Refused("TIMEOUT", f"no answer within {seconds:g} s", 504) from None
        raise
    except SystemExit as e:
        raise RuntimeError("the callable called exit") from e


def _guarded(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (StopIteration, SystemExit, KeyboardInterrupt) as e:
        # these mean something else to who waits for the thread
        raise RuntimeError(f"{type(e).__name__} out of the callable") from e


def _call_soon(loop: asyncio.AbstractEventLoop, what: Any) -> None:
    # a RuntimeError: the server is over
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what)
