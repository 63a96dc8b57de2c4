"""The offline downstream task: which of four real lines of the standard library comes next?

The folder is a task folder of lm-eval: `lm_eval --include_path` finds `next_line.yaml` in it.
"""

from pathlib import Path

TASK_FOLDER = Path(__file__).parent
