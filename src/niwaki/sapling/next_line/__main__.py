"""Rebuild the questions from this Python's standard library: `python -m niwaki.sapling.next_line OUT`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from niwaki.ground.text import stdlib_documents
from niwaki.sapling.next_line.questions import build_questions


def write_questions(out: Path) -> None:
    """Write `out`, one question a line, from the held-out modules."""
    documents = [(document.name, document.text) for document in stdlib_documents("held_out")]
    lines = [json.dumps(dataclasses.asdict(question)) for question in build_questions(documents)]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m niwaki.sapling.next_line OUT.jsonl")
    write_questions(Path(sys.argv[1]))
