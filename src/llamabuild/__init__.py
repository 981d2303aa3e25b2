"""llamabuild rebuilds the GPU module of a llamafile for the GPU that is really there."""

__version__ = "0.1.0"
