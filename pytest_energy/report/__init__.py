"""What people read: rows, explanations, pages, charts, results.json."""
