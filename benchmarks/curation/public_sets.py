"""Curates GSM8K, MATH, SVAMP, AQuA and MMLU dev against GSM8K test, MATH-500, AQuA test and MMLU test.

    python benchmarks/curation/public_sets.py --data FOLDER --out results.json

FOLDER holds reason_gsm8k/{train,test}.jsonl, reason_math/{math_train_7474,math500}.json,
reason_svamp/SVAMP.json, reason_aqua/{dev,test}.jsonl and reason_mmlu/{dev,test}/*.csv. One more source holds
400 items of the four benchmarks, in capitals, inside other text, or with shuffled options.
"""

import argparse
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from figures import processor_s, report, stream

from niwaki.curation.curate import curate

TRAIN = {
    "gsm8k": ("gsm8k", "reason_gsm8k/train.jsonl"),
    "math": ("math", "reason_math/math_train_7474.json"),
    "svamp": ("svamp", "reason_svamp/SVAMP.json"),
    "aqua": ("aqua", "reason_aqua/dev.jsonl"),
    "mmlu-dev": ("mmlu", "reason_mmlu/dev"),
}
TEST = {
    "gsm8k-test": ("gsm8k", "reason_gsm8k/test.jsonl"),
    "math-500": ("math", "reason_math/math500.json"),
    "aqua-test": ("aqua", "reason_aqua/test.jsonl"),
    "mmlu-test": ("mmlu", "reason_mmlu/test"),
}
PLANTED_EACH = 100


def planted(data):
    """Items of every benchmark, each hidden in one of three ways."""
    rng = random.Random(0)
    for name, (form, path) in TEST.items():
        items = list(stream(name, form, data / path)(lambda one: None))
        for number, item in enumerate(rng.sample(items, PLANTED_EACH)):
            text, options, gold = item.question, item.options, item.gold
            if number % 3 == 0 and "\\" not in text:
                text = text.upper()
            elif number % 3 == 1:
                text = f"Please solve this with care.\n\n{text}\n\nShow every step."
            elif options is not None:
                right = options[ord(gold) - ord("A")]
                options = tuple(rng.sample(options, len(options)))
                gold = chr(ord("A") + options.index(right))
            yield replace(
                item, id=f"planted-{item.id}", question=text, options=options, gold=gold, source="planted"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write the figures to.")
    arguments = parser.parse_args()
    sources = {name: stream(name, form, arguments.data / path) for name, (form, path) in TRAIN.items()}
    sources["planted"] = lambda aside: planted(arguments.data)
    benchmarks = {name: stream(name, form, arguments.data / path) for name, (form, path) in TEST.items()}
    before_s, began = processor_s(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        summary = curate(
            sources,
            Path(folder) / "out",
            benchmarks=benchmarks,
            mc_template="both",
            workers=arguments.workers,
        )
    rows = sum(counts["questions"] for counts in summary["sources"].values())
    found = summary["sources"]["planted"]["dropped"].get("contaminated", 0)
    figures = {
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
        "rows_per_processor_s": round(rows / (processor_s() - before_s)),
        "planted_found": f"{found} of {PLANTED_EACH * len(TEST)}",
        "sources": summary["sources"],
        "contamination": summary["contamination"],
        "templates": {way: {"changed": one["changed"], "dropped": one["dropped"]}
                      for way, one in summary["templates"].items()},
    }  # fmt: skip
    report(figures, arguments.out)


if __name__ == "__main__":
    main()
