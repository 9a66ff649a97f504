"""Situations of GPUs, drivers and neighbours."""

from tests.situations import Situation, situations

_DOCTOR, _PROCESSES = "tests/engine/test_doctor.py", "tests/engine/test_processes.py"
_GUARD = "tests/engine/test_guard.py"
_LOCALE = "An environment that is not UTF-8"
_UNKNOWN = "Unknown taken for none"
_IDS = "Process ids of another namespace"
_METER, _SCOPE = "tests/engine/test_zeus_meter.py", "tests/engine/test_scope.py"
_MEASUREMENT = "tests/unit/test_measurement.py"
_NEIGHBOURS = "tests/engine/test_neighbours.py"
_HIDDEN = "A neighbour that the process list does not show"
_READINGS = "A reading that a driver or GPU lacks"
_MODULE = "An energy counter of a whole module"
_UNREACHABLE = "One GPU that cannot be reached"

ROWS: tuple[Situation, ...] = (
    *situations(
        "A driver that does not respond",
        "tests/unit/test_health.py::",
        (
            "it was updated under a running system (“NVML/RM version mismatch”)",
            "doctor: “install NVIDIA's driver, or give the container access”",
            "“reboot: the driver was updated”",
            "test_a_driver_that_does_not_respond_has_a_remedy_of_its_own",
        ),
        (
            "insufficient permissions; a GPU that must be reset",
            "doctor: “install NVIDIA's driver, or give the container access”",
            "access to /dev/nvidia*; reboot, or `nvidia-smi --gpu-reset`",
            "test_a_driver_that_does_not_respond_has_a_remedy_of_its_own",
        ),
    ),
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
    Situation(
        kind=_UNKNOWN,
        situation="the process query times out once before the launch while another job is there",
        before="pass: the job was taken for the engine's, +25 %",
        now="the query is repeated: `foreign_process`",
        test=f"{_PROCESSES}::test_a_list_that_times_out_once_is_asked_for_again",
    ),
    Situation(
        kind=_UNKNOWN,
        situation="the query fails for good, before the launch or once the engine has loaded",
        before="pass, or `foreign_process` with the engine's own id",
        now="`processes_unreadable`: the engine's cannot be told from others",
        test=f"{_GUARD}::test_processes_that_are_not_known_are_not_taken_for_none",
    ),
    Situation(
        kind=_UNKNOWN,
        situation="another GPU does not list its processes (timeout, permission, vGPU, lost)",
        before="`foreign_process` with the engine's own id; doctor said ok",
        now="pass: only the engine's GPUs decide",
        test=f"{_PROCESSES}::test_what_one_gpu_does_not_list_is_unknown_there_alone",
    ),
    Situation(
        kind=_IDS,
        situation="in a container, the host's id of the engine is that of a thread of ours",
        before="`foreign_process`",
        now="pass",
        test=f"{_PROCESSES}::test_the_hosts_number_may_be_that_of_a_thread_of_ours",
    ),
    Situation(
        kind=_IDS,
        situation="it is that of a process of ours which does not use CUDA, such as a shell",
        before="`foreign_process`",
        now="pass; one that has /dev/nvidia-uvm open is foreign, as before",
        test=f"{_PROCESSES}::test_the_number_of_another_process_of_ours",
    ),
    Situation(
        kind=_UNREACHABLE,
        situation="GPU 1 is lost or forbidden, and GPU 0 is to be measured (`doctor --gpu 0`)",
        before="`gpus_unlisted`: no GPU usable",
        now="GPU 0 is checked and measured; GPU 1 is named if it was asked for",
        test=f"{_DOCTOR}::test_a_gpu_that_cannot_be_reached_leaves_the_others_usable",
    ),
    Situation(
        kind=_UNREACHABLE,
        situation="the engine runs on GPU 1 while GPU 0 is lost",
        before="the driver does not respond",
        now="measured; if the engine's own is lost, the message names it",
        test=f"{_PROCESSES}::test_a_gpu_that_cannot_be_reached_hides_no_other",
    ),
    Situation(
        kind=_UNREACHABLE,
        situation="CUDA_VISIBLE_DEVICES=2 while GPU 1 is lost, which CUDA does not count",
        before="the driver's GPU 2 was locked and checked, CUDA used another",
        now="all GPUs are",
        test=f"{_DOCTOR}::test_indices_that_cuda_may_count_otherwise",
    ),
    Situation(
        kind=_READINGS,
        situation="a driver of the 550 branch, without nvmlDeviceGetTemperatureV",
        before="doctor: can measure; every cell *invalid*, sample_unreadable, no call named",
        now="the older call is used; the same for throttle reasons before 535",
        test=f"{_METER}::test_an_older_driver_is_asked_by_the_call_that_it_has",
    ),
    Situation(
        kind=_READINGS,
        situation="A100, V100: no average power",
        before="doctor: can measure; every cell *invalid*, sample_unreadable",
        now="nvmlDeviceGetPowerUsage is used, and recorded as instant",
        test=f"{_METER}::test_a_gpu_without_average_power_is_asked_for_what_it_draws",
    ),
    Situation(
        kind=_READINGS,
        situation="such power of an instant scatters between prefill and decode",
        before="-",
        now="valid within three standard errors, at most 10 %; else `counter_disagrees`",
        test=f"{_MEASUREMENT}::test_power_of_no_duration_may_scatter_but_not_be_another",
    ),
    Situation(
        kind=_READINGS,
        situation="clock or temperature fails; no utilization or throttle reasons (vGPU)",
        before="*invalid*: sample_unreadable",
        now="measured: that series alone is empty, what it would explain is unknown",
        test=f"{_METER}::"
        "test_a_sample_that_only_explains_or_that_no_driver_reports_is_left_out_alone",
    ),
    Situation(
        kind=_READINGS,
        situation="the driver fails to read power, throttle reasons or utilization",
        before="*invalid*, no call named; doctor: a warning at most",
        now="*invalid*, with the call's name; doctor: a fault",
        test=f"{_DOCTOR}::test_any_call_that_fails_is_reported_and_the_rest_is_done",
    ),
    Situation(
        kind=_MODULE,
        situation="Grace Hopper: the counter counts GPU, CPU and memory",
        before="doctor: `counter_disagrees`; nothing said whose joules they were",
        now="doctor, the fingerprint (`energy_scope`) and the summary say so",
        test=f"{_DOCTOR}::test_a_gpu_on_a_module_with_a_cpu",
    ),
    Situation(
        kind=_MODULE,
        situation="a GPU with a CPU on its module whose counter counts the GPU alone",
        before="compared with the module's power: `counter_disagrees`",
        now="compared with the GPU's",
        test=f"{_SCOPE}::test_the_power_that_the_counter_counts_tells_its_scope",
    ),
    Situation(
        kind=_MODULE,
        situation="an engine on two GPUs of one module",
        before="the module's energy twice",
        now="refused",
        test=f"{_SCOPE}::test_several_gpus_whose_counters_count_one_module_twice",
    ),
    Situation(
        kind=_MODULE,
        situation="a baseline of the GPU's energy, a candidate of the module's",
        before="compared",
        now="*not comparable*",
        test="tests/unit/test_gate.py::"
        "test_energy_of_a_module_is_not_comparable_with_that_of_a_gpu",
    ),
    Situation(
        kind=_HIDDEN,
        situation="another pod's job holds 40 GiB or keeps the GPU 60 % busy before the launch",
        before="REGRESSED, or a baseline 40 % too high",
        now="*invalid*: `hidden_process`; doctor: a fault",
        test=f"{_NEIGHBOURS}::test_a_neighbour_before_the_launch",
    ),
    Situation(
        kind=_HIDDEN,
        situation="it comes while the engine loads, and is busy when the engine is idle",
        before="pass: counted as the engine's, +25 %",
        now="*invalid*: utilization is read 1.6 s after each load",
        test=f"{_GUARD}::test_what_changes_during_a_cell",
    ),
    Situation(
        kind=_HIDDEN,
        situation="it comes while the engine loads, and stays",
        before="pass",
        now="*invalid*: memory is compared once the engine has ended; recordings are amended",
        test=f"{_GUARD}::"
        "test_what_shows_only_once_the_engine_has_ended_makes_its_recordings_invalid",
    ),
    Situation(
        kind=_HIDDEN,
        situation="in a container, a process comes with the engine, whose ids are the host's",
        before="pass: counted as the engine's",
        now="`foreign_process`, since it stays when the engine has ended",
        test=f"{_NEIGHBOURS}::test_what_comes_with_the_engine_and_stays_is_not_the_engines",
    ),
    Situation(
        kind=_HIDDEN,
        situation="one that came during the load of the engine leaves under load",
        before="pass",
        now="*invalid*: 2 GiB were given back, by no listed process",
        test=f"{_GUARD}::test_what_changes_during_a_cell",
    ),
    Situation(
        kind=_HIDDEN,
        situation="a desktop, memory that the driver reserves, a GPU that is a NUMA node, a memory "
        "check when the driver was loaded",
        before="pass",
        now="pass: none of them is a neighbour",
        test=f"{_NEIGHBOURS}::test_no_neighbour",
    ),
    Situation(
        kind=_HIDDEN,
        situation="the driver frees an engine's memory some seconds after it has ended",
        before="pass",
        now="pass: it is waited for",
        test=f"{_NEIGHBOURS}::test_memory_that_the_driver_takes_a_while_to_free",
    ),
    Situation(
        kind=_READINGS,
        situation="a GPU without a power limit (doctor: not reported), a driver that does not say "
        "its architecture",
        before="doctor: can measure; every cell *invalid*",
        now="measured; the power limit is unknown",
        test=f"{_PROCESSES}::test_a_gpu_without_a_power_limit_is_measured",
    ),
    Situation(
        kind=_UNKNOWN,
        situation="the driver fails to list its GPUs once the engine has loaded",
        before="all of the run's GPU locks were freed",
        now="those of the engine's GPUs are kept",
        test="tests/unit/test_evidence.py::test_a_gpu_that_the_driver_fails_to_list_stays_locked",
    ),
    Situation(
        kind=_HIDDEN,
        situation="the engine of a load that failed gives its memory back a second later",
        before="pass",
        now="pass: a GPU in use is read again for three seconds",
        test=f"{_NEIGHBOURS}::test_an_engine_that_has_just_been_killed_is_no_neighbour",
    ),
    Situation(
        kind=_HIDDEN,
        situation="a job of another pod comes and goes while the engine loads",
        before="pass",
        now="pass: it was gone when the measured cycles began; one that leaves later is seen",
        test=f"{_NEIGHBOURS}::test_a_neighbour_that_comes_while_the_engine_loads",
    ),
)
