"""Prompts from a local JSONL file: checked line by line, known by the hash of their content.

A line is an object of one of three kinds, and a file may mix them:

ShareGPT  {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
messages  {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": ...}]}
plain     {"prompt": "...", "output_tokens": 128}

If the last message is the assistant's, it is the reply: its length is asked for, and what precedes
it is the prompt. Any line may give "output_tokens" instead. A plain prompt is a conversation of one
message.
"""

import codecs
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_energy.errors import UsageError
from pytest_energy.safety import untrusted

MAX_BYTES = 200_000_000
_SHAREGPT_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_ROLES = ("system", "user", "assistant")
_FORMATS = (
    'A line is {"prompt": "..."}, {"messages": [{"role": "user", "content": "..."}, ...]} or '
    '{"conversations": [{"from": "human", "value": "..."}, ...]}.'
)


@dataclass(frozen=True)
class Conversation:
    """One line of the file.

    Attributes:
        line: its number, counted from 1.
        messages: role ("system", "user" or "assistant") and text of each; the last is the user's.
        reply: what the assistant answered; None if the file does not say.
        output_tokens: that the line asks for; None if it does not say.
    """

    line: int
    messages: tuple[tuple[str, str], ...]
    reply: str | None = None
    output_tokens: int | None = None

    @property
    def characters(self) -> tuple[int, int]:
        """Of answer and prompt: a proxy for their tokens, which only the tokenizer counts."""
        answer = len(self.reply or "") if self.output_tokens is None else 4 * self.output_tokens
        return answer, sum(len(text) for _, text in self.messages)


@dataclass(frozen=True)
class Prompts:
    """A file of conversations.

    Attributes:
        name: the file's name, for messages; it is not in a cell's key.
        sha256: digest of the file's content, 16 hexadecimal digits of it.
        conversations: in the order of the lines, at least one.
    """

    name: str = field(compare=False)
    sha256: str
    conversations: tuple[Conversation, ...] = field(repr=False, compare=False)

    @classmethod
    def resolve(cls, file: str, *folders: Path) -> "Prompts":
        """Read `file`, looked up below each of `folders`.

        Raises:
            UsageError: there is no such file, it cannot be read, is too large or empty, or a line
                is not a conversation.
        """
        for folder in folders:
            path = folder / file
            if path.is_file():
                try:
                    status = path.stat()
                    return _read(path, status.st_mtime_ns, status.st_size)
                except OSError as error:
                    raise UsageError(
                        f"prompts {path} cannot be read: {error.strerror}.\n"
                        "Make it readable, or name another file: prompts='FILE.jsonl'"
                    ) from None
        looked = ", ".join(dict.fromkeys(str(folder / file) for folder in folders))
        raise UsageError(
            f"prompts {file!r}: no such file (looked for {looked}).\n"
            "Name a JSONL file, relative to the test file or pytest's root. It is read from this "
            "machine, never fetched."
        )


@functools.lru_cache(maxsize=4)  # every test of a suite asks for it
def _read(path: Path, _mtime_ns: int, size: int) -> Prompts:
    if size > MAX_BYTES:
        raise UsageError(
            f"prompts {path} is larger than {MAX_BYTES / 1e6:.0f} MB.\n"
            "A measurement draws a few hundred requests from it. Take a part: "
            "head -n 5000 FILE > PART.jsonl"
        )
    content = path.read_bytes()
    instead = untrusted.stand_in(content)
    if instead:
        raise UsageError(f"prompts {path} is {instead.what}.\nFetch it: {instead.fetched_by}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError(
            f"prompts {path} is in UTF-16, as PowerShell's > writes it.\n"
            "Convert it: iconv -f UTF-16 -t UTF-8 FILE > PROMPTS"
        )
    conversations = []
    # Lines end at line feeds alone: JSON may hold other separators that str.splitlines knows.
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                conversations.append(_conversation(number, _object(line)))
            except ValueError as error:
                raise UsageError(
                    f"prompts {path}, line {number}: {error}\n{_FORMATS}\n"
                    "Correct the line, or remove it."
                ) from None
    if not conversations:
        raise UsageError(f"prompts {path} is empty.\n{_FORMATS}")
    return Prompts(path.name, untrusted.digest(content)[:16], tuple(conversations))


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(line)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8.") from None
    except RecursionError:
        raise ValueError("it is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error}).") from None
    if isinstance(content, list):
        raise ValueError(
            "it is a JSON array; in JSONL every conversation has a line of its own "
            "(jq -c '.[]' FILE > FILE.jsonl)."
        )
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object.")
    return content


def _conversation(number: int, content: Mapping[str, Any]) -> Conversation:
    kinds = [name for name in ("conversations", "messages", "prompt") if name in content]
    if len(kinds) != 1:
        raise ValueError(f"it has {' and '.join(map(repr, kinds)) or 'no prompt'}.")
    output_tokens = content.get("output_tokens")
    if output_tokens is not None and (type(output_tokens) is not int or output_tokens < 1):
        raise ValueError(
            f"output_tokens is {output_tokens!r}: it must be a whole number of at least 1."
        )
    if kinds == ["prompt"]:
        messages = [("user", _text("prompt", content["prompt"]))]
    else:
        sharegpt = kinds == ["conversations"]
        messages = _messages(
            kinds[0],
            content[kinds[0]],
            *(("from", "value") if sharegpt else ("role", "content")),
            sharegpt,
        )
    reply = messages.pop()[1] if messages[-1][0] == "assistant" else None
    if not messages or messages[-1][0] != "user":
        raise ValueError("there is nothing to answer: the last message must be the user's.")
    if reply == "":
        raise ValueError("its reply is empty.")
    return Conversation(number, tuple(messages), reply, output_tokens)


def _messages(
    name: str, content: Any, role: str, text: str, sharegpt: bool
) -> list[tuple[str, str]]:
    if (
        not isinstance(content, list)
        or not content
        or not all(isinstance(message, dict) for message in content)
    ):
        raise ValueError(f"{name} is not a list of messages.")
    messages = []
    for message in content:
        of = message.get(role)
        known = (
            _SHAREGPT_ROLES.get(of)
            if sharegpt and isinstance(of, str)
            else of
            if of in _ROLES
            else None
        )
        if known is None:
            raise ValueError(
                f"a message has {role} {of!r}; it must be one of "
                f"{', '.join(_SHAREGPT_ROLES if sharegpt else _ROLES)}."
            )
        messages.append((known, _text(text, message.get(text))))
    return messages


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.40}: it must be a text.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} holds half of a surrogate pair, which no tokenizer takes."
        ) from None
    return value
