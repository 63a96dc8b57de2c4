"""Asking a model the questions whose difficulty is to be known."""

from __future__ import annotations

from collections.abc import Sequence

from niwaki.ground.generate import sample
from niwaki.ground.model import load_model, load_tokenizer
from niwaki.pipelines.inputs import device
from niwaki.pipelines.questions import Answer
from niwaki.recipe.curate import Difficulty
from niwaki.verify.prompt import prompt_of
from niwaki.verify.question import Question


def asker(section: Difficulty, *, prompt: str) -> Answer:
    """A function that writes n completions to each question, by a seed, with the model of the section.

    A completion that the limit on its length cuts off is empty: what it holds is no answer.
    """
    model, tokenizer = load_model(section.model, device=device()), load_tokenizer(section.model)

    def answer(questions: Sequence[Question], number: int, seed: int) -> list[list[str]]:
        samples = sample(
            model,
            tokenizer,
            [prompt_of(question, prompt) for question in questions],
            num_samples=number,
            temperature=section.temperature,
            max_new_tokens=section.max_tokens,
            seed=seed,
            shown=False,
        )
        return [[s.text if s.ended else "" for s in own] for own in samples]

    return answer
