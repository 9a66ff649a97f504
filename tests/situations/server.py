"""Situations of servers and their models."""

from tests.situations import Situation, situations

_CUT = "INVALID: “a stream was cut off after 0 of its … tokens”"
_STREAMS = "Event streams that are not byte for byte vLLM's"
_FORMS = "tests/engine/test_server_load.py::test_event_streams_of_every_form"
_REFUSED = "tests/engine/test_server_load.py::test_streams_that_are_refused"
_TOGETHER = "Tokens that come together"
_PER_TOKEN = "tests/engine/test_server_load.py::test_inter_token_latency_is_per_token"
_NEVER = "Servers that never report"
_TIMEOUT = "INVALID after 1,200 s: “did not load its model”"
_UNREPORTED = (
    "tests/engine/test_server_engine.py::test_a_server_that_would_never_report_is_refused_at_once"
)
_METRICS = "Metrics that a server lacks"
_ATTACHED = "tests/engine/test_attached_server.py::"
_UNKNOWN_START = _ATTACHED + "test_a_start_that_is_not_reported_is_that_of_its_process"
_THREE = "three attachments to one start: three launches, and a baseline"
_NOT_MEASURED = _ATTACHED + "test_a_server_that_cannot_be_measured"
_NAMES = "One model under several names"
_FIRST = _ATTACHED + "test_one_model_under_several_names_is_asked_by_the_first"
_CANCELLED = "tests/test_workflows.py::test_a_cancelled_run_ends_pytest"

