"""Situations of command lines: what was typed wrong, and when that is told."""

from tests.situations import Situation, situations

_PATHS = "Paths on the command line that are wrong"
_WRONG = "tests/plugin/test_wrong_paths.py::"
_LATE = "INVALID of each cell, after the launch of the other engine if two are compared"
_PYTHON = "test_an_interpreter_that_cannot_be_run"
_PER_TEST = "each test fails and names it, exit status 1"
_ONCE = "one message, exit status 4, before anything is launched"
_BAD = "Messages that mislead, or are lost"

_GATE = "What `gate` refuses before it makes environments"
_COMMAND = "tests/plugin/test_gate_command.py::"
_MADE = "environments of some GB, then "

ROWS: tuple[Situation, ...] = (
    *(
        Situation(_PATHS, situation, before, f"{_ONCE}{more}", _WRONG + test)
        for situation, before, more, test in (
            ("`--energy-python` names nothing, or what is not executable", _LATE, "", _PYTHON),
            (
                "`--energy-python` names the folder of an environment",
                "“Permission denied” in each cell",
                "; it names the interpreter there",
                _PYTHON,
            ),
            (
                "`--energy-baselines` names no folder, and nothing is stored",
                "a launch, then NO BASELINE of each cell",
                "",
                "test_a_store_that_is_not_there_is_read_by_no_run",
            ),
            (
                "`--energy-replay` or `--energy-reference-replay` names nothing, an empty folder, "
                "or one of other files",
                _PER_TEST,
                "",
                "test_a_path_without_recordings",
            ),
        )
    ),
    Situation(
        _PATHS,
        "`energy_python` of the runner in the ini file, where recordings are judged or tests "
        "listed",
        "as if it were right",
        "the same",
        _WRONG + "test_an_interpreter_of_the_ini_file_is_needed_to_launch_alone",
    ),
    Situation(
        _PATHS,
        "`--energy-replay old suites`, where `suites` holds the tests",
        "all tests of the project are judged, and `suites` is read as recordings",
        "refused: name the tests first",
        "tests/plugin/test_bad_input.py::test_tests_after_the_folders_to_replay_are_no_recordings",
    ),
    Situation(
        _BAD,
        "a bad value in a marker",
        "exit status 2, and 4 under pytest-xdist",
        "exit status 4",
        "tests/plugin/test_bad_input.py::test_markers",
    ),
    Situation(
        _BAD,
        "two bad values in the markers of a suite, under pytest-xdist",
        "the first",
        "both",
        _WRONG + "test_all_that_is_wrong_with_markers_is_told_at_once",
    ),
    *situations(
        _GATE,
        _COMMAND,
        (
            "`gate … -k bs8` without `--`",
            "the usage of another command",
            "the command as it should be",
            "test_arguments_of_pytest_without_dashes_before_them",
        ),
        (
            "an option that `report`, `history`, `doctor` or `init` does not have",
            "the usage of all commands",
            "its own",
            "test_what_a_command_does_not_know_is_refused_with_its_own_usage",
        ),
        (
            "`--suites nosuch`",
            _MADE + "pytest's message",
            "one message, exit status 2",
            "test_a_suite_that_is_not_there",
        ),
        (
            "`-k nothing`, also in `PYTEST_ADDOPTS`",
            _MADE + "exit status 5",
            "what selects no test, and the command that lists them",
            "test_nothing_that_is_selected",
        ),
        (
            "an unknown option, a bad marker, a model's folder that is missing, a file that "
            "cannot be imported",
            _MADE + "pytest's message",
            "pytest's message",
            "test_what_pytest_will_refuse",
        ),
        (
            "`-k` or `--suites` selects tests of other things",
            "exit status 0, verdict *pass*",
            "exit status 4",
            "test_what_pytest_will_refuse",
        ),
    ),
    *situations(
        "A full disk, or a folder that cannot be written",
        "tests/plugin/test_report_command.py::",
        (
            "`report` and `history`",
            "“No space left on device”",
            "and “Free some space, or give another folder: -o DIR”",
            "test_a_full_disk_has_a_remedy",
        ),
        (
            "`init`",
            "half of a file stays, and is “left as it is” by the next `init`",
            "no file that is not whole; run it again",
            "test_a_full_disk_has_a_remedy",
        ),
    ),
    *situations(
        _BAD,
        "tests/plugin/test_help.py::",
        (
            "`pytest-energy … --help` and `doctor` in a terminal of 80 columns",
            "lines of up to 100",
            "80",
            "test_a_help_text_fits_80_columns",
        ),
        (
            "`next` of `doctor --json`",
            "“follow the lines marked →”, of which JSON has none",
            "“follow the remedies”, as the field is called",
            "test_what_doctor_finds_fits_the_terminal_and_json_names_its_fields",
        ),
        (
            "`noise` of recordings that are host-bound",
            "what to set for the next launch",
            "why they are",
            "test_noise_of_recordings_advises_no_other_load",
        ),
    ),
)
