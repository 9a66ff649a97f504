"""Situations of GPUs, drivers and neighbours."""

from tests.situations import Situation

_DOCTOR, _LOCALE = "tests/engine/test_doctor.py", "An environment that is not UTF-8"

ROWS: tuple[Situation, ...] = (
    Situation(
        kind=_LOCALE,
        situation="`doctor`, with and without `--json`, under an ASCII or Latin-1 locale",
        before="UnicodeEncodeError",
        now="the findings, with -> for →; JSON escapes what is not ASCII",
        test=f"{_DOCTOR}::test_any_locale_can_show_it",
    ),
    Situation(
        kind=_LOCALE,
        situation="a message of any command that repeats what the user typed, such as `--gpu λ`",
        before="UnicodeEncodeError",
        now="the message, with ? for what the locale lacks",
        test=f"{_DOCTOR}::test_any_locale_can_show_it",
    ),
)
