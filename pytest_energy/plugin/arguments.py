"""The arguments of the `energy` marker. Light: every pytest run declares the marker."""

ARGUMENTS = {
    "model": "folder with a config.json (relative to the test file), or a Hugging Face id",
    "batch_sizes": "numbers of concurrent requests, one test each",
    "weights": "'auto' loads the model's own weights, 'dummy' lets vLLM invent them from its "
    "config.json, 'random' gives invented ones the usual size (default 'auto')",
    "input_tokens": "prompt length (default 512), or a distribution: "
    "{'lognormal': {'median': 512, 'sigma': 0.6, 'max': 2048}}",
    "output_tokens": "generated tokens per request (default 256; with prompts: as long as their "
    "replies), or a distribution",
    "shared_prefix_tokens": "of input_tokens, the first ones, which are the same in all prompts "
    "(default 0)",
    "prompts": "JSONL file of prompts (relative to the test file) instead of random ones",
    "engine": "'offline' measures vLLM's engine, 'server' vllm serve (default 'offline')",
    "engine_args": "settings of vllm.EngineArgs that belong to the suite",
    "tolerance": "relative increase of J/token that fails (default 0.03)",
    "throughput_tolerance": "relative decrease of tokens/s that fails "
    "(default 0.10; 0.05 interleaved)",
    "idle_tolerance": "relative increase of W at idle that fails (default 0.10)",
    "max_power_w": "power budget; exceeding it fails",
    "max_ttft_ms": "limit of a server's time to first token, 99th percentile",
    "max_itl_ms": "limit of a server's inter-token latency, 99th percentile",
}
