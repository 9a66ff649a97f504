"""Damage that every reader of a JSON file must survive."""

from collections.abc import Callable

UNREADABLE: tuple[Callable[[str], str], ...] = (
    lambda text: text[: len(text) // 2],
    lambda text: "",
    lambda text: "[]",
    lambda text: "{}",
    lambda text: "no JSON",
    lambda text: "[" * 100_000,
)