ROWS: tuple[Situation, ...] = (
    *(
        Situation(_STREAMS, situation, _CUT, "measured", _FORMS)
        for situation in (
            "lines end in CR LF, or in CR alone",
            "`event:`, `id:` and `retry:` lines before the data",
            "no space after the colon, data on two lines, a byte order mark",
            "a space after `[DONE]`, or no blank line",
        )
    ),
    Situation(
        _STREAMS,
        "empty data, comments and pings (`data: {}`) keep the stream alive",
        "INVALID: “not a JSON object” or “has no usage”",
        "measured",
        _FORMS,
    ),
    Situation(
        _STREAMS,
        "`event: error` with CR LF in the middle of a stream",
        _CUT,
        "INVALID, with the server's error",
        _REFUSED,
    ),
    Situation(
        _STREAMS,
        "no usage after the last token",
        "INVALID: “read None tokens of a prompt … a proxy changes prompts”",
        "INVALID: the stream has no usage",
        _REFUSED,
    ),
    Situation(
        _TOGETHER,
        "speculative decoding or `stream_interval`: several tokens in a chunk",
        "inter-token latency per chunk: 6 ms",
        "per token: 2 ms",
        _PER_TOKEN,
    ),
    Situation(
        _TOGETHER,
        "two chunks in one read, because the client was busy",
        "one latency for both: 6 ms",
        "per token: 2 ms",
        _PER_TOKEN,
    ),
    Situation(
        _TOGETHER,
        "a chunk without a token between others, such as one that only finishes",
        "latency from that chunk on: 2 instead of 4 ms",
        "from the last token on",
        _PER_TOKEN,
    ),
    Situation(
        _NEVER,
        "`data_parallel_size: 2`, which has vLLM start two API servers",
        _TIMEOUT,
        "INVALID before the load: two replicas",
        _UNREPORTED,
    ),
    Situation(
        _NEVER,
        "`api_server_count: 2`, or in a configuration file of vLLM",
        _TIMEOUT,
        "INVALID before the load: measure it with `--energy-url`",
        _UNREPORTED,
    ),
    Situation(
        _NEVER,
        "the Rust front end, `VLLM_USE_RUST_FRONTEND=1`",
        _TIMEOUT,
        "INVALID before the load: measure it with `--energy-url`",
        _UNREPORTED,
    ),
    Situation(
        _NEVER,
        "a vLLM that makes its engine in another process for a reason not known to us",
        _TIMEOUT,
        "INVALID as soon as the server answers: it has not reported",
        _UNREPORTED,
    ),
    Situation(
        _NEVER,
        "`headless`, `grpc`, `uds`, `ssl_keyfile`, `api_key`: no HTTP, or not without a key",
        "INVALID after 1,200 s: “not healthy”, or “requires an API key”",
        "INVALID before the load, with the setting",
        _UNREPORTED,
    ),
    Situation(
        _METRICS,
        "several API servers: no process_start_time_seconds",
        _THREE,
        "one launch, by the first process of the server and its start",
        _UNKNOWN_START,
    ),
    Situation(
        _METRICS,
        "the Rust front end: no start, no cache_config_info, no counter before the first request",
        "INVALID: “disable_log_stats”; after a request, three launches",
        "one launch; a remark says that the size of the KV cache is unknown",
        _UNKNOWN_START,
    ),
    Situation(
        _METRICS,
        "no start, and a container hides the server's sockets",
        _THREE,
        "one launch, by its processes on the GPU",
        _ATTACHED + "test_the_start_of_a_server_in_a_container_is_that_of_its_processes_on_the_gpu",
    ),
    Situation(
        _METRICS,
        "no start, and no process of the server can be seen",
        _THREE,
        "INVALID: run pytest in the server's container",
        _ATTACHED + "test_a_start_that_cannot_be_told_from_another_is_refused",
    ),
    *situations(
        _METRICS,
        _ATTACHED,
        (
            "no start, and docker-proxy, ssh or nginx listens, which lives on",
            "each start of the server behind it is the same launch",
            "a launch each, by the processes on the GPU",
            "test_the_start_of_a_server_in_a_container_is_that_of_its_processes_on_the_gpu",
        ),
        (
            "no start, and other programs are on its GPUs, or only such",
            "one launch for all starts, by the program that came first",
            "INVALID: run pytest in the server's container, and end other programs",
            "test_a_start_that_cannot_be_told_from_another_is_refused",
        ),
        (
            "no start, and the server is restarted between two cells",
            "one launch",
            "INVALID: “another one than before”, by its process or its counter",
            "test_a_server_that_is_restarted_between_two_cells_is_refused",
        ),
    ),
    *situations(
        "A GPU that is not the server's",
        "",
        (
            "an ssh tunnel, kubectl port-forward or proxy to another machine, and "
            "`--energy-gpu` names an idle GPU of this one",
            "measured for minutes, then INVALID: “is it the engine's GPU?”",
            "INVALID at once: the GPU holds no model; run pytest on the machine of its GPUs",
            _ATTACHED + "test_a_gpu_without_a_model_is_not_that_of_the_server",
        ),
        (
            "… and that GPU holds another server's model",
            "INVALID: “is it the engine's GPU?”",
            "INVALID: `gpu_idle`, with what to type",
            "tests/unit/test_measurement.py"
            "::test_an_idle_gpu_is_not_that_of_a_server_on_another_machine",
        ),
        (
            "… and does not report its utilization",
            "measured: the J/token of an idle GPU",
            "INVALID: `gpu_idle`, by its power under load and after it",
            "tests/unit/test_measurement.py::test_faults_make_a_measurement_invalid",
        ),
    ),
    Situation(
        "Several addresses of one server",
        "`localhost`, then `127.0.0.1`; with `--energy-gpu`, then without",
        "one start is two launches",
        "one launch",
        _ATTACHED + "test_one_start_has_one_name_whatever_address_leads_to_it",
    ),
    Situation(
        _METRICS,
        "neither cache_config_info nor num_preemptions_total",
        "measured, though the batch may not fit",
        "INVALID: not vLLM's own server",
        _NOT_MEASURED,
    ),
    Situation(
        _METRICS,
        "no /version: a proxy",
        "measured as vLLM “unknown”; launches of two releases count as one engine",
        "INVALID: not vLLM's own server",
        _NOT_MEASURED,
    ),
    Situation(
        _METRICS,
        "replicas, each with a cache_config_info",
        "INVALID: kv_cache_too_small, by the first replica's",
        "their sizes add up",
        _ATTACHED + "test_the_kv_caches_of_replicas_add_up",
    ),
    Situation(
        _NAMES,
        "`--served-model-name a b`: one root under two names",
        "INVALID: “serves 2 models”",
        "measured by the first name",
        _FIRST,
    ),
    Situation(_NAMES, "with adapters beside it", "measured", "measured, by the base model", _FIRST),
    Situation(
        _NAMES,
        "two models with a root each, as behind a router",
        "INVALID: “serves 2 models”",
        "INVALID, and that they have no common root",
        _NOT_MEASURED,
    ),
    Situation(
        "Runs that are cancelled",
        "GitHub sends SIGINT to the step's shell alone",
        "pytest measures on until it is killed after 10 s",
        "pytest is interrupted, and ends its engine",
        _CANCELLED,
    ),
    Situation(
        "Runs that are cancelled",
        "SIGTERM to the shell alone, when SIGINT did not do",
        "the shell ends, and pytest measures on",
        "pytest ends, and with it its engine",
        _CANCELLED,
    ),
    *(
        Situation(
            "Several servers on one port",
            situation,
            "its GPUs, too, are measured: their energy is the engine's",
            "the GPUs of the server that answers",
            _ATTACHED + "test_another_server_on_the_same_port_of_another_address_is_not_its_own",
        )
        for situation in (
            "another server listens on the port of another address of this machine",
            "“localhost” has a server at `127.0.0.1` and another at `::1`",
        )
    ),
    *(
        Situation(
            "Several servers on one port",
            situation,
            "its tokens count as those of the version and settings found before",
            "INVALID: “another one than before”",
            _ATTACHED + "test_a_server_that_is_restarted_between_two_looks_is_refused",
        )
        for situation in (
            "the server is restarted between two cells, as with another version",
            "a proxy's servers take turns",
        )
    ),
    *situations(
        "What answers is not vLLM",
        _ATTACHED,
        (
            "a port of https, ssh or another program",
            "“nothing answers … Start the server”",
            "“what answers … does not speak HTTP. It may want https”",
            "test_what_answers_is_not_vllm",
        ),
        (
            "a proxy that redirects (307), or does not reach the server (502, 504)",
            "the status alone",
            "and “give vLLM's own address”",
            "test_what_answers_is_not_vllm",
        ),
        (
            "a server that is starting, or whose engine has ended (503)",
            "the status alone",
            "and “read its log, and wait until it is healthy”",
            "test_what_answers_is_not_vllm",
        ),
    ),
)
