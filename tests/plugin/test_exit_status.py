"""--energy-exit-status verdict: a number for each verdict, and 1 if something else failed, too."""

from typing import Any

import pytest

from tests.plugin.project import Project

OPTION = ("--energy-exit-status", "verdict")
REPLAY = ("--energy-replay", "new")


REGRESSED = {"power_w": 560.0}
INVALID = {"faults": ("gpu_lost: it fell off the bus",)}
ELSEWHERE = {"environment": {"gpu_uuids": ("GPU-11111111",)}}
UNDECIDED = {"launches": 1, "power_w": 512.0}


@pytest.mark.parametrize(
    ("of_2", "of_8", "status"),
    [
        ({}, {}, 0),
        (REGRESSED, {}, 10),
        (INVALID, REGRESSED, 10),
        (INVALID, {}, 11),
        (ELSEWHERE, INVALID, 11),
        ({}, ELSEWHERE, 12),
        (UNDECIDED, {}, 14),
        (UNDECIDED, ELSEWHERE, 12),
    ],
)
def test_the_verdict_that_matters_most_decides(
    project: Project, of_2: dict[str, Any], of_8: dict[str, Any], status: int
) -> None:
    project.store()
    for size, changes in ((2, of_2), (8, of_8)):
        for other in project.record(f"of-{size}", **changes).glob(f"*/{10 - size}.json.gz"):
            other.unlink()
    replay = ("--energy-replay", "of-2", "of-8")
    assert project.run(*replay, *OPTION).ret == status
    assert project.run(*replay).ret == min(status, 1)


def test_no_baseline_and_the_ini_file(project: Project) -> None:
    project.record("new")
    assert project.run(*REPLAY, *OPTION).ret == 13
    project.pytester.makeini("[pytest]\nenergy_exit_status = verdict")
    assert project.run(*REPLAY).ret == 13
    assert project.run(*REPLAY, "--energy-exit-status", "pytest").ret == 1


def test_a_warning_is_no_failure(project: Project) -> None:
    project.store()
    project.record("new", **UNDECIDED)
    assert project.run(*REPLAY, *OPTION, "--energy-inconclusive", "warn").ret == 0


@pytest.mark.parametrize(
    "workers", [(), pytest.param(("-p", "xdist", "-n", "2"), marks=pytest.mark.nightly)]
)
def test_another_failure_is_1_also_under_xdist(project: Project, workers: tuple[str, ...]) -> None:
    project.store()
    project.record("new", **REGRESSED)
    assert project.run(*REPLAY, *OPTION, *workers).ret == 10
    project.pytester.makepyfile(test_other="def test_other(): assert False")
    assert project.run(*REPLAY, *OPTION, *workers).ret == 1
    assert project.run(*REPLAY, *OPTION, *workers, "--deselect", "test_other.py").ret == 10


def test_what_is_no_verdict_keeps_pytests_status(project: Project) -> None:
    project.record("new")
    assert project.run(*REPLAY, *OPTION, "-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    project.pytester.makepyfile(test_broken="import nothing_of_this_name")
    assert project.run(*REPLAY, *OPTION).ret == pytest.ExitCode.INTERRUPTED
    (project.path / "test_broken.py").unlink()
    (project.path / "new" / "new-0" / "2.json.gz").write_bytes(b"damaged")
    assert project.run(*REPLAY, *OPTION, "-k", "bs2").ret == pytest.ExitCode.TESTS_FAILED


def test_a_failing_teardown_is_another_failure(project: Project) -> None:
    project.store()
    project.record("new", **REGRESSED)
    project.pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def failing(request):
            yield
            assert "bs8" not in request.node.name
        """
    )
    assert project.run(*REPLAY, *OPTION, "-k", "test_energy").ret == 1
    assert project.run(*REPLAY, *OPTION, "-k", "test_energy and bs2").ret == 10


SKIPPING = """
    import pytest
    pytestmark = pytest.mark.energy(model="tiny", weights="dummy", batch_sizes=[2, 8],
                                    input_tokens=64, output_tokens=250)

    @pytest.mark.skip(reason="the GPU is being repaired")
    def test_by_mark(energy):
        pass

    def test_by_call(throughput):
        pytest.skip("too slow")

    def test_other():
        pass
"""
NOTHING_JUDGED = """\
no verdict: 4 energy tests selected, none judged (skipped: the GPU is being
  repaired; too slow). A gate that judges nothing does not pass: exit status 5.
Let them run, or select others by their names: -k NAME
"""


@pytest.mark.parametrize(
    "workers", [(), pytest.param(("-p", "xdist", "-n", "2"), marks=pytest.mark.nightly)]
)
def test_a_gate_whose_tests_are_skipped_does_not_pass(
    project: Project, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = project.path / "outputs"
    monkeypatch.setenv("GITHUB_OUTPUT", str(outputs))
    project.pytester.makepyfile(test_tiny=SKIPPING)
    result = project.run(*OPTION, "--energy-report", "report", *workers)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert NOTHING_JUDGED in result.stdout.str()
    assert "verdict=none\n" in outputs.read_text()
    assert "status=5\n" in outputs.read_text()
    as_pytest = project.run(*workers)
    assert as_pytest.ret == 0
    as_pytest.stdout.no_fnmatch_line("*no verdict*")


def test_a_gate_with_one_verdict_beside_skipped_tests_passes(project: Project) -> None:
    project.store()
    project.record("new")
    project.pytester.makepyfile(test_skipping=SKIPPING.replace("[2, 8]", "[16]"))
    result = project.run(*REPLAY, *OPTION)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*no verdict*")


def test_what_runs_no_test_needs_no_verdict(project: Project) -> None:
    project.pytester.makepyfile(test_tiny=SKIPPING)
    for listing in ("--collect-only", "--fixtures"):
        assert project.run(*OPTION, listing).ret == 0
