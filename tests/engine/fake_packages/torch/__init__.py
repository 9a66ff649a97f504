"""As much of torch as the worker asks for."""

__version__ = "0.0"


class version:
    cuda = None
