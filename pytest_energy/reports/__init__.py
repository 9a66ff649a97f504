"""Reports that people look at: what a run found, as results.json, Markdown, HTML, pictures and tables."""
