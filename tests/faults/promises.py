"""What the gate promises, each with the tests that hold it; docs/generated/promises.md shows it.

tests/test_generated.py checks that these tests exist.
"""

_ENGINE = "tests/engine/test_offline_engine.py::"
_NEIGHBOURS = "tests/engine/test_neighbours.py::"
_METER = "tests/engine/test_zeus_meter.py::"
_PLUGIN = "tests/plugin/test_plugin.py::"
_BAD_INPUT = "tests/plugin/test_bad_input.py::"
_LOCKS = "tests/plugin/test_gpu_locks.py::"
_BASELINES = "tests/unit/test_baselines.py::"
_NOISE = "tests/unit/test_noise.py::"
_UPDATES = "tests/faults/test_two_updates.py::"
_CAMPAIGN = "tests/faults/test_campaign.py::test_fault"


def _row(name: str) -> str:
    return f"{_CAMPAIGN}[{name}]"


PROMISES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "A cell that was not measured is never green, whatever options and plugins pytest has.",
        (
            f"{_PLUGIN}test_no_option_of_pytest_benchmark_turns_a_test_green_or_skips_it",
            f"{_PLUGIN}test_ordinary_options_keep_the_verdict",
            _row("p-no-terminal-worker-killed-in-the-run"),
            _row("n-2-workers-engines-killed"),
            _row("timeout-2-timeout-method-signal-hang"),
            _row("timeout-2-timeout-method-thread-hang"),
        ),
    ),
    (
        "A recording never replaces a failed measurement: only an explicit option replays.",
        (f"{_METER}test_no_gpu", f"{_BAD_INPUT}test_no_gpu_at_all"),
    ),
    (
        "Energy that could not be read is never counted as 0 J or guessed.",
        (
            f"{_METER}test_faults_of_the_counter",
            _row("counter-frozen-run"),
            _row("counter-reset-run"),
            _row("gpu-lost-run"),
            "tests/faults/test_nvml.py::test_any_call_before_a_load_may_fail",
        ),
    ),
    (
        "Nobody else's energy is counted: another process on the GPU makes a measurement invalid, "
        "and a run waits for another run to end. One that the driver does not list is known by "
        "memory and utilization before the launch, after each load and after the engine; what "
        "comes and goes within one load is not seen.",
        (
            _row("another-process-before"),
            _row("another-process-appears-run"),
            _row("a-hidden-neighbour-holds-memory-before"),
            _row("a-hidden-neighbour-comes-and-stays-load"),
            f"{_NEIGHBOURS}test_a_neighbour_before_the_launch",
            f"{_NEIGHBOURS}test_what_comes_with_the_engine_and_stays_is_not_the_engines",
            f"{_LOCKS}test_waiting_says_for_whom_and_ends_when_they_end",
        ),
    ),
    (
        "An invalid launch never becomes a baseline or noise.",
        (
            f"{_BASELINES}test_refused_updates_write_nothing",
            f"{_NOISE}test_invalid_measurements_are_refused",
            _row("killed-third-launch-of-an-update"),
        ),
    ),
    (
        "A baseline is never compared with another GPU, GPU model or power limit.",
        (
            f"{_BASELINES}test_each_gpu_has_its_own_baseline",
            f"{_BAD_INPUT}test_a_recording_of_another_gpu_model",
            "tests/unit/test_gate.py::test_another_power_limit_is_not_comparable",
        ),
    ),
    (
        "Nothing is written unless asked for.",
        (
            f"{_PLUGIN}test_nothing_is_written_unasked",
            "tests/plugin/test_recorded_verdicts.py::test_replay_writes_nothing",
            _CAMPAIGN,
        ),
    ),
    (
        "A baseline is never lost or half written: not by a full disk, a signal, a power failure "
        "or two updates at once.",
        (
            "tests/faults/test_power_loss.py::test_a_baseline_is_the_old_one_or_the_new_one",
            _row("disk-full-an-update-write"),
            _row("disk-turns-read-only-an-update-rename"),
            _row("sigkill-update-new-file-not-yet-in-place"),
            f"{_UPDATES}test_two_updates_of_different_cells_are_both_kept",
            f"{_UPDATES}test_of_two_updates_of_one_cell_the_later_has_the_earlier_in_its_history",
        ),
    ),
    (
        "A damaged file is never overwritten or treated as missing.",
        (
            f"{_BASELINES}test_a_damaged_file_is_named_and_kept",
            f"{_NOISE}test_a_damaged_file_is_named_and_kept",
            "tests/unit/test_recording.py::test_every_damage_is_told_with_the_files_name",
        ),
    ),
    (
        "A written recording is never deleted.",
        (
            _row("sigint-second-launch-recordings-are-kept"),
            _row("sigterm-second-launch-recordings-are-kept"),
        ),
    ),
    (
        "A loss never drifts in by small steps without a written reason.",
        (
            f"{_BASELINES}test_small_steps_that_add_up_need_a_reason",
            "tests/unit/test_drift.py::"
            "test_ten_steps_of_two_percent_do_not_pass_wherever_they_are_stored",
        ),
    ),
    (
        "However a run ends, no process of an engine survives it.",
        (
            f"{_ENGINE}test_nothing_is_left_when_the_parent_ends",
            f"{_ENGINE}test_a_second_interrupt_while_the_engine_is_ended_leaves_the_worker_to_end_"
            "the_others",
            f"{_ENGINE}test_a_worker_that_exits_leaves_nothing_even_if_its_parent_dies_meanwhile",
            _CAMPAIGN,
        ),
    ),
    (
        "A run never waits for ever: not for an engine, a token, another run or the store.",
        (
            _row("hangs-and-ignores-sigterm-load"),
            _row("hangs-run"),
            _row("hangs-stop"),
            f"{_LOCKS}test_a_run_that_waits_in_vain_measures_nothing_and_says_who_it_was",
            f"{_UPDATES}test_a_store_that_stays_locked_is_reported",
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
