"""Valid content made hostile by a generator's choices: JSON by structure, files by bytes."""

import copy
import gzip
import json
import random
from typing import Any

# What a number, a text or anything else is replaced by.
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**62,
    2**63,
    -(2**63),
    2**64,
    10**18,
    10**30,
    0.5,
    -0.5,
    1e-320,
    1e-300,
    1e300,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x",
    "0",
    "NaN",
    "\x00",
    "\x1b[2J",
    "\n::error::x",
    "##[add-mask]x",
    "\ud800",
    "é" * 300,
    "../../../etc/passwd",
    "<script>",
    "$x^2$",
    "`|`",
    "a" * 20_000,
    [],
    {},
    [None],
    [[]],
    {"": {}},
    [0] * 50,
    ["x"] * 3,
)
_RAW = (
    b'{"a":1,"a":2}',
    b"1" * 5000,
    b"1e999",
    b"-0",
    b"[" * 2000 + b"]" * 2000,
    b'{"a":' * 500 + b"1" + b"}" * 500,
    b'"\\ud83d"',
    b"\xff",
)


def mutated(content: Any, generator: random.Random, times: int = 1) -> bytes:
    """JSON content with `times` places changed: other values, or bytes of a damaged file."""
    content = copy.deepcopy(content)
    for _ in range(times):
        content = _changed(content, generator)
    text = json.dumps(content).encode(errors="surrogatepass")
    if generator.random() < 0.1:
        text = _raw(text, generator)
    return text


def _changed(content: Any, generator: random.Random) -> Any:
    """One place changed; on the way down large lists are no likelier than small ones."""
    if not isinstance(content, dict | list) or not content or generator.random() < 0.05:
        return _replacement(content, generator)
    place = (
        generator.choice(list(content))
        if isinstance(content, dict)
        else generator.randrange(len(content))
    )
    kind = generator.random()
    if kind < 0.72:
        content[place] = _changed(content[place], generator)
    elif kind < 0.82:
        del content[place]
    elif kind < 0.88 and isinstance(content, dict):
        content[generator.choice(("", "x", "__class__", "\x00", place + " "))] = content[place]
    elif kind < 0.94:
        other = (
            generator.choice(list(content))
            if isinstance(content, dict)
            else generator.randrange(len(content))
        )
        content[place], content[other] = content[other], content[place]
    elif isinstance(content, list):
        content.insert(place, copy.deepcopy(generator.choice(content)))
    else:
        content[place] = [content[place]]
    return content


def _replacement(content: Any, generator: random.Random) -> Any:
    if type(content) in (int, float) and generator.random() < 0.5:
        return generator.choice(
            (-content, content * 10**9, content + 1, content // 2, content * 1e-12, 0)
        )
    if isinstance(content, list) and content and generator.random() < 0.5:
        return generator.choice(
            (
                content[:1],
                content[: len(content) // 2],
                content * 2,
                content[::-1],
                [content[0]] * len(content),
            )
        )
    return copy.deepcopy(generator.choice(_VALUES))


def _raw(text: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(text) + 1)
    kind = generator.randrange(7)
    if kind == 0:
        return text[:place]
    if kind == 1:
        return text[:place] + bytes([generator.randrange(256)]) + text[place + 1 :]
    if kind == 2:
        return b"\xef\xbb\xbf" + text
    if kind == 3:
        return text + text
    if kind == 4:
        return text.decode(errors="replace").encode("utf-16")
    colon = text.find(b":", place)
    return text[: colon + 1] + generator.choice(_RAW) + text[colon + 1 :]


def packed(text: bytes, generator: random.Random) -> bytes:
    """The text gzipped, sometimes as no recording is."""
    whole = gzip.compress(text, 1, mtime=0)
    kind = generator.randrange(40)
    if kind == 0:
        return whole[: generator.randrange(len(whole))]
    if kind == 1:
        return whole + whole
    if kind == 2:
        return whole + b"x"
    if kind == 3:
        return gzip.compress(b"", mtime=0) * 3 + whole
    if kind == 4:
        place = generator.randrange(len(whole))
        return (
            whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :]
        )
    if kind == 5:
        return text
    return whole
