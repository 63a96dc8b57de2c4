"""Fused KL head: CPU seconds and peak memory against the floor and what others offer.

Each measurement is a process of its own, single-threaded; the variants take turns, so that a busy machine
is busy for all of them. Peers are measured where they are installed (see README.md).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

PAGE_BYTES = resource.getpagesize()


def floor(hs: Tensor, ws: Tensor, ht: Tensor, wt: Tensor) -> float:
    """The four products no exact loss can avoid, and nothing else. Its gradients mean nothing."""
    student, weight = hs.detach(), ws.detach()
    logits = student @ weight.T
    ht @ wt.T
    hs.grad, ws.grad = logits @ weight, logits.T @ student
    return float("nan")


def floor_chunked(hs: Tensor, ws: Tensor, ht: Tensor, wt: Tensor) -> float:
    """The same products 256 tokens at a time in two buffers, which spares the pages of whole logits."""
    student, weight = hs.detach(), ws.detach()
    hs.grad, ws.grad = torch.empty_like(student), torch.zeros_like(weight)
    logits, teacher_logits = torch.empty(256, len(ws)), torch.empty(256, len(wt))
    for i in range(0, len(hs), 256):
        torch.mm(student[i : i + 256], weight.T, out=logits)
        torch.mm(ht[i : i + 256], wt.T, out=teacher_logits)
        torch.mm(logits, weight, out=hs.grad[i : i + 256])
        ws.grad.addmm_(logits.T, student[i : i + 256])
    return float("nan")


def niwaki(hs: Tensor, ws: Tensor, ht: Tensor, wt: Tensor) -> float:
    from niwaki.distillation.fused import linear_kl
    from niwaki.ground.head import Head

    mask = torch.ones(len(hs), dtype=torch.bool)
    loss = linear_kl(hs, Head(ws), ht, Head(wt), mask) / len(hs)
    loss.backward()
    return loss.item()


def naive(hs: Tensor, ws: Tensor, ht: Tensor, wt: Tensor) -> float:
    """All logits at once, `F.kl_div`."""
    with torch.no_grad():
        teacher = torch.log_softmax(ht @ wt.T, -1)
    student = torch.log_softmax(hs @ ws.T, -1)
    loss = F.kl_div(student, teacher, log_target=True, reduction="sum") / len(hs)
    loss.backward()
    return loss.item()


def torchtune_style(hs: Tensor, ws: Tensor, ht: Tensor, wt: Tensor) -> float:
    """The idea of torchtune's ForwardKLWithChunkedOutputLoss, rewritten: 8 chunks, all kept for autograd.

    Its value leaves out the teacher's entropy, which has no gradient, so only its gradients are compared.
    """
    total = hs.new_zeros(())
    for student_chunk, teacher_chunk in zip(hs.chunk(8), ht.chunk(8), strict=True):
        with torch.no_grad():
            teacher_logits = teacher_chunk @ wt.T
        student_logits = student_chunk @ ws.T
        probabilities = F.softmax(teacher_logits, dim=-1, dtype=torch.float32)
        log_probs = F.log_softmax(student_logits, dim=-1, dtype=torch.float32)
        products = torch.masked_fill(probabilities * log_probs, torch.isinf(student_logits), 0)
        total = total - products.sum()
    (total / len(hs)).backward()
    return float("nan")


def trl(hs: Tensor, ws: Tensor, ht: Tensor, wt: Tensor) -> float:
    """TRL's DistillationTrainer loss: tiles of tokens x vocabulary, logits computed again in the backward."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    divergence, _ = ChunkedDivergenceFunction.apply(hs, ws, None, ht, wt, None, 0.0)
    loss = divergence.sum() / len(hs)
    loss.backward()
    return loss.item()


def liger(hs: Tensor, ws: Tensor, ht: Tensor, wt: Tensor, *, compiled: bool = False) -> float:
    """Liger's chunked distillation loss with beta 0, the forward KL, and no weight on the labels."""
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction

    labels = torch.zeros(len(hs), dtype=torch.long)
    loss = LigerFusedLinearJSDFunction.apply(
        hs, ws, ht, wt, labels, None, None, 0.0, 1.0, 0.0, -100, 1.0, compiled, 1024, False
    )
    loss.backward()
    return loss.item()


