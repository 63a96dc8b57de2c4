"""The known faults of reward models in the wild, found from a folder's files, and how to mend them.

No weights are run: the config, the tokenizer, and the headers of the safetensors files say enough.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from niwaki.errors import CheckpointError, NiwakiError
from niwaki.ground.chat import Chat
from niwaki.ground.model import load_tokenizer, local_folder
from niwaki.ground.shard import Spec, open_shard

Severity = Literal["error", "warning", "note"]
_UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Finding:
    """One fault: a code that scripts can look for, what was found, and what to do about it."""

    code: str
    severity: Severity
    found: str
    remedy: str


def lint(name: str | Path) -> list[Finding]:
    """Every fault of the reward model in a folder (or of a hub name), worst first; none when it is sound.

    Raises:
        CheckpointError: there is no config to read.
    """
    folder = local_folder(name)
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).", "Give the folder of a model.") from None
    found = [*_architecture(config), *_files(folder), *_head(folder, config), *_tokens(folder, config)]
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _architecture(config: dict[str, Any]) -> list[Finding]:
    found = []
    names = config.get("architectures") or []
    text = ", ".join(names) or "none"
    if any(name.endswith("RewardModel") for name in names):
        found.append(
            Finding(
                "architecture",
                "error",
                f"the architecture is {text}, which engines take for an embedding model",
                "save it as <Family>ForSequenceClassification",
            )
        )
    elif not any(name.endswith("ForSequenceClassification") for name in names):
        found.append(
            Finding(
                "architecture",
                "error",
                f"the architecture is {text}: as a sequence classifier it gets a random head, silently",
                "save it as <Family>ForSequenceClassification, with its head",
            )
        )
    if config.get("auto_map"):
        found.append(
            Finding(
                "custom-code",
                "error",
                "the config names code of its own (auto_map), which engines and new versions do not load",
                "export a stock model: fold the heads into `score`, see docs/reward.md",
            )
        )
    if config.get("problem_type") != "regression":
        number = len(config.get("id2label") or {}) or config.get("num_labels", 2)
        what = "a sigmoid" if number == 1 else "a softmax"
        found.append(
            Finding(
                "problem-type",
                "error",
                f"problem_type is {config.get('problem_type')!r}: engines apply {what} to the score",
                'write "problem_type": "regression" into config.json',
            )
        )
    if not config.get("id2label"):
        found.append(
            Finding(
                "labels",
                "error",
                "id2label is missing, so loaders take two labels and a new head",
                'write "id2label": {"0": "reward"} and "label2id": {"reward": 0} into config.json',
            )
        )
    elif len(config["id2label"]) > 1:
        found.append(
            Finding(
                "labels",
                "note",
                f"there are {len(config['id2label'])} labels: RL trainers that want one number reject it",
                "fold a fixed gate into one head for them",
            )
        )
    return found


def _files(folder: Path) -> list[Finding]:
    found = []
    unsafe = sorted(p.name for p in folder.iterdir() if p.suffix in _UNSAFE)
    if unsafe:
        found.append(
            Finding(
                "pickle", "warning", f"pickled files: {', '.join(unsafe[:3])}", "save weights as safetensors"
            )
        )
    if (folder / "adapter_config.json").is_file():
        found.append(
            Finding(
                "adapter",
                "error",
                "the folder holds an adapter, whose head may be in `modules_to_save` or nowhere",
                "merge it into the model before saving",
            )
        )
    if not list(folder.glob("*.safetensors")):
        found.append(
            Finding(
                "weights", "error", "there is no safetensors file at the top", "save with save_pretrained"
            )
        )
    return found


def _head(folder: Path, config: dict[str, Any]) -> list[Finding]:
    specs: dict[str, Spec] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            specs |= open_shard(path).tensors
    except NiwakiError as error:
        return [Finding("weights", "error", error.message, error.remedy)]
    if not specs:
        return []
    found = []
    weight = specs.get("score.weight")
    if weight is None:
        others = [
            n for n in specs if n.split(".")[0] in {"value_head", "v_head", "regression_layer", "reward_head"}
        ]
        hint = f"; {others[0]!r} looks like one" if others else ""
        return [
            Finding(
                "head",
                "error",
                f"there is no score.weight, so the head would be random{hint}",
                "rename the head to score.weight, or train one",
            )
        ]
    if "score.bias" in specs:
        found.append(
            Finding(
                "bias",
                "error",
                "score has a bias, which engines leave out",
                "give it as an offset in reward.json",
            )
        )
    labels = len(config.get("id2label") or {})
    hidden = (config.get("text_config") or config).get("hidden_size")
    if (
        len(weight.shape) != 2
        or (labels and weight.shape[0] != labels)
        or (hidden and weight.shape[-1] != hidden)
    ):
        found.append(
            Finding(
                "head",
                "error",
                f"score.weight is {list(weight.shape)}, expected {labels or '?'} labels of {hidden}",
                "mend id2label, or save the right head",
            )
        )
    if "lm_head.weight" in specs:
        found.append(
            Finding(
                "lm-head",
                "note",
                "lm_head.weight is saved too and never used",
                "save the sequence classifier",
            )
        )
    if str(weight.dtype) == "torch.float16":
        found.append(
            Finding(
                "dtype",
                "warning",
                "weights are float16: scores overflow, and depend on the size of the batch",
                "save in bfloat16 or float32",
            )
        )
    return found


def _tokens(folder: Path, config: dict[str, Any]) -> list[Finding]:
    try:
        tokenizer = load_tokenizer(folder)
    except CheckpointError as error:
        return [Finding("tokenizer", "error", error.message, error.remedy)]
    found = []
    own = config.get("text_config") or config
    pad, eos = own.get("pad_token_id", config.get("pad_token_id")), own.get("eos_token_id")
    ends = eos if isinstance(eos, list) else [eos]
    if pad is None:
        found.append(
            Finding(
                "pad",
                "error",
                "the config has no pad_token_id: batches are refused, or pooled at the wrong token",
                "set one that is not the end-of-text token, in config and tokenizer",
            )
        )
    elif pad in ends:
        found.append(
            Finding(
                "pad-is-eos",
                "error",
                "padding is the end-of-text token: some libraries score that token, some the one before",
                "add a token for padding, set it in config and tokenizer, and score again",
            )
        )
    if pad is not None and tokenizer.pad_token_id is not None and tokenizer.pad_token_id != pad:
        found.append(
            Finding(
                "pad-differs",
                "error",
                f"the config pads with id {pad}, the tokenizer with {tokenizer.pad_token_id}",
                "make them agree",
            )
        )
    if tokenizer.pad_token_id is None:
        found.append(
            Finding(
                "tokenizer-pad",
                "error",
                "the tokenizer has no padding token; trainers then take the end-of-text token",
                "set the config's in the tokenizer",
            )
        )
    if not tokenizer.chat_template:
        found.append(
            Finding(
                "template",
                "error",
                "there is no chat template, so every consumer renders conversations its own way",
                "save the one that it was trained with",
            )
        )
        return found
    for problem in Chat(tokenizer).problems():
        severe: Severity = "note" if "add_special_tokens" in problem else "warning"
        found.append(Finding("template", severe, problem, 'see docs/reward.md, "Templates"'))
    return found
