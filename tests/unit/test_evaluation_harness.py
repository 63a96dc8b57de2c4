"""lm-eval through niwaki: its own numbers, offline, quiet, from any directory, and named faults."""

import copy
import dataclasses
import json
import logging
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from niwaki.errors import EvaluationError
from niwaki.evaluation.harness import run_tasks
from niwaki.sapling.next_line import TASK_FOLDER
from niwaki.sapling.next_line.dataset import QUESTIONS

pytest.importorskip("lm_eval", reason="needs niwaki[eval]")

NUM_QUESTIONS = 24


def questions():
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([question["context"] for question in questions()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def tiny_llama(**changes):
    torch.manual_seed(0)
    defaults = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**(defaults | {"num_attention_heads": 4, "initializer_range": 0.3} | changes))
    return LlamaForCausalLM(config).eval()


def tiny_gemma3():
    """A model with sliding-window layers, whose cache forgets."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    )
    return Gemma3ForCausalLM(config).eval()


def run(model, tokenizer, **options):
    options = {"include_path": TASK_FOLDER, "limit": NUM_QUESTIONS} | options
    return run_tasks(model, tokenizer, ["next_line"], **options)["next_line"]


@torch.no_grad()
def log_likelihood(model, tokenizer, context, choice):
    context_ids = tokenizer.encode(context)
    ids = tokenizer.encode(f"{context}\n{choice}")
    assert ids[: len(context_ids)] == context_ids
    log_probabilities = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    scored = log_probabilities.gather(-1, torch.tensor(ids[1:])[:, None])[len(context_ids) - 1 :]
    return scored.sum().item()


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma3])
def test_accuracy_equals_a_direct_computation(make, tokenizer):
    model = make()
    found = run(model, tokenizer)
    right, right_per_byte = [], []
    for question in questions()[:NUM_QUESTIONS]:
        scores = [log_likelihood(model, tokenizer, question["context"], c) for c in question["choices"]]
        per_byte = [score / len(c) for score, c in zip(scores, question["choices"], strict=True)]
        right.append(float(np.argmax(scores) == question["answer"]))
        right_per_byte.append(float(np.argmax(per_byte) == question["answer"]))
    assert found.scores == {"acc": right, "acc_norm": right_per_byte}
    assert found.metrics == pytest.approx({"acc": np.mean(right), "acc_norm": np.mean(right_per_byte)})
    assert found.stderr["acc"] == pytest.approx(np.std(right, ddof=1) / NUM_QUESTIONS**0.5)
    assert found.num_questions == NUM_QUESTIONS
    assert found.version == "1.0"


def test_a_model_that_knows_nothing_guesses(tokenizer):
    model = tiny_llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert 0.1 <= run(model, tokenizer, limit=100).metrics["acc_norm"] <= 0.4


def test_sharing_the_context_gives_the_likelihoods_of_lm_eval(tokenizer):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from niwaki.evaluation.shared_prefix import SharedPrefixLM

    model = tiny_llama(max_position_embeddings=64)
    pairs = [
        *[("def f(x):\n    return", choice) for choice in (" x", " None", " self.value(x) + 1")],
        *[("import os", choice) for choice in ("\n", "a")],  # one token each: left to lm-eval
        ("class Alone:", "\n    pass"),
        *[("x = 1\n" * 60, choice) for choice in ("y = 2", "z = 333")],  # longer than the window
        ("", "def"),
    ]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    found, expected = (
        lm(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=2).loglikelihood(
            requests, disable_tqdm=True
        )
        for lm in (SharedPrefixLM, HFLM)
    )
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_the_task_works_from_any_directory_offline_and_says_nothing(tokenizer, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = logging.getLogger("lm_eval").level
    run(tiny_llama(), tokenizer, limit=4)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level == before
    assert list(tmp_path.iterdir()) == []


def test_the_same_call_gives_the_same_result_and_the_hash_tells_the_questions(tokenizer):
    model = tiny_llama()
    first = run(model, tokenizer, limit=8)
    assert run(model, tokenizer, limit=8, batch_size=3) == first
    assert run(tiny_gemma3(), tokenizer, limit=8).hash == first.hash
    assert run(model, tokenizer, limit=9).hash != first.hash
    assert json.loads(json.dumps(dataclasses.asdict(first)))["hash"] == first.hash


def test_the_callers_model_tokenizer_and_random_state_stay_as_they_were(tokenizer):
    model = tiny_llama().train()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    run(model, tokenizer, limit=2)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert model.training
    assert tokenizer.pad_token is None


def test_an_unknown_task_is_answered_with_near_names(tokenizer):
    with pytest.raises(EvaluationError, match=r"'next_lime' is unknown.*next_line"):
        run_tasks(tiny_llama(), tokenizer, ["next_lime"], include_path=TASK_FOLDER)


def test_a_missing_folder_is_named(tokenizer):
    with pytest.raises(EvaluationError, match="nowhere"):
        run(tiny_llama(), tokenizer, include_path=Path("nowhere"))


def test_a_tokenizer_without_end_is_refused(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(EvaluationError, match="end-of-text"):
        run(tiny_llama(), bare)


def test_a_missing_lm_eval_names_the_command_that_installs_it(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    monkeypatch.delitem(sys.modules, "niwaki.evaluation.shared_prefix", raising=False)
    with pytest.raises(EvaluationError, match=r"pip install 'niwaki\[eval\]'"):
        run(tiny_llama(), tokenizer)
