"""The ASGI application: what is asked, what is answered."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import target as given_by
from .call import Call, Places
from .caller import Caller
from .config import Config
from .errors import Refused
from .logs import log, request_id
from .target import Target

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
JSON, NDJSON, SSE = "application/json", "application/x-ndjson", "text/event-stream"


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class App:
    """Serves a target as the configuration says."""

    def __init__(self, config: Config, target: Target) -> None:
        self.config, self.target = config, target
        self.places = Places(config.concurrency, config.queue)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ends what is under way: its time is over."""
        self._stop.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        r = Reply(scope, send)
        request_id.set(r.id)
        begun, who, problem = time.monotonic(), None, ""
        try:
            who = Caller.of(scope["headers"])
            await self._answer(scope, receive, r, who)
        except Refused as e:
            problem = e.reason
            await r.error(e)
        except ClientGone:
            problem = "CLIENT_GONE"
        except Exception:
            problem = "INTERNAL"
            log.exception("the wrapper failed")
            await r.error(Refused("INTERNAL", "this is a fault of the server", 500))
        if scope["path"] == self.config.health and not problem:
            return
        fields = {"method": scope["method"], "path": scope["path"], "status": r.status or None, "ms": round((time.monotonic() - begun) * 1000, 1)}
        if who is not None:
            fields["user"] = who.user
        if problem := problem or r.problem:
            fields["reason"] = problem
        log.info("request", extra={"fields": fields})

    async def _answer(self, scope: Message, receive: Receive, r: Reply, who: Caller | None) -> None:
        method, path, c = scope["method"], scope["path"], self.config
        if path == c.health:
            _allow(method, "GET", "HEAD")
            return await r.json(200, {"status": "ok"})
        if path != c.path:
            raise Refused("NOT_FOUND", f"there is nothing at {path!r}", 404)
        _allow(method, c.method)
        loop = asyncio.get_running_loop()
        until = loop.time() + c.timeout
        if c.method == "GET":
            asked: dict[str, Any] = given_by.from_query(scope["query_string"])
            await self._body(scope, receive, until)
        else:
            _is_json(scope)
            asked = given_by.from_json(await self._body(scope, receive, until))
        arguments = self.target.arguments(asked, who)
        work = asyncio.ensure_future(self._call(arguments, r, until))
        gone = asyncio.ensure_future(_gone(receive))
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({work, gone, stop}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return await work
        finally:
            for task in (work, gone, stop):
                task.cancel()
            await asyncio.gather(work, gone, stop, return_exceptions=True)
        if self._stop.is_set():
            raise Refused("STOPPING", "the server is being stopped", 503, headers={"retry-after": "1"})
        raise ClientGone

    async def _call(self, arguments: dict[str, Any], r: Reply, until: float) -> None:
        seconds = self.config.timeout
        try:
            async with asyncio.timeout_at(until):
                await self.places.take()
        except TimeoutError:
            raise Refused("BUSY", f"no place became free within {seconds:g} s", 503, headers={"retry-after": "1"}) from None
        call = Call(self.target, self.places)
        try:
            result = await call.result(arguments, until, seconds)
            if call.streams:
                await self._stream(call, r)
            else:
                await r.json(200, result)
        except Refused:
            raise
        except NotJson as e:
            log.error("what the callable returned is not JSON", extra={"fields": {"detail": str(e)}})
            raise Refused("RESULT_NOT_JSON", "the answer can't be told in JSON", 500) from None
        except Exception:
            # for the log, never for the client
            log.exception("the callable failed")
            raise Refused("CALLABLE_FAILED", "the callable failed; its log has the request id", 500) from None
        finally:
            await call.close()

    async def _stream(self, call: Call, r: Reply) -> None:
        wants = b",".join(v for k, v in r.scope["headers"] if k == b"accept").decode("latin-1")
        sse = self.config.stream == "sse" or (self.config.stream == "auto" and SSE in wants)
        r.line = (lambda event, data: event + b"data: " + data + b"\n\n") if sse else (lambda _, data: data + b"\n")
        # the head goes out with the first item: what fails before it has a status of its own
        async for item in call.items(self.config.timeout):
            await r.item(SSE if sse else NDJSON, encode(item))
        await r.item(SSE if sse else NDJSON, None)

    async def _body(self, scope: Message, receive: Receive, until: float) -> bytes:
        limit = self.config.max_body
        too_large = Refused("BODY_TOO_LARGE", f"the body has more than {limit} bytes", 413)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout_at(until):
                while True:
                    m = await receive()
                    if m["type"] == "http.disconnect":
                        raise ClientGone
                    body += m.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not m.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise Refused("BODY_TIMEOUT", f"the body was not there within {self.config.timeout:g} s", 408) from None


class Reply:
    """The answer to one request."""

    def __init__(self, scope: Message, send: Send) -> None:
        self.scope, self._send = scope, send
        said = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        self.id = said if re.fullmatch(r"[\w.:/-]{1,128}", said, re.ASCII) else uuid.uuid4().hex
        self.status = 0
        self.problem = ""
        self.line: Callable[[bytes, bytes], bytes] = lambda _, data: data

    async def json(self, status: int, value: object) -> None:
        await self.send(status, JSON, encode(value))

    async def send(self, status: int, media: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """The whole answer."""
        await self._head(status, media, {"content-length": str(len(body)), **(headers or {})})
        await self._send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})

    async def item(self, media: str, data: bytes | None) -> None:
        """A piece of a stream; None ends it."""
        if not self.status:
            await self._head(200, media, {"x-accel-buffering": "no"})
        body = b"" if data is None else self.line(b"", data)
        await self._send({"type": "http.response.body", "body": body, "more_body": data is not None})

    async def error(self, e: Refused) -> None:
        """With its status; inside a stream, whose status is out, as its last item."""
        self.problem = e.reason
        body = encode(e.body(self.id))
        if not self.status:
            return await self.send(e.status, JSON, body, e.headers)
        await self._send({"type": "http.response.body", "body": self.line(b"event: error\n", body)})

    async def _head(self, status: int, media: str, headers: dict[str, str]) -> None:
        self.status = status
        all_headers = {"content-type": media, "cache-control": "no-store", "x-content-type-options": "nosniff", **headers}
        await self._send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in all_headers.items()]})


class NotJson(Exception):
    """A value that JSON can't tell."""


def encode(value: object) -> bytes:
    """As JSON, with dataclasses, enums and times."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as e:
        raise NotJson(str(e)) from None
    # half a surrogate pair, which UTF-8 lacks, in JSON's own escape
    return text.encode("utf-8", "backslashreplace")


def _plain(value: Any) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"a {type(value).__name__} is no JSON")


def _allow(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise Refused("METHOD_NOT_ALLOWED", f"it is {' or '.join(allowed)} here", 405, headers={"allow": ", ".join(allowed)})


def _is_json(scope: Message) -> None:
    headers = dict(scope["headers"])
    media = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip().lower()
    if media == JSON or re.fullmatch(r"application/[\w.+-]+\+json", media):
        return
    if not media and headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
        return
    raise Refused("MEDIA_TYPE_UNSUPPORTED", f"send the arguments as {JSON}, not {media or 'something that is not named'}", 415)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
