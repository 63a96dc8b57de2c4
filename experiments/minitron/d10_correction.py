"""D10: correcting the teacher on the distillation data lowers the student's loss (2408.11796, section 2.1).

The paper's teachers had not seen the distillation data. Here that is another kind of text, WikiText-2: the
student is cut from the teacher as it is, and learns from it uncorrected, corrected beforehand, or corrected
in the same training. Held-out text is WikiText-2's too.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from arms import Arm, run, wide
from lab import BATCH_ROWS, LEARNING_RATE, RUNS, SEEDS, SEQUENCE_LENGTH_TOKENS, Bench, conclude, mean, opened
from statistics_of_arms import Comparison
from transformers import PreTrainedModel

from niwaki.distillation.train import next_token_loss
from niwaki.ground.loop import fit
from niwaki.ground.model import load_tokenizer
from niwaki.ground.stream import Rows

TEACHER_LEARNING_RATE = LEARNING_RATE / 5
WIKITEXT = Path("data/text_wikitext2")


@dataclass(frozen=True)
class Elsewhere(Bench):
    """The bench with WikiText-2 instead of the text that the teacher was trained on."""

    @cached_property
    def train_ids(self) -> np.ndarray:
        return self._ids("valid.txt")

    @cached_property
    def held_out(self) -> Rows:
        return Rows(self._ids("test.txt"), sequence_length=SEQUENCE_LENGTH_TOKENS)

    def rows(self, seed: int) -> Rows:
        return Rows(self.train_ids, sequence_length=SEQUENCE_LENGTH_TOKENS, seed=seed)

    def _ids(self, name: str) -> np.ndarray:
        text = (WIKITEXT / name).read_text(encoding="utf-8")
        return np.array(load_tokenizer(self.folder)(text, verbose=False)["input_ids"])

    def corrected(self, seed: int) -> PreTrainedModel:
        """The teacher after as many tokens of this text as the student gets, at a fifth of its rate."""
        model = deepcopy(self.model)
        num_steps = self.teacher.train_tokens // (BATCH_ROWS * SEQUENCE_LENGTH_TOKENS)
        fit(
            model,
            self.rows(seed + 7),
            next_token_loss,
            out=RUNS / self.teacher.name / "corrected" / str(seed),
            num_steps=num_steps,
            batch_rows=BATCH_ROWS,
            micro_rows=BATCH_ROWS,
            learning_rate=TEACHER_LEARNING_RATE,
            warmup_steps=num_steps // 20,
            seed=seed,
            label=f"{self.teacher.name}: correction, seed {seed}",
        )
        return model


def cut_as_it_was(bench: Bench, seed: int) -> PreTrainedModel:
    """The wide student, by scores on the text of the teacher's own training."""
    return wide(Bench(bench.teacher), seed)


def main() -> None:
    bench = Elsewhere(opened(__doc__).teacher)
    plain = Arm("wikitext-wide-kl", cut_as_it_was)
    before = [
        run(
            bench,
            Arm("wikitext-wide-kl-corrected-before", cut_as_it_was),
            [seed],
            teacher=bench.corrected(seed),
        )[0]
        for seed in SEEDS
    ]
    corrected = [bench.measure(bench.corrected(seed)) for seed in SEEDS]
    alongside = Arm(
        "wikitext-wide-kl-alongside",
        cut_as_it_was,
        {"learn": "kl alongside", "teacher_learning_rate": TEACHER_LEARNING_RATE},
    )
    arms = {
        "uncorrected": run(bench, plain),
        "corrected before": before,
        "corrected alongside": run(bench, alongside),
    }
    conclude(
        bench,
        "d10",
        "a teacher corrected on the distillation data gives a student of lower loss",
        "the student's LM loss falls by more than 6 % (Figure 4 of 2408.11796)",
        arms,
        [
            Comparison("corrected before", "uncorrected"),
            Comparison("corrected alongside", "uncorrected"),
            Comparison("corrected before", "corrected alongside"),
        ],
        corrected_teacher=[round(mean(rows), 4) for rows in corrected],
    )


if __name__ == "__main__":
    main()
