"""What runs inside vLLM's workers, whose module path has this folder: so names are unique."""
