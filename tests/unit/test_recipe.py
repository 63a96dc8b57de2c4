"""Recipes are strict, complain about everything at once, and survive being written and read again."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from niwaki.errors import RecipeError
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load, parse
from niwaki.recipe.model_size import Size, format_size, parse_size
from niwaki.recipe.quantities import (
    Ceiling,
    format_bytes_ceiling,
    format_count,
    format_fraction,
    format_time_ceiling,
    parse_bytes_ceiling,
    parse_count,
    parse_count_or_share,
    parse_fraction,
    parse_number,
    parse_time_ceiling,
)
from niwaki.recipe.teacher import FORWARD_KL, refuse_other_losses
from niwaki.recipe.write import commented, dump

SMALLEST = "kind: compress\nteacher: sapling\nchoose:\n  to: 50%\n"


def recipe(text: str = SMALLEST) -> CompressRecipe:
    return parse(text, CompressRecipe, name="recipe.yaml")


def complaint(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(text)
    return caught.value.message


@pytest.mark.parametrize(
    "written, count",
    [
        ("2B", 2 * 10**9),
        ("100M", 10**8),
        ("4k", 4000),
        ("4 k", 4000),
        ("1T", 10**12),
        ("1.5M", 1_500_000),
        ("8.3B", 8_300_000_000),
        ("2e9", 2 * 10**9),
        (2e9, 2 * 10**9),
        ("1_000", 1000),
        (4096, 4096),
        (0, 0),
    ],
)
def test_counts_read_like_speech(written, count):
    assert parse_count(written) == count
    assert isinstance(parse_count(written), int)


@pytest.mark.parametrize(
    "written", ["4K", "1.2345k", -1, "-3k", True, None, "", "k", "1e999", "nan", float("nan"), [1]]
)
def test_what_is_not_a_count(written):
    with pytest.raises(ValueError):
        parse_count(written)


@pytest.mark.parametrize("written, fraction", [("5%", 0.05), ("50%", 0.5), (0.02, 0.02), ("0.5%", 0.005)])
def test_fractions_read_like_speech(written, fraction):
    assert parse_fraction(written) == fraction


def test_numbers_that_yaml_takes_for_text():
    assert parse_number("1e-4") == 1e-4
    assert parse_number("2e9") == 2e9


@pytest.mark.parametrize(
    "written, warmup", [(40, 40), ("40", 40), ("5%", 0.05), (0.05, 0.05), ("0.05", 0.05)]
)
def test_warmup_is_steps_or_a_share(written, warmup):
    assert parse_count_or_share(written) == warmup
    assert type(parse_count_or_share(written)) is type(warmup)


@pytest.mark.parametrize(
    "written, size",
    [
        ("50%", Size(fraction=0.5)),
        (0.5, Size(fraction=0.5)),
        ("4B", Size(num_parameters=4 * 10**9)),
        (4190509056, Size(num_parameters=4190509056)),
        ("8GB", Size(num_bytes=8 * 10**9)),
        ("500MB", Size(num_bytes=5 * 10**8)),
        ("1GiB", Size(num_bytes=2**30)),
        ({"low": "7.8B", "high": "8.5B"}, Size(interval=(7_800_000_000, 8_500_000_000))),
    ],
)
def test_sizes_read_like_speech(written, size):
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "parser, written, nearest",
    [
        (parse_count, "100MB", "'100M'"),
        (parse_count, "2b", "'2B'"),
        (parse_count, "4kb", "'4k'"),
        (parse_count, "5%", "100M"),
        (parse_fraction, 50, "'50%'"),
        (parse_fraction, "50x", "'5%'"),
        (parse_number, "1e-4%", "1e-4"),
        (parse_size, 50, "'50%'"),
        (parse_size, "8gb", "'8GB'"),
        (parse_size, "5O%", "50%"),
        (parse_size, "100%", "'50%'"),
        (parse_size, {"low": "1B"}, "low and high"),
        (parse_size, {"low": "2B", "high": "1B"}, "empty"),
        (parse_bytes_ceiling, "2gb", "'2GB'"),
        (parse_bytes_ceiling, 50, "50%"),
        (parse_bytes_ceiling, "120%", "at most 100%"),
        (parse_bytes_ceiling, "0MB", "200MB"),
        (parse_time_ceiling, "40MS", "'40ms'"),
        (parse_time_ceiling, "2GB", "40ms"),
    ],
)
def test_a_wrong_unit_names_the_nearest_legal_form(parser, written, nearest):
    with pytest.raises(ValueError) as caught:
        parser(written)
    assert nearest in str(caught.value)


@given(st.integers(0, 10**15))
def test_counts_survive_writing(count):
    assert parse_count(format_count(count)) == count


@given(st.floats(0, 1))
def test_fractions_survive_writing(fraction):
    assert parse_fraction(format_fraction(fraction)) == fraction


COUNTS = st.integers(1, 10**12)
SIZES = st.one_of(
    st.builds(Size, fraction=st.floats(0, 1, exclude_min=True, exclude_max=True)),
    st.builds(Size, num_parameters=st.integers(1000, 10**13)),
    st.builds(Size, num_bytes=COUNTS),
    st.builds(Size, interval=st.tuples(COUNTS, COUNTS).map(lambda pair: (min(pair), max(pair)))),
)


@given(SIZES)
def test_sizes_survive_writing(size):
    assert parse_size(format_size(size)) == size


CEILINGS = st.one_of(
    st.builds(Ceiling, share=st.floats(0, 1, exclude_min=True)),
    st.builds(Ceiling, amount=st.floats(1e-9, 1e15)),
)


def test_ceilings_read_like_speech():
    assert parse_bytes_ceiling("60%") == Ceiling(share=0.6)
    assert parse_bytes_ceiling("1.5GB") == Ceiling(amount=1.5e9)
    assert parse_time_ceiling("40ms") == Ceiling(amount=0.04)
    assert parse_time_ceiling("2s") == Ceiling(amount=2.0)
    assert format_time_ceiling(Ceiling(amount=0.0015)) == "1.5ms"
    assert format_bytes_ceiling(Ceiling(amount=2e8)) == "200MB"


@given(CEILINGS)
def test_ceilings_survive_writing(ceiling):
    assert parse_bytes_ceiling(format_bytes_ceiling(ceiling)) == ceiling
    assert parse_time_ceiling(format_time_ceiling(ceiling)) == ceiling


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=20)


@settings(deadline=None)
@given(
    size=SIZES,
    teacher=TEXT,
    source=TEXT.filter(lambda text: text != "stdlib"),
    config=st.none() | TEXT,
    prompts=st.lists(TEXT, max_size=3),
    grid=st.none()
    | st.dictionaries(
        st.sampled_from(["hidden", "ffn_ratio"]), st.lists(COUNTS | st.floats(0.01, 99), min_size=1)
    ),
    warmup=st.integers(0, 300) | st.floats(0, 0.9),
    rate=st.floats(1e-9, 10),
    held_out=st.floats(1e-6, 0.5),
    seed=st.integers(0, 2**63),
    ceiling=st.none() | CEILINGS,
)
def test_a_resolved_recipe_reads_back_equal(
    size, teacher, source, config, prompts, grid, warmup, rate, held_out, seed, ceiling
):
    resolved = CompressRecipe.model_validate(
        {
            "kind": "compress",
            "teacher": teacher,
            "seed": seed,
            "data": {"source": source, "config": config, "held_out": held_out},
            "choose": {
                "to": size,
                "grid": grid,
                "limits": {"weights": ceiling, "latency": ceiling},
                "device": "h100",
            },
            "distill": {"learning_rate": rate, "min_learning_rate": 0, "warmup": warmup},
            "report": {"prompts": prompts},
        }
    )
    assert recipe(dump(resolved)) == resolved


def test_unknown_keys_name_the_nearest_and_the_line():
    text = SMALLEST + "distill:\n  lerning_rate: 1e-4\n"
    assert (
        complaint(text) == "recipe.yaml:6: distill.lerning_rate: unknown key. Did you mean 'learning_rate'?"
    )
    assert "Did you mean 'choose.axes'?" in complaint(SMALLEST + "distill:\n  axes: [ffn]\n")
    assert "Did you mean 'seed' without indentation?" in complaint(SMALLEST + "distill:\n  seed: 1\n")
    assert "Known here: kind, teacher" in complaint(SMALLEST + "zzz: 1\n")


def test_every_problem_is_listed_at_once_in_the_order_of_the_file():
    text = """
