"""Who calls, as the gate says. It takes these headers from every client, so that only the gate can have set them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from .errors import Refused


@dataclass(frozen=True)
class Caller:
    """The caller that the gate let in. `user` is the verified e-mail address or, without one, the subject."""

    user: str
    subject: str
    issuer: str
    email: str | None = None
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
        """From a request's headers; None when no gate stands in front."""
        said: dict[str, str] = {}
        for raw, value in headers:
            name = raw.decode("latin-1").lower()
            if not name.startswith("x-syp-"):
                continue
            if name in said:
                raise Refused("CALLER_INVALID", f"{name} is there twice", 400)
            said[name] = value.decode("latin-1")
        if not said.get("x-syp-user") or not said.get("x-syp-subject"):
            return None
        # what is not plain ASCII comes percent-encoded, and so does a comma inside the name of a group
        text = {name: unquote(value) for name, value in said.items()}
        groups = tuple(unquote(g) for g in said.get("x-syp-groups", "").split(",") if g)
        return cls(text["x-syp-user"], text["x-syp-subject"], text.get("x-syp-issuer", ""), text.get("x-syp-email"), groups)
