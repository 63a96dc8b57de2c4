"""The warm start learns answers alone and resumes exactly; samples are seeded, bounded, and graded once."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from niwaki.errors import DataError, EvaluationError, RecipeError
from niwaki.evaluation.answers import answer
from niwaki.evaluation.passk import summarise
from niwaki.ground.generate import prompt_end, prompt_ids, sample
from niwaki.ground.model import load_model, load_tokenizer
from niwaki.rl.warmup import WorkedRows, answer_loss, warm_up
from niwaki.verify.prompt import BARE, THINK_BOXED, completion_of, prompt_of
from niwaki.verify.question import Question

from .conftest import sums

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}|<think>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(start):
    return load_tokenizer(start)


def test_prompts_list_options_and_ask_for_what_the_reward_demands():
    choice = Question("c", "Which is a fruit?", "A", options=("apple", "stone"))
    assert prompt_of(choice, BARE) == "Which is a fruit?\nA) apple\nB) stone\n"
    asked = prompt_of(choice, THINK_BOXED)
    assert "<think>" in asked
    assert "\\boxed{}" in asked
    assert "letter" in asked
    assert "letter" not in prompt_of(Question("o", "1+1?", "2"), THINK_BOXED)
    with pytest.raises(RecipeError, match="'boxed'"):
        prompt_of(choice, "boxed")


def test_a_worked_answer_is_right_and_well_formed():
    from niwaki.rl.rewards import Completion, grader

    for question in sums(20):
        text = completion_of(question.meta["solution"], question.gold)
        assert grader()([Completion(question, text, 9, ended=True)])[0].reward == 1.0


def test_only_the_answer_is_learned(tokenizer):
    rows = WorkedRows(sums(8), tokenizer, prompt=BARE, max_tokens=64, seed=None)
    batch = rows.take(0, 8)
    for number, question in enumerate(sums(8)):
        learned = batch["targets"][number][batch["mask"][number]].tolist()
        assert learned[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(learned[:-1]) == completion_of(question.meta["solution"], question.gold)
        first = int(batch["mask"][number].nonzero()[0, 0])
        assert batch["inputs"][number][: first + 1].tolist() == prompt_ids(
            tokenizer, prompt_of(question, BARE)
        )


def test_rows_come_in_another_order_each_time_and_all_of_them(tokenizer):
    rows = WorkedRows(sums(10), tokenizer, prompt=BARE, max_tokens=64, seed=1)
    first, second = (rows.take(start, 10)["inputs"] for start in (0, 10))
    assert not torch.equal(first, second)
    assert sorted(map(str, first.tolist())) == sorted(map(str, second.tolist()))


def test_questions_without_a_solution_or_too_long_are_left_out(tokenizer):
    bare = [Question("n", "1+1?", "2")]
    assert WorkedRows([*bare, *sums(3)], tokenizer, prompt=BARE, max_tokens=64, seed=0).num_rows == 3
    with pytest.raises(DataError, match="Of 1 questions 0 have a worked solution"):
        WorkedRows(bare, tokenizer, prompt=BARE, max_tokens=64, seed=0)
    with pytest.raises(DataError, match="3 have a worked solution"):
        WorkedRows(sums(3), tokenizer, prompt=BARE, max_tokens=4, seed=0)


def test_a_template_that_opens_the_thought_is_not_given_it_twice(tokenizer, start):
    opened = load_tokenizer(start)
    opened.chat_template = TEMPLATE
    assert prompt_end(opened).endswith("<think>")
    batch = WorkedRows(sums(1), opened, prompt=BARE, max_tokens=64, seed=None).take(0, 1)
    text = opened.decode(batch["inputs"][0])
    assert text.count("<think>") == 1
    assert opened.decode(prompt_ids(opened, "1+1=?")) == "1+1=?|<think>"


def test_a_killed_warm_up_ends_with_the_same_weights(start, tmp_path, monkeypatch):
    settings = {"prompt": BARE, "num_steps": 6, "batch_rows": 4, "micro_rows": 4, "save_every_steps": 2,
                "learning_rate": 1e-2, "precision": "float32"}  # fmt: skip
    warm_up(start, sums(9), out=tmp_path / "straight", **settings)
    calls = itertools.count()

    def killed(model, batch):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return answer_loss(model, batch)

    monkeypatch.setattr("niwaki.rl.warmup.answer_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        warm_up(start, sums(9), out=tmp_path / "killed", **settings)
    assert not (tmp_path / "killed" / "model").exists()
    warm_up(start, sums(9), out=tmp_path / "killed", **settings)
    assert next(calls) == 7, "two steps were left after the snapshot at the fourth"
    ours, theirs = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "straight")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not all(
        torch.equal(weight, load_model(start).state_dict()[name]) for name, weight in theirs.items()
    )


def test_warm_up_teaches_the_form_and_is_not_done_twice(start, tmp_path):
    settings = {
        "prompt": BARE,
        "batch_rows": 16,
        "micro_rows": 16,
        "learning_rate": 1e-2,
        "precision": "float32",
    }
    result = warm_up(start, sums(35), out=tmp_path / "a", num_steps=30, held_out=sums(5), **settings)
    assert result.held_out["loss"] < 2
    for name in ("model/model.safetensors", "checkpoints/step-0000030/model-1-of-1.safetensors"):
        assert (tmp_path / "a" / name).exists()
    again = warm_up(start, sums(35), out=tmp_path / "a", num_steps=30, held_out=sums(5), **settings)
    assert again.step == 30


def test_samples_are_seeded_bounded_and_end_is_said(start, tokenizer):
    model = load_model(start)
    settings = {"num_samples": 3, "max_new_tokens": 5, "batch_rows": 6, "shown": False}
    prompts = [prompt_of(q, BARE) for q in sums(5)]
    first = sample(model, tokenizer, prompts, seed=1, **settings)
    assert first == sample(model, tokenizer, prompts, seed=1, **settings)
    assert first != sample(model, tokenizer, prompts, seed=2, **settings)
    for samples in first:
        assert len(samples) == 3
        assert all(s.num_tokens <= 5 for s in samples)
        assert all(s.ended or s.num_tokens == 5 for s in samples)
    with pytest.raises(EvaluationError, match="are all the same"):
        sample(model, tokenizer, prompts, temperature=0, **settings)


def test_likeliest_answers_need_no_seed(start, tokenizer):
    model = load_model(start)
    prompts = [prompt_of(q, BARE) for q in sums(3)]
    ones = [
        sample(model, tokenizer, prompts, temperature=0, max_new_tokens=5, seed=s, shown=False)
        for s in (1, 2)
    ]
    assert ones[0] == ones[1]


def test_a_killed_evaluation_goes_on_as_it_would_have(start, tokenizer, tmp_path):
    model = load_model(start)
    settings = {"prompt": BARE, "num_samples": 2, "seeds": [0, 1], "max_new_tokens": 6, "batch_rows": 4}
    benchmarks = {"sums": sums(6), "more": sums(3, first=9)}
    whole = answer(model, tokenizer, benchmarks, file=tmp_path / "whole.jsonl", **settings)
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    assert answer(model, tokenizer, benchmarks, file=tmp_path / "half.jsonl", **settings) == whole
    figures = summarise(whole, ks=[1])
    assert set(figures["benchmarks"]) == {"sums", "more"}
    assert figures["all"]["questions"] == 9


def test_a_cut_answer_is_wrong_although_its_number_is_there(start, tokenizer, tmp_path, monkeypatch):
    from niwaki.evaluation import answers
    from niwaki.ground.generate import Sample

    def cut(model, tokenizer, prompts, *, keep, **options):
        keep(range(len(prompts)), [[Sample("<think></think>\\boxed{2}", 9, False)] for _ in prompts])

    monkeypatch.setattr(answers, "sample", cut)
    asked = {"b": [Question("1", "1+1?", "2"), Question("2", "3-1?", "2")]}
    found = answer(
        load_model(start),
        tokenizer,
        asked,
        file=tmp_path / "a.jsonl",
        prompt=BARE,
        num_samples=1,
        seeds=[0],
        max_new_tokens=9,
    )
    figures = summarise(found, ks=[1])["all"]
    assert (figures["accuracy"]["mean"], figures["truncated"]) == (0.0, 1.0)
    assert '"reason": "truncated"' in (tmp_path / "a.jsonl").read_text()


def test_two_questions_with_one_id_are_refused(start, tokenizer, tmp_path):
    with pytest.raises(EvaluationError, match="two questions with the id 's0'"):
        answer(
            load_model(start),
            tokenizer,
            {"sums": [*sums(1), *sums(1)]},
            file=tmp_path / "a.jsonl",
            prompt=BARE,
            num_samples=1,
            seeds=[0],
            max_new_tokens=4,
        )
