"""`Secret`: bytes that no print, log, traceback, copy or pickle shows; reading them takes a visible `.reveal()`."""

from __future__ import annotations

import hmac
from typing import NoReturn, final

from smpc_fl.errors import PermissionDenied


@final
class Secret:
    """Holds secret bytes (a copy of what was given). `repr`, `str` and `format` show type and size only.

    Two secrets compare in time that does not depend on their content; a secret never equals plain bytes, has no hash
    (it cannot become a dictionary key) and refuses pickling and copying with `PermissionDenied`. Python cannot promise
    to wipe memory: what must be forgotten is kept short-lived, and erased on disk by `nodes`."""

    __slots__ = ("__data",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.__data = bytes(data)

    def reveal(self) -> bytes:
        """The bytes themselves, for the one call that needs them."""
        return self.__data

    def __len__(self) -> int:
        return len(self.__data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__data, other.__data)

    def __repr__(self) -> str:
        return f"<Secret of {len(self.__data)} bytes>"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise PermissionDenied("a secret cannot be pickled or copied: pass the object itself, or call .reveal()")
