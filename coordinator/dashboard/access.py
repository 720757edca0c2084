"""Who may see the pages: whoever knows the token, after a log-in that lasts half a day.

A program, such as Prometheus, sends the token with each request instead.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from pathlib import Path

from ppfl.crypto.textfile import read_key_text, require_private, write_key_text
from ppfl.errors import KeyFileError

SESSION_S = 12 * 3600
_TOKEN_BYTES = 32
_SHORTEST = 32  # characters of a token that someone wrote by hand


def read_token(path: Path) -> str:
    """The token in a file that only its owner can read; it is made if there is none.

    Raises:
        KeyFileError: the file cannot be made or read, or its token is too short.
        KeyAccessError: others can read it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_key_text(path, secrets.token_urlsafe(_TOKEN_BYTES) + "\n", mode=0o600)
    require_private(path)
    token = read_key_text(path).strip()
    if len(token) < _SHORTEST:
        raise KeyFileError(
            f"{path}: its token has {len(token)} characters, {_SHORTEST} are needed",
            hint=f"remove {path}: a new one is made at the next start",
        )
    return token


class Access:
    """Knows the token and tells it to nobody.

    A session is a time until which it holds, and a code over it under the token: no list of
    sessions is kept, so that they outlive a restart, and a new token ends them all.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        # cookies are not told apart by port: two dashboards on one machine need two names
        self.cookie = f"ppfl_dashboard_{self._code('name')[:8]}"

    def is_bearer(self, header: str) -> bool:
        """Whether an Authorization header holds the token, as a program sends it."""
        kind, _, told = header.partition(" ")
        return kind.casefold() == "bearer" and self.is_token(told.strip())

    def is_token(self, told: str) -> bool:
        """Whether this is the token, in a time that does not depend on what was told."""
        return hmac.compare_digest(told.encode(), self._token)

    def grant(self) -> str:
        """A session that begins now."""
        until = str(int(time.time()) + SESSION_S)
        return f"{until}.{self._code(until)}"

    def admits(self, session: str) -> bool:
        """Whether this is a session that holds."""
        until, _, code = session.partition(".")
        if not hmac.compare_digest(code.encode(), self._code(until).encode()):
            return False
        return int(until) > time.time()

    def _code(self, text: str) -> str:
        return hmac.new(self._token, text.encode(), hashlib.sha256).hexdigest()
