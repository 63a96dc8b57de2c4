"""Around TRL's training step: completions are graded, counted and written down, and snapshots saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase, TrainerCallback

from niwaki.ground import snapshot
from niwaki.ground.metrics import MetricsFile
from niwaki.ground.progress import Bar
from niwaki.rl.extra import Guarded
from niwaki.rl.order import Order
from niwaki.rl.rewards import Completion, Grader
from niwaki.rl.rollouts import Rollout, summary

_LOGGED = ("loss", "grad_norm", "kl", "entropy", "reward_std")


class Judge:
    """The rule as TRL calls it; keeps what it graded until the step is written down."""

    __name__ = "rule"

    def __init__(
        self, order: Order, grade: Grader, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
    ) -> None:
        self._order, self._grade, self._tokenizer, self._ends = order, grade, tokenizer, set(ends)
        self._kept: list[Rollout] = []

    def __call__(
        self, *, completion_ids: Sequence[Sequence[int]], place: Sequence[int], **columns: Any
    ) -> list[float]:
        """The reward of each completion; `place` is that of its prompt in the order of training."""
        texts = self._tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        completions = [
            Completion(self._order[at], text, len(ids), ended=bool(ids) and ids[-1] in self._ends)
            for ids, text, at in zip(completion_ids, texts, place, strict=True)
        ]
        grades = self._grade(completions)
        self._kept += [Rollout(at, c, g) for at, c, g in zip(place, completions, grades, strict=True)]
        return [grade.reward for grade in grades]

    def take(self) -> list[Rollout]:
        """The rollouts graded since the last call, over all processes."""
        kept, self._kept = self._kept, []
        gathered: list[Rollout] = gather_object(kept)
        return gathered


@dataclass(frozen=True)
class Keeping:
    """What is kept of a training in `out`, and how often; `found` is the snapshot that it goes on from."""

    out: Path
    found: Path | None
    save_every_steps: int
    rollouts_per_step: int


class Steps(TrainerCallback):
    """Seeds every step, writes down what it brought, and saves snapshots."""

    def __init__(
        self,
        trainer: Any,
        judge: Judge,
        extras: Sequence[Guarded],
        keeping: Keeping,
        first_step: int,
        last_step: int,
        seed: int,
    ) -> None:
        self._trainer, self._judge, self._extras, self._keeping = trainer, judge, extras, keeping
        self._first, self._last, self._seed = first_step, last_step, seed
        self.bar: Bar | None = None
        self._num_tokens = 0
        self._metrics, self._rollouts = (
            MetricsFile(keeping.out / name, upto_step=first_step)
            for name in ("metrics.jsonl", "rollouts.jsonl")
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put back the weights and moments of the snapshot."""
        if self._keeping.found is not None:
            optimizer = kwargs["optimizer"]
            inner = getattr(optimizer, "optimizer", optimizer)
            _, self._num_tokens = snapshot.restore(self._keeping.found, self._trainer.model, inner)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Random numbers depend on the step and the process alone."""
        step = self._first + state.global_step
        torch.manual_seed((self._seed * 1_000_003 + step * 1009 + self._trainer.args.process_index) % 2**63)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write one record of a step: TRL's numbers and our counts."""
        if logs is None or "grad_norm" not in logs:
            return
        step = self._first + state.global_step
        rollouts = self._judge.take()
        counts = summary(rollouts)
        self._num_tokens += counts["tokens"]
        numbers = {name: logs.get(name) for name in _LOGGED}
        totals = {name.removesuffix("/mean"): v for name, v in logs.items() if name.startswith("rewards/")}
        totals = {name: value for name, value in totals.items() if not name.endswith("/std")}
        failed = {f"failed/{extra.__name__}": extra.num_failures for extra in self._extras}
        self._metrics.write(
            {"step": step, "tokens_seen": self._num_tokens, **numbers, **totals, **failed, **counts}
        )
        for rollout in telling(rollouts, self._keeping.rollouts_per_step):
            self._rollouts.write(rollout.as_row(step))
        share = counts["reward"] / max(1, counts["rollouts"])
        tokens = counts["tokens"] / max(1, counts["rollouts"])
        if self.bar is not None:
            self.bar.advance(f"reward {share:.3f}, {tokens:.0f} tokens each")
        if step % self._keeping.save_every_steps == 0 or step == self._last:
            self._save(step, kwargs)

    def _save(self, step: int, kwargs: Mapping[str, Any]) -> None:
        self._metrics.flush()
        self._rollouts.flush()
        optimizer = kwargs["optimizer"]
        inner = getattr(optimizer, "optimizer", optimizer)
        snapshot.save(
            self._keeping.out / "checkpoints", (step, self._num_tokens), self._trainer.model, inner, keep=2
        )
        self._trainer.accelerator.wait_for_everyone()


def telling(rollouts: Sequence[Rollout], number: int) -> list[Rollout]:
    """Rollouts to keep in full: right and wrong ones in turn, of as many groups as there are."""
    first_of: dict[tuple[bool, int], Rollout] = {}
    for rollout in rollouts:
        first_of.setdefault((rollout.grade.correct, rollout.group), rollout)
    right = [r for (correct, _), r in first_of.items() if correct]
    wrong = [r for (correct, _), r in first_of.items() if not correct]
    half = min(len(wrong), max(number // 2, number - len(right)))
    return right[: number - half] + wrong[:half]
