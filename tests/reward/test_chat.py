"""Templates: where the prompt ends, one padding token apart, and templates that damage a row."""

import copy

import pytest

from niwaki.errors import DataError
from niwaki.ground.chat import PLAIN_TEMPLATE, Chat, pad_apart

from .conftest import CHATML

LLAMA = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|end|>\n\n{{ m['content'] }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
STRIPS = CHATML.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] }}")
OPEN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
ASK = [{"role": "user", "content": "Name a tree."}]


@pytest.fixture
def own(tokenizer):
    found = copy.deepcopy(tokenizer)
    marks = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>"]
    found.add_special_tokens({"additional_special_tokens": marks})
    return found


@pytest.mark.parametrize(
    "template, closes", [(CHATML, "<|im_end|>"), (LLAMA, "<|eot|>"), (None, "<|endoftext|>")]
)
def test_the_prompt_ends_at_the_token_that_closes_the_users_turn(own, template, closes):
    chat = Chat(own, template)
    first, second = (chat.conversation(ASK, answer) for answer in ("Pine.", "A very old pine."))
    assert own.convert_ids_to_tokens(first.ids[first.prompt_end]) == closes
    assert first.prompt_end == second.prompt_end
    assert first.ids[: first.prompt_end + 1] == second.ids[: first.prompt_end + 1]
    longer = chat.conversation([*ASK, {"role": "assistant", "content": "Which?"}, *ASK], "Pine.")
    assert own.convert_ids_to_tokens(longer.ids[longer.prompt_end]) == closes
    assert longer.prompt_end > first.prompt_end
    assert chat.problems() == []


def test_a_model_without_a_template_gets_a_plain_one_that_closes_turns(own):
    chat = Chat(own)
    assert chat.is_plain
    assert own.chat_template == PLAIN_TEMPLATE
    assert chat.conversation(ASK, "Pine.").ids[-1] == own.eos_token_id


def test_a_template_that_cuts_an_answer_names_the_row(own):
    chat = Chat(own, STRIPS)
    with pytest.raises(DataError, match="row 3: the chat template cuts the answer"):
        chat.conversation(ASK, "<think>pines are trees</think>Pine.", row="row 3")
    assert chat.conversation(ASK, "Pine.")


def test_a_template_that_leaves_the_turn_open_is_told(own):
    assert "leaves the last turn open" in Chat(own, OPEN).problems()[0]


def test_padding_is_a_token_apart(own):
    own.pad_token = own.eos_token
    assert pad_apart(own, len(own)) == len(own) - 1
    assert own.pad_token_id != own.eos_token_id
    again = pad_apart(own, len(own))
    assert again == own.pad_token_id
