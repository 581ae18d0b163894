"""python3 -m syp_wrapper [--check] [wrapper.toml]"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn

from .app import App
from .config import Config, apply_env, load
from .errors import ConfigError
from .logs import log, to_stderr
from .target import Target

# after the calls were told that their time is over
LAST = 2.0


class Server(uvicorn.Server):
    """Ends in good order: takes nothing new, lets calls finish for `grace` seconds, then ends them with an answer."""

    wrapped: App

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        # a signal is not the place to log
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_end, sig)

    def _begin_end(self, sig: int) -> None:
        grace, loop = self.wrapped.config.grace, asyncio.get_running_loop()
        log.info("stopping", extra={"fields": {"signal": signal.Signals(sig).name, "calls": self.wrapped.places.taken, "grace": grace}})
        self.should_exit = True
        loop.call_later(grace, self.wrapped.stop)
        loop.call_later(grace + LAST, setattr, self, "force_exit", True)


def main() -> int:
    p = argparse.ArgumentParser("syp_wrapper", description="Serves a Python callable over HTTP.")
    p.add_argument("config", nargs="?", default=os.environ.get("WRAPPER_CONFIG", "wrapper.toml"), help="default: wrapper.toml")
    p.add_argument("--check", action="store_true", help="only look whether it could be served")
    a = p.parse_args()
    to_stderr(os.environ.get("LOG_LEVEL", "INFO").upper())
    # the first process of a container has no default for it, and importing a model may take minutes
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        path = Path(a.config)
        config = load(path, os.environ)
        apply_env(config)
        target = Target.find(config.callable, path.resolve().parent, config.method == "GET")
        if a.check:
            print(f"{config.callable} at {config.method} {config.path}: {', '.join(target.readers) or 'no arguments'}")
            return 0
        listener = _listen(config)
    except ConfigError as e:
        for problem in e.problems:
            log.error(problem, extra={"fields": {"reason": "CONFIG_INVALID"}})
        return 2
    return _serve(config, target, listener)


def _listen(c: Config) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in c.host else socket.AF_INET
        return socket.create_server((c.host, c.port), family=family, backlog=1024)
    except OSError as e:
        raise ConfigError(f"can't listen on {c.host} port {c.port}: {e.strerror or e}") from None


def _serve(config: Config, target: Target, listener: socket.socket) -> int:
    app = App(config, target)
    # the gate holds connections open: it closes them before we do
    settings = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", loop="asyncio", http="h11",
                              proxy_headers=False, server_header=False, timeout_keep_alive=300)  # fmt: skip
    server = Server(settings)
    server.wrapped = app
    log.info("listening", extra={"fields": {"port": listener.getsockname()[1], "callable": config.callable, "method": config.method, "path": config.path}})
    server.run(sockets=[listener])
    if app.places.taken:
        # a thread that does not return would hold the process for ever
        log.warning("calls were cut off", extra={"fields": {"calls": app.places.taken}})
        sys.stderr.flush()
        os._exit(0)
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
