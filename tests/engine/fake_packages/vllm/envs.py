"""As much of vLLM's settings from the environment as the launcher reads."""

import os

VLLM_USE_RUST_FRONTEND = bool(int(os.getenv("VLLM_USE_RUST_FRONTEND", "0")))
