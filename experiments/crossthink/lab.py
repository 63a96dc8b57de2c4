"""Small-scale stand-ins for CrossThink's data and one run of its line; what the arms share.

Two mathematics sets and two general ones, made up by `niwaki.curation.generators`. General sets come open and
as multiple choice, mathematics sets open, as in the paper. One small model is warmed up on worked solutions
of all of them to partial accuracy, and every arm goes on from it with GRPO.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from niwaki.curation.blend import largest_remainder, shares
from niwaki.curation.generators import generate
from niwaki.evaluation.answers import answer
from niwaki.evaluation.passk import Answered
from niwaki.ground.generate import sample
from niwaki.ground.model import load_model, load_tokenizer
from niwaki.ground.run import write_atomically
from niwaki.rl.fresh import fresh_model
from niwaki.rl.rewards import Rule
from niwaki.rl.train import train_rl
from niwaki.rl.warmup import SOLUTION, warm_up
from niwaki.verify.prompt import BARE, completion_of, prompt_of
from niwaki.verify.question import Question

MATH, GENERAL = ("largest", "how_many_above"), ("truth_value", "count_rows")
SIZES = {"largest": 400, "how_many_above": 400, "truth_value": 700, "count_rows": 900}
TEST_QUESTIONS = 40
SAMPLES, EVALUATION_SEEDS = 4, (0,)
MAX_PROMPT_TOKENS, MAX_COMPLETION_TOKENS = 96, 48


@dataclass(frozen=True)
class Setting:
    """How long and how hard everything is trained."""

    hidden: int = 96
    layers: int = 2
    vocab: int = 512
    warm_up_steps: int = 320
    warm_up_rows: int = 32
    warm_up_rate: float = 4e-3
    steps: int = 60
    prompts: int = 8
    rollouts: int = 8
    rate: float = 2e-4


@dataclass(frozen=True)
class Arm:
    """One way to train. `groups`: shares of groups of sets; None: by size.

    `label_and_text`: a choice is answered as "B) Oslo" and not as "B", in the worked solutions of its own
    start and, to the letter, in the reward.
    """

    groups: tuple[tuple[float | Fraction, tuple[str, ...]], ...] | None = None
    template: str = "mixed"
    rule: Rule = "and"
    hard_only: bool = False
    label_and_text: bool = False


NATURAL = tuple((Fraction(SIZES[name], sum(SIZES.values())), (name,)) for name in SIZES)
ARMS = {
    "nd": Arm(),
    "gpr-up": Arm(groups=((0.66, GENERAL), (0.34, MATH))),
    "math-up": Arm(groups=((0.66, MATH), (0.34, GENERAL))),
    "only-math": Arm(groups=((1.0, MATH),)),
    "only-gpr": Arm(groups=((1.0, GENERAL),)),
    "open": Arm(template="open"),
    "hard": Arm(hard_only=True),
    "hard-shares": Arm(hard_only=True, groups=NATURAL),
    "sum": Arm(rule="sum"),
    "random": Arm(rule="random"),
    "text": Arm(label_and_text=True),
}


def questions_of(split: str, sizes: dict[str, int], *, seed: int, template: str) -> dict[str, list[Question]]:
    """Questions of each set; with the template "mixed" every second general one is multiple choice."""
    found: dict[str, list[Question]] = {}
    for name, size in sizes.items():
        forms = {
            form: list(
                generate(name, num_questions=size, split=split, difficulty=1, template=form, seed=seed)
            )
            for form in ("open", "mc")
        }
        mixed = template == "mixed" and name in GENERAL
        found[name] = [
            replace(
                forms["mc" if mixed and number % 2 else "open"][number],
                source=name,
                domain="math" if name in MATH else "gpr",
            )
            for number in range(size)
        ]
    return found


def with_text(question: Question) -> Question:
    """The question with label and text of its option as the only right answer; an open one as it is."""
    if question.options is None:
        return question
    text = question.options[ord(question.gold) - ord("A")]
    return replace(question, gold=f"{question.gold}) {text}", type="exact")


def benchmarks() -> dict[str, list[Question]]:
    """Held-out questions: every set open, the general ones also as multiple choice."""
    sizes = dict.fromkeys(SIZES, TEST_QUESTIONS)
    tests = dict(questions_of("test", sizes, seed=99, template="open"))
    choices = questions_of("test", dict.fromkeys(GENERAL, 2 * TEST_QUESTIONS), seed=98, template="mixed")
    for name, questions in choices.items():
        tests[f"{name}-mc"] = [q for q in questions if q.options is not None]
    return tests


def start(work: Path, setting: Setting, *, label_and_text: bool = False) -> Path:
    """The warmed model of all arms, or that of the arm with label and text; a killed call goes on."""
    folder = work / ("start-text" if label_and_text else "start")
    if (folder / "model").exists():
        return folder / "model"
    sets = questions_of("train", SIZES, seed=0, template="mixed")
    questions = [with_text(q) if label_and_text else q for own in sets.values() for q in own]
    if not (folder / "fresh").exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh_model(
            (prompt_of(q, BARE) + completion_of(q.meta[SOLUTION], q.gold) for q in questions),
            folder / "fresh",
            hidden=setting.hidden,
            ffn=3 * setting.hidden,
            layers=setting.layers,
            vocab=setting.vocab,
        )
    warm_up(
        folder / "fresh",
        questions,
        out=folder,
        num_steps=setting.warm_up_steps,
        prompt=BARE,
        batch_rows=setting.warm_up_rows,
        micro_rows=setting.warm_up_rows,
        max_tokens=MAX_PROMPT_TOKENS + MAX_COMPLETION_TOKENS,
        learning_rate=setting.warm_up_rate,
        warmup_steps=50,
        precision="float32",
        save_every_steps=100,
    )
    return folder / "model"


def blend(arm: Arm, num_rows: int, *, seed: int, kept: set[str] | None = None) -> list[Question]:
    """`num_rows` questions in training order, with the arm's exact shares."""
    sets = questions_of("train", SIZES, seed=0, template=arm.template)
    if kept is not None:
        sets = {name: [q for q in own if q.id in kept] for name, own in sets.items()}
    sizes = {name: len(own) for name, own in sets.items() if own}
    total = sum(sizes.values())
    of_shares = (
        {name: Fraction(size, total) for name, size in sizes.items()}
        if arm.groups is None
        else shares(sizes, arm.groups)
    )
    random, chosen = Random(seed), []
    for name, count in largest_remainder(num_rows, of_shares).items():
        own = random.sample(sets[name], len(sets[name]))
        chosen += [own[place % len(own)] for place in range(count)]
    random.shuffle(chosen)
    chosen = [with_text(question) for question in chosen] if arm.label_and_text else chosen
    return [replace(question, id=f"{place}-{question.id}") for place, question in enumerate(chosen)]


