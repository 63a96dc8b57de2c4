"""What the rollouts of a step say, counted by domain, and a few of them in full.

Counts, not means: a domain that is absent from a step, or has not one right answer, adds zeros and never a
mean of nothing, and the counts of many steps or processes add up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from niwaki.rl.rewards import Completion, Grade


@dataclass(frozen=True)
class Rollout:
    """One graded completion; `group` is the place of its prompt in the order of training."""

    group: int
    completion: Completion
    grade: Grade

    def as_row(self, step: int) -> dict[str, Any]:
        """The rollout in full, as a row of `rollouts.jsonl`."""
        question = self.completion.question
        return {
            "step": step,
            "id": question.id,
            "domain": question.domain,
            "source": question.source,
            "question": question.question,
            "options": None if question.options is None else list(question.options),
            "gold": question.gold,
            "completion": self.completion.text,
            "num_tokens": self.completion.num_tokens,
            "ended": self.completion.ended,
            "reward": self.grade.reward,
            "correct": self.grade.correct,
            "form": self.grade.form.value,
            "reason": self.grade.reason,
            "extracted": self.grade.extracted,
        }


def summary(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Counts of a step, over all and in `domains` by domain.

    `groups_all_right` and `groups_all_wrong` are the groups whose rewards are all the same and above zero, or
    zero: nothing is learned from either.
    """
    by_domain = defaultdict(list)
    for rollout in rollouts:
        by_domain[rollout.completion.question.domain].append(rollout)
    return _counts(rollouts) | {"domains": {name: _counts(own) for name, own in sorted(by_domain.items())}}


def _counts(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    groups = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.group].append(rollout.grade.reward)
    same = [rewards for rewards in groups.values() if len(set(rewards)) == 1]
    right = [r for r in rollouts if r.grade.correct]
    return {
        "rollouts": len(rollouts),
        "reward": sum(r.grade.reward for r in rollouts),
        "right": len(right),
        "well_formed": sum(r.grade.form == "ok" and r.completion.ended for r in rollouts),
        "truncated": sum(not r.completion.ended for r in rollouts),
        "tokens": sum(r.completion.num_tokens for r in rollouts),
        "tokens_of_right": sum(r.completion.num_tokens for r in right),
        "groups": len(groups),
        "groups_all_right": sum(rewards[0] > 0 for rewards in same),
        "groups_all_wrong": sum(rewards[0] == 0 for rewards in same),
        "reasons": dict(Counter(r.grade.reason for r in rollouts).most_common()),
        "forms": dict(Counter(r.grade.form.value for r in rollouts).most_common()),
    }