def liger_compiled(hs: Tensor, ws: Tensor, ht: Tensor, wt: Tensor) -> float:
    """The same through `torch.compile`, as Liger does by default; needs a C++ compiler."""
    return liger(hs, ws, ht, wt, compiled=True)


VARIANTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], float]] = {
    f.__name__: f for f in (floor, floor_chunked, niwaki, naive, torchtune_style, trl, liger, liger_compiled)
}


def measure(variant: str, tokens: int, hidden: int, vocab: int) -> dict[str, float]:
    """One forward and backward in this process, after a warm-up."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    hs, ht = normal(tokens, hidden).requires_grad_(), normal(tokens, hidden)
    ws, wt = normal(vocab, hidden).mul_(2 * hidden**-0.5).requires_grad_(), normal(vocab, hidden)
    wt.mul_(2 * hidden**-0.5)
    run = VARIANTS[variant]
    # The warm-up loads libraries. A compiler needs the real sizes; one of Liger's chunks has 1024 tokens.
    rows = vocab if variant == "liger_compiled" else 512
    run(hs[:1024].detach().requires_grad_(), ws[:rows].detach().requires_grad_(), ht[:1024], wt[:rows])
    before = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    began = time.process_time()
    loss = run(hs, ws, ht, wt)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert hs.grad is not None
    assert ws.grad is not None
    return {
        "cpu_s": seconds,
        "extra_bytes": peak - before,
        "gradient_bytes": 4 * (hs.numel() + ws.numel()),
        "loss": loss,
        "hidden_grad": hs.grad.double().norm().item(),
        "head_grad": ws.grad.double().norm().item(),
    }


def run_apart(variant: str, tokens: int, hidden: int, vocab: int) -> dict[str, float] | None:
    """`measure` in a process of its own; None where the variant cannot run here."""
    sizes = [str(n) for n in (tokens, hidden, vocab)]
    done = subprocess.run(
        [sys.executable, __file__, "--measure", variant, *sizes], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{variant}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(tokens: int, hidden: int, vocab: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds, by variant."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name in VARIANTS:
            if (result := run_apart(name, tokens, hidden, vocab)) is not None:
                found[name].append(result)
    medians = {
        name: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for name, results in found.items()
        if results
    }
    check_same(medians)
    return medians


def check_same(medians: dict[str, dict[str, float]]) -> None:
    """Variants that compute something else must not be compared."""
    for name, found in medians.items():
        for key in ("hidden_grad", "head_grad", "loss"):
            expected, value = medians["naive"][key], found[key]
            if value == value and not name.startswith("floor") and abs(value / expected - 1) > 1e-3:
                raise SystemExit(f"{name}: {key} is {value}, the naive loss has {expected}")


def table(medians: dict[str, dict[str, float]]) -> str:
    """Markdown; ratios are to the faster floor, and to the naive loss's memory."""
    best = min(medians[name]["cpu_s"] for name in ("floor", "floor_chunked"))
    lines = [
        "| | CPU s | x floor | extra MB | less the gradients, MB | of naive |",
        "|---|---|---|---|---|---|",
    ]
    naive_beyond = medians["naive"]["extra_bytes"] - medians["naive"]["gradient_bytes"]
    for name, found in medians.items():
        beyond = found["extra_bytes"] - found["gradient_bytes"]
        cells = [name, f"{found['cpu_s']:.2f}", f"{found['cpu_s'] / best:.2f}"]
        cells += [f"{found['extra_bytes'] / 1e6:.0f}", f"{beyond / 1e6:.0f}", f"{beyond / naive_beyond:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_768, 131_072])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--measure", nargs=4, metavar=("VARIANT", "TOKENS", "HIDDEN", "VOCAB"), help="one run"
    )
    options = parser.parse_args()
    if options.measure:
        variant, *sizes = options.measure
        print(json.dumps(measure(variant, *map(int, sizes))))
        return
    for vocab in options.vocab:
        for hidden in options.hidden:
            medians = compare(options.tokens, hidden, vocab, options.rounds)
            print(
                f"\nhidden {hidden}, vocabulary {vocab}, {options.tokens} tokens\n\n{table(medians)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
