"""False accepts, false rejects, speed and worst latency of graders on the labelled battery.

    python benchmarks/verify/run.py [--out results.json]

Compares `niwaki.verify` with the exact string in the last box, with math-verify and with TRL's accuracy
reward; the last two only where they are installed, as they are, with their default settings. Each grader
works in a process of its own, and a case is given up after ten seconds. Answers without a box or an
"answer is" are put in a box for every grader but ours, as their authors expect. Figures are for all
cases, and for those about mathematics alone (no multiple choice, no text), which is all that two of the
graders are for.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from importlib.util import find_spec
from pathlib import Path

BATTERY = Path(__file__).parents[2] / "tests" / "verify" / "battery.jsonl"
GIVE_UP_S = 10.0
NOT_MATHEMATICS = {"mc", "text", "gold"}


def boxed(answer):
    bare = not any(mark in answer for mark in ("\\boxed", "nswer", "</think>", "<think>", "\n", "####"))
    return f"\\boxed{{{answer}}}" if bare else answer


def niwaki(case):
    from niwaki.verify.check import check

    return check(case["answer"], case["gold"], type=case.get("type"), options=case.get("options")).correct


def exact(case):
    from niwaki.verify.check import check

    return check(boxed(case["answer"]), case["gold"], type="exact").correct


def math_verify(case):
    from math_verify import parse, verify

    return bool(verify(parse(case["gold"]), parse(boxed(case["answer"]))))


def math_verify_latex(case):
    from math_verify import parse, verify

    return bool(verify(parse(f"${case['gold']}$"), parse(boxed(case["answer"]))))


def trl(case):
    from trl.rewards import accuracy_reward

    return accuracy_reward([[{"content": boxed(case["answer"])}]], [case["gold"]])[0] == 1.0


def trl_latex(case):
    return trl({"answer": case["answer"], "gold": f"${case['gold']}$"})


GRADERS = {
    "niwaki.verify": (niwaki, None),
    "exact string in the last box": (exact, None),
    "math-verify": (math_verify, "math_verify"),
    "math-verify, gold in $...$": (math_verify_latex, "math_verify"),
    "TRL accuracy reward": (trl, "trl"),
    "TRL accuracy reward, gold in $...$": (trl_latex, "trl"),
}


def work(grader, connection):
    """Grade what comes until nothing does; a grader that raises has not accepted."""
    while (case := connection.recv()) is not None:
        start = time.perf_counter()
        try:
            accepted, raised = bool(grader(case)), None
        except Exception as error:
            accepted, raised = False, type(error).__name__
        connection.send((accepted, raised, time.perf_counter() - start))


def start(grader):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=work, args=(grader, theirs), daemon=True)
    process.start()
    ours.send({"answer": "1/2", "gold": "\\int_0^1 x dx"})  # loads what the grader needs; not counted
    ours.recv()
    return process, ours


def measure(grader, cases):
    process, connection = start(grader)
    outcomes = []
    for case in cases:
        connection.send(case)
        if connection.poll(GIVE_UP_S):
            outcomes.append(connection.recv())
        else:
            process.kill()
            outcomes.append((False, "gave up", GIVE_UP_S))
            process, connection = start(grader)
    connection.send(None)
    seconds = [taken for _, _, taken in outcomes]
    return {
        "all": errors(cases, outcomes),
        "mathematics": errors(cases, outcomes, without=NOT_MATHEMATICS),
        "raised": sum(raised is not None for _, raised, _ in outcomes),
        "verdicts_per_s": len(cases) / sum(seconds),
        "median_ms": 1000 * statistics.median(seconds),
        "worst_s": max(seconds),
    }


def errors(cases, outcomes, without=frozenset()):
    graded = [
        (case["label"], accepted)
        for case, (accepted, _, _) in zip(cases, outcomes, strict=True)
        if case["category"] not in without
    ]
    right, wrong = ([accepted for label, accepted in graded if label is side] for side in (True, False))
    return {
        "false_rejects": f"{right.count(False)} of {len(right)} ({right.count(False) / len(right):.1%})",
        "false_accepts": f"{wrong.count(True)} of {len(wrong)} ({wrong.count(True) / len(wrong):.1%})",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write the figures to.")
    out = parser.parse_args().out
    cases = [json.loads(line) for line in BATTERY.read_text("utf-8").splitlines()]
    print("| grader | wrongly rejected | wrongly accepted | of mathematics: rejected | accepted", end="")
    print(" | verdicts/s | median | worst |\n|---|---|---|---|---|---|---|---|")
    figures = {}
    for name, (grader, needs) in GRADERS.items():
        if needs is not None and find_spec(needs) is None:
            print(f"| {name} | not installed | | | | | | |")
            continue
        figures[name] = one = measure(grader, cases)
        rates = [
            one[part][kind] for part in ("all", "mathematics") for kind in ("false_rejects", "false_accepts")
        ]
        speed = [f"{one['verdicts_per_s']:.0f}", f"{one['median_ms']:.2f} ms", f"{one['worst_s']:.2f} s"]
        print(f"| {name} | {' | '.join(rates + speed)} |", flush=True)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
