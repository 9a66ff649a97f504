"""An engine on a GPU becomes recordings."""
