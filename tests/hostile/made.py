"""A hostile input of a kind, made from a seed by a generator's choices."""

import gzip
import json
import random

from tests.hostile import seeds
from tests.hostile.mutate import mutated, packed

_RECORDINGS, _RESULTS, _BASELINE, _NOISE, _CONFIG, _MARKER = (
    seeds.recordings(),
    seeds.results(),
    seeds.baseline(),
    seeds.noise(),
    seeds.config(),
    seeds.marker(),
)
_EVENTS, _CHUNKS = seeds.events(), seeds.chunks()
_FILES = ("recording", "baseline", "noise", "results", "config", "marker")
NAMES = (*_FILES, "events", "stream", "answers")


def hostile(name: str, generator: random.Random) -> bytes:
    """The bytes of a `name` (one of `NAMES`) with up to four places damaged; sometimes none."""
    times = generator.choice((0, 1, 1, 1, 2, 4))
    match name:
        case "recording":
            return packed(mutated(generator.choice(_RECORDINGS), generator, times), generator)
        case "baseline":
            return mutated(_BASELINE, generator, times)
        case "noise":
            return mutated(_NOISE, generator, times)
        case "results":
            return mutated(generator.choice(_RESULTS), generator, times)
        case "config":
            return mutated(_CONFIG, generator, times)
        case "marker":
            return mutated(_MARKER, generator, times)
        case "events":
            events = list(_EVENTS)
            if generator.random() < 0.3:  # one of them twice, or too early
                events.insert(generator.randrange(len(events)), generator.choice(events))
            return b"".join(
                mutated(event, generator, generator.choice((0, 0, 1))) + b"\n" for event in events
            )
        case "stream":
            events = [
                b"data: " + mutated(chunk, generator, generator.choice((0, 0, 1))) + b"\n\n"
                for chunk in _CHUNKS
            ]
            events.append(b"data: [DONE]\n\n")
            if generator.random() < 0.2:
                del events[generator.randrange(len(events))]
            return b"".join(events)
        case _:
            metrics = _words(seeds.METRICS, generator)
            parts = (
                metrics,
                mutated(seeds.MODELS, generator, times // 2),
                mutated({"version": "1"}, generator, times // 4),
            )
            return b"\x1e".join(part.replace(b"\x1e", b"") for part in parts)


_FIGURES = (
    "1e999",
    "NaN",
    "-1",
    "+Inf",
    "1.2.3",
    "e",
    "",
    "9" * 400,
    "1e17",
    "²",
    "0x10",
    '"',
    "{}",
    "\n",
    "a" * 30_000,
)


def _words(text: str, generator: random.Random) -> bytes:
    words = text.split(" ")
    for _ in range(generator.randrange(3)):
        place = generator.randrange(len(words))
        words[place] = generator.choice(
            (*_FIGURES, words[place].replace("16", generator.choice(_FIGURES)), words[place - 1])
        )
    return " ".join(words).encode()


def seed(name: str) -> bytes:
    """A valid one, as JSON where the file is packed."""
    whole = {
        "recording": _RECORDINGS[0],
        "baseline": _BASELINE,
        "noise": _NOISE,
        "results": _RESULTS[0],
        "config": _CONFIG,
        "marker": _MARKER,
    }
    if name in whole:
        return json.dumps(whole[name]).encode()
    if name == "events":
        return b"".join(json.dumps(event).encode() + b"\n" for event in _EVENTS)
    if name == "stream":
        return (
            b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in _CHUNKS)
            + b"data: [DONE]\n\n"
        )
    return b"\x1e".join(
        (seeds.METRICS.encode(), json.dumps(seeds.MODELS).encode(), b'{"version":"1"}')
    )


def packed_seed(number: int) -> bytes:
    """One of the valid recordings, as a file."""
    return gzip.compress(json.dumps(_RECORDINGS[number]).encode(), 1, mtime=0)
