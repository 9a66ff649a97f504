"""What is asked for: the cell and its key, the model, engine arguments, the workload and its prompts."""
