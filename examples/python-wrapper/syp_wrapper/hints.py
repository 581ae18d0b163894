"""Values from JSON, or from a query, by type hints. A hint that can't be made from JSON is refused at the start."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import math
import types
import typing
from collections.abc import Callable
from typing import Any

from .errors import Invalid

Read = Callable[[object, str], Any]  # (value, where it is) -> what the callable gets
NOUNS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object", type(None): "null"}


class Unusable(Exception):
    """A hint that values can't be made for."""


def noun(value: object) -> str:
    return NOUNS.get(type(value), type(value).__name__)


def reader(hint: object) -> Read:
    """How a JSON value becomes one of this type."""
    hint = _bare(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return lambda value, _: value
    if hint in (str, bool):
        return _exact(typing.cast(type, hint))
    if hint is int:
        return _int
    if hint is float:
        return _float
    if hint in (None, type(None)):
        return _exact(type(None))
    if hint in (datetime.datetime, datetime.date):
        return _iso(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin is typing.Literal:
        return _one_of({a: a for a in args})
    if hint in (list, tuple, set, frozenset) or origin in (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable):
        return _list(typing.cast(type, origin or hint), args)
    if hint is dict or origin in (dict, collections.abc.Mapping):
        return _mapping(args)
    if isinstance(hint, type):
        if issubclass(hint, enum.Enum):
            return _one_of({member.value: member for member in hint})
        if dataclasses.is_dataclass(hint):
            names = [f for f in dataclasses.fields(hint) if f.init]
            needed = {f.name for f in names if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
            return _record(hint, {f.name for f in names}, needed)
        if typing.is_typeddict(hint):
            return _record(hint, set(hint.__annotations__), _needed(hint))
    raise Unusable(f"{getattr(hint, '__qualname__', hint)} can't be made from JSON")


def text_reader(hint: object) -> Callable[[list[str], str], Any]:
    """How the values of a query's parameter become one of this type: single values and lists of them."""
    bare = _bare(hint)
    origin, args = typing.get_origin(bare), typing.get_args(bare)
    if bare is list or origin is list:
        inner = _bare(args[0]) if args else str
        if inner is list or typing.get_origin(inner) is list:
            raise Unusable('lists of lists can\'t be made from a query: use method = "POST"')
        item = text_reader(inner)
        return lambda values, at: [item([v], f"{at}[{i}]") for i, v in enumerate(values)]
    # what is not there is None by the default of the parameter; a query has no null
    union = origin in (typing.Union, types.UnionType)
    kinds = [_bare(a) for a in args if a is not type(None)] if union else [bare]
    for k in kinds:
        if typing.get_origin(k) not in (None, typing.Literal) or k in (dict, tuple, set) or dataclasses.is_dataclass(k) or typing.is_typeddict(k):
            raise Unusable(f'{getattr(k, "__qualname__", k)} can\'t be made from a query: use method = "POST"')
    read = _union(tuple(kinds)) if len(kinds) > 1 else reader(kinds[0])

    def one(values: list[str], at: str) -> Any:
        if len(values) != 1:
            raise Invalid(at, "is given more than once")
        # the first form that fits: true is a bool only where one is wanted, 1 may be a number or a text
        for value in (*_forms(values[0]), values[0]):
            try:
                return read(value, at)
            except Invalid:
                continue
        return read(values[0], at)

    return one


def _forms(text: str) -> typing.Iterator[object]:
    if text in ("true", "false"):
        yield text == "true"
    for kind in (int, float):
        # not what only Python reads as a number: 1_000, ' 1', inf
        if text and text.strip("0123456789+-.eE") == "":
            try:
                yield kind(text)
            except ValueError:
                continue


def _bare(hint: Any) -> Any:
    while True:
        if typing.get_origin(hint) in (typing.Annotated, typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        else:
            return hint


def _needed(typed_dict: Any) -> set[str]:
    # where annotations are texts (from __future__), the class itself has not seen NotRequired
    hints = typing.get_type_hints(typed_dict, include_extras=True)
    said = {name: typing.get_origin(hint) for name, hint in hints.items()}
    needed = {name for name in typed_dict.__required_keys__ if said[name] is not typing.NotRequired}
    return needed | {name for name, origin in said.items() if origin is typing.Required}


def _exact(kind: type) -> Read:
    def read(value: object, at: str) -> object:
        if type(value) is not kind:
            raise Invalid(at, f"must be {NOUNS[kind]}, not {noun(value)}")
        return value

    return read


def _int(value: object, at: str) -> int:
    if isinstance(value, float) and value.is_integer():
        raise Invalid(at, f"must be a whole number: {int(value)}, without a point")
    return typing.cast(int, _exact(int)(value, at))


def _float(value: object, at: str) -> float:
    if type(value) not in (int, float):
        raise Invalid(at, f"must be a number, not {noun(value)}")
    try:
        number = float(typing.cast(float, value))
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Invalid(at, "is too large for a number")
    return number


def _iso(kind: Any) -> Read:
    def read(value: object, at: str) -> object:
        try:
            return kind.fromisoformat(value)
        except (TypeError, ValueError):
            raise Invalid(at, f"must be an ISO 8601 {kind.__name__} in a string") from None

    return read


def _union(hints: tuple[object, ...]) -> Read:
    readers = [reader(h) for h in hints]

    def read(value: object, at: str) -> object:
        problems: list[Invalid] = []
        for r in readers:
            try:
                return r(value, at)
            except Invalid as e:
                problems.append(e)
        # the one that came farthest says most
        deepest = max(problems, key=lambda p: len(p.at))
        if deepest.at != at:
            raise deepest
        raise Invalid(at, " or ".join(dict.fromkeys(p.message.split(", not ")[0] for p in problems)) + f", not {noun(value)}")

    return read


def _one_of(values: dict[Any, Any]) -> Read:
    def read(value: object, at: str) -> object:
        for key, member in values.items():
            # True == 1, but they are not the same
            if type(key) is type(value) and key == value:
                return member
        raise Invalid(at, f"must be one of {', '.join(repr(k) for k in values)}")

    return read


def _list(kind: type, args: tuple[object, ...]) -> Read:
    fixed = [reader(a) for a in args] if kind is tuple and args and args[-1] is not Ellipsis else None
    item = reader(args[0]) if args and fixed is None else reader(Any)
    make = kind if kind in (tuple, set, frozenset) else list

    def read(value: object, at: str) -> object:
        if not isinstance(value, list):
            raise Invalid(at, f"must be a list, not {noun(value)}")
        if fixed is not None and len(value) != len(fixed):
            raise Invalid(at, f"must have {len(fixed)} items, not {len(value)}")
        readers = fixed or [item] * len(value)
        try:
            return make(r(v, f"{at}[{i}]") for i, (r, v) in enumerate(zip(readers, value, strict=True)))
        except TypeError:
            raise Invalid(at, "must have items that can be told apart: texts, numbers") from None

    return read


def _mapping(args: tuple[object, ...]) -> Read:
    if args and _bare(args[0]) not in (str, Any):
        raise Unusable("the keys of a JSON object are strings: use dict[str, ...]")
    item = reader(args[1]) if args else reader(Any)

    def read(value: object, at: str) -> object:
        if not isinstance(value, dict):
            raise Invalid(at, f"must be an object, not {noun(value)}")
        return {k: item(v, f"{at}.{k}") for k, v in value.items()}

    return read


def _record(kind: Any, names: set[str], needed: set[str]) -> Read:
    hints = typing.get_type_hints(kind, include_extras=True)
    readers = {name: reader(hints[name]) for name in names}

    def read(value: object, at: str) -> object:
        if not isinstance(value, dict):
            raise Invalid(at, f"must be an object, not {noun(value)}")
        for name in value:
            if name not in names:
                raise Invalid(f"{at}.{name}", f"is not known (there are: {', '.join(sorted(names))})")
        for name in sorted(needed - value.keys()):
            raise Invalid(f"{at}.{name}", "is missing")
        parts = {name: readers[name](v, f"{at}.{name}") for name, v in value.items()}
        try:
            return kind(**parts)
        except ValueError as e:
            # a dataclass's own __post_init__
            raise Invalid(at, str(e)) from None

    return read
