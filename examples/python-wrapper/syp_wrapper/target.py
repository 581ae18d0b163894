"""The callable: found, looked at, and given its arguments."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from . import hints
from .caller import Caller
from .errors import ConfigError, Invalid, Refused

CALLER = "caller"


@dataclass(frozen=True)
class Target:
    """What is served."""

    function: Callable[..., Any]
    asynchronous: bool
    readers: dict[str, Callable[[Any, str], Any]]
    needed: frozenset[str]
    others: Callable[[Any, str], Any] | None  # of **kwargs
    caller: bool
    caller_optional: bool

    @classmethod
    def find(cls, name: str, folder: Path, from_query: bool) -> Target:
        """Imports it; problems are told in words."""
        module_name, _, path = name.partition(":")
        sys.path.insert(0, str(folder))
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as e:
            if e.name is not None and (module_name == e.name or module_name.startswith(f"{e.name}.")):
                raise ConfigError(f"callable '{name}': there is no module '{e.name}' in {folder} or among the installed ones") from None
            raise ConfigError(f"callable '{name}': {_where(e)}") from None
        except (Exception, SystemExit) as e:
            raise ConfigError(f"callable '{name}': {_where(e)}") from None
        for part in path.split("."):
            if not hasattr(found, part):
                raise ConfigError(f"callable '{name}': {module_name} has no '{part}'")
            found = getattr(found, part)
        if not callable(found):
            raise ConfigError(f"callable '{name}' is {hints.noun(found)} and can't be called")
        return cls.of(found, name, from_query)

    @classmethod
    def of(cls, function: Callable[..., Any], name: str, from_query: bool) -> Target:
        """By its signature and its type hints."""
        inner: Any = function
        while isinstance(inner, functools.partial):
            inner = inner.func
        code = inner if inspect.isroutine(inner) else inner.__init__ if inspect.isclass(inner) else inner.__call__
        try:
            signature = inspect.signature(function)
            known = typing.get_type_hints(code, include_extras=True)
        except (TypeError, ValueError, NameError) as e:
            raise ConfigError(f"callable '{name}': its signature can't be read: {e}") from None
        problems: list[str] = []
        readers: dict[str, Callable[[Any, str], Any]] = {}
        needed: set[str] = set()
        others, caller, optional = None, False, False
        for p in signature.parameters.values():
            hint = known.get(p.name, Any)
            if p.name == CALLER:
                caller = True
                optional = p.default is None or type(None) in typing.get_args(hint)
                continue
            if p.kind is p.POSITIONAL_ONLY or p.kind is p.VAR_POSITIONAL:
                problems.append(f"callable '{name}': the parameter '{p.name}' has no name that JSON could give")
                continue
            try:
                read = hints.text_reader(hint if p.name in known else str) if from_query else hints.reader(hint)
            except hints.Unusable as e:
                problems.append(f"callable '{name}': the parameter '{p.name}': {e}")
                continue
            if p.kind is p.VAR_KEYWORD:
                others = read
                continue
            readers[p.name] = read
            if p.default is p.empty:
                needed.add(p.name)
        if problems:
            raise ConfigError(*problems)
        asynchronous = inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code)
        return cls(function, asynchronous, readers, frozenset(needed), others, caller, optional)

    def arguments(self, given: dict[str, Any], who: Caller | None) -> dict[str, Any]:
        """Checked and converted. The caller comes from the gate alone, never from what was sent."""
        out: dict[str, Any] = {}
        try:
            for name, value in given.items():
                read = self.readers.get(name) or (self.others if name != CALLER else None)
                if read is None:
                    raise Invalid(name, f"is not known (there are: {', '.join(self.readers) or 'none'})")
                out[name] = read(value, name)
            for name in self.readers:
                if name in self.needed and name not in given:
                    raise Invalid(name, "is missing")
        except Invalid as e:
            raise Refused("ARGUMENT_INVALID", f"{e.at} {e.message}", 400, field=e.at) from None
        if self.caller:
            if who is None and not self.caller_optional:
                raise Refused("CALLER_MISSING", "who calls is not known: this is to be called through its gate", 403)
            out[CALLER] = who
        return out


def from_query(query: bytes) -> dict[str, list[str]]:
    """The parameters of a query."""
    try:
        return parse_qs(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=1000)
    except ValueError:
        raise Refused("QUERY_INVALID", "the query can't be read", 400) from None


def from_json(body: bytes) -> dict[str, Any]:
    """The object in a body; an empty one is an object without anything."""
    if not body:
        return {}
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_doubles)
    except RecursionError:
        raise Refused("JSON_INVALID", "the body is nested too deeply", 400) from None
    except ValueError as e:
        raise Refused("JSON_INVALID", f"the body is not JSON: {e}", 400) from None
    if not isinstance(value, dict):
        raise Refused("JSON_INVALID", f"the body must be an object with the arguments by name, not {hints.noun(value)}", 400)
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key is there twice")
    return out


def _where(e: BaseException) -> str:
    frames = traceback.extract_tb(e.__traceback__)
    at = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"its module can't be imported: {type(e).__name__}: {e}{at}"
