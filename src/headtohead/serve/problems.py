"""Errors in OpenAI's shape: what a client is told, and nothing about the inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Problem(Exception):
    """An answer that is an error: its status, and OpenAI's four fields.

    Its message is for the client: it names the field and says what would be right.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, " ".join(message.split()), code, param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``."""
        error = {"message": self.message, "type": KINDS.get(self.status, _kind(self.status))}
        return {"error": {**error, "param": self.param, "code": self.code}}


KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
"""OpenAI's types of errors by status; other 4xx are the request's fault, other 5xx the server's."""


def _kind(status: int) -> str:
    return "invalid_request_error" if status < 500 else "server_error"


FAILED = "the server failed to answer; its log says why"

WORDS: dict[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "json_invalid": "the body is not valid JSON",
}


def invalid(errors: Sequence[Any]) -> Problem:
    """What pydantic found wrong with a body, as one line about the first of it."""
    first = errors[0]
    kind = str(first.get("type"))
    place = [str(part) for part in first.get("loc", ())[1:]]
    # A union tells which of its sides didn't fit by the side's own name, which is no field.
    names = [part for part in place if part.isidentifier() or part.isdigit()]
    names = [part for part in names if part not in ("str", "int", "list", "function-after")]
    param = ".".join(names) or None
    if kind == "json_invalid" or (kind == "missing" and not place):
        wrong = "the body is not valid JSON" if kind == "json_invalid" else "the body is missing"
        return Problem(400, f"{wrong}: send a JSON object", code="invalid_json")
    said = WORDS.get(kind) or str(first.get("msg", "is not valid")).replace("Input should be", "should be")
    said = said.removeprefix("Value error, ")
    return Problem(400, f"{param or 'the body'}: {said}", code="invalid_value", param=param)
