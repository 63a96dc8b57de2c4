"""The cached teacher: any order reads it, kills do not change it, and it serves only what it belongs to."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from niwaki.distillation import cache_writer
from niwaki.distillation.cache import CachedRows, TeacherCache, bytes_per_token, check_belongs
from niwaki.distillation.cache_writer import build
from niwaki.distillation.cached import cached_kl, distill_from_cache
from niwaki.distillation.losses import forward_kl
from niwaki.distillation.train import distill
from niwaki.errors import CheckpointError
from niwaki.ground.stream import Rows

TOKENS = np.random.default_rng(0).integers(0, 300, 16 * 40 + 1).astype(np.uint16)
TEXT = Rows(TOKENS, sequence_length=16)
HELD_OUT = Rows(np.random.default_rng(1).integers(0, 300, 16 * 6 + 1), sequence_length=16)
BELONGS_TO = {"teacher": "t0", "tokenizer": "v0", "text": "x0"}
EXPECTED = BELONGS_TO | {"sequence_length_tokens": 16, "top_k": 8, "samples": 4}


@pytest.fixture
def teacher(tiny_model):
    """With logits far from flat, and most of the mass among the eight most likely tokens."""
    torch.manual_seed(1)
    config = copy.deepcopy(tiny_model.config)
    config.tie_word_embeddings = False
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.weight, std=0.6)
    return model


@pytest.fixture
def student(teacher):
    """The teacher with every weight moved a little."""
    moved = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.06 * torch.randn_like(parameter))
    return moved


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Several files of a part, whose last one is not full."""
    monkeypatch.setattr(cache_writer, "_FILE_BYTES", 7 * 16 * bytes_per_token(300, top_k=8, num_samples=4))


def build_tiny(teacher, out, **changes):
    settings = {"belongs_to": BELONGS_TO, "top_k": 8, "num_samples": 4, "seed": 5, "batch_rows": 3}
    build(teacher, {"train": TEXT, "held_out": HELD_OUT}, out, **settings | changes)
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_order_and_every_epoch_finds_the_teachers_words_for_its_rows(teacher, tmp_path):
    found = TeacherCache(build_tiny(teacher, tmp_path / "cache"))
    for seed in (None, 3, 4):
        rows = Rows(TOKENS, sequence_length=16, seed=seed)
        for start in (0, 37, 80):
            batch = CachedRows(rows, found, "train").take(start, 5)
            assert torch.equal(batch["inputs"], rows.take(start, 5)["inputs"])
            with torch.no_grad():
                log_p = torch.log_softmax(teacher(batch["inputs"]).logits, dim=-1)
            top = log_p.topk(8, dim=-1)
            assert torch.equal(batch["teacher_ids"][..., :8], top.indices)
            torch.testing.assert_close(
                batch["teacher_weights"][..., :8], top.values.exp(), rtol=4e-3, atol=1e-6
            )
            rest = 1 - top.values.exp().sum(dim=-1)
            torch.testing.assert_close(
                batch["teacher_weights"][..., 8:].sum(dim=-1), rest, rtol=1e-3, atol=1e-5
            )


