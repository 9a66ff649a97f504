"""One card per cause, with all that is said of its tests; and what changed, once."""

from dataclasses import replace
from pathlib import Path

from pytest_energy.report import causes, markdown, results_file
from pytest_energy.report.results import Entry, ReportedChanges, ReportedSlowdown
from tests.conftest import ROOT
from tests.reports import made

EAGER = results_file.read(ROOT / "docs/examples/eager/results.json")
INTERLEAVED = results_file.read(ROOT / "docs/examples/interleaved/results.json")


def regressed(size: int, slower: str, metric: str = "joules_per_token", **changes: object) -> Entry:
    given = {
        "changed": ReportedChanges(
            ReportedSlowdown(slower, f"{size} ms a step instead of 1"),
            {"vllm": "1.0 → 2.0", "temperature_c": f"{40 + size} → {50 + size}"},
        ),
        "why": f"power {size} W; every token occupies the GPU for longer",
        "what": f"REGRESSED: bs={size}",
        "next": (f"measure again: pytest 'test_a.py::test_energy[bs{size}]' --energy-launches 3",),
        **changes,
    }
    return made.entry(size, 1 + size / 100, metric=metric, **given)  # type: ignore[arg-type]


def test_tests_that_regressed_for_one_cause_share_a_card() -> None:
    (card,) = causes.causes(made.of(regressed(8, "slower host"), regressed(16, "slower host")))
    assert (
        card.title == "REGRESSED: tiny 512/256 at batch sizes 8 and 16: J/token +8.0 % to +16.0 %"
    )
    facts = dict(card.facts)
    assert facts["cause"] == "slower host (in tiny bs=8 512/256: 8 ms a step instead of 1)"
    assert facts["breakdown"] == "every token occupies the GPU for longer"
    assert facts["what changed"] == "vllm: 1.0 → 2.0"
    assert card.next == (
        (
            "measure again",
            "pytest 'test_a.py::test_energy[bs8]' 'test_a.py::test_energy[bs16]' "
            "--energy-launches 3",
            "",
        ),
    )
    eight, sixteen = card.tests
    assert (eight.what, sixteen.what) == ("REGRESSED: bs=8", "REGRESSED: bs=16")
    assert dict(sixteen.facts) == {
        "breakdown": "power 16 W",
        "cause": "slower host (16 ms a step instead of 1)",
        "what changed": "temperature_c: 56 → 66",
    }


def test_other_causes_engines_and_verdicts_have_cards_of_their_own() -> None:
    host, gpu = regressed(8, "slower host"), regressed(16, "slower steps on the GPU")
    other = regressed(32, "slower host", candidate=made.side(0.5, 900, "3.0"))
    undecided = replace(regressed(64, "slower host"), verdict="inconclusive", reasons=("few",))
    found = causes.causes(made.of(undecided, host, gpu, other))
    assert [card.title for card in found] == [
        "REGRESSED: bs=8",
        "REGRESSED: bs=16",
        "REGRESSED: bs=32",
        "REGRESSED: bs=64",
    ]
    assert [card.tone for card in found] == ["bad"] * 3 + ["open"]
    assert all(card.tests == () for card in found)


def test_reasons_that_differ_in_figures_are_one_cause() -> None:
    def invalid(size: int, reason: str) -> Entry:
        return made.entry(
            size, verdict="invalid", ratio=1.0, reasons=(reason,), changed=None, how_sure=""
        )

    found = causes.causes(
        made.of(
            invalid(1, "throttled for 3.5 s"),
            invalid(8, "throttled for 12 s"),
            invalid(64, "another process"),
        )
    )
    assert [len(card.tests) for card in found] == [2, 0]
    assert [dict(test.facts)["reason"] for test in found[0].tests] == [
        "throttled for 3.5 s",
        "throttled for 12 s",
    ]


def test_commands_that_differ_in_more_than_the_test_stand_alone() -> None:
    launches = [
        regressed(8, "slower host"),
        regressed(16, "slower host", next=("measure again: pytest other --energy-launches 5",)),
    ]
    (card,) = causes.causes(made.of(*launches))
    assert [command for _, command, _ in card.next] == [
        "pytest 'test_a.py::test_energy[bs8]' --energy-launches 3",
        "pytest other --energy-launches 5",
    ]
    (card,) = causes.causes(made.of(*(regressed(size, "slower host") for size in range(1, 21))))
    assert [note for *_, note in card.next] == ["(the other tests' are with each)"]
    for size, test in enumerate(card.tests, 1):
        assert f"test_energy[bs{size}]" in dict(test.facts)["next"]
    more = regressed(16, "slower host", next=("measure again: pytest x", "or: pytest y"))
    (card,) = causes.causes(made.of(regressed(8, "slower host"), more))
    assert card.next[-1] == ("or", "pytest y", ""), "though the other test has no second line"


def test_the_recorded_examples_have_one_card_each() -> None:
    for found, tests in ((EAGER, 8), (INTERLEAVED, 2)):
        (card,) = causes.causes(found)
        assert len(card.tests) == tests


def test_nothing_that_was_said_is_lost(tmp_path: Path) -> None:
    """Every piece of every explanation stands on the card, for all or for its test."""
    for found in (EAGER, INTERLEAVED):
        text = markdown.page(found).replace("\\", "")
        for entry in found.entries:
            if entry.verdict == "pass":
                continue
            said = [entry.how_sure, *entry.reasons, entry.why]
            said += [entry.changed.in_words] if entry.changed else []
            for piece in (piece for line in said for piece in line.split("; ")):
                assert piece in text
            assert entry.what in text


def test_what_changed_is_said_once_in_vllms_names() -> None:
    ((engines, changed),) = causes.what_changed(EAGER)
    assert engines == "vLLM 0.25.1 → vLLM 0.25.1 enforce_eager=True"
    assert changed == [
        ("enforce_eager", "False → True"),
        ("cudagraph_mode", "FULL_AND_PIECEWISE → NONE"),
        ("max_cudagraph_capture_size", "512 → 0"),
        ("GPU temperature, °C", "58 → 44, 61 → 45, 71 → 51, 75 → 65"),
    ]
    passing = made.entry(ratio=1.0, verdict="pass", green=True)
    assert causes.what_changed(made.of(passing)) == [
        ("vLLM 1.0 → vLLM 2.0", [("vLLM", "1.0 → 2.0")])
    ]
    assert "vLLM 1.0 → vLLM 2.0, what changed: vLLM: 1.0 → 2.0" in markdown.page(made.of(passing))
