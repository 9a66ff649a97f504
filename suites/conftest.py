"""`pytest suites` measures what one GPU can; the folders of suites that need several GPUs are collected only when they are named."""

collect_ignore = ["two_gpus", "four_gpus", "eight_gpus"]