def test_a_killed_build_goes_on_to_the_same_bytes(teacher, tmp_path, monkeypatch):
    straight = build_tiny(teacher, tmp_path / "straight")
    predicted, seen = cache_writer._predict, []

    def killed(*args, **options):
        seen.append(args[2])
        if len(seen) == 6:
            raise KeyboardInterrupt
        return predicted(*args, **options)

    monkeypatch.setattr(cache_writer, "_predict", killed)
    with pytest.raises(KeyboardInterrupt):
        build_tiny(teacher, tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    build_tiny(teacher, tmp_path / "killed", seed=6)  # the draws stay those of the seed it was begun with
    assert contents(tmp_path / "killed") == contents(straight)
    first_rows = [0, 3, 6, 7, 10, 13]
    assert seen[:6] == first_rows
    assert seen[6] == 7, "the first file is not made again"


def test_batches_do_not_change_the_draws_but_the_seed_does(teacher, tmp_path):
    whole = TeacherCache(build_tiny(teacher, tmp_path / "a", batch_rows=7)).read("train", [0, 9])
    parts = TeacherCache(build_tiny(teacher, tmp_path / "b", batch_rows=1)).read("train", [0, 9])
    other = TeacherCache(build_tiny(teacher, tmp_path / "c", seed=6)).read("train", [0, 9])
    assert (whole.ids == parts.ids).float().mean() > 0.99
    assert (whole.ids[..., 8:] == other.ids[..., 8:]).float().mean() < 0.7
    assert not torch.equal(whole.ids[0, :, 8:], whole.ids[1, :, 8:])


def test_a_finished_cache_is_not_made_again(teacher, tmp_path, monkeypatch):
    before = contents(build_tiny(teacher, tmp_path / "cache"))
    monkeypatch.setattr(cache_writer, "_predict", None)
    assert contents(build_tiny(teacher, tmp_path / "cache")) == before


def test_the_stated_error_is_small_and_the_bytes_are_as_announced(teacher, tmp_path):
    meta = json.loads((build_tiny(teacher, tmp_path / "cache") / "cache.json").read_text())
    error = meta["error"]
    assert error["num_tokens"] == 640
    assert error["kl"] > 0.1
    assert abs(error["bias"]) < 4 * error["bias_standard_error"] + 1e-3 * error["kl"]
    assert error["token_standard_error"] == pytest.approx(error["bias_standard_error"] * 640**0.5)
    assert meta["versions"]["torch"] == torch.__version__
    data_bytes = sum(len(raw) for name, raw in contents(tmp_path / "cache").items() if name != "cache.json")
    headers = 8 * 1024
    assert 0 < data_bytes - 46 * 16 * meta["bytes_per_token"] < headers


def test_the_loss_from_the_cache_is_near_the_loss_from_the_teacher(teacher, student, tmp_path):
    """On 640 tokens; with one draw per token too few or too many it would be off by a tail."""
    found = TeacherCache(build_tiny(teacher, tmp_path / "cache"))
    batch = CachedRows(TEXT, found, "train").take(0, 40)
    kl, metrics = cached_kl(student, batch)
    with torch.no_grad():
        full = forward_kl(student(batch["inputs"]).logits, teacher(batch["inputs"]).logits)
        nats = torch.nn.functional.cross_entropy(
            student(batch["inputs"]).logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum"
        )
    assert kl.item() == pytest.approx(full.sum().item(), rel=0.05)
    torch.testing.assert_close(metrics["cross_entropy"], nats)


SETTINGS = {"num_steps": 30, "batch_rows": 8, "micro_rows": 8, "learning_rate": 3e-3, "precision": "float32"}


def held_out_kl(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return [r["held_out_kl"] for r in records if "held_out_kl" in r]


def test_a_student_of_the_cache_comes_as_close_as_one_of_the_teacher(teacher, student, tmp_path):
    found = TeacherCache(build_tiny(teacher, tmp_path / "cache"))
    rows = Rows(TOKENS, sequence_length=16, seed=0)
    live, cached = copy.deepcopy(student), student
    measured = {"held_out_rows": 6}
    distill(live, teacher, rows, out=tmp_path / "live", held_out=HELD_OUT, **measured, **SETTINGS)
    distill_from_cache(
        cached,
        CachedRows(rows, found, "train"),
        out=tmp_path / "cached",
        held_out=CachedRows(HELD_OUT, found, "held_out"),
        **measured,
        **SETTINGS,
    )
    (first, last), (first_cached, last_cached) = (held_out_kl(tmp_path / n) for n in ("live", "cached"))
    assert last < 0.8 * first
    assert last_cached == pytest.approx(last, rel=0.25)
    assert first_cached == pytest.approx(first, rel=0.15)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("teacher", "t1", "another teacher"),
        ("tokenizer", "v1", "another tokenizer"),
        ("text", "x1", "another text or its order"),
        ("sequence_length_tokens", 32, "another row length"),
        ("top_k", 9, "another number of most likely tokens"),
        ("samples", 5, "another number of drawn tokens"),
    ],
)
def test_a_cache_of_something_else_is_refused_by_what_differs(
    teacher, tmp_path, monkeypatch, finished, name, value, words
):
    folder = tmp_path / "cache"
    check_belongs(folder, EXPECTED)
    if finished:
        build_tiny(teacher, folder)
    else:
        monkeypatch.setattr(cache_writer, "_predict", lambda *a, **o: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_tiny(teacher, folder)
    check_belongs(folder, EXPECTED)
    with pytest.raises(CheckpointError, match=words) as refusal:
        check_belongs(folder, EXPECTED | {name: value})
    assert f"{name}: {EXPECTED[name]} there, {value} here" in refusal.value.message
    assert refusal.value.message.count(" there, ") == 1


def test_another_teacher_does_not_overwrite_a_cache(teacher, tmp_path):
    before = contents(build_tiny(teacher, tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="another teacher"):
        build_tiny(teacher, tmp_path / "cache", belongs_to=BELONGS_TO | {"teacher": "t1"})
    assert contents(tmp_path / "cache") == before


def test_rows_that_the_cache_lacks_are_refused_before_training(teacher, tmp_path):
    found = TeacherCache(build_tiny(teacher, tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"holds 40 rows of 16 tokens .* expected 40 of 15"):
        CachedRows(Rows(TOKENS[: 15 * 40 + 1], sequence_length=15), found, "train")
    with pytest.raises(CheckpointError, match=r"holds 6 rows .* expected 40"):
        CachedRows(TEXT, found, "held_out")
    assert CachedRows(TEXT, found, "held_out", num_rows=6).vocab_size == 300


def test_a_student_of_another_vocabulary_is_refused(teacher, student, tmp_path):
    rows = CachedRows(TEXT, TeacherCache(build_tiny(teacher, tmp_path / "cache")), "train")
    student.resize_token_embeddings(310)
    with pytest.raises(CheckpointError, match="310 tokens, the cached teacher's 300"):
        distill_from_cache(student, rows, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_damaged_or_missing_file_is_named(teacher, tmp_path):
    folder = build_tiny(teacher, tmp_path / "cache")
    path = folder / "train-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="train-00001"):
        TeacherCache(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="train-00001"):
        TeacherCache(folder)
    with pytest.raises(CheckpointError, match="holds no cached teacher"):
        TeacherCache(tmp_path / "nowhere")


def test_a_folder_that_holds_something_else_is_left_alone(teacher, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"no cache\.json"):
        build_tiny(teacher, tmp_path / "thesis")


def test_a_vocabulary_without_a_tail_and_a_full_disk_are_refused_before_the_work(
    teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache_writer, "_predict", None)
    with pytest.raises(CheckpointError, match="top_k 300 leaves nothing"):
        build_tiny(teacher, tmp_path / "cache", top_k=300)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match=r"35,328 bytes are needed, 1,000 are free"):
        build_tiny(teacher, tmp_path / "cache")


@pytest.mark.parametrize(
    ("vocab_size", "expected"), [(2**16, 64 * 4 + 32 * 2 + 8), (2**16 + 1, 64 * 6 + 32 * 4 + 8)]
)
def test_bytes_per_token(vocab_size, expected):
    assert bytes_per_token(vocab_size, top_k=64, num_samples=32) == expected
