"""Teach the smaller model what the larger one knows."""
