"""Further rewards beside the rule, none of which can stop or mislead the training.

A reward is a function `reward(prompts=..., completions=..., **columns) -> list[float | None]`, as TRL calls
it; None skips a completion. One that raises, hangs, or returns what is no number pays nothing.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification

from niwaki.errors import CheckpointError, TrainingError
from niwaki.ground.model import load_tokenizer, model_path

RewardFunction = Callable[..., Sequence[float | None]]
_MOST_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True)
class Extra:
    """A further reward: its name in the metrics, the function, and what it is multiplied by."""

    name: str
    function: RewardFunction
    weight: float


class Guarded:
    """A reward function that always answers: what fails, hangs or is not finite becomes 0, and is counted.

    Raises (when called):
        TrainingError: it failed three times in a row, with what it said the last time.
    """

    def __init__(self, function: RewardFunction, *, name: str, limit_s: float = 300.0) -> None:
        self.__name__ = name
        self._function, self._limit_s = function, limit_s
        self.num_failures = 0
        self._in_a_row = 0

    def __call__(self, *, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """One finite number, or None, for each completion."""
        answer, problem = _in_time(self._function, self._limit_s, completions=completions, **columns)
        if problem is None and (not isinstance(answer, Sequence) or len(answer) != len(completions)):
            problem = f"it returned {answer!r:.60} for {len(completions)} completions"
        if problem is not None:
            self.num_failures += 1
            self._in_a_row += 1
            if self._in_a_row >= _MOST_FAILURES_IN_A_ROW:
                raise TrainingError(
                    f"The reward {self.__name__!r} failed {self._in_a_row} times in a row: {problem}.",
                    "Mend or remove it. Until now its share of the reward was 0.",
                )
            return [0.0] * len(completions)
        self._in_a_row = 0
        return [_finite(value) for value in answer]


def _in_time(function: RewardFunction, limit_s: float, **arguments: Any) -> tuple[Any, str | None]:
    """What the function returns, or what went wrong; a hanging call is left behind in its thread."""
    answers: list[Any] = []
    problems: list[str] = []

    def call() -> None:
        try:
            answers.append(function(**arguments))
        except Exception as error:
            problems.append(repr(error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return None, f"no answer within {limit_s:g} s"
    return (None, problems[0]) if problems else (answers[0], None)


def _finite(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0


class ModelReward:
    """The score of a saved reward model, squeezed into 0 to 1 by the logistic function.

    Squeezed, because the rule pays 0 or 1: with a weight below 1 no score outbids a right answer.

    Args:
        model: folder or hub name of a sequence classifier with one output, and its tokenizer.
        batch_rows: completions scored side by side.

    Raises:
        CheckpointError: it cannot be loaded, has more than one output, or its tokenizer no padding token.
    """

    def __init__(self, model: str | Path, *, batch_rows: int = 16) -> None:
        path = model_path(model)
        check_reward_model(model)
        try:
            self._model = AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"Reward model {str(model)!r} cannot be loaded: {str(error).splitlines()[0]}",
                "Give a folder that `niwaki run` of a reward recipe wrote, or another sequence classifier.",
            ) from error
        self._model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._tokenizer = load_tokenizer(path)
        if self._model.config.pad_token_id is None or self._tokenizer.pad_token_id is None:
            raise CheckpointError(
                f"Reward model {str(model)!r} has no padding token, so batches cannot be scored.",
                "Set pad_token in its tokenizer and pad_token_id in its config.",
            )
        self._batch_rows = batch_rows

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Scores in (0, 1), one for each completion."""
        texts = [
            self._conversation(_content(prompt), _content(completion))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(texts), self._batch_rows):
                rows = self._tokenizer(
                    texts[start : start + self._batch_rows],
                    padding=True,
                    padding_side="right",
                    return_tensors="pt",
                    add_special_tokens=not self._tokenizer.chat_template,
                ).to(self._model.device)
                logits = self._model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
                scores += torch.sigmoid(logits[:, 0].float()).tolist()
        return scores

    def _conversation(self, prompt: str, completion: str) -> str:
        if not self._tokenizer.chat_template:
            return prompt + completion
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False)
        return text


def check_reward_model(model: str | Path) -> None:
    """Raise CheckpointError unless the config of `model` is that of a classifier with one output."""
    path = model_path(model)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Reward model {str(model)!r}: {str(error).splitlines()[0]}", "Give a model folder or a hub name."
        ) from error
    names = config.architectures or []
    if config.num_labels != 1 or not any("SequenceClassification" in name for name in names):
        raise CheckpointError(
            f"Reward model {str(model)!r} is {', '.join(names) or 'of no architecture'} with "
            f"{config.num_labels} outputs; a sequence classifier with one was expected.",
            "Give a model that was saved as a scalar reward model.",
        )


def _content(messages: Any) -> str:
    """The text of a prompt or completion, plain or as TRL's list of messages."""
    return messages if isinstance(messages, str) else str(messages[-1]["content"])
