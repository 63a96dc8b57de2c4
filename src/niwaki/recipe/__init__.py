"""What users write. Imports no torch."""
