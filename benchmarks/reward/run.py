"""The reward of a training step: ours beside the sum of TRL's accuracy and format rewards, same batches.

    python benchmarks/reward/run.py [--rollouts 256] [--out results.json]

A batch holds rollouts of made-up questions: right and well formed, right without the form, wrong and well
formed, wrong without it, and rollouts that never ended. "Hostile" batches put a power tower or a factorial
into every sixteenth box. Each is rewarded in the main thread and in a worker thread, where timers made of
signals do not work. A batch is given up after 60 s. The pair runs as its authors ship it, golds in $...$.
"""

import argparse
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

from niwaki.curation.generators import generate
from niwaki.rl.rewards import Completion, grader

GIVE_UP_S = 60.0
HOSTILE = ("9^{9^{9^{9^{9}}}}", "((((99!)!)!)!)!", "2^{2^{2^{2^{2^{2}}}}}", "10^{10^{10}}!")
KINDS = ("right", "right, no form", "wrong", "wrong, no form", "cut off")


def batch(rollouts, *, hostile):
    """(kind, completion) for so many rollouts; the questions' gold answers are numbers."""
    tasks = ["addition", "multiplication", "linear_equation", "fraction_sum"]
    made = []
    for place, question in enumerate(
        generate(tasks, num_questions=rollouts, split="train", difficulty=2, seed=1)
    ):
        kind = KINDS[place % len(KINDS)]
        answer = question.gold if kind.startswith(("right", "cut")) else f"{question.gold}1"
        if hostile and place % 16 == 7:
            answer, kind = HOSTILE[place // 16 % len(HOSTILE)], "wrong"
        text = f"\\boxed{{{answer}}}"
        text = text if kind.endswith("no form") else f"<think>step by step</think>{text}"
        made.append((kind, Completion(question, text, len(text) // 3, ended=kind != "cut off")))
    return made


def ours(completions):
    return [grade.reward for grade in grader("and")(completions)]


def trl_pair(completions):
    from trl.rewards import accuracy_reward, think_format_reward

    messages = [[{"role": "assistant", "content": c.text}] for c in completions]
    right = accuracy_reward(messages, [f"${c.question.gold}$" for c in completions])
    formed = think_format_reward(messages)
    return [(a or 0.0) + b for a, b in zip(right, formed, strict=True)]


def work(function, completions, in_thread, pipe):
    """In a process of its own: the rewards, or what went wrong, and the seconds."""
    function(completions[:4])  # imports, first parse
    answer = []

    def call():
        began = time.perf_counter()
        try:
            rewards = function(completions)
        except BaseException as error:
            answer.append({"problem": f"{type(error).__name__}: {str(error)[:80]}"})
        else:
            answer.append({"rewards": rewards, "seconds": time.perf_counter() - began})

    if in_thread:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    else:
        call()
    pipe.send(answer[0])


def measured(function, made, in_thread):
    ours_end, theirs = multiprocessing.Pipe()
    completions = [completion for _, completion in made]
    process = multiprocessing.Process(target=work, args=(function, completions, in_thread, theirs))
    process.start()
    result = ours_end.recv() if ours_end.poll(GIVE_UP_S) else {"problem": f"no end after {GIVE_UP_S:.0f} s"}
    process.kill()
    process.join()
    if "rewards" not in result:
        return result
    by_kind = {kind: [] for kind in KINDS}
    for (kind, _), reward in zip(made, result["rewards"], strict=True):
        by_kind[kind].append(reward)
    return {
        "rewards_per_s": round(len(made) / result["seconds"], 1),
        "mean_reward": {kind: round(sum(own) / len(own), 3) for kind, own in by_kind.items()},
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {"rollouts": arguments.rollouts, "load": os.getloadavg()[0]}
    for hostile in (False, True):
        made = batch(arguments.rollouts, hostile=hostile)
        for name, function in (("niwaki", ours), ("TRL, two rewards", trl_pair)):
            for in_thread in (False, True):
                key = f"{'hostile' if hostile else 'ordinary'}, {'thread' if in_thread else 'main'}"
                results.setdefault(name, {})[key] = found = measured(function, made, in_thread)
                print(f"{name:18} {key:18} {found.get('rewards_per_s') or found['problem']}", flush=True)
        kept = results["niwaki"][key]["mean_reward"], results["TRL, two rewards"]
        print(json.dumps(kept[0]))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
