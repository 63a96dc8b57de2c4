"""Rows per second, memory and what is found when a large set is curated.

    python benchmarks/curation/run.py --rows 600000 --out results.json [--workers 2] [--folder FOLDER]

The rows are made up by the project's own tasks (six domains, several levels and seeds), so no data is needed.
Every 20th row repeats an earlier one word for word, every 40th in another layout, and every 100th is an item
of the benchmark that must stay unseen. A run that is killed goes on when it is started again with the
same folder. Memory is the largest resident set of the parent and of its largest child;
rows a second of processor time do not depend on what else the machine does.
"""

import argparse
import itertools
import random
import resource
import time
from dataclasses import replace
from pathlib import Path

from figures import processor_s, report, stream

from niwaki.curation.curate import curate
from niwaki.curation.generators import TASKS, generate
from niwaki.errors import DataError
from niwaki.verify.question import write_questions

TEST_ITEMS = 2_000


def endless():
    """Different questions, task after task, level after level, seed after seed."""
    for seed in itertools.count():
        for level in (5, 4, 3, 2):
            for task in TASKS:
                try:
                    yield from generate(task, num_questions=1_000, split="train", difficulty=level, seed=seed)
                except DataError:
                    continue  # a task that is used up at this level


def planted(num_rows, items, rng):
    """The rows, with copies and items of the benchmark among them."""
    kept = []
    questions = endless()
    for number in range(num_rows):
        if number % 100 == 99:
            question = rng.choice(items)
        elif number % 20 == 19:
            question = rng.choice(kept)
        elif number % 40 == 37:
            question = rng.choice(kept)
            question = replace(question, question=f"  {question.question.upper()} ")
        else:
            question = next(questions)
            if len(kept) < 20_000:
                kept.append(question)
        yield replace(question, id=f"row-{number}", source="made-up")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-curation"))
    parser.add_argument("--out", type=Path, help="JSON file to write the figures to.")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    source, test = folder / "rows.jsonl", folder / "test.jsonl"
    if not source.exists():
        items = list(generate(num_questions=TEST_ITEMS, split="test", difficulty=3))
        write_questions(test, items)
        write_questions(source, planted(arguments.rows, items, random.Random(0)))

    before_s, began = processor_s(), time.monotonic()
    summary = curate(
        {"made-up": stream("made-up", "questions", source)},
        folder / "curated",
        benchmarks={"test": stream("test", "questions", test)},
        workers=arguments.workers,
    )
    seconds = time.monotonic() - began
    usage = {
        "parent": resource.getrusage(resource.RUSAGE_SELF),
        "child": resource.getrusage(resource.RUSAGE_CHILDREN),
    }
    used_s = processor_s() - before_s
    figures = {
        "rows": arguments.rows,
        "workers": arguments.workers,
        "seconds": round(seconds, 1),
        "rows_per_s": round(arguments.rows / seconds),
        "rows_per_processor_s": round(arguments.rows / used_s),
        "peak_mib": {who: round(one.ru_maxrss / 1024) for who, one in usage.items()},
        "source_mib": round(source.stat().st_size / 2**20),
        "sources": summary["sources"],
        "planted": summary["contamination"]["planted"],
    }
    report(figures, arguments.out)


if __name__ == "__main__":
    main()
