"""What must not be kept or shown: secrets, home directories, code that nobody asked for."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_energy.safety import untrusted

_SECRET = {
    "apikey",
    "auth",
    "authorization",
    "credential",
    "credentials",
    "key",
    "keys",
    "pass",
    "passwd",
    "password",
    "secret",
    "token",
}
_MIN_SECRET = 6  # characters; replacing shorter ones would only garble the text
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")


def says_secret(name: str) -> bool:
    """Whether a name says that its value is a secret: HF_TOKEN does, max_num_batched_tokens not."""
    return bool(_SECRET & set(re.split(r"[_\W]+", name.lower())))


def complaint(arguments: Mapping[str, Any], where: str) -> str | None:
    """Why these engine settings, which recordings and reports keep, are refused; None if not.

    Args:
        arguments: by name.
        where: they were given, as messages say it.
    """
    for name, value in _named(arguments):
        if says_secret(name) or (isinstance(value, str) and _USER_INFO.search(value)):
            return (
                f"{where}: {name} looks like a secret, and engine settings are kept in recordings, "
                "baselines and reports.\n"
                "Leave it out, and pass it to vLLM in an environment variable, such as HF_TOKEN."
            )
    try:
        untrusted.parse(json.dumps(arguments).encode())
    except untrusted.Malformed as error:
        return (
            f"{where}: a recording with it could not be read back: {error}. "
            "Give plain, short values."
        )
    return None


def asks_for_remote_code(arguments: Mapping[str, Any]) -> bool:
    """Whether a setting, or what vLLM takes for its abbreviation, runs code of the model's."""
    return any(
        "trust_remote_code".startswith(name) or name.startswith("trust_remote")
        for name, _ in _named(arguments)
    )


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    """All names in nested settings, with their values."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name).replace("-", "_").lower(), inner
            yield from _named(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner)


def secrets(text: str) -> str:
    """`text` without secret environment variables' values, and without credentials in URLs."""
    text = _USER_INFO.sub("***@", text)
    values = [
        value
        for name, value in os.environ.items()
        if len(value) >= _MIN_SECRET and says_secret(name)
    ]
    for value in sorted(values, key=len, reverse=True):  # one may hold another
        text = text.replace(value, "***")
    return text


def url(text: str) -> str:
    """A URL to show: without user, password, query and fragment, which may be secret."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        return parts._replace(
            netloc=parts.netloc.rpartition("@")[2], query="", fragment=""
        ).geturl()
    return "(an unreadable URL)"


def home(text: str) -> str:
    """`text` with the home directory, and so the user's name, as ~."""
    with contextlib.suppress(RuntimeError):
        folder = str(Path.home())
        if folder != "/":
            return re.sub(rf"{re.escape(folder)}(?=/|\s|$)", "~", text)
    return text


def paths(value: Any) -> Any:
    """An engine setting to keep: of an absolute path its last part, whatever machine it lies on."""
    if isinstance(value, Mapping):
        return {name: paths(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [paths(inner) for inner in value]
    return (
        Path(value).name or value
        if isinstance(value, str) and value.startswith(("/", "~"))
        else value
    )
