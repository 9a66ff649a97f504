"""Situations of outputs, plugins and CI."""

from tests.situations import Situation, situations

_REPORT, _ECOSYSTEM = "tests/plugin/test_report_option.py::", "tests/plugin/test_ecosystem.py::"
_OPTIONAL = "Optional outputs that decide"
_SUMMARY = _REPORT + "test_a_job_summary_that_cannot_be_written_decides_nothing"
_ENDS = _REPORT + "test_another_plugin_that_fails_at_the_end_takes_no_verdict_along"
_AGAIN = "Tests that plugins run again, spread or group"
_ONE = _ECOSYSTEM + "test_a_test_that_is_run_again_leaves_one_record"
_PINNED = "Requirements files of a gate"
_PAGES = "tests/reports/test_pages.py::"

ROWS: tuple[Situation, ...] = (
    *(
        Situation(
            _OPTIONAL,
            situation,
            "exit status 1: “the energy report was not written”; no annotations",
            "exit status of the verdicts, a warning; annotations",
            _SUMMARY,
        )
        for situation in (
            "`GITHUB_STEP_SUMMARY` names a file whose folder a container does not have",
            "`GITHUB_STEP_SUMMARY` cannot be written",
        )
    ),
    Situation(
        _OPTIONAL,
        "a step summary that is nearly 1 MiB long already",
        "the report is added, and GitHub drops all of the summary",
        "the report is left out, with a warning",
        _SUMMARY,
    ),
    Situation(
        _OPTIONAL,
        "`GITHUB_OUTPUT` cannot be written",
        "traceback, no table",
        "exit status of the verdicts, a warning",
        _REPORT + "test_step_outputs_that_cannot_be_written_decide_nothing",
    ),
    Situation(
        _OPTIONAL,
        "a full disk under `--energy-report` on GitHub",
        "nothing in the job summary",
        "exit status 1, and the report in the job summary",
        _REPORT + "test_a_report_that_cannot_be_written_is_in_the_job_summary",
    ),
    Situation(
        _OPTIONAL,
        "`--junitxml`, `--benchmark-compare-fail` or a `conftest.py` fails when all is measured",
        "no table, no report",
        "the table, the report, then the other plugin's error",
        _ENDS,
    ),
    Situation(
        _OPTIONAL,
        "more than ten regressions on GitHub",
        "an annotation each, of which GitHub drops those after the tenth",
        "nine, and a tenth that names the rest",
        _PAGES + "test_the_tenth_annotation_stands_for_the_rest",
    ),
    Situation(
        _OPTIONAL,
        "an annotation of more than 4,096 characters",
        "cut by GitHub without a word",
        "cut with …",
        _PAGES + "test_an_annotation_has_the_length_that_github_keeps",
    ),
    Situation(
        _AGAIN,
        "pytest-rerunfailures, flaky or pytest-retry runs failed tests again",
        "a row for each run and all before it: 4 tests, 14 rows, “12 regressed”",
        "one record per test in table, report and pytest-benchmark's JSON",
        _ONE,
    ),
    Situation(
        _AGAIN,
        "JUnit of a test that was run again",
        "each property as often as it was run",
        "each once",
        _ONE,
    ),
    Situation(
        _AGAIN,
        "a test that is judged, and fails before that when it is run again",
        "the verdict of the first run",
        "no verdict, as the last run has none",
        _ECOSYSTEM + "test_only_the_last_run_of_a_test_is_reported",
    ),
    Situation(
        _AGAIN,
        "`--benchmark-json` under pytest-xdist",
        "each worker writes the file: 2 of 4 tests",
        "all tests",
        _ONE,
    ),
    Situation(
        _AGAIN,
        "`--dist loadgroup`, which appends `@GROUP` to node ids",
        "commands and reports name `test[bs2]@GROUP`, which pytest does not find",
        "`test[bs2]`",
        _ONE,
    ),
    Situation(
        "One name for two values",
        "JUnit of a test with both fixtures",
        "`verdict` twice: a reader into a dict gets the second, *pass*",
        "`joules_per_token_verdict` and `tokens_per_s_verdict`",
        _ECOSYSTEM + "test_a_test_of_both_metrics_has_one_name_for_each",
    ),
    Situation(
        "One name for two values",
        "pytest-benchmark's JSON of a test with both fixtures",
        "two entries of one `fullname`",
        "one entry with both",
        _ECOSYSTEM + "test_a_test_of_both_metrics_has_one_name_for_each",
    ),
    Situation(
        _OPTIONAL,
        "matplotlib that cannot be imported or draws nothing, under `--energy-report`",
        "traceback, no table",
        "exit status 1, the table, “the energy report was not written”",
        _REPORT + "test_a_report_that_cannot_be_drawn_takes_no_other_output_along",
    ),
    Situation(
        _AGAIN,
        "xdist's workers, each with a GPU, judge one metric each of a cell",
        "one row: the figures of one GPU with the change on the other",
        "a row for each measurement",
        "tests/unit/test_table.py::test_what_workers_measured_on_gpus_of_their_own_is_not_merged",
    ),
    *(
        Situation(
            _PINNED,
            situation,
            before,
            now,
            "tests/engine/test_environment.py::" + test,
        )
        for situation, before, now, test in (
            (
                "a source folder that has changed since its environment was made",
                "the engine as it was before is measured again: a regression passes",
                "built again",
                "test_a_source_that_has_changed_is_built_again",
            ),
            (
                "both name `-e ./engine`, in two checkouts",
                "one environment: an engine is compared with itself",
                "two engines",
                "test_relative_files_of_two_folders_are_two_engines",
            ),
            (
                "one version from two indexes or `--find-links`",
                "one environment, or “not found”: the options are lost",
                "two engines",
                "test_relative_files_of_two_folders_are_two_engines",
            ),
            (
                "hashes",
                "not verified",
                "verified",
                "test_what_a_file_says_of_its_packages_counts_and_its_name_does_not",
            ),
            (
                "`git+…@branch`, and the branch moves while environments are made",
                "what it is by then, at the place of the commit that was resolved",
                "the commit that was resolved, for both sides at the start; it is printed",
                "test_a_branch_that_moves_is_the_commit_that_was_resolved",
            ),
            (
                "the address of a nightly wheel that keeps its name",
                "the engine as it was the first time is measured again",
                "installed again",
                "test_what_has_changed_at_an_address_is_installed_again",
            ),
        )
    ),
    Situation(
        _PINNED,
        "a requirements file without vLLM, or with a comment of that name",
        "an environment is made; vLLM cannot be imported in each cell",
        "refused before anything is launched: what to write",
        "tests/plugin/test_gate_in_ci.py"
        "::test_a_file_without_vllm_is_refused_before_anything_is_launched",
    ),
    Situation(
        "Runners that keep files",
        "a runner of one's own, with the recordings of the run before",
        "their launches count as this run's",
        "refused, exit status 2",
        "tests/plugin/test_gate_in_ci.py::test_launches_of_a_run_before_are_not_added_to",
    ),
    *situations(
        "A user without a home, as under a user id that a container does not know",
        "tests/engine/test_environment.py::",
        (
            "a launch",
            "“RuntimeError: Could not determine home directory”",
            "measured: vLLM's cache is looked for where vLLM looks",
            "test_a_launch_needs_no_home",
        ),
        (
            "`gate`, which keeps environments",
            "“RuntimeError: Could not determine home directory”",
            "refused: set XDG_CACHE_HOME",
            "test_a_user_without_a_home_names_a_place",
        ),
    ),
    Situation(
        _OPTIONAL,
        "a folder to replay whose name is not UTF-8, under `--energy-report`",
        "exit status 1, “the energy report was not written”; `report`: a traceback",
        "written, with ? for what is not",
        _REPORT + "test_a_path_that_is_not_utf_8_is_reported",
    ),
    *situations(
        _PINNED,
        "tests/plugin/test_init.py::",
        (
            "other case, spaces, extras, a marker or a byte order mark at the pin",
            "`init`: not found, or `vllm==0.20.2;python_version…` written",
            "found",
            "test_a_pin_is_read_in_every_form",
        ),
        (
            "`vllm==0.20.*`, or files that pin two versions",
            "`init` writes the range, or the version of the file that sorts first",
            "refused: name the version",
            "test_what_pins_no_version_or_several_is_not_guessed",
        ),
        (
            "`requirements/vllm.txt` exists and pins no version",
            "`init --check` advises `init`, which leaves it as it is",
            "says what to write into it; an address of a wheel is a pin",
            "test_what_is_left_as_it_is_is_not_to_be_written_again",
        ),
    ),
)
