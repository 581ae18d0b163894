"""Logs: one JSON object a line on stderr, the callable's own `logging` too, each with the request it belongs to."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from contextvars import ContextVar

log = logging.getLogger("syp_wrapper")
request_id: ContextVar[str] = ContextVar("request_id", default="")


class Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": at.replace("+00:00", "Z"), "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if current := request_id.get():
            line["request_id"] = current
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def to_stderr(level: str = "INFO") -> None:
    """From now on everything that is logged in this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    # it tells of its own start and end; we tell of ours
    logging.getLogger("uvicorn").setLevel("WARNING")
    logging.getLogger("asyncio").setLevel("WARNING")
