"""As much of `vllm serve` as the launcher calls; the port is bound before the engine is made."""

import argparse
import asyncio
import os
import socket
from pathlib import Path

from fake_server import FakeServer

OPTIONS = (
    "tokenizer",
    "load-format",
    "max-model-len",
    "max-num-batched-tokens",
    "seed",
    "generation-config",
    "gpu-memory-utilization",
    "fault",
    "uds",
    "ssl-keyfile",
    "api-key",
)


class ServeSubcommand:
    def subparser_init(self, subparsers):
        parser = subparsers.add_parser("serve")
        parser.add_argument("model")
        parser.add_argument("--host", required=True)
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--served-model-name", required=True)
        parser.add_argument("--max-num-seqs", type=int, default=8)
        parser.add_argument("--disable-uvicorn-access-log", action="store_true")
        parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
        parser.add_argument("--trust-remote-code", action="store_true")
        parser.add_argument("--data-parallel-size", type=int, default=1)
        parser.add_argument("--api-server-count", type=int)
        parser.add_argument("--headless", action="store_true")
        parser.add_argument("--grpc", action="store_true")
        for name in OPTIONS:
            parser.add_argument(f"--{name}")

    def validate(self, arguments):
        assert "VLLM_API_KEY" not in os.environ
        if arguments.tokenizer:
            assert Path(arguments.tokenizer, "tokenizer.json").is_file()

    def cmd(self, arguments):
        from vllm.v1.engine.async_llm import AsyncLLM

        with socket.socket() as probe:
            probe.bind((arguments.host, arguments.port))
        if arguments.fault != "elsewhere":  # as if another process made the engine's client
            AsyncLLM(arguments.fault, arguments.max_num_seqs, bool(arguments.enable_prefix_caching))
        served = FakeServer(
            arguments.served_model_name,
            arguments.fault,
            caches=bool(arguments.enable_prefix_caching),
        )
        asyncio.run(served.serve(arguments.port, arguments.host))
