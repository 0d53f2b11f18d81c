"""Base of the request schemas: every field is known, and every number and JSON schema has a limit."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

LOGPROBS = 20
"""Most alternatives of a token whose logprobs a request may ask for."""
SCHEMA_BYTES, SCHEMA_DEPTH, PATTERN_CHARACTERS = 1 << 14, 32, 256
"""Largest JSON schema; the engine compiles it to a grammar, in a time that grows with these."""
INT32 = 2**31

Finite = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=INT32)]
Label = Annotated[str, Field(max_length=256)]


def check_schema_size(schema: dict[str, Any]) -> dict[str, Any]:
    """Raise ValueError if a JSON schema is larger than an engine should compile."""
    size = len(json.dumps(schema))
    if size > SCHEMA_BYTES:
        raise ValueError(f"a schema of {size} bytes is larger than {SCHEMA_BYTES}; split it")
    level: list[Any] = [schema]
    for _ in range(SCHEMA_DEPTH):
        nested = []
        for node in level:
            for key, child in node.items() if isinstance(node, dict) else enumerate(node):
                if key == "pattern" and isinstance(child, str) and len(child) > PATTERN_CHARACTERS:
                    raise ValueError(f"a pattern of {len(child)} characters is longer than {PATTERN_CHARACTERS}")
                if isinstance(child, dict | list):
                    nested.append(child)
        if not nested:
            return schema
        level = nested
    raise ValueError(f"a schema nested deeper than {SCHEMA_DEPTH} levels; make it flatter")


JsonSchema = Annotated[dict[str, Any], AfterValidator(check_schema_size)]


class Schema(BaseModel):
    """Body of a request, or a part of it; a field that is not declared is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, serialize_by_alias=True, use_attribute_docstrings=True)


def with_nulls(schema: dict[str, Any]) -> None:
    """Add to a JSON schema that null stands for a field left out."""
    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}


class OpenAISchema(Schema):
    """A part of OpenAI's protocol, whose clients send null for what they leave out."""

    model_config = ConfigDict(json_schema_extra=with_nulls)

    @model_validator(mode="before")
    @classmethod
    def drop_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data
