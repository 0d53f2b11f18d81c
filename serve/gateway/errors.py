"""Errors that a request ends with, as OpenAI's clients read them."""

from __future__ import annotations

CLIENT_GONE = "the client went away"
"""Message of status 499."""


class ApiError(Exception):
    """A request that is not answered: the status and the sentence for its sender."""

    def __init__(self, status: int, message: str, *, param: str | None = None, retry_after_s: int | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.retry_after_s = status, message, param, retry_after_s

    def body_for(self, request_id: str) -> dict[str, object]:
        """Return it as OpenAI's clients read it. An error of the service names the request, as its log does."""
        ours = self.status >= 500
        message = f"{self.message} (request {request_id})" if ours else self.message
        kind = "server_error" if ours else "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.status}}
