"""Fuzz every parser of untrusted bytes for a while, guided by coverage, and say what came of it.

Needs atheris (`pip install atheris`, Linux). Each target runs in a process of its own and ends at its first
find, which is kept in the folder; writes results.json beside this file.

    python benchmarks/fuzz/run.py --seconds 300 --folder fuzzed
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

TARGETS = ("recipe", "axes", "tensors", "importance", "scores", "mask", "answer", "questions", "paired")
SLOWEST_S, MEMORY_MB = 25, 4096


def fuzz(name: str, folder: Path, seconds: int) -> dict[str, Any]:
    """Runs, lines of code reached, and the error of the input that ended the target, if one did."""
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MEMORY_MB}", "-seed=1"]
    command = [sys.executable, str(Path(__file__).with_name("targets.py")), name, str(corpus), *limits]
    done = subprocess.run([*command, f"-artifact_prefix={corpus}-"], capture_output=True, text=True)
    runs = re.findall(r"^#(\d+)\s", done.stderr, re.MULTILINE)
    reached = re.findall(r" ft: (\d+)", done.stderr)
    errors = re.findall(r"^(\w*(?:Error|Exception)\b.*)", done.stderr, re.MULTILINE)
    found = re.findall(r"Test unit written to (\S+)", done.stderr)
    return {
        "target": name,
        "runs": int(runs[-1]) if runs else 0,
        "features": int(reached[-1]) if reached else 0,
        "find": {"input": Path(found[0]).name, "error": errors[-1:] or done.stderr[-300:]} if found else None,
        "exit": done.returncode,
    }


def main() -> None:
    """Fuzz all targets in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--folder", type=Path, required=True, help="where inputs are kept, to go on from")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=TARGETS)
    options = parser.parse_args()
    results = []
    for name in options.only:
        results.append(fuzz(name, options.folder, options.seconds))
        print(json.dumps(results[-1]), flush=True)
    facts = {"seconds": options.seconds, "atheris": version("atheris"), "python": platform.python_version()}
    Path(__file__).with_name("results.json").write_text(
        json.dumps(facts | {"targets": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
