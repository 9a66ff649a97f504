"""What is measured: the cell and its key, model, engine arguments, workload and prompts."""
