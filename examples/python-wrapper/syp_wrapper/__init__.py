"""Serves one Python callable over HTTP: JSON in, JSON (or a stream of it) out. wrapper.toml says which and how."""

from .caller import Caller
from .errors import Refused

__all__ = ["Caller", "Refused"]
__version__ = "0.1.0"