def unsolved(model: Path, work: Path) -> set[str]:
    """Training questions that the warmed model gets wrong in one answer: the paper's difficulty filter."""
    file = work / "unsolved.json"
    if not file.exists():
        sets = questions_of("train", SIZES, seed=0, template="mixed")
        questions = [question for own in sets.values() for question in own]
        written = sample(
            load_model(model),
            load_tokenizer(model),
            [prompt_of(question, BARE) for question in questions],
            temperature=0.0,
            max_new_tokens=MAX_COMPLETION_TOKENS,
            label="difficulty",
        )
        wrong = [q.id for q, [one] in zip(questions, written, strict=True) if not q.check(one.text).correct]
        write_atomically(file, json.dumps({"questions": len(questions), "unsolved": wrong}))
    found: list[str] = json.loads(file.read_text())["unsolved"]
    return set(found)


def run_arm(name: str, seed: int, model: Path, work: Path, setting: Setting) -> dict[str, Any]:
    """Train and evaluate one arm with one seed; what goes into the results file."""
    arm, folder = ARMS[name], work / f"{name}-{seed}"
    kept = unsolved(model, work) if arm.hard_only else None
    train_rl(
        model,
        blend(arm, setting.steps * setting.prompts, seed=seed, kept=kept),
        out=folder,
        num_steps=setting.steps,
        prompts_per_step=setting.prompts,
        num_generations=setting.rollouts,
        micro_rollouts=setting.prompts * setting.rollouts,
        prompt=BARE,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        max_completion_tokens=MAX_COMPLETION_TOKENS,
        learning_rate=setting.rate,
        rule=arm.rule,
        precision="float32",
        seed=seed,
        save_every_steps=20,
        label=f"{name} {seed}",
    )
    return compact(ask(folder / "model", folder / "answers.jsonl"))


def ask(model: Path, file: Path) -> list[Answered]:
    """The held-out questions, answered by a model."""
    return answer(
        load_model(model),
        load_tokenizer(model),
        benchmarks(),
        file=file,
        prompt=BARE,
        num_samples=SAMPLES,
        seeds=EVALUATION_SEEDS,
        max_new_tokens=MAX_COMPLETION_TOKENS,
        batch_rows=256,
    )


def compact(answered: Sequence[Answered]) -> dict[str, Any]:
    """Per question: benchmark, domain, right answers, samples, tokens, tokens of right ones, cut ones."""
    return {
        one.id: [
            one.benchmark,
            one.domain,
            sum(s.correct for s in one.flat),
            len(one.flat),
            sum(s.num_tokens for s in one.flat),
            sum(s.num_tokens for s in one.flat if s.correct),
            sum(not s.ended for s in one.flat),
        ]
        for one in answered
    }
