"""Whether this machine can measure: facts, what they mean, and the same around each cell of a live run.

`facts` is what can be known, `reading` and `engine` find it out, `judging` says what it means (pure), `guard` does so before
and after a cell, `doctor` for `pytest-energy doctor`. Nothing here changes a setting, and nothing opens a CUDA context.
"""