kind: compress
teacher: sapling
choose:
  to: 8gb
  axes: [layer, hiden]
distill:
  tokens: 100MB
  precision: bf16
  lerning_rate: 1
"""
    problems = complaint(text).splitlines()
    assert problems[0] == "recipe.yaml: 5 problems:"
    assert [line.split(": ")[:2] for line in problems[1:]] == [
        ["recipe.yaml:5", "choose.to"],
        ["recipe.yaml:6", "choose.axes.1"],
        ["recipe.yaml:8", "distill.tokens"],
        ["recipe.yaml:9", "distill.precision"],
        ["recipe.yaml:10", "distill.lerning_rate"],
    ]


@pytest.mark.parametrize(
    "text, part",
    [
        ("", "a recipe is a list of"),
        ("- 1", "not list"),
        ("kind: [", "recipe.yaml:1: this is not YAML"),
        (
            SMALLEST + "choose:\n  to: 40%\n",
            "recipe.yaml:5: the key 'choose' is given twice, first in line 3",
        ),
        ("kind: compres\nteacher: a\nchoose: {to: 5%}", "Did you mean 'compress'?"),
        ("kind: compress\nchoose: {to: 5%}", "teacher: this key is required"),
        ("kind: compress\nteacher: no\nchoose: {to: 5%}", "False is not text"),
        (SMALLEST + "data: 3\n", "data: 3 is not a section"),
        (SMALLEST + "  axes: ffn\n", "'ffn' is not a list"),
        (SMALLEST + "  axes: [ffn, ffn]\n", "each axis once"),
        (SMALLEST + "score: {measure: tailor}", "Did you mean 'taylor'?"),
        (SMALLEST + "score: {measure: random, batch: mean}", "measure random has none"),
        (SMALLEST + "score: {rounds: 0}", "score.rounds"),
        (SMALLEST + "  grid: {ffn: [64], ffn_ratio: [2.5]}\n", "the same thing twice"),
        (SMALLEST + "  grid: {hiden: [64]}\n", "Did you mean 'hidden'?"),
        (SMALLEST + "  grid: {hidden: []}\n", "one or more sizes"),
        (SMALLEST + "  tolerance: null\n", "tolerance is needed"),
        (SMALLEST + "distill: {clip_norm: 0}\n", "distill.clip_norm: 0.0 does not fit"),
        (SMALLEST + "distill: {min_learning_rate: 1}\n", "above learning_rate"),
        (SMALLEST + "distill: {loss: kl}\n", "'kl' is not one of forward_kl"),
        (SMALLEST + "distill: {temperature: 0}\n", "distill.temperature: 0.0 does not fit"),
        (SMALLEST + "distill: {loss: mse, temperature: 2}\n", "no meaning for mse"),
        (SMALLEST + "distill: {jsd_beta: 0.3}\n", "belongs to jensen_shannon"),
        (SMALLEST + "distill: {loss: jensen_shannon, jsd_beta: 1}\n", "jsd_beta: 1.0 does not fit"),
        (SMALLEST + "distill: {top_k: 0}\n", "distill.top_k: 0 does not fit"),
        (SMALLEST + "distill: {lm_weight: -1}\n", "distill.lm_weight: -1.0 does not fit"),
        (SMALLEST + "distill: {hidden: true}\n", "True is not a section"),
        (
            SMALLEST + "distill: {hidden: {layer: {1: 1}}}\n",
            "hidden.layer: unknown key. Did you mean 'layers'?",
        ),
        (SMALLEST + "distill: {hidden: {parts: [outputs]}}\n", "Did you mean 'output'?"),
        (SMALLEST + "distill: {hidden: {parts: [output, output]}}\n", "each part once"),
        (SMALLEST + "distill: {hidden: {layers: {29:13}}}\n", "a space behind its colon"),
        (SMALLEST + "distill: {hidden: {layers: {1.5: 1}}}\n", "1.5 is not a layer"),
        (SMALLEST + "distill: {hidden: {layers: {last: 1, -1: 2}}}\n", "named twice"),
        (SMALLEST + "distill: {hidden: {parts: [embedding], layers: {1: 1}}}\n", "layers are for output"),
        (SMALLEST + "distill: {hidden: {parts: [output], layers: {}}}\n", "layers are for output"),
        (SMALLEST + "distill: {hidden: {parts: [attention], measure: mse}}\n", "a measure of its own"),
        (SMALLEST + "distill: {hidden: {alpha: 0}}\n", "not above zero"),
        (SMALLEST + "distill: {hidden: {alpha: dynamo}}\n", "neither dynamic nor a number"),
        (SMALLEST + "distill: {tokens: 1k}\n", "do not fill one batch_tokens"),
        (SMALLEST + "distill: {batch_tokens: 8k}\n", "less than distill.micro_rows (4) rows"),
        (SMALLEST + "distill: {warmup: 4k}\n", "warmup takes all"),
        (SMALLEST + "distill: {warmup: 100%}\n", "warmup takes all"),
        (SMALLEST + "  trial_tokens: 200M\n", "a trial is the shorter run"),
        (SMALLEST + "  halving: 4\n", "choose.halving: 4 does not fit"),
        (SMALLEST + "  halving: 1\n  rank: loss\n", "rank: loss has none"),
        (SMALLEST + "  limits: {latency: 40ms}\n", "set device to here"),
        (SMALLEST + "  limits: {latancy: 40ms}\n", "Did you mean 'latency'?"),
        (SMALLEST + "  device: h10\n", "Did you mean 'h100'?"),
        (SMALLEST + "data: {config: en}\n", "config belongs to a hub dataset"),
        (SMALLEST + "data: {held_out: 60%}\n", "data.held_out"),
        (SMALLEST + "data: {held_out: 5%}\n", "Write 8%"),
    ],
)
def test_rules_that_need_no_model(text, part):
    assert part in complaint(text)


def test_an_interval_takes_no_tolerance():
    interval = SMALLEST.replace("50%", "{low: 7.8B, high: 8.5B}")
    assert recipe(interval).choose.tolerance is None
    assert recipe().choose.tolerance == 0.05
    assert "no meaning beside an interval" in complaint(interval + "  tolerance: 5%\n")


def test_recipes_do_not_change_after_reading():
    with pytest.raises(ValidationError):
        recipe().distill.tokens = 1


def test_steps_follow_from_tokens():
    rows = "data: {sequence_length_tokens: 500, source: books}\n"
    read = recipe(SMALLEST + rows + "distill: {tokens: 5.01M, batch_tokens: 10k}\n")
    assert read.batch_rows == 20
    assert read.num_steps == 501
    assert read.steps(read.trial_tokens) == 21  # 4% of 5.01M is 200.4k
    assert read.warmup_steps(501) == 25
    assert read.warmup_steps(100) == 5


def test_the_batch_is_whole_micro_batches():
    read = recipe(
        SMALLEST + "data: {sequence_length_tokens: 512}\ndistill: {batch_tokens: 256k, micro_rows: 3}\n"
    )
    assert read.batch_rows == 501


def test_the_held_out_share_follows_the_source():
    assert recipe().data.held_out == 0.08
    assert recipe(SMALLEST + "data: {source: books}\n").data.held_out == 0.02


def test_the_commented_recipe_reads_back_and_explains_every_key():
    text = commented(recipe())
    assert recipe(text) == recipe()
    assert [line for line in text.splitlines() if line and "#" not in line and "kind" not in line] == []


def test_layers_are_named_from_either_end_and_written_back_in_the_same_speech():
    said = "distill: {hidden: {layers: {29: 13, last-2: -3, '4': last}, alpha: 0.5}}\n"
    read = recipe(SMALLEST + said)
    assert read.distill.hidden.layers == {29: 13, -3: -3, 4: -1}
    for text in (dump(read), commented(read)):
        assert "last-2: last-2" in text
        assert recipe(text) == read
    assert [line for line in commented(read).splitlines() if line and "#" not in line] == ["kind: compress"]


def test_hidden_states_are_left_alone_unless_asked_and_then_taught_as_the_paper_advises():
    assert recipe().distill.hidden is None
    hidden = recipe(SMALLEST + "distill: {hidden: {}}\n").distill.hidden
    assert (set(hidden.parts), hidden.layers) == ({"embedding", "output"}, {-3: -3})
    assert (hidden.measure, hidden.alpha) == ("cosine", "dynamic")
    assert recipe(SMALLEST + "distill: {hidden: {parts: [embedding]}}\n").distill.hidden.layers == {}


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match="there is no such recipe"):
        load(tmp_path / "absent.yaml", CompressRecipe)
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path, CompressRecipe)
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / "recipe.yaml", CompressRecipe)


TEACHERS = SMALLEST + "correct:\n  when: {when}\ndistill:\n  cache: {cache}\n"


def test_sections_about_the_teacher_survive_being_written():
    for text in (
        TEACHERS.format(when="before", cache="{top_k: 100, samples: 8, path: kept}"),
        SMALLEST + "correct: {when: alongside, learning_rate: 1e-5}\n",
        SMALLEST + "correct: {tokens: 20%, warmup: 3}\n",
    ):
        found = recipe(text)
        assert recipe(dump(found)) == found
        assert recipe(commented(found)) == found


def test_a_correction_takes_the_distillations_amounts_and_the_papers_warmup():
    tokens, warmup = "distill: {tokens: 1000M, batch_tokens: 256k}\n", 120
    first = recipe(SMALLEST + tokens + "correct: {}\n")
    assert first.correct_tokens == first.distill.tokens == 10**9
    assert first.correct_warmup_steps(first.steps(first.correct_tokens)) == warmup < first.warmup_steps(3906)
    part = recipe(SMALLEST + tokens + "correct: {tokens: 10%, warmup: 10%}\n")
    assert part.correct_tokens == 10**8
    assert part.correct_warmup_steps(400) == 40
    assert recipe(SMALLEST + "correct: {}\n").correct_warmup_steps(40) == 2
    assert recipe(SMALLEST + "correct: {when: alongside}\n").correct_tokens == recipe().correct_tokens == 0


@pytest.mark.parametrize(
    "text, said",
    [
        (TEACHERS.format(when="alongside", cache="{}"), "correct.when is alongside"),
        (SMALLEST + "correct: {when: alongside, tokens: 1M}\n", "tokens is the student's"),
        (SMALLEST + "correct: {when: alongside, warmup: 5}\n", "warmup is the student's"),
        (SMALLEST + "correct: {warmup: 100%}\n", "correct.warmup takes all"),
        (SMALLEST + "distill: {cache: {samples: 0}}\n", "distill.cache.samples"),
        (SMALLEST + "distill: {cache: {sample: 8}}\n", "Did you mean 'samples'?"),
        (SMALLEST + "correct: {when: after}\n", "'after' is not one of before, alongside"),
    ],
)
def test_teachers_that_cannot_be(text, said):
    assert said in complaint(text)


def test_losses_that_need_a_live_teacher_are_refused_by_name():
    usual = SimpleNamespace(**FORWARD_KL)
    refuse_other_losses(usual, "a cached teacher")
    for key, value in {"loss": "reverse_kl", "top_k": 50, "lm_weight": 0.5, "hidden": object()}.items():
        with pytest.raises(ValueError, match=rf"distill\.{key} .*a cached teacher serves forward KL"):
            refuse_other_losses(SimpleNamespace(**{**FORWARD_KL, key: value}), "a cached teacher")
