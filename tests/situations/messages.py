"""Situations of messages and reports: what was told wrongly, twice, or not at all."""

from tests.situations import Situation, situations

_TERMINAL = "tests/plugin/test_terminal.py::"
_INPUT = "tests/plugin/test_bad_input.py::"
_PAGES = "tests/reports/test_pages.py::"
_STEPS = "tests/reports/test_steps.py::"
_GATE = "tests/unit/test_gate.py::"
_SLOW = "tests/unit/test_slowdown.py::"
_LAUNCHES = "tests/reports/test_launches.py::"

ROWS: tuple[Situation, ...] = (
    *situations(
        "Reports and summaries that do not say what decides",
        "",
        (
            "a report of which some tests regressed",
            "heading: “2 energy tests: 1 regressed”",
            "“Do not merge: 1 of 2 energy tests regressed”",
            _PAGES + "test_the_heading_says_whether_to_merge",
        ),
        (
            "some tests are only undecided, or invalid",
            "“2 energy tests: 1 invalid”",
            "“Do not merge yet: …”",
            _PAGES + "test_the_heading_says_whether_to_merge",
        ),
        (
            "all verdicts pass, and the run failed or was interrupted",
            "“1 energy test: all pass”",
            "“Do not merge yet, the run failed: …”",
            _PAGES + "test_the_heading_says_whether_to_merge",
        ),
        (
            "all launches are the baseline's own",
            "“1 energy test: all pass”",
            "“No answer, launches were compared with themselves: …”",
            _PAGES + "test_the_heading_says_whether_to_merge",
        ),
        (
            "an update",
            "“1 energy test: all pass (1 created)”",
            "“Baselines: 1 of 1 energy test created”",
            _PAGES + "test_the_heading_says_whether_to_merge",
        ),
        (
            "one test passes at +2.9 % of 3 %, another is undecided at +1.0 %",
            "“Worst: J/token +1.0 %”, and not in which cell",
            "the +2.9 %, with its cell and verdict",
            _STEPS + "test_the_worst_change_is_the_largest_in_tolerances_and_names_its_cell",
        ),
        (
            "a report's row of tokens/s",
            "the candidate's J/token beside the reference's tokens/s",
            "tokens/s of both",
            _PAGES + "test_a_row_shows_the_figures_of_its_own_metric",
        ),
        (
            "twenty cells, each with a noise of its own",
            "of a report in Markdown, all after the sixth are left out without a word",
            "sixteen, and where the others are",
            _PAGES + "test_no_noise_is_left_out_without_a_word",
        ),
        (
            "eight tests that regressed for one cause",
            "the explanation eight times",
            "one, and what each test adds",
            "tests/reports/test_causes.py::test_tests_that_regressed_for_one_cause_share_a_card",
        ),
        (
            "J/token and tokens/s of a cell regress for one cause",
            "the cause twice",
            "“why, and what changed: as for energy (…)”",
            _TERMINAL + "test_why_it_regressed_is_told_once",
        ),
        (
            "both metrics of a cell are invalid, without baseline or not comparable",
            "the cause twice",
            "once, and a reference",
            _TERMINAL + "test_a_cause_that_both_fixtures_share_is_told_once",
        ),
        (
            "a run of other tests, with the plugin installed",
            "a line of ours in the header",
            "none",
            _TERMINAL + "test_a_run_without_a_gate_shows_nothing_of_ours",
        ),
    ),
    *situations(
        "Advice that does not help",
        "",
        (
            "INCONCLUSIVE, and more launches will not decide",
            "larger baselines, noise and interleaving, in one order for all",
            "what decides first; if nothing does: “set another tolerance in the test”",
            _GATE + "test_an_inconclusive_cell_says_what_decides_or_that_nothing_will",
        ),
        (
            "REGRESSED, and nobody meant it",
            "how to measure again, and how to accept it",
            "“if it is not: take back what changed, one at a time”, or where to look",
            _GATE + "test_a_regression_that_nobody_meant_has_a_next_step",
        ),
        (
            "a launch that drifted, or whose first cycle was dropped",
            "what was seen, and no word of what to do",
            "“(harmless: nothing to do)”",
            _LAUNCHES + "test_only_what_is_to_be_known_is_remarked",
        ),
        (
            "a damaged baseline that was never committed",
            "`git checkout`, which fails",
            "“If it was never committed, delete it and measure again”",
            "tests/unit/test_store_files.py"
            "::test_a_damaged_file_that_was_never_committed_has_a_way_out",
        ),
        (
            "`init` finds neither model nor version",
            "names the first, then the second",
            "one command with both",
            "tests/plugin/test_init.py"
            "::test_what_cannot_be_found_is_asked_for_and_nothing_is_written",
        ),
        (
            "GPU minutes that allow fewer launches than the cell may take",
            "the time of all launches that the cell may take",
            "the time that is allowed",
            "tests/unit/test_time_left.py::test_no_more_than_the_gpu_minutes_allow",
        ),
    ),
    *situations(
        "Causes that were others",
        "",
        (
            "asynchronous scheduling is switched off: the GPU waits for each step",
            "“slower host”",
            "“GPU waits longer …, power fell with the pace”",
            _SLOW + "test_longer_steps_whose_power_falls_with_the_pace_are_waits",
        ),
        (
            "a GPU that is clocked lower",
            "“slower host”",
            "“lower GPU clock”, with both clocks",
            _SLOW + "test_power_that_falls_with_the_clock_is_not_a_wait",
        ),
        (
            "steps that take longer on the GPU, in a cell that is a little host-bound",
            "the host's share is told as if it were the cause",
            "told only if it is",
            _SLOW + "test_a_share_that_is_no_cause_is_not_told_as_one",
        ),
        (
            "an engine argument that gives a setting of vLLM",
            "told twice, as argument and as setting",
            "once, as the setting",
            _GATE + "test_an_argument_is_told_once_as_the_setting_that_it_gave",
        ),
        (
            "the host is slow for a while during one of five launches",
            "the launch counts: an unchanged engine is INCONCLUSIVE",
            "*unsteady*: left out, and the summary says so",
            "tests/plugin/test_recorded_verdicts.py"
            "::test_a_launch_of_the_candidate_whose_host_was_slow_for_a_while_is_left_out",
        ),
        (
            "an interpreter without vLLM, whose worker ends before its command comes",
            "“exited with status 1”",
            "that vllm cannot be imported",
            "tests/engine/test_offline_engine.py"
            "::test_a_worker_that_ends_before_its_command_has_said_why",
        ),
    ),
    *situations(
        "Messages that mislead, or are lost",
        "",
        (
            "power over `max_power_w`, J/token within its tolerance",
            "“REGRESSED: … J/token 0.5035, +0.8 % vs the baseline's”",
            "“REGRESSED: … power 504.0 W is over the budget of 502 W (max_power_w)”",
            _TERMINAL + "test_a_limit_that_alone_is_broken_is_the_headline",
        ),
        (
            "a latency over `max_itl_ms`, J/token unchanged",
            "“REGRESSED: … J/token 0.5000, +0.0 %”",
            "“REGRESSED: … the inter-token latency of 8.00 ms … is over the limit of 0.1 ms”",
            "tests/plugin/test_server.py::test_a_latency_limit_fails_the_test_of_energy_alone",
        ),
        (
            "a mean power of 500.0 W and `max_power_w=499.9`",
            "“power 500 W is over the budget of 500 W”",
            "“power 500.0 W is over the budget of 499.9 W”",
            "tests/unit/test_judge.py::test_the_power_budget_is_of_the_mean_power",
        ),
        (
            "`--energy-reference-python` of an environment without vLLM",
            "advice: `--energy-python PATH`",
            "advice: `--energy-reference-python PATH`",
            _INPUT + "test_an_interpreter_of_the_reference_without_vllm",
        ),
        (
            "a marker with an argument that is wrong",
            "the message twice, with “During handling of the above exception”",
            "the message once",
            _INPUT + "test_markers",
        ),
        (
            "a wrong model folder, or two tests of one cell, under pytest-xdist",
            "INTERNALERROR of pytest-xdist, and no reason",
            "the reason, once",
            _INPUT + "test_what_is_refused_is_told_once_under_xdist_too",
        ),
        (
            "vLLM built from a clone without tags: `0.1.dev7+g1234567`, `0.0.0`",
            "doctor: older than any version tested",
            "ok: its release is unknown",
            "tests/unit/test_health.py::test_a_build_without_tags_is_not_called_old",
        ),
        (
            "pytest-repeat's `--count 2`",
            "two tests of one cell: “Delete one”",
            "one test, repeated: “Repeat launches instead: --energy-launches N”",
            _INPUT + "test_one_test_that_is_repeated",
        ),
        (
            "a marker without a fixture, a store that is a file …, under pytest-xdist",
            "exit status 2, as of an interrupted run; 4 without pytest-xdist",
            "the message once, exit status 4",
            _INPUT + "test_what_is_refused_is_told_once_under_xdist_too",
        ),
        (
            "a bad value in a marker, under pytest-xdist",
            "the message once per worker, and all other tests ran",
            "the message once, exit status 4; nothing runs",
            _INPUT + "test_what_is_refused_is_told_once_under_xdist_too",
        ),
        (
            "three pairs of launches show a regression, and the noise is assumed",
            "REGRESSED, and below it “an assumed noise cannot raise an alarm”",
            "“an assumed noise takes more launches to raise an alarm”",
            "tests/unit/test_table.py"
            "::test_noise_of_several_sources_takes_one_line_and_names_cells_only_if_some_is_assumed",
        ),
        (
            "pytest's own output under an ASCII locale",
            "`\\xb1`, `\\xf7` in table and failures; lines joined by `\\n`",
            "+/-, /",
            _TERMINAL + "test_a_locale_that_lacks_characters_shows_what_happened_legibly",
        ),
        (
            "the test that fails first is marked `xfail`",
            "“why, and what to type next: as for energy (…)”, which nothing shows",
            "told in full to the next test that it stops",
            _TERMINAL + "test_no_failure_is_referred_to_that_is_not_shown",
        ),
        (
            "a test catches the failure of `energy.check()`, and another fails of the same",
            "“why, and what to type next: as for energy (…)”, which nothing shows",
            "told in full to the next test that it stops",
            _TERMINAL + "test_no_failure_is_referred_to_that_is_not_shown",
        ),
        (
            "a test catches the failure of `energy.check()`, and then `throughput` fails",
            "“why, and what to type next: as for energy (…)”, which nothing shows",
            "told in full to the next test that it stops",
            _TERMINAL + "test_no_failure_is_referred_to_that_is_not_shown",
        ),
        (
            "`throughput` is invalid for one cause and `energy`, after it, for two",
            "“as for throughput”: the second cause is not told",
            "both are told",
            _TERMINAL + "test_what_one_metric_alone_lacks_is_told_with_it",
        ),
        (
            "two cells of one model and batch size, with other engine arguments",
            "rows of the table that look alike",
            "rows below the names of their tests",
            _TERMINAL + "test_cells_of_one_name_are_told_apart",
        ),
    ),
)
