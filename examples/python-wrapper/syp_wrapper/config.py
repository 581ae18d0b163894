"""wrapper.toml and the environment. What is wrong is refused before anything listens, in words, all of it at once."""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import ConfigError

PREFIX = "WRAPPER_"


@dataclass(frozen=True)
class Config:
    """How the callable is served."""

    callable: str  # module:function
    path: str = "/"
    method: str = "POST"
    health: str = "/healthz"
    host: str = "0.0.0.0"
    port: int = 8080
    timeout: float = 30.0  # seconds to the answer; in a stream: to each item
    concurrency: int = 4  # calls at a time
    queue: int = 16  # requests that may wait for their turn
    max_body: int = 1 << 20  # bytes
    grace: float = 10.0  # seconds that calls get to end after SIGTERM
    stream: str = "auto"  # auto (by the Accept header), ndjson or sse
    env: Mapping[str, str] = field(default_factory=dict)  # defaults: what the environment says counts more


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The file, then WRAPPER_NAME for each of its keys; PORT stands for WRAPPER_PORT."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{path}: {e}") from None
    said: dict[str, tuple[str, object]] = {key: (f"{path}: '{key}'", value) for key, value in raw.items()}
    if environ.get("PORT"):
        said["port"] = ("PORT", environ["PORT"])
    for name, text in environ.items():
        if name.startswith(PREFIX) and name != f"{PREFIX}CONFIG":
            said[name.removeprefix(PREFIX).lower()] = (name, text)
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, (where, value) in said.items():
        rule = RULES.get(key)
        if rule is None or (key == "env" and not where.startswith(str(path))):
            problems.append(f"{where} is no setting (there are: {', '.join(RULES)})")
            continue
        try:
            values[key] = rule(value)
        except ValueError as e:
            problems.append(f"{where} {e}")
    if "callable" not in said:
        problems.append(f"{path}: 'callable' is missing, such as callable = \"app:predict\"")
    c = Config(**{"callable": "", **values})
    if c.path == c.health:
        problems.append(f"{path}: 'path' and 'health' are both {c.path!r}")
    if problems:
        raise ConfigError(*problems)
    return c


# === the rules: each takes a value of the file, or its text of the environment ===


def _text(pattern: str, means: str) -> Callable[[object], str]:
    def rule(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"must be {means}, not {value!r}")
        return value

    return rule


def _number(low: float, high: float, unit: str, whole: bool) -> Callable[[object], float]:
    def rule(value: object) -> float:
        kind: type[int] | type[float] = int if whole else float
        given = value
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = kind(value)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
            raise ValueError(f"must be {'a whole number' if whole else 'a number'} of {unit} from {low:g} to {high:g}, not {given!r}")
        return kind(value)

    return rule


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table of names and texts, not {value!r}")
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"has {name!r}, which is no name of a variable")
        if name == "PORT" or name.startswith(PREFIX):
            raise ValueError(f"has {name}, which is a setting: say it beside the others")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"has {name} = {text!r}: a variable is a text, put it into quotes")
    return dict(value)


RULES: dict[str, Callable[[object], Any]] = {
    "callable": _text(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", "module:function"),
    "path": _text(r"/[\w./~-]*", "a path such as /predict"),
    "method": _text("GET|POST|PUT", "GET, POST or PUT"),
    "health": _text(r"/[\w./~-]+", "a path such as /healthz"),
    "host": _text(r"[0-9A-Fa-f.:]+", "an address to listen on, such as 0.0.0.0"),
    "port": _number(0, 65535, "a port", True),
    "timeout": _number(0.01, 86_400, "seconds", False),
    "concurrency": _number(1, 1024, "calls", True),
    "queue": _number(0, 100_000, "requests", True),
    "max_body": _number(0, 1 << 30, "bytes", True),
    "grace": _number(0, 3600, "seconds", False),
    "stream": _text("auto|ndjson|sse", "auto, ndjson or sse"),
    "env": _env,
}
assert set(RULES) == {f.name for f in fields(Config)}


def apply_env(c: Config) -> None:
    """The defaults of [env] for the callable's module, before it is imported."""
    for name, value in c.env.items():
        os.environ.setdefault(name, value)
