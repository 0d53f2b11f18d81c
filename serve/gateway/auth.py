"""Authentication and authorization: API keys, kept as hashes, with one of two roles."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rlhf.types import InputError
from serve.gateway.errors import ApiError
from serve.store.records import Key, Role


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request."""

    role: Role
    owner: str
    """The key's; empty without one."""
    users: int | None = None
    """Most users of the key's owner who take part in one step of a release; None: all."""

    def user(self, named: str | None) -> str | None:
        """Return the end user, under the key's owner; None if the request names none."""
        return "/".join(part for part in (self.owner, named) if part) or None


def make_key() -> str:
    return f"sk-{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """sha256; a key is 256 random bits, which neither salt nor stretching would make harder to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_user_keys(host: str, keys: Iterable[Key]) -> None:
    """Raise InputError if the service listens beyond loopback and no user has a key."""
    if not is_loopback(host) and not any(key.role == Role.user for key in keys):
        raise InputError(
            f"http.host={host}: others can reach it and no user has a key; make one with `python launch/keys.py add`, "
            "or listen on 127.0.0.1"
        )


def require_ray_auth(host: str, *, authenticated: bool) -> None:
    """Raise InputError if the service listens beyond loopback and Ray's ports accept unauthenticated code."""
    if not is_loopback(host) and not authenticated:
        raise InputError(
            f"http.host={host}: others can reach it and Ray's authentication is off (RAY_AUTH_MODE), so that anybody "
            "who reaches Ray's ports runs code here; export RAY_AUTH_MODE=token, or listen on 127.0.0.1"
        )


def authenticate(authorization: str | None, keys: Mapping[str, Key], *, keyless: bool) -> Caller:
    """Return the caller of a request with this header. Raises ApiError 401 without a key, or with a wrong one.

    `keyless`: users need none.
    """
    if authorization:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and (known := keys.get(hash_key(key.strip()))):
            return Caller(Role(known.role), known.owner, known.users)
    if not keyless:
        problem = "the API key is not known" if authorization else "an API key is missing"
        raise ApiError(401, f"{problem}: send it as `Authorization: Bearer KEY`")
    return Caller(Role.user, "")


def authorize(role: Role, caller: Caller) -> None:
    """Raise ApiError 403 if the caller lacks the role."""
    if role is Role.operator and caller.role is not Role.operator:
        raise ApiError(403, "this is for operators: send an operator's API key")
