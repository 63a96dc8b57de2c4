"""Verdicts on real answers: model solutions of GSM8K with published labels, and worked solutions of MATH.

    python benchmarks/verify/public_sets.py --data FOLDER --out benchmarks/verify/public_sets.json

FOLDER holds reason_gsm8k/example_model_solutions.jsonl (openai/grade-school-math: four models' solutions of
1,319 problems, each labelled right or wrong by its authors), reason_math/{math_train_7474,math500}.json and
reason_math/math_agieval_1000.jsonl (1,000 worked solutions, all right). Besides: whether each gold answer of
MATH accepts itself, bare and in a box at the end of a sentence, and how many of 24,000 random pairs of
different gold answers are accepted for each other.
"""

import argparse
import json
import random
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from niwaki.verify.check import check

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
NUM_PAIRS = 24_000


def by_niwaki(answer, gold):
    return check(answer, gold).correct


def by_math_verify(answer, gold):
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(answer)))


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def compared(cases, grader):
    """Of answers with labels: how many wrongly rejected and accepted, and verdicts a second."""
    counts, began = Counter(), time.process_time()
    for answer, gold, label in cases:
        counts[label, grader(answer, gold)] += 1
    seconds = time.process_time() - began
    return {
        "right": counts[True, True] + counts[True, False],
        "wrongly_rejected": counts[True, False],
        "wrong": counts[False, True] + counts[False, False],
        "wrongly_accepted": counts[False, True],
        "verdicts_per_processor_s": round(len(cases) / seconds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file to write the figures to.")
    arguments = parser.parse_args()
    folder = arguments.data
    solved = [
        (row[model]["solution"], row["ground_truth"].rsplit("A:", 1)[1].strip(), row[model]["is_correct"])
        for row in rows(folder / "reason_gsm8k" / "example_model_solutions.jsonl")
        for model in MODELS
    ]
    worked = [
        (row["other"]["solution"], row["answer"], True)
        for row in rows(folder / "reason_math" / "math_agieval_1000.jsonl")
    ]
    graders = {"niwaki.verify": by_niwaki}
    if find_spec("math_verify"):
        graders["math-verify"] = by_math_verify
    math = folder / "reason_math"
    golds = sorted(
        {
            row["answer"]
            for name in ("math_train_7474", "math500")
            for row in json.loads((math / f"{name}.json").read_text("utf-8"))
            if isinstance(row["answer"], str) and row["answer"].strip()
        }
    )
    refused = [
        gold
        for gold in golds
        if not all(by_niwaki(one, gold) for one in (gold, f"So the answer is $\\boxed{{{gold}}}$."))
    ]
    rng = random.Random(0)
    pairs = [rng.sample(golds, 2) for _ in range(NUM_PAIRS)]
    figures = {
        "gsm8k_model_solutions": {name: compared(solved, one) for name, one in graders.items()},
        "math_worked_solutions": {name: compared(worked, one) for name, one in graders.items()},
        "math_golds": {
            "distinct": len(golds),
            "not_accepted_for_themselves": refused,
            "random_pairs": NUM_PAIRS,
            "accepted_pairs": sorted({tuple(sorted(pair)) for pair in pairs if by_niwaki(*pair)}),
        },
    }
    print(json.dumps(figures, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
