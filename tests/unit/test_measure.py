"""Any model folder can be measured on text, outside a run."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from niwaki.errors import DataError
from niwaki.pipelines import measure as measuring
from niwaki.pipelines.measure import first_tokens, measure

NUM_WORDS = 8


@pytest.fixture
def tokenizer():
    words = {word: number for number, word in enumerate(["<eos>", *map(str, range(NUM_WORDS - 1))])}
    backend = Tokenizer(WordLevel(words, unk_token="<eos>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.fixture
def model_folder(tmp_path, tokenizer):
    """A model that knows nothing: every word is as likely as any other."""
    config = LlamaConfig(
        vocab_size=NUM_WORDS,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("0 1 2 3 " * 20)
    return tmp_path / "text.txt"


def test_the_loss_of_a_model_that_knows_nothing(model_folder, text, tmp_path, capsys):
    found = measure(model_folder, data=str(text), out=tmp_path / "found.json")
    assert found["loss"]["nats_per_token"] == pytest.approx([math.log(NUM_WORDS)] * 3)
    # 80 words of two bytes and one end-of-text.
    assert found["loss"]["bits_per_byte"][0] == pytest.approx(math.log2(NUM_WORDS) * 81 / 160)
    assert found["loss"]["num_tokens"] == 80
    assert json.loads((tmp_path / "found.json").read_text()) == found
    assert f"{math.log(NUM_WORDS):.4f}" in capsys.readouterr().out


def test_only_the_first_tokens_count(tokenizer, monkeypatch):
    monkeypatch.setattr(measuring, "MOST_TOKENS", 10)
    documents = [measuring.Document(str(n), "1 2 3", str(n)) for n in range(9)]
    ids, num_bytes = first_tokens(documents, tokenizer, name="text")
    assert ids.tolist() == [2, 3, 4, 0, 2, 3, 4, 0, 2, 3]
    assert num_bytes == round(15 * 10 / 12)


def test_no_text_is_refused(tokenizer):
    with pytest.raises(DataError, match="holds no text"):
        first_tokens([], tokenizer, name="text")
