"""What comes from elsewhere and what must not leave: untrusted input, redaction, atomic files."""
