"""What runs inside vLLM's workers: this folder is put on their module path, so each file in it has a name of its own."""
