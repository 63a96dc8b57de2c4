"""The bundled teacher: a small code model trained on the Python standard library."""

from pathlib import Path

TASK_FOLDER = Path(__file__).parent / "next_line"
