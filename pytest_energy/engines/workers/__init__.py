"""What runs under the measured interpreter, started by path: standard library and vllm only."""
