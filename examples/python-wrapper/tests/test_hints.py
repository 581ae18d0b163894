"""Values by type hints."""

from __future__ import annotations

import datetime
import enum
import unittest
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypedDict, Union

from syp_wrapper.errors import Invalid
from syp_wrapper.hints import Unusable, reader, text_reader


class Size(enum.Enum):
    SMALL = "s"
    LARGE = 2


@dataclass
class Point:
    x: float
    y: float = 0.0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is never negative")


class Options(TypedDict):
    fast: bool
    note: NotRequired[str]


Meters = NewType("Meters", int)


class Reading(unittest.TestCase):
    def takes(self, hint: Any, value: object, out: object) -> None:
        got = reader(hint)(value, "v")
        self.assertEqual((got, type(got)), (out, type(out)), hint)

    def refuses(self, hint: Any, value: object, message: str) -> None:
        with self.assertRaises(Invalid) as e:
            reader(hint)(value, "v")
        self.assertEqual(str(e.exception), message)

    def test_what_fits(self) -> None:
        for hint, value, out in [
            (str, "a", "a"),
            (int, 3, 3),
            (float, 3, 3.0),
            (bool, True, True),
            (Any, {"a": [1]}, {"a": [1]}),
            (None, None, None),
            (list, [1, "a"], [1, "a"]),
            (list[int], [1], [1]),
            (Sequence[float], [1], [1.0]),
            (tuple[int, ...], [1, 2], (1, 2)),
            (tuple[int, str], [1, "a"], (1, "a")),
            (set[str], ["a", "a"], {"a"}),
            (dict[str, int], {"a": 1}, {"a": 1}),
            (Mapping[str, Any], {"a": None}, {"a": None}),
            (Optional[int], None, None),  # noqa: UP045
            (Union[int, str], "1", "1"),  # noqa: UP007
            (int | None, 1, 1),
            (Literal["a", 1], 1, 1),
            (Size, 2, Size.LARGE),
            (Point, {"x": 1}, Point(1.0)),
            (list[Point | None], [None, {"x": 1, "y": 2}], [None, Point(1.0, 2.0)]),
            (Options, {"fast": True}, {"fast": True}),
            (Annotated[int, "meters"], 1, 1),
            (Meters, 1, 1),
            (datetime.date, "2026-11-26", datetime.date(2026, 11, 26)),
        ]:
            with self.subTest(hint=hint, value=value):
                self.takes(hint, value, out)

    def test_what_does_not_fit(self) -> None:
        for hint, value, message in [
            (str, 1, "v: must be a string, not a whole number"),
            (int, True, "v: must be a whole number, not true or false"),
            (int, 1.0, "v: must be a whole number: 1, without a point"),
            (int, "1", "v: must be a whole number, not a string"),
            (float, True, "v: must be a number, not true or false"),
            (float, 10**400, "v: is too large for a number"),
            (bool, 1, "v: must be true or false, not a whole number"),
            (list[int], [1, "a"], "v[1]: must be a whole number, not a string"),
            (list[int], "ab", "v: must be a list, not a string"),
            (set[Any], [[]], "v: must have items that can be told apart: texts, numbers"),
            (tuple[int, str], [1], "v: must have 2 items, not 1"),
            (dict[str, int], {"a": None}, "v.a: must be a whole number, not null"),
            (int | None, "a", "v: must be a whole number or must be null, not a string"),
            (list[int] | None, ["a"], "v[0]: must be a whole number, not a string"),
            (Literal["a", 1], True, "v: must be one of 'a', 1"),
            (Size, "m", "v: must be one of 's', 2"),
            (Point, {"y": 1}, "v.x: is missing"),
            (Point, {"x": 1, "z": 1}, "v.z: is not known (there are: x, y)"),
            (Point, {"x": -1}, "v: x is never negative"),
            (Options, {"note": "a"}, "v.fast: is missing"),
            (datetime.datetime, 3, "v: must be an ISO 8601 datetime in a string"),
        ]:
            with self.subTest(hint=hint, value=value):
                self.refuses(hint, value, message)

    def test_hints_that_json_can_not_make(self) -> None:
        for hint in [bytes, complex, dict[int, str], list[bytes], Reading]:
            with self.subTest(hint=hint), self.assertRaises(Unusable):
                reader(hint)

    def test_a_query(self) -> None:
        for hint, values, out in [
            (str, ["1"], "1"),
            (int, ["-1"], -1),
            (float, ["1"], 1.0),
            (float, ["1e3"], 1000.0),
            (bool, ["true"], True),
            (int | None, ["1"], 1),
            (list[int], ["1", "2"], [1, 2]),
            (Size, ["2"], Size.LARGE),
            (Literal["a"], ["a"], "a"),
        ]:
            with self.subTest(hint=hint):
                got = text_reader(hint)(values, "v")
                self.assertEqual((got, type(got)), (out, type(out)))
        for hint, values in [(int, ["1_0"]), (int, [" 1"]), (int, ["1", "2"]), (float, ["inf"]), (bool, ["1"]), (bool, ["True"])]:
            with self.subTest(hint=hint, values=values), self.assertRaises(Invalid):
                text_reader(hint)(values, "v")
        for hint in [dict[str, int], Point, list[list[int]], Options]:
            with self.subTest(hint=hint), self.assertRaises(Unusable):
                text_reader(hint)
