"""Minitron: what matters in a model, which smaller shape to choose, and the cut."""
