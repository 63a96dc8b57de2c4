"""Tokens per second and model FLOPs utilisation of distilling a Llama-3.1-8B shape into the 4.5B width shape.

niwaki's fused loss, the naive loss in that loop, and two trainers of TRL; random weights, one GPU, or FSDP2
under `accelerate launch`. Where there is no GPU the same code runs a tiny pair in float32 on the processor,
which shows that it runs and nothing else. No GPU was at hand when this was written, so there are no figures.
See gpu_distill/README.md.

    PYTHONPATH=src python benchmarks/gpu_distill.py --out gpu_distill.json
    PYTHONPATH=src accelerate launch --config_file benchmarks/gpu_distill/fsdp2.yaml \\
        benchmarks/gpu_distill.py --variant niwaki --out niwaki.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from niwaki.distillation.train import distill
from niwaki.ground.loop import fit
from niwaki.ground.metrics import read_metrics
from niwaki.pipelines.costs import distill_flops
from niwaki.pipelines.plan import own_shape

H100_DENSE_BF16_TFLOPS = 989.0
TEACHER = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": False,
}
STUDENT = TEACHER | {"hidden_size": 3072, "intermediate_size": 9216}
TINY_TEACHER = TEACHER | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
TINY_STUDENT = TINY_TEACHER | {"hidden_size": 48, "intermediate_size": 96}
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Setting:
    """What is trained, and how: the same for every variant."""

    tiny: bool
    row_tokens: int
    batch_rows: int
    micro_rows: int
    num_steps: int
    checkpointing: bool
    weights: str

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the processor in tiny mode."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cpu") if self.tiny else torch.device("cuda", local)

    @property
    def micro_batches(self) -> int:
        """Forward passes of one process in one step."""
        return self.batch_rows // (self.micro_rows * num_processes())

    def model(self, fields: Mapping[str, Any], seed: int, dtype: str) -> PreTrainedModel:
        """Random weights, made where they are used."""
        torch.manual_seed(seed)
        with self.device:
            return AutoModelForCausalLM.from_config(LlamaConfig(**fields), dtype=getattr(torch, dtype))

    def student(self) -> PreTrainedModel:
        """The model to train."""
        model = self.model(TINY_STUDENT if self.tiny else STUDENT, 1, self.weights)
        if self.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    def teacher(self) -> PreTrainedModel:
        """The model to learn from, in bfloat16 on a GPU."""
        fields = TINY_TEACHER if self.tiny else TEACHER
        return self.model(fields, 0, "float32" if self.tiny else "bfloat16").eval()


class EnoughError(Exception):
    """Raised by `TimedRows` after the last step, so that no snapshot of billions of weights is written."""


@dataclass
class TimedRows:
    """Random rows by number, as niwaki's loop takes them, and the moments at which steps began."""

    setting: Setting
    began_s: list[float] = field(default_factory=list)

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        """Rows start .. start + count."""
        setting = self.setting
        step, place = divmod(start, setting.batch_rows)
        if place % (setting.batch_rows // num_processes()) == 0:
            self.began_s.append(now_s())
        if step >= setting.num_steps:
            raise EnoughError
        rows = torch.stack([self._row(index) for index in range(start, start + count)])
        return {
            "inputs": rows[:, :-1],
            "targets": rows[:, 1:],
            "mask": torch.ones(count, setting.row_tokens, dtype=torch.bool),
        }

    def _row(self, index: int) -> Tensor:
        vocab = (TINY_TEACHER if self.setting.tiny else TEACHER)["vocab_size"]
        generator = torch.Generator().manual_seed(index)
        return torch.randint(vocab, (self.setting.row_tokens + 1,), generator=generator)


def niwaki(setting: Setting, out: Path) -> tuple[list[float], list[float]]:
    """The fused loss: hidden states and heads in, no logits of a batch."""
    return in_loop(setting, out, lambda student, teacher, rows, **s: distill(student, teacher, rows, **s))


def naive(setting: Setting, out: Path) -> tuple[list[float], list[float]]:
    """The same loop with all logits of both models at once."""

    def train(student: PreTrainedModel, teacher: PreTrainedModel, rows: TimedRows, **settings: Any) -> None:
        def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.no_grad():
                expected = teacher(input_ids=batch["inputs"], use_cache=False).logits.float().log_softmax(-1)
            found = model(input_ids=batch["inputs"], use_cache=False).logits.float().log_softmax(-1)
            kl = F.kl_div(found, expected, log_target=True, reduction="none").sum(-1)
            return kl[batch["mask"]].sum(), {}

        fit(student, rows, loss, **settings)

    return in_loop(setting, out, train)


def in_loop(setting: Setting, out: Path, train: Callable[..., object]) -> tuple[list[float], list[float]]:
    """Train in niwaki's loop; the duration of each step in seconds, and its loss."""
    rows = TimedRows(setting)
    with suppress(EnoughError):
        train(
            setting.student(),
            setting.teacher(),
            rows,
            out=out,
            num_steps=10**6,
            batch_rows=setting.batch_rows,
            micro_rows=setting.micro_rows,
            learning_rate=LEARNING_RATE,
            precision="float32" if setting.tiny else "bfloat16",
            save_every_steps=10**6,
        )
    durations = [after - before for before, after in pairwise(rows.began_s)]
    return durations, [row["loss"] for row in read_metrics(out / "metrics.jsonl")]


def trl_distillation(setting: Setting, out: Path) -> tuple[list[float], list[float]]:
    """TRL's DistillationTrainer with beta 0, forward KL, on given rows where it would generate its own."""
    from trl import DistillationConfig, DistillationTrainer

    rows = TimedRows(setting)

    class OnGivenRows(DistillationTrainer):
        def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
            inputs = whole_rows(rows, setting, self._step).to(self.accelerator.device)
            ones = torch.ones_like(inputs)
            num_targets = setting.batch_rows * setting.row_tokens
            return {
                "prompt_ids": inputs[:, :1],
                "prompt_mask": ones[:, :1],
                "completion_ids": inputs[:, 1:],
                "completion_mask": ones[:, 1:],
                "num_items_in_batch": torch.tensor(float(num_targets), device=inputs.device),
            }

    config = DistillationConfig(**trainer_settings(setting, out), beta=0.0)
    return by_trainer(OnGivenRows, config, setting)


def trl_gkd(setting: Setting, out: Path) -> tuple[list[float], list[float]]:
    """TRL's GKDTrainer, off-policy (lmbda 0) with beta 0, which is forward KL."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    rows = TimedRows(setting)
    taken = iter(range(10**9))

    def collate(_: Any) -> dict[str, Tensor]:
        inputs = whole_rows(rows, setting, next(taken))
        labels = inputs.clone()
        labels[:, 0] = -100
        return {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}

    config = GKDConfig(**trainer_settings(setting, out), lmbda=0.0, beta=0.0, temperature=1.0)
    return by_trainer(GKDTrainer, config, setting, data_collator=collate)


def whole_rows(rows: TimedRows, setting: Setting, micro_batch: int) -> Tensor:
    """The rows of a micro-batch of this process with their last target, [B, S + 1]."""
    step, part = divmod(micro_batch, setting.micro_batches)
    rank = int(os.environ.get("RANK", "0"))
    first = (rank * setting.micro_batches + part) * setting.micro_rows
    start = min(step, setting.num_steps - 1) * setting.batch_rows + first
    batch = rows.take(start, setting.micro_rows)
    return torch.cat([batch["inputs"], batch["targets"][:, -1:]], dim=1)


def trainer_settings(setting: Setting, out: Path) -> dict[str, Any]:
    """The same training in the words of `transformers.TrainingArguments`."""
    return {
        "output_dir": str(out),
        "max_steps": setting.num_steps,
        "per_device_train_batch_size": setting.micro_rows,
        "gradient_accumulation_steps": setting.micro_batches,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": not setting.tiny,
        "use_cpu": setting.tiny,
        "gradient_checkpointing": setting.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "disable_dropout": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }


def by_trainer(
    trainer_class: Any, config: Any, setting: Setting, **more: Any
) -> tuple[list[float], list[float]]:
    """Train with a TRL trainer; the duration of each step in seconds, and its loss."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback

    began_s: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            began_s.append(now_s())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            began_s.append(now_s())

    words = Tokenizer(models.WordLevel({"<eos>": 0, "word": 1}, unk_token="<eos>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<eos>", padding_side="left"
    )
    num_rows = setting.batch_rows * (setting.num_steps + 1)
    trainer = trainer_class(
        model=setting.student(),
        teacher_model=setting.teacher(),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["word"] * num_rows}),
        processing_class=tokenizer,
        callbacks=[Clock()],
        **more,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [after - before for before, after in pairwise(began_s)], losses


VARIANTS = {
    "niwaki": niwaki,
    "naive": naive,
    "trl-distillation": trl_distillation,
    "trl-gkd": trl_gkd,
}


def measure(
    variant: str, setting: Setting, *, warmup_steps: int, peak_tflops: float | None
) -> dict[str, Any]:
    """Run one variant in this process."""
    with tempfile.TemporaryDirectory() as out:
        durations_s, losses = VARIANTS[variant](setting, Path(out))
    step_s = statistics.median(durations_s[warmup_steps:])
    tokens_per_s = setting.batch_rows * setting.row_tokens / step_s
    teacher, student = (TINY_TEACHER, TINY_STUDENT) if setting.tiny else (TEACHER, STUDENT)
    shapes = [own_shape(LlamaConfig(**fields)) for fields in (teacher, student)]
    flops_per_s = tokens_per_s * distill_flops(*shapes, setting.row_tokens)
    peak = None if peak_tflops is None else peak_tflops * 1e12 * num_processes()
    return {
        "variant": variant,
        "step_s": step_s,
        "tokens_per_s": tokens_per_s,
        "model_tflops_per_s": flops_per_s / 1e12,
        "mfu": None if peak is None else flops_per_s / peak,
        "peak_bytes": None if setting.tiny else torch.cuda.max_memory_allocated(),
        "first_loss": losses[0],
        "num_processes": num_processes(),
        "device": "cpu" if setting.tiny else torch.cuda.get_device_name(),
        "setting": vars(setting),
        "torch": torch.__version__,
    }


def now_s() -> float:
    """The time when all work that was asked for is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def num_processes() -> int:
    """Processes of this launch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def run_apart(variant: str, arguments: list[str]) -> dict[str, Any] | None:
    """`measure` in a process of its own, which leaves a clean GPU; None where the variant does not run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, __file__, *arguments, "--variant", variant, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{variant}: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
            return None
        result: dict[str, Any] = json.loads(out.read_text())[0]
        return result


def show(results: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| | tokens/s | step s | TFLOP/s | MFU | peak GB | first loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in results:
        mfu = "" if found["mfu"] is None else f"{found['mfu']:.1%}"
        peak = "" if found["peak_bytes"] is None else f"{found['peak_bytes'] / 1e9:.1f}"
        cells = [found["variant"], f"{found['tokens_per_s']:,.0f}", f"{found['step_s']:.3f}"]
        cells += [f"{found['model_tflops_per_s']:.3g}", mfu, peak, f"{found['first_loss']:.5f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=list(VARIANTS), help="one only; needed under accelerate launch")
    parser.add_argument("--row-tokens", type=int, default=4096)
    parser.add_argument("--batch-rows", type=int, default=16, help="rows of one step over all processes")
    parser.add_argument("--micro-rows", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup-steps", type=int, default=3, help="first steps that are not counted")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--weights", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--peak-tflops", type=float, default=H100_DENSE_BF16_TFLOPS, help="of one GPU")
    parser.add_argument("--tiny", action="store_true", help="a tiny pair on the processor")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    tiny = options.tiny or not torch.cuda.is_available()
    setting = Setting(
        tiny=tiny,
        row_tokens=32 if tiny else options.row_tokens,
        batch_rows=4 if tiny else options.batch_rows,
        micro_rows=2 if tiny else options.micro_rows,
        num_steps=options.steps,
        checkpointing=not options.no_checkpointing,
        weights="float32" if tiny else options.weights,
    )
    if options.variant is None and num_processes() > 1:
        parser.error("under accelerate launch give one --variant")
    if options.variant is None:
        arguments = [
            argument for argument in sys.argv[1:] if argument != "--out" and argument != str(options.out)
        ]
        found = [run_apart(variant, arguments) for variant in VARIANTS]
        results = [result for result in found if result is not None]
    else:
        peak_tflops = None if tiny else options.peak_tflops
        results = [
            measure(options.variant, setting, warmup_steps=options.warmup_steps, peak_tflops=peak_tflops)
        ]
    if int(os.environ.get("RANK", "0")) == 0:
        if options.out is not None:
            options.out.write_text(json.dumps(results, indent=1))
        print(show(results))
        if tiny:
            print("A tiny pair on the processor: these figures say nothing about a GPU.")


if __name__ == "__main__":
    main()
