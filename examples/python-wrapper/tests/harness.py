"""The wrapper as a process of its own, over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any
from unittest import TestCase

ROOT = Path(__file__).resolve().parent.parent
GATE = {"x-syp-user": "ada@example.com", "x-syp-subject": "s-1", "x-syp-issuer": "https://issuer", "x-syp-email": "ada@example.com"}


def command(folder: Path, *args: str, **env: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "syp_wrapper", *args, str(folder / "wrapper.toml")], {**os.environ, "PYTHONPATH": str(ROOT), **env}


class Wrapper:
    """Serves the code under test; `settings` are lines of wrapper.toml."""

    def __init__(self, code: str, settings: str = "", **env: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "mine.py").write_text(textwrap.dedent(code))
        (folder / "wrapper.toml").write_text(f'callable = "mine:f"\nhost = "127.0.0.1"\nport = 0\n{settings}\n')
        argv, environ = command(folder, **env)
        self.process = subprocess.Popen(argv, env=environ, stderr=subprocess.PIPE, text=True)
        self.logs: list[dict[str, Any]] = []
        self._more = threading.Condition()
        self._open: list[http.client.HTTPConnection] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port = self.log("listening")["port"]

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._more:
                self.logs.append(json.loads(line))
                self._more.notify_all()

    def log(self, message: str, **fields: Any) -> dict[str, Any]:
        """Waits for a line of the log."""
        wanted = {"message": message, **fields}

        def there() -> dict[str, Any] | None:
            return next((line for line in self.logs if wanted.items() <= line.items()), None)

        with self._more:
            assert self._more.wait_for(there, 10), f"no {wanted} in {self.logs}"
            found = there()
        assert found is not None
        return found

    def connect(self) -> http.client.HTTPConnection:
        self._open.append(c := http.client.HTTPConnection("127.0.0.1", self.port, timeout=10))
        return c

    def hang_up(self) -> None:
        """As a client that goes away in the middle."""
        while self._open:
            c = self._open.pop()
            if c.sock is not None:
                c.sock.shutdown(socket.SHUT_RDWR)
            c.close()

    def open(self, method: str = "POST", path: str = "/", body: Any = None, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        c = self.connect()
        sent = {"content-type": "application/json"} if body is not None else {}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        c.request(method, path, data, {**sent, **(headers or {})})
        return c.getresponse()

    def call(self, body: Any = None, method: str = "POST", path: str = "/", headers: dict[str, str] | None = None) -> tuple[int, Any]:
        r = self.open(method, path, body, headers)
        return r.status, json.loads(r.read())

    def reason(self, body: Any = None, **more: Any) -> tuple[int, str]:
        status, answer = self.call(body, **more)
        assert answer["error"]["request_id"] and answer["error"]["message"], answer
        return status, answer["error"]["reason"]

    def end(self, sig: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(sig)
        return self.process.wait(20)

    def close(self) -> None:
        for c in self._open:
            c.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr:
            self.process.stderr.close()
        self._folder.cleanup()


def serve(test: TestCase, code: str, settings: str = "", **env: str) -> Wrapper:
    w = Wrapper(code, settings, **env)
    test.addCleanup(w.close)
    return w
