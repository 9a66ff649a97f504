"""What every schema shares: strict types of fields, and one short message for what does not fit."""

import json
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError

from pytest_energy.safety.untrusted import Malformed

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Name = Annotated[str, MinLen(1), MaxLen(300)]  # the name of a folder has at most 255
Short = Annotated[str, MinLen(1), MaxLen(100)]  # a date or a version
Count = Annotated[int, Ge(1), Le(10**9)]

_Kind = TypeVar("_Kind")
_MAX_PLACE = 200


def checked(adapter: TypeAdapter[_Kind], content: Any) -> _Kind:
    """`content`, plain JSON values, as the kind of object that the adapter describes.

    Raises:
        Malformed: it does not fit the schema; the message names the first place that does not.
    """
    try:
        # As JSON, in which arrays are tuples and objects dataclasses however strict the types.
        return adapter.validate_json(json.dumps(content))
    except ValidationError as error:
        raise Malformed(_message(error)) from None


def _message(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False)
    first, more = errors[0], len(errors) - 1
    place = ascii(".".join(map(str, first["loc"]))[:_MAX_PLACE]).strip("'")
    what = first["msg"].removeprefix("Value error, ")
    return f"{place or 'it'}: {what}" + (f" (and {more} more)" if more else "")
