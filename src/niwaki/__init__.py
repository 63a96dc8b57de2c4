"""niwaki shapes big open language models into small, fast, well-aligned ones."""

__version__ = "0.1.0"
