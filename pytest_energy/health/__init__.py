"""Whether this machine can measure: facts, what they mean, and a look around each live cell.

`facts` is what can be known; `read_*` find it out; `check_*` say what it means (pure), in the
terms of `findings`; `doctor` does all of it once; `guard` does a little before and after each cell.
Nothing here changes a setting or opens a CUDA context.
"""
