"""A next-token distribution in a few numbers, from which its KL is still right on average.

In: the teacher's log-probabilities. Out: the K most likely tokens as they are, and M tokens drawn from
the rest in proportion to their probability, each of which stands for one M-th of the mass of the rest. The
tail's mass is neither dropped nor given to the K, as truncated and renormalised top-k do, whose optimum is
another distribution (Minitron, section 2.4: K <= 100 hurts a lot). For every student

    KL(p || q) = E[ sum over the K + M of w (log p - log q) ],   w = p for the K, (tail's mass) / M for the M

and the gradient is right on average too, because both are linear in w. At q = p the estimate is 0 with every
draw. With M = 0 there is no such w, so M >= 1.

Shapes: N tokens, V vocabulary, K most likely, M drawn; `..` any leading axes, the same in all arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from niwaki.distillation.fused import CHUNK_TOKENS, reduce_tokens
from niwaki.ground.head import Head


@dataclass(frozen=True)
class Sampled:
    """Distributions as they are kept.

    Attributes:
        ids: [.., K + M] int64, the K most likely tokens and then the M drawn.
        log_probs: [.., K] float16, of the most likely.
        tail_mass: [..] float32, what all other tokens have together.
        neg_entropy: [..] float32, sum over the K + M of w log p, with the same w and p as above.
    """

    ids: Tensor
    log_probs: Tensor
    tail_mass: Tensor
    neg_entropy: Tensor

    @property
    def weights(self) -> Tensor:
        """[.., K + M] float32: w of every kept token."""
        num_drawn = self.ids.shape[-1] - self.log_probs.shape[-1]
        drawn = (self.tail_mass[..., None] / num_drawn).expand(*self.ids.shape[:-1], num_drawn)
        return torch.cat([self.log_probs.float().exp(), drawn], dim=-1)


def sample(log_probs: Tensor, offsets: Tensor, *, top_k: int, num_samples: int) -> Sampled:
    """Keep the `top_k` most likely tokens and draw `num_samples` from the rest.

    The draw is systematic: M points, evenly spaced, on the tail's cumulative probability. A token is drawn
    M p / (tail's mass) times on average, as by M independent draws, and never a whole time more or less.

    Args:
        log_probs: [N, V], normalised.
        offsets: [N] float64 in [0, 1), where the first of the points lies: the only randomness.
        top_k: K, from 1 to V - 1.
        num_samples: M, at least 1.
    """
    top = log_probs.topk(top_k, dim=-1)
    cumulative = log_probs.exp().double().scatter_(-1, top.indices, 0.0).cumsum_(dim=-1)
    tail_mass = cumulative[:, -1]
    steps = torch.arange(num_samples, device=log_probs.device, dtype=torch.float64)
    points = (offsets[:, None] + steps) / num_samples * tail_mass[:, None]
    # Past the end only where the tail has no mass at all, and so no weight.
    drawn = torch.searchsorted(cumulative, points, right=True).clamp_(max=log_probs.shape[-1] - 1)
    kept = Sampled(
        ids=torch.cat([top.indices, drawn], dim=-1),
        log_probs=top.values.half(),
        tail_mass=tail_mass.float(),
        neg_entropy=tail_mass.float(),
    )
    exact = log_probs.gather(-1, kept.ids).float()
    return Sampled(kept.ids, kept.log_probs, kept.tail_mass, (kept.weights * exact).sum(dim=-1))


def sampled_kl(log_probs: Tensor, kept: Sampled) -> Tensor:
    """[..] estimates of KL(kept || student), from the student's [.., V] log-probabilities."""
    return kept.neg_entropy - (kept.weights * log_probs.gather(-1, kept.ids)).sum(dim=-1)


def linear_sampled_kl_and_cross_entropy(
    student_hidden: Tensor,
    student_head: Head,
    ids: Tensor,
    weights: Tensor,
    neg_entropy: Tensor,
    targets: Tensor,
    mask: Tensor,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """`sampled_kl`, and the student's cross-entropy, each summed over the tokens in `mask`, in nats.

    Like `fused.linear_distillation`, whose remarks on gradients and autocast hold here: the logits of
    `chunk_tokens` exist at a time, and only the first sum has a gradient.

    Args:
        student_hidden: [.., D], the input of the head.
        ids, weights: [.., K + M], as in `Sampled`.
        neg_entropy: [..].
        targets: [..] int64.
        mask: [..] bool. What lies outside it is never read.
    """
    criterion = _SampledKL(ids[mask], weights[mask], neg_entropy[mask], targets[mask])
    total, sums = reduce_tokens(student_hidden[mask], student_head, criterion, chunk_tokens=chunk_tokens)
    return total, sums[1]


class _SampledKL:
    num_losses = 2

    def __init__(self, ids: Tensor, weights: Tensor, neg_entropy: Tensor, targets: Tensor) -> None:
        self.ids, self.weights, self.neg_entropy, self.targets = ids, weights, neg_entropy, targets

    def start_chunk(self, tokens: slice) -> None:
        pass

    def losses(self, log_probs: Tensor, tokens: slice, *, gradient: bool) -> Tensor:
        ids, weights = self.ids[tokens], self.weights[tokens].to(log_probs.dtype)
        kl = self.neg_entropy[tokens] - (weights * log_probs.gather(-1, ids)).sum(dim=-1)
        cross_entropy = -log_probs.gather(-1, self.targets[tokens, None])[:, 0]
        if gradient:
            log_probs.exp_().mul_(weights.sum(dim=-1, keepdim=True)).scatter_add_(-1, ids, -weights)
        return torch.stack([kl.to(log_probs.dtype), cross_entropy])
