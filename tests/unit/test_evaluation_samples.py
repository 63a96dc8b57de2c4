"""Sampled texts: the model's own words, repeatable."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from niwaki.errors import EvaluationError
from niwaki.evaluation.samples import sample_text


@pytest.fixture(scope="module")
def tokenizer():
    """Every byte is a token; id 0 ends a text."""
    vocabulary = {"<|end|>": 0} | {
        c: i + 1 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=257, initializer_range=0.3, eos_token_id=0, bos_token_id=0, **sizes)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def greedy(model, ids, count):
    ids = torch.tensor([ids])
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0].tolist()


def test_without_a_seed_the_most_probable_tokens_are_written(model, tokenizer):
    ids = tokenizer.encode("def f(x):")
    written = greedy(model, ids, 12)[len(ids) :]
    assert 0 not in written
    assert sample_text(model, tokenizer, ["def f(x):"], max_new_tokens=12) == [
        tokenizer.decode(ids + written)[len("def f(x):") :]
    ]


def test_a_seed_repeats_and_another_seed_differs_whatever_the_other_prompts(model, tokenizer):
    first = sample_text(model, tokenizer, ["import", "class A"], max_new_tokens=20, seed=1)
    assert sample_text(model, tokenizer, ["class A"], max_new_tokens=20, seed=1) == first[1:]
    assert sample_text(model, tokenizer, ["import", "class A"], max_new_tokens=20, seed=2) != first


def test_writing_stops_at_the_end_of_text(model, tokenizer):
    ending = LlamaForCausalLM(model.config)
    torch.nn.init.zeros_(ending.lm_head.weight)  # all logits equal, so the most probable token is id 0
    assert sample_text(ending, tokenizer, ["x"], max_new_tokens=20) == [""]


def test_the_callers_random_state_and_mode_stay(model, tokenizer):
    model.train()
    state = torch.get_rng_state()
    sample_text(model, tokenizer, ["import"], max_new_tokens=2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    model.eval()


def test_an_empty_prompt_is_refused(model, tokenizer):
    with pytest.raises(EvaluationError, match="prompt '' has no tokens"):
        sample_text(model, tokenizer, [""], max_new_tokens=2)
