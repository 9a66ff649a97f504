"""`pytest suites` measures quiet cells on one GPU. Other suites are collected if named."""

collect_ignore = [
    *("releases", "published", "regimes", "host_bound", "idle", "weights"),
    *("two_gpus", "four_gpus", "eight_gpus"),
]
