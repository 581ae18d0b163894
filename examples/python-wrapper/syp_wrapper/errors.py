"""What can be wrong, and how it is told: a stable reason for programs, words for people, never a traceback."""

from __future__ import annotations

import re


class ConfigError(Exception):
    """The start is refused; all problems at once."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Refused(Exception):
    """An answer that is an error. Callables raise it to say something to their caller.

    >>> raise Refused("MODEL_UNKNOWN", "there is no model 'x'", status=404)
    """

    def __init__(self, reason: str, message: str, status: int = 400, *, field: str = "", headers: dict[str, str] | None = None) -> None:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", reason):
            raise ValueError(f"a reason is UPPER_SNAKE, not {reason!r}")
        if not 400 <= status <= 599:
            raise ValueError(f"the status of an error is 400 to 599, not {status}")
        super().__init__(f"{reason}: {message}")
        self.reason, self.message, self.status, self.field = reason, message, status, field
        self.headers = headers or {}

    def body(self, request_id: str) -> dict[str, object]:
        """As the client sees it."""
        error: dict[str, object] = {"reason": self.reason, "message": self.message, "request_id": request_id}
        if self.field:
            error["field"] = self.field
        return {"error": error}


class Invalid(Exception):
    """A value that does not fit its type hint; `at` is where, such as items[2].name."""

    def __init__(self, at: str, message: str) -> None:
        super().__init__(f"{at}: {message}")
        self.at, self.message = at, message
