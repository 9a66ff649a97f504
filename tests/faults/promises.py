"""What the gate never does, each with the tests that hold it; docs/reliability.md shows it.

    python -m tests.faults.promises            prints the table

It says nothing of whether the tests pass; tests/faults/test_guards.py sees that they are there.
"""

from tests.faults.guards import _row

PROMISES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "A cell that was not measured is never green, whatever options and plugins pytest runs with.",
        (
            "tests/plugin/test_plugin.py::test_no_option_of_pytest_benchmark_turns_a_test_green_or_skips_it",
            "tests/plugin/test_plugin.py::test_ordinary_options_keep_the_verdict",
            _row("p-no-terminal-worker-killed-in-the-run"),
            _row("n-2-workers-engines-killed"),
            _row("timeout-2-timeout-method-signal-engine-hangs"),
            _row("timeout-2-timeout-method-thread-engine-hangs"),
        ),
    ),
    (
        "A failed measurement is never replaced by a recording: replay happens only when asked for by name.",
        (
            "tests/engine/test_zeus_meter.py::test_no_gpu",
            "tests/plugin/test_bad_input.py::test_no_gpu_at_all",
        ),
    ),
    (
        "Energy that could not be read is never counted as 0 J or guessed.",
        (
            "tests/engine/test_zeus_meter.py::test_faults_of_the_counter",
            _row("counter-frozen-run"),
            _row("counter-reset-run"),
            _row("gpu-lost-run"),
            "tests/faults/test_nvml.py::test_any_call_before_a_load_may_fail",
        ),
    ),
    (
        "Nobody else's energy is counted: another process on the GPU makes the measurement invalid, another run is waited for.",
        (
            _row("another-process-before"),
            _row("another-process-appears-run"),
            "tests/plugin/test_gpu_locks.py::test_waiting_says_for_whom_and_ends_when_they_end",
        ),
    ),
    (
        "An invalid launch never becomes a baseline, nor noise.",
        (
            "tests/unit/test_baselines.py::test_refused_updates_write_nothing",
            "tests/unit/test_noise.py::test_invalid_measurements_are_refused",
            _row("killed-third-launch-of-an-update"),
        ),
    ),
    (
        "A baseline is never compared with another board, GPU model or power limit.",
        (
            "tests/unit/test_baselines.py::test_each_board_has_its_own_baseline",
            "tests/plugin/test_bad_input.py::test_a_recording_of_another_gpu_model",
            "tests/unit/test_gate.py::test_another_power_limit_is_not_comparable",
        ),
    ),
    (
        "Nothing is written unasked.",
        (
            "tests/plugin/test_plugin.py::test_nothing_is_written_unasked",
            "tests/plugin/test_recorded_verdicts.py::test_replay_writes_nothing",
            "tests/faults/test_campaign.py::test_fault",
        ),
    ),
    (
        "A baseline is never lost and never half written: not by a full disk, a signal or a power failure, not by two updates at once.",
        (
            "tests/faults/test_power_loss.py::test_a_baseline_is_the_old_one_or_the_new_one",
            _row("disk-full-an-update-write"),
            _row("disk-turns-read-only-an-update-rename"),
            _row("sigkill-update-new-file-not-yet-in-place"),
            "tests/faults/test_two_updates.py::test_two_updates_of_different_cells_are_both_kept",
            "tests/faults/test_two_updates.py::test_of_two_updates_of_one_cell_the_later_has_the_earlier_in_its_history",
        ),
    ),
    (
        "A damaged file is never overwritten, and never taken for none.",
        (
            "tests/unit/test_baselines.py::test_a_damaged_file_is_named_and_kept",
            "tests/unit/test_noise.py::test_a_damaged_file_is_named_and_kept",
            "tests/unit/test_recording.py::test_every_damage_is_told_with_the_files_name",
        ),
    ),
    (
        "A recording that was written is never taken back.",
        (
            _row("sigint-second-launch-recordings-are-kept"),
            _row("sigterm-second-launch-recordings-are-kept"),
        ),
    ),
    (
        "A loss never creeps in by small steps without a reason that somebody wrote down.",
        ("tests/unit/test_baselines.py::test_small_steps_that_add_up_need_a_reason",),
    ),
    (
        "No process of an engine is left, however a run ends.",
        (
            "tests/engine/test_offline_engine.py::test_nothing_is_left_when_the_parent_ends",
            "tests/engine/test_offline_engine.py::test_a_second_interrupt_while_the_engine_is_ended_leaves_the_worker_to_end_the_rest",
            "tests/engine/test_offline_engine.py::test_a_worker_that_is_told_to_exit_leaves_nothing_should_its_parent_be_killed_then",
            "tests/faults/test_campaign.py::test_fault",
        ),
    ),
    (
        "A run never waits for ever: not for an engine, a token, another run or the store.",
        (
            _row("hangs-and-ignores-sigterm-load"),
            _row("hangs-run"),
            _row("hangs-stop"),
            "tests/plugin/test_gpu_locks.py::test_a_run_that_waits_in_vain_measures_nothing_and_says_who_it_was",
            "tests/faults/test_two_updates.py::test_a_store_that_stays_locked_is_told",
        ),
    ),
    (
        "A server that somebody else started is never stopped.",
        ("tests/plugin/test_server.py::test_a_running_server_is_measured_left_alone_and_replayed",),
    ),
    (
        "The wall clock decides nothing.",
        (_row("wall-clock-set-an-hour-ahead-run"), _row("wall-clock-set-an-hour-back-run")),
    ),
)


def table() -> str:
    """Markdown."""
    lines = ["| promise | held by |", "|---|---|"]
    for promise, tests in PROMISES:
        shown = "<br>".join(f"`{test}`" for test in tests).replace("|", r"\|")
        lines.append(f"| {promise} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
