"""The sender of a request, for limits and for the objects that it may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ecg_lib.operations.keys.api_keys import ApiKey, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of a request."""

    name: str
    """The key's hash, or the address of a client without a key; limits count by it."""
    key: ApiKey | None = None
    asks_keys: bool = False
    """True when the service accepts requests with a key only."""

    @property
    def owner(self) -> str | None:
        """Name that is stored with the objects of this caller; None without keys."""
        return None if self.key is None else self.key.owner

    def may(self, scope: Scope) -> bool:
        """Return whether requests of a scope are allowed."""
        return not self.asks_keys or (self.key is not None and scope in self.key.scopes)

    def sees(self, owner: str | None) -> bool:
        """Return whether an object of an owner may be read, labelled or deleted.

        Objects from a time without keys have no owner, and only operators see them.
        """
        if not self.asks_keys or self.may(Scope.OPERATE):
            return True
        return owner is not None and owner == self.owner


SERVICE_ITSELF: Final = Caller(name="")
"""For work that no request asked for."""
