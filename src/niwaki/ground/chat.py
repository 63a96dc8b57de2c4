"""Conversations -> token ids, through the model's own chat template.

In: a tokenizer and messages `{"role": ..., "content": ...}`. Out: the ids that every consumer of the template
makes of them (trainers and servers render first and add no special tokens after), and the place where the
prompt ends, found from the template alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from niwaki.errors import DataError

Message = Mapping[str, str]
Messages = Sequence[Message]

# For models that come without a template: each turn is closed by the end-of-text token, which is the last.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else '\\n' }}"
    "{{ message['role'] }}:\n{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nassistant:\n' }}{% endif %}"
)
# For encoders, which have no end-of-text token but one between texts.
PLAIN_ENCODER_TEMPLATE = (
    "{{ cls_token }}{% for message in messages %}{{ message['role'] }}:\n{{ message['content'] }}"
    "{{ sep_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)
PAD_TOKEN = "<|pad|>"
_KNOWN_PADS = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<unk>")
_PROBE = (
    {"role": "user", "content": "Where is the tree?"},
    {"role": "assistant", "content": "In the garden."},
)


@dataclass(frozen=True)
class Conversation:
    """A rendered conversation.

    Attributes:
        ids: its tokens. The state of the last one is what a reward model reads.
        prompt_end: index of the token that closes the last turn before the answer; the state there has seen
            the prompt and nothing of the answer.
    """

    ids: tuple[int, ...]
    prompt_end: int


class Chat:
    """A tokenizer with a chat template: its own, the one given, or a plain one if it has none.

    `is_plain` says that the last happened. The tokenizer itself carries the template afterwards.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.is_plain = template is None and not tokenizer.chat_template
        if template is not None:
            tokenizer.chat_template = template
        elif self.is_plain:
            encodes = tokenizer.eos_token is None and tokenizer.sep_token is not None
            tokenizer.chat_template = PLAIN_ENCODER_TEMPLATE if encodes else PLAIN_TEMPLATE
        self._prompt = lru_cache(maxsize=64)(self._prompt_ids)

    def text(self, messages: Messages, *, to_answer: bool = False, row: str = "conversation") -> str:
        """The rendered conversation; with `to_answer` up to where the model would begin to write.

        Raises:
            DataError: the template is no Jinja, or refuses `row`.
        """
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=to_answer
            )
        except TemplateError as error:
            raise DataError(
                f"{row}: the chat template does not render it: {error}.",
                "Give a chat_template that is valid Jinja and takes the roles of the data.",
            ) from None
        return rendered

    def ids(self, messages: Messages, *, to_answer: bool = False) -> list[int]:
        """The token ids of `text`, with no special token that the template did not print."""
        ids: list[int] = self.tokenizer(
            self.text(messages, to_answer=to_answer), add_special_tokens=False
        ).input_ids
        return ids

    def conversation(self, prompt: Messages, answer: str, *, row: str = "conversation") -> Conversation:
        """Render `prompt` and the assistant's `answer`.

        Raises:
            DataError: names `row` when the template drops part of the answer, or changes the prompt when the
                answer is there.
        """
        messages = [*prompt, {"role": "assistant", "content": answer}]
        text = self.text(messages, row=row)
        if answer.strip() not in text:
            raise DataError(
                f"{row}: the chat template cuts the answer: {_missing(answer.strip(), text)!r} is not "
                "in what it renders.",
                "Remove what it strips (such as <think> blocks) from the data, or give a chat_template.",
            )
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        end, before = self._prompt(tuple((m["role"], m["content"]) for m in prompt))
        if tuple(ids[: end + 1]) != before:
            raise DataError(
                f"{row}: the chat template renders the prompt differently when an answer follows, so "
                "there is no state that has seen just the prompt.",
                "Give a chat_template in which a turn does not depend on later ones.",
            )
        return Conversation(tuple(ids), end)

    def problems(self) -> list[str]:
        """What is wrong with the template for scoring, in words; empty when nothing is."""
        found = []
        text = self.text(_PROBE)
        if _PROBE[1]["content"] not in text:
            return ["the chat template drops the assistant's answer"]
        after = text.rpartition(_PROBE[1]["content"])[2]
        if not after.strip():
            found.append(
                "the chat template leaves the last turn open: the scored token is the last one of the text, "
                "not an end-of-turn token, and cuts cannot be told from ends"
            )
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos != self.tokenizer.eos_token_id:
            template_prints = self.ids(_PROBE)[:1] == [bos]
            tokenizer_adds = self.tokenizer("a").input_ids[:1] == [bos]
            if template_prints and tokenizer_adds:
                found.append(
                    "the chat template prints the beginning-of-text token and the tokenizer adds another: "
                    "tokenise rendered text with add_special_tokens=False"
                )
        return found

    def _prompt_ids(self, prompt: tuple[tuple[str, str], ...]) -> tuple[int, tuple[int, ...]]:
        """Index of the token that closes the prompt, and the ids up to and with it."""
        messages = [{"role": role, "content": content} for role, content in prompt]
        without, with_answer = self.ids(messages), self.ids(messages, to_answer=True)
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(without, with_answer, strict=False))))
        end = same - 1
        while end > 0 and not self.tokenizer.decode([without[end]]).strip():
            end -= 1
        if end < 0:
            raise DataError(
                f"The chat template renders nothing before the answer to {prompt[-1][1][:40]!r}.",
                "Give a chat_template that prints the user's turn.",
            )
        return end, tuple(without[: end + 1])


def pad_apart(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> int:
    """Give the tokenizer a padding token that is not its end-of-text token; returns its id.

    One that the tokenizer has already is taken where there is one; an id of `vocab_size` or above means that
    the model's embedding has to grow. Pooling by "last token that is not padding" needs this.
    """
    apart = tokenizer.pad_token_id
    if apart is None or apart in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        vocabulary = tokenizer.get_vocab()
        special = (tokenizer.eos_token, tokenizer.bos_token)
        known = [
            t for t in _KNOWN_PADS if t in vocabulary and t not in special and vocabulary[t] < vocab_size
        ]
        tokenizer.add_special_tokens({"pad_token": known[0] if known else PAD_TOKEN})
    return int(tokenizer.pad_token_id)


def _missing(answer: str, text: str) -> str:
    """The first piece of the answer that is not in the text."""
    return next((line for line in answer.splitlines() if line.strip() not in text), answer)[:60]
