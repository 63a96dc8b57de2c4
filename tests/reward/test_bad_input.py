"""What users get wrong, through the real command: the row or the thing is named, with what to do about it."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from niwaki.cli import app

from .conftest import WORDS, write_rows

TRAINING = {"learning_rate": 1e-3, "batch_rows": 16, "micro_rows": 8, "warmup_steps": 1}


class Case:
    """Good data and a good recipe, to be spoilt."""

    def __init__(self, backbone, folder):
        self.folder, self.pairs, self.ratings = folder, [], []
        for i in range(60):
            ask, good, bad = f"Name {WORDS[i % 4]} {i}.", f"{WORDS[i % 4]} tree", "stone " * (1 + i % 4)
            self.pairs.append({"prompt": ask, "chosen": good, "rejected": bad, "strength": 1 + i % 3})
            for answer, value in ((good, 4), (bad, 1)):
                rating = {"helpfulness": value, "style": (i + value) % 5}
                self.ratings.append({"prompt": ask, "response": answer, **rating})
        self.recipe = {
            "kind": "reward",
            "backbone": str(backbone),
            "out": str(folder / "out"),
            "data": {
                "pairs": [{"source": str(folder / "pairs.jsonl")}],
                "ratings": [{"source": str(folder / "ratings.jsonl"), "scale": [0, 4]}],
                "validation": 0.2,
                "test": 0.2,
                "max_tokens": 120,
            },
            "regression": TRAINING,
            "preference": TRAINING,
        }

    def template(self, text):
        (self.folder / "template.jinja").write_text(text)
        self.recipe["chat_template"] = str(self.folder / "template.jinja")

    def invoke(self, verb):
        """Exit code, and everything that was printed with its line breaks taken out."""
        write_rows(self.folder / "pairs.jsonl", self.pairs)
        write_rows(self.folder / "ratings.jsonl", self.ratings)
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe))
        result = CliRunner().invoke(app, [verb, str(self.folder / "recipe.yaml")])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def case(backbone, tmp_path):
    return Case(backbone, tmp_path)


def nan(case):
    case.ratings[7]["helpfulness"] = float("nan")


def out_of_range(case):
    case.ratings[9]["helpfulness"] = 7


def word(case):
    case.ratings[9]["helpfulness"] = "good"


def strength(case):
    case.pairs[3]["strength"] = 40


def strength_nan(case):
    case.pairs[3]["strength"] = float("nan")


def swapped(case):
    for pair in case.pairs:
        pair["chosen"], pair["rejected"] = pair["rejected"], pair["chosen"]


def swapped_with_scores(case):
    swapped(case)
    case.recipe["data"]["ratings"], case.recipe["regression"] = [], None
    for pair in case.pairs:
        pair["score_chosen"], pair["score_rejected"] = 1, 2


def swapped_with_prompt(case):
    for pair in case.pairs:
        pair["prompt"] = [{"role": "assistant", "content": pair["chosen"]}]


def no_labels(case):
    for rating in case.ratings:
        rating["safety"] = None
    case.recipe["regression"] = TRAINING | {"objectives": ["helpfulness", "safety"]}


def cuts_the_answer(case):
    case.template("{% for m in messages %}{{ m['role'] }}: {{ m['content'][:-3] }}\n{% endfor %}")


def cuts_thoughts(case):
    case.pairs[5]["chosen"] = "<think>hm</think>pine"
    case.template(
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}{% endfor %}"
    )


def no_jinja(case):
    case.template("{% for m in messages %}{{ m['role'] ")


def refuses_roles(case):
    for pair in case.pairs:
        system = {"role": "system", "content": "Be kind."}
        pair["prompt"] = [system, {"role": "user", "content": pair["prompt"]}]
    case.template(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    )


def one_column_missing(case):
    del case.pairs[4]["rejected"]


def benchmark_missing(case):
    case.recipe["evaluate"] = {"rewardbench": str(case.folder / "nothing.jsonl")}


def benchmark_of_another_form(case):
    case.recipe["evaluate"] = {"rewardbench2": str(case.folder / "pairs.jsonl")}


def nothing_for_the_gate(case):
    case.recipe["objectives"] = {"names": ["helpfulness"]}


@pytest.mark.parametrize(
    "spoil, told, remedy",
    [
        (nan, "ratings.jsonl:8, helpfulness: nan is not finite", "Write null"),
        (out_of_range, "ratings.jsonl:10: helpfulness is 7, outside of 0 to 4", "`scale`"),
        (word, "ratings.jsonl:10: helpfulness is 'good', and a number in other rows", "null"),
        (strength, "pairs.jsonl:4: strength is 40, expected -3 to 3", "margin"),
        (strength_nan, "pairs.jsonl:4, strength: nan is not finite", "Write null"),
        (swapped, "first pairs.jsonl:1, the rejected answer has the higher helpfulness", "look swapped"),
        (
            swapped_with_scores,
            "first pairs.jsonl:1, the rejected answer has the higher score",
            "look swapped",
        ),
        (swapped_with_prompt, "pairs.jsonl:1: the prompt ends with 'assistant'", "columns swapped?"),
        (no_labels, "objective 'safety' has no labels", "Rated are: helpfulness, style"),
        (cuts_the_answer, "pairs.jsonl:1: the chat template cuts the answer", "chat_template"),
        (cuts_thoughts, "pairs.jsonl:6: the chat template cuts the answer", "<think>"),
        (no_jinja, "the chat template does not render it", "valid Jinja"),
        (refuses_roles, ": the chat template does not render it: no system", "the roles"),
        (
            one_column_missing,
            "pairs.jsonl:5: the columns (chosen, prompt, strength)",
            "prompt, chosen and rejected",
        ),
        (benchmark_missing, "nothing is there", "Give an existing file"),
        (benchmark_of_another_form, "expected prompt, chosen, rejected, subset", "as it is published"),
        (nothing_for_the_gate, "there is helpfulness, so a gate has nothing to weigh", "uniform"),
    ],
)
def test_the_row_and_the_remedy_are_told_before_anything_is_trained(case, spoil, told, remedy):
    spoil(case)
    code, output = case.invoke("check")
    assert code == 2
    assert told in output
    assert remedy in output
    assert not (case.folder / "out").exists()
    if spoil is nothing_for_the_gate:
        return  # told by the stage of its own
    code, output = case.invoke("run")
    assert code == 2
    assert told in output
    assert not (case.folder / "out" / "2-regress").exists()


def test_what_is_only_worth_knowing_is_told_and_done(case):
    case.template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}")
    del case.recipe["data"]["ratings"][0]["scale"]
    code, output = case.invoke("check")
    assert code == 0
    assert "leaves the last turn open" in output
    assert "no `scale` is given" in output
    assert "helpfulness 1 to 4" in output
    code, output = case.invoke("run")
    assert code == 0
    assert "leaves the last turn open" in output
    assert json.loads((case.folder / "out" / "1-data" / "data.json").read_text())["warnings"]


def test_a_backbone_without_padding_gets_some_of_its_own(case, tmp_path):
    config = tmp_path / "backbone" / "tokenizer_config.json"
    told = json.loads(config.read_text())
    told.pop("pad_token", None)
    config.write_text(json.dumps(told))
    code, output = case.invoke("check")
    assert code == 0
    assert "the backbone has no padding token: '<|pad|>' is used and saved with the model" in output


def test_columns_that_only_the_model_finds_swapped_are_told_after_the_run(case):
    swapped(case)
    case.recipe["data"]["ratings"][0]["prefix"] = "other."
    for rating in case.ratings:
        rating["prompt"] = f"{rating['prompt']} Please."
    case.recipe["regression"] = TRAINING | {"objectives": ["other.helpfulness"], "epochs": 6}
    case.recipe["preference"] = None
    code, output = case.invoke("run")
    assert code == 0
    assert "look swapped" in output
