"""The last stage of a reward run, a pairwise justifier (arXiv 2410.01257); and its use on files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from niwaki.errors import CheckpointError, DataError
from niwaki.evaluation.preference import compare_pairs, judge_pairs
from niwaki.ground import processes
from niwaki.ground.chat import Chat
from niwaki.ground.model import load_model, load_tokenizer, local_folder
from niwaki.ground.run import write_atomically
from niwaki.ground.saved import save_model
from niwaki.pipelines.inputs import device
from niwaki.pipelines.reward_inputs import EVALUATE, RewardInputs
from niwaki.pipelines.reward_train import num_steps
from niwaki.pipelines.trained import discard_snapshots
from niwaki.reward.forms import Skipped, turns
from niwaki.reward.justifier import (
    Judgement,
    JustificationRows,
    Question,
    encode_justifications,
    judge_both_orders,
    justifier_loss,
)
from niwaki.reward.records import Pair, read_rows
from niwaki.reward.tokens import encode_pairs
from niwaki.reward.train import merged, train, with_lora

NOTE = "justifier.json"
_VERDICT_TOKENS = 24
_EVALUATIONS = 8


def justify(inputs: RewardInputs, folder: Path) -> None:
    """Stage 9: train on the pairs in both orders, then judge the test pairs in both orders."""
    model = _trained(inputs, folder)
    discard_snapshots(folder)
    _judge_test_pairs(inputs, model, folder)


def _judge_test_pairs(inputs: RewardInputs, model: Any, folder: Path) -> None:
    chat = Chat(load_tokenizer(inputs.backbone), inputs.template)
    pairs = inputs.pairs("test")
    _, skipped = encode_justifications(chat, pairs, max_tokens=_most_tokens(inputs), label="test questions")
    left_out = {row.row for row in skipped}
    pairs = [pair for pair in pairs if pair.row not in left_out]
    note = json.loads((folder / "model" / NOTE).read_text())

    def judge(mine: Sequence[Question]) -> Iterator[tuple[np.ndarray, str]]:
        judged = judge_both_orders(
            model,
            chat,
            mine,
            written_tokens=note["written_tokens"],
            batch_rows=inputs.recipe.evaluate.batch_rows,
        )
        return zip(judged.odds, judged.written, strict=True)

    questions = [Question(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    dealt = processes.deal_out(questions, judge)
    found = Judgement(np.array([odds for odds, _ in dealt]).reshape(-1, 2), tuple(text for _, text in dealt))
    tokens, _ = encode_pairs(chat, pairs, max_tokens=10**9, label="test pairs")
    groups = [pair.key for pair in pairs]
    results: dict[str, Any] = {
        **note,
        "num_skipped": len(skipped),
        "judged": judge_pairs(
            found.scores,
            subsets=tokens.sources(),
            lengths=tokens.lengths(),
            groups=groups,
            strengths=[pair.strength for pair in pairs],
        ),
        "better_first": float((found.odds[:, 0] > 0).mean()),
        "better_second": float((found.odds[:, 1] > 0).mean()),
        "agrees": float(found.agrees.mean()),
        "examples": _examples(pairs, found.scores, found.written),
        "against_product": _against_product(inputs, found.scores, left_out, groups),
    }
    processes.by_main(lambda: write_atomically(folder / "results.json", json.dumps(results, indent=1)))


def justify_file(model: str, file: Path) -> Iterator[dict[str, Any]]:
    """Rows with `prompt`, `response` and `other`: which is better, how sure, and why.

    Adds `preferred`, `log_odds` (above 0: the response), `both_orders_agree`, and `justification`, where
    "@Response 1" is the response.

    Raises:
        DataError: names a row that lacks a column.
        CheckpointError: the model is no justifier of this program.
    """
    rows = list(read_rows(str(file)))
    for name, row in rows:
        for column in ("prompt", "response", "other"):
            if not row.get(column):
                raise DataError(f"{name}: lacks {column!r} (has {', '.join(row)}).", "Add the column.")
    if not rows:
        raise DataError(f"{file}: is empty.", "Write one JSON object a line.")
    folder = local_folder(model)
    if not (folder / NOTE).is_file():
        raise CheckpointError(
            f"{model}: has no {NOTE}, so it was not trained to compare answers.",
            "Give the folder 9-justify/model of a run whose recipe has a `justifier` section.",
        )
    note = json.loads((folder / NOTE).read_text())
    found = judge_both_orders(
        load_model(folder, device=device()),
        Chat(load_tokenizer(folder)),
        [Question(turns(row["prompt"], name), row["response"], row["other"]) for name, row in rows],
        written_tokens=note["written_tokens"],
    )
    for i, (_, row) in enumerate(rows):
        yield row | {
            "preferred": "response" if found.scores[i] > 0 else "other",
            "log_odds": float(found.scores[i]),
            "both_orders_agree": bool(found.agrees[i]),
            "justification": found.written[i],
        }


def _trained(inputs: RewardInputs, folder: Path) -> Any:
    """The trained model, which is read back when it was saved already."""
    recipe, section = inputs.recipe, inputs.recipe.justifier
    assert section is not None
    if processes.by_main((folder / "model" / NOTE).is_file):
        return load_model(folder / "model", device=device())
    stock = load_model(inputs.backbone, dtype=torch.float32, device=device())
    chat = Chat(load_tokenizer(inputs.backbone), inputs.template)
    most = _most_tokens(inputs)
    kept, skipped = encode_justifications(chat, inputs.pairs("train"), max_tokens=most)
    held, _ = encode_justifications(chat, inputs.pairs("validation"), max_tokens=most, label="validation")
    if not kept:
        raise DataError(
            f"justifier: all {len(skipped)} questions are longer than {most} tokens with both answers.",
            "Raise justifier.max_tokens, or give a model with a longer context.",
        )
    steps = num_steps(section, len(kept))
    model = stock
    if recipe.lora is not None:
        model = with_lora(stock, rank=recipe.lora.rank, alpha=recipe.lora.alpha, seed=recipe.seed)
    train(
        model,
        JustificationRows(kept, batch_rows=section.batch_rows, seed=recipe.seed),
        justifier_loss,
        out=folder,
        num_steps=steps,
        batch_rows=section.batch_rows,
        micro_rows=section.micro_rows,
        learning_rate=section.learning_rate,
        warmup_steps=section.warmup_steps,
        weight_decay=section.weight_decay,
        precision=section.precision,
        checkpointing=section.checkpointing,
        seed=recipe.seed,
        save_every_steps=max(1, min(500, steps // 4)),
        held_out=JustificationRows(held, batch_rows=section.micro_rows, seed=None) if held else None,
        held_out_rows=len(held),
        evaluate_every_steps=max(1, steps // _EVALUATIONS),
        label="justify",
    )
    plain = merged(model).eval()
    note = {"written_tokens": _written_tokens(inputs, chat), "num_questions": len(kept)}
    _save(inputs, folder, plain, chat, skipped, note)
    return plain


@processes.main_only
def _save(
    inputs: RewardInputs,
    folder: Path,
    model: Any,
    chat: Chat,
    skipped: Sequence[Skipped],
    note: dict[str, int],
) -> None:
    save_model(model, inputs.backbone, folder / "model", replace=True)
    write_atomically(folder / "model" / "chat_template.jinja", str(chat.tokenizer.chat_template))
    write_atomically(folder / "skipped.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in skipped))
    write_atomically(folder / "model" / NOTE, json.dumps(note, indent=1))


def _most_tokens(inputs: RewardInputs) -> int:
    assert inputs.recipe.justifier is not None
    return min(inputs.recipe.justifier.max_tokens, inputs.context_tokens or 10**9)


def _written_tokens(inputs: RewardInputs, chat: Chat) -> int:
    """So many tokens hold what people wrote about 19 of 20 pairs, with the verdict after it."""
    section = inputs.recipe.justifier
    assert section is not None
    if section.written_tokens is not None:
        return section.written_tokens
    wrote = [pair.elaboration for pair in inputs.pairs("train") if pair.elaboration.strip()]
    if not wrote:
        return 0
    lengths = [len(ids) for ids in chat.tokenizer(wrote, add_special_tokens=False).input_ids]
    return int(np.quantile(lengths, 0.95)) + _VERDICT_TOKENS


def _examples(pairs: Sequence[Pair], scores: np.ndarray, written: Sequence[str]) -> list[dict[str, Any]]:
    """The two most certain judgements that were right and the two that were wrong."""
    order = [int(i) for i in np.argsort(-np.abs(scores))]
    chosen = [i for i in order if scores[i] > 0][:2] + [i for i in order if scores[i] <= 0][:2]
    return [
        {
            "row": pairs[i].row,
            "log_odds": float(scores[i]),
            "prompt": pairs[i].prompt[-1]["content"][:600],
            "chosen": pairs[i].chosen[:600],
            "rejected": pairs[i].rejected[:600],
            "justification": written[i],
        }
        for i in chosen
    ]


def _against_product(
    inputs: RewardInputs, scores: np.ndarray, left_out: set[str], groups: Sequence[str]
) -> dict[str, Any] | None:
    """The difference to the scalar model of the run on the pairs that both judged; None without one."""
    path = inputs.out / EVALUATE / "results.json"
    if not path.exists():
        return None
    judged = json.loads(path.read_text())["sets"]["test"]
    right = judged["models"][judged["final"]]["correct"]
    kept = [flag for flag, pair in zip(right, inputs.pairs("test"), strict=True) if pair.row not in left_out]
    product = np.array([1.0 if flag == "1" else -1.0 for flag in kept])
    return {"model": judged["final"], **asdict(compare_pairs(scores, product, groups))}
