"""Response schemas of this service's own routes, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any, Literal

from rlhf.protocols.openai.responses import ResponseSchema
from serve.store.database import Erasure


class Health(ResponseSchema):
    status: Literal["ok"]


class Readiness(ResponseSchema):
    status: Literal["ok", "degraded"]
    problems: list[str]
    records_waiting: int
    lost: int
    deleted_text_pending: bool


class FeedbackResponse(ResponseSchema):
    id: str


class ErasureResponse(ResponseSchema):
    text: Erasure | None = None
    """State of the text in the database's files."""


class ConsentResponse(ErasureResponse):
    user: str
    given: bool


class DeletionResponse(ErasureResponse):
    """Rows deleted by table, and what is left of the user elsewhere."""

    requests: int
    responses: int
    feedback: int
    exposures: int
    consents: int
    exports: list[str]
    """Folders of exports that hold rows of the user."""


class ReleaseStatus(ResponseSchema):
    """The release, and what was last found about it."""

    production: str | None
    models: list[dict[str, Any]]
    release: dict[str, Any] | None
    look: dict[str, Any] | None = None
