"""What every schema shares: strict types of fields, and one short message for what does not fit."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pytest_energy.safety.untrusted import Malformed

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Name = Annotated[str, MinLen(1), MaxLen(300)]  # the name of a folder has at most 255
Short = Annotated[str, MinLen(1), MaxLen(100)]  # a date or a version
Setting = Annotated[str, MaxLen(6_000)]  # "name=value"
Count = Annotated[int, Ge(1), Le(10**9)]

_Kind = TypeVar("_Kind")
_MAX_PLACE, _MAX_WHAT, _MAX_FOUND = 200, 300, 40  # characters
# By pydantic's type of error. A sentence says all; what is expected follows "but must be".
_SENTENCES = {
    "missing": "{place} is missing",
    "unexpected_keyword_argument": "{place} is an unknown field",
    "json_invalid": "it is not JSON in UTF-8",
}
_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:,.12g}",
    "greater_than_equal": "at least {ge:,.12g}",
    "less_than": "less than {lt:,.12g}",
    "less_than_equal": "at most {le:,.12g}",
    "string_too_short": "a text of length {min_length} or more",
    "string_too_long": "a text of length {max_length} or less",
    "too_short": "a list of length {min_length} or more",
    "too_long": "a list of length {max_length} or less",
}


def checked(adapter: TypeAdapter[_Kind], content: Any) -> _Kind:
    """`content`, plain JSON values, as the kind of object that the adapter describes.

    Raises:
        Malformed: it does not fit the schema; the message names the first place that does not, what
            is there and what is expected.
    """
    try:
        # As JSON, in which arrays are tuples and objects dataclasses however strict the types.
        return adapter.validate_json(json.dumps(content))
    except ValidationError as error:
        raise Malformed(_message(error, content)) from None
    except RecursionError:
        raise Malformed("it is nested too deeply") from None


def version_of(content: Any, read: Sequence[int]) -> int:
    """The schema version of a file's content, one of those that are read.

    Raises:
        OtherVersion: it has another one.
        Malformed: it has none.
    """
    if not isinstance(content, dict) or "schema_version" not in content:
        raise Malformed("it has no schema_version")
    version = content["schema_version"]
    if type(version) is not int or version not in read:
        *most, last = map(str, read)
        raise OtherVersion(
            f"has schema version {shown(version)}, but this pytest-energy reads only "
            f"{', '.join(most)} and {last}"
        )
    return version


class OtherVersion(ValueError):
    """A file has a schema version that is not read; the message does not name the file."""


class _Problem(NamedTuple):
    """An error: the way to its place, what is there, and which part of `loc` begins a union."""

    error: ErrorDetails
    way: tuple[int | str, ...]
    found: Any
    union: int | None


def _message(error: ValidationError, content: Any) -> str:
    errors = error.errors(include_url=False, include_input=False)
    problem, *others = _alternatives(errors, content)
    details, place = problem.error, ".".join(map(_named, problem.way))[:_MAX_PLACE]
    kind, context = details["type"], details.get("ctx", {})
    if kind == "value_error":
        what = ascii(str(context["error"]))[1:-1][:_MAX_WHAT]
        return f"{place}: {what}" if place else what
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(place=place)
    expected = " or ".join(dict.fromkeys(_expected(p.error) for p in (problem, *others)))
    if details["loc"][-1:] == ("[key]",):
        return f"a name in {place} is {shown(problem.found)}, but must be {expected}"
    return f"{place or 'it'} is {shown(problem.found)}, but must be {expected}"


def _alternatives(errors: Sequence[ErrorDetails], content: Any) -> list[_Problem]:
    """The first problem; in a union, those of the alternatives that come closest."""
    first = _located(errors[0], content)
    if first.union is None:
        return [first]
    union = errors[0]["loc"][: first.union]
    problems = [_located(e, content) for e in errors if e["loc"][: first.union] == union]
    closest = max(problems, key=lambda problem: len(problem.way))
    return [closest] + [
        problem
        for problem in problems
        if problem.way == closest.way and problem.error["type"] in _EXPECTED
    ]


def _located(error: ErrorDetails, content: Any) -> _Problem:
    """Where an error lies; pydantic's names of a union's alternatives are not in the content."""
    loc: tuple[Any, ...] = error["loc"]
    way: list[int | str] = []
    union = None
    of_name, missing = loc[-1:] == ("[key]",), error["type"] == "missing"
    for number, part in enumerate(loc[:-2] if of_name else loc[:-1] if missing else loc):
        in_list = isinstance(content, list) and isinstance(part, int)
        if in_list or (isinstance(content, dict) and part in content):
            content = content[part]
            way.append(part)
        elif union is None:
            union = number
    way += loc[-1:] if missing else ()
    return _Problem(error, tuple(way), loc[-2] if of_name else content, union)


def _named(part: int | str) -> str:
    text = ascii(str(part))
    name = text[1:-1]
    return name if name and name == name.strip() else text


def _expected(error: ErrorDetails) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    return _EXPECTED.get(error["type"], "something else").format(**context)


def shown(found: Any) -> str:
    """A JSON value as a message shows it: short, and printable."""
    if isinstance(found, dict):
        return "an object"
    if isinstance(found, list):
        return f"a list of length {len(found)}"
    is_text = isinstance(found, str)
    whole = found if is_text else json.dumps(found)
    cut = whole[:_MAX_FOUND]
    return (ascii(cut) if is_text else cut) + ("..." if cut != whole else "")
