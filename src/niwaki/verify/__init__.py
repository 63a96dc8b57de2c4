"""Is this answer right? Start in check.py."""
