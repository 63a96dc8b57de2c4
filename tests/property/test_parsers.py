"""Whatever the bytes, a parser gives its result or one of our errors with what to do: never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from niwaki.errors import NiwakiError, RecipeError
from niwaki.evaluation.paired import load_paired
from niwaki.ground import axes
from niwaki.ground.shard import open_shard
from niwaki.pruning.importance import load_importance
from niwaki.pruning.scores import Scores
from niwaki.recipe.compress import starter
from niwaki.recipe.kinds import KINDS, parse_recipe
from niwaki.recipe.write import dump
from niwaki.verify.check import check
from niwaki.verify.question import read_questions

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
BOMB = "a: &a [x, x]\n" + "".join(
    f"{n}: &{n} [*{p}, *{p}, *{p}]\n" for p, n in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB + BOMB.replace("a", "z"),
        "kind: &k [*k]",
        "kind: " + "[" * 5000,
        "kind: 2026-13-45",
        "seed: " + "9" * 5000,
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "1: 2",
        "kind: compress\nteacher: 1\nchoose: {1: 2, to: [50%]}",
        "kind: compress\n<<: {teacher: x}",
        "!!python/object/apply:os.system ['true']",
        "kind: !!binary x",
        "kind: !!int x",
        "\0",
        "kind: family\nteacher: x\nmembers: {a: b}",
        "kind: family\nteacher: x\nmembers: [1, [2], {to: {}}]",
    ],
)
def test_hostile_recipes_are_refused_at_once(text):
    with pytest.raises(RecipeError):
        parse_recipe(text, name="hostile.yaml")


def test_aliases_themselves_are_fine():
    text = "kind: family\nteacher: x\nscratch_tokens: &n 1M\nmembers: [{to: 50%}]\ndistill: {tokens: *n}\n"
    recipe = parse_recipe(text, name="a")
    assert recipe.scratch_tokens == recipe.distill.tokens == 1_000_000


@given(text=st.text("kind:coprestah \n-[]{}&*!?|>'\"#%@0123456789.,~<=", max_size=80))
def test_any_text_is_a_recipe_or_a_recipe_error(text):
    _only_ours(lambda: parse_recipe(text, name="fuzz.yaml"))


@given(data=st.data())
def test_a_recipe_with_anything_in_any_place_is_read_or_refused(data):
    content = starter().model_dump(mode="json") | {"kind": data.draw(st.sampled_from(sorted(KINDS)))}
    for _ in range(data.draw(st.integers(1, 3))):
        place = content
        while isinstance(place, dict) and place:
            key = data.draw(st.sampled_from(sorted(place, key=str)))
            if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
                place[data.draw(st.sampled_from([key, "unknown", key[:-1]]))] = data.draw(json_values)
                break
            place = place[key]
    text = yaml.safe_dump(content, allow_unicode=True)
    recipe = _only_ours(lambda: parse_recipe(text, name="fuzz.yaml"))
    if recipe is not None:
        assert parse_recipe(dump(recipe), name="again.yaml") == recipe


@given(st.text("()[]| 0123456789kvgroupdimhefnlaybcxt_-", max_size=40))
@example("(" * 2000)
@example("[a|" * 500)
@example("hidden \N{SUPERSCRIPT ONE}2")  # a digit to str.isdigit, and to int() none
@example("hidden " + "9" * 5000)
def test_any_text_is_an_axis_expression_or_a_family_error(text):
    parsed = _only_ours(lambda: axes.parse(text))
    if parsed is not None:
        names = dict.fromkeys(axes.axes_of(text), 3)
        assert len(axes.shape(text, names)) == len(parsed)


headers = st.dictionaries(
    st.text(max_size=5) | st.just("__metadata__"),
    json_values
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "I64", "F8_E4M3", 7, None]),
            "shape": st.lists(st.integers(-4, 4) | st.floats() | st.text(max_size=2), max_size=3),
            "data_offsets": st.lists(st.integers(-8, 64) | st.text(max_size=2), max_size=3),
        }
    ),
    max_size=3,
)
WHOLE = save({"hidden": torch.arange(4.0)}, {"niwaki": json.dumps({"format": "niwaki-importance-1"})})


@st.composite
def safetensors_files(draw) -> bytes:
    """Random headers with a true length, and a good file with some bytes changed, cut or added."""
    if draw(st.booleans()):
        header = json.dumps(draw(headers)).encode()
        return len(header).to_bytes(8, "little") + header + bytes(draw(st.integers(0, 64)))
    content = bytearray(WHOLE)
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))]) + draw(st.binary(max_size=8))


DEEP = b'{"a":' + b"[" * 100_000
NESTED = len(DEEP).to_bytes(8, "little") + DEEP


@given(content=safetensors_files())
@example(content=NESTED)
@example(content=b"\xff" * 8 + b"{}")
@settings(max_examples=200)
def test_any_bytes_are_a_tensor_file_or_a_checkpoint_error(content):
    with _file(content, "x.safetensors") as path:
        for parser in (open_shard, load_importance, Scores.load):
            _only_ours(lambda parser=parser: parser(path))


@pytest.mark.parametrize(
    "described", ["[]", "7", "{}", '{"format": "niwaki-importance-1"}', "[" * 100_000, "{"]
)
def test_odd_metadata_is_a_checkpoint_error(described):
    content = save({"hidden": torch.zeros(4)}, {"niwaki": described})
    with _file(content, "x.safetensors") as path:
        for parser in (load_importance, Scores.load):
            with pytest.raises(NiwakiError):
                parser(path)
    content = save({"hidden": torch.zeros(4)}, {"niwaki": json.dumps({"format": "niwaki-scores-1", "x": 1})})
    with _file(content, "x.safetensors") as path, pytest.raises(NiwakiError):
        Scores.load(path)


@given(
    rows=st.lists(json_values | st.just({"id": "a", "question": "q", "gold": "1"}), max_size=3),
    tail=st.binary(max_size=6),
)
def test_any_lines_are_questions_or_a_data_error(rows, tail):
    with _file("\n".join(map(json.dumps, rows)).encode() + tail, "x.jsonl") as path:
        _only_ours(lambda: list(read_questions(path)))


@given(content=json_values)
def test_any_json_is_what_evaluations_keep_or_an_error(content):
    with _file(json.dumps({"product": "a", "baseline": "b", "measures": content}).encode(), "x.json") as path:
        _only_ours(lambda: load_paired(path))


@given(answer=st.text("\\boxed{}$()[],.0123456789^_-+*/=% ABCDE\n", max_size=60), gold=st.text(max_size=12))
@settings(max_examples=150)
def test_any_answer_gets_a_verdict_or_the_gold_is_refused(answer, gold):
    verdict = _only_ours(lambda: check(answer, gold, limit_s=20))
    if verdict is not None:
        assert isinstance(verdict.correct, bool)


def _only_ours(call: Callable):
    try:
        return call()
    except NiwakiError:
        return None


class _file:  # noqa: N801
    """A file of these bytes for as long as the body runs."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content, self.name = content, name

    def __enter__(self) -> Path:
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name) / self.name
        path.write_bytes(self.content)
        return path

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()
