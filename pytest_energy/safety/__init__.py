"""What comes from elsewhere and what must not leave: schemas, limits, redaction, safe files."""
