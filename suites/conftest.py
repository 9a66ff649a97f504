"""`pytest suites` measures what one GPU can. Suites for several GPUs are collected if named."""

collect_ignore = ["two_gpus", "four_gpus", "eight_gpus"]
