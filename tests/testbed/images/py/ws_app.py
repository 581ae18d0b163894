"""A WebSocket server: every message goes back; the text message `headers` gets the handshake's headers as JSON."""

import asyncio
import json
import os
import signal

import websockets


def handshake(ws):
    """The request's headers (their place differs between versions of the library)."""
    raw = ws.request.headers if hasattr(ws, "request") else ws.request_headers
    return {k.lower(): v for k, v in raw.raw_items()}


async def echo(ws, path=None):
    async for message in ws:
        await ws.send(json.dumps(handshake(ws)) if message == "headers" else message)


async def main():
    host, port = os.environ.get("LISTEN_HOST", "0.0.0.0"), int(os.environ.get("LISTEN_PORT", "8765"))
    async with websockets.serve(echo, host, port, max_size=16 << 20):
        print(f"ws listens on {port}", flush=True)
        await asyncio.Future()


if __name__ == "__main__":
    # a process 1 has no default action for SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    asyncio.run(main())
