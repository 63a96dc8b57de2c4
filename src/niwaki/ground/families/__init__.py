"""Model families, as data only."""
