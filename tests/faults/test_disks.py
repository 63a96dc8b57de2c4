"""A disk that fills up or can only be read: an error that names the path and what to do, and nothing lost."""

import os
import resource
import signal
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from niwaki.cli import app
from niwaki.distillation.train import next_token_loss
from niwaki.errors import NiwakiError, TrainingError
from niwaki.ground import snapshot
from niwaki.ground.corpus import prepare
from niwaki.ground.folder import writing_to
from niwaki.ground.loop import fit
from niwaki.ground.run import stage, write_atomically
from niwaki.ground.saved import save_model
from niwaki.ground.stream import Rows
from niwaki.ground.tensor_file import save_tensors

from ..conftest import make_tiny_model

ROWS = Rows(np.random.default_rng(0).integers(0, 300, 2000), sequence_length=8, seed=0)


def mounts(folder, options):
    """Whether a disk of this kind could be mounted there, which only root can do."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "niwaki-test", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for one snapshot of the tiny model, and no more than half of another."""
    folder = tmp_path / "disk"
    if not mounts(folder, "size=500k"):
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def files_of_at_most(num_bytes):
    """What `ulimit -f` does, which anybody can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def train(out, num_steps=8, **options):
    settings = {"batch_rows": 2, "micro_rows": 2, "learning_rate": 1e-2, "save_every_steps": 2} | options
    return fit(make_tiny_model(), ROWS, next_token_loss, out=out, num_steps=num_steps, **settings)


def snapshots(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_a_training_goes_on_when_there_is_room_again(small_disk, tmp_path):
    out = small_disk / "run"
    with pytest.raises(
        TrainingError, match=rf"{out}/checkpoints/step-0000004: .*The snapshots before it are"
    ):
        train(out)
    assert snapshots(out) == ["step-0000002"]
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    train(out)
    train(tmp_path / "undisturbed")
    ends = [
        folder / "checkpoints" / "step-0000008" / "model-1-of-1.safetensors"
        for folder in (out, tmp_path / "undisturbed")
    ]
    assert ends[0].read_bytes() == ends[1].read_bytes()


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda folder: write_atomically(folder / "results.json", "x" * 10**6), id="text"),
        pytest.param(
            lambda folder: save_tensors(folder / "scores", {"a": torch.ones(10**6)}, {}), id="tensors"
        ),
        pytest.param(lambda folder: stage(folder, "1-score", {"values": "x" * 10**6}, print), id="stage"),
    ],
)
def test_a_full_disk_is_named_and_what_was_there_stays(small_disk, write):
    (small_disk / "results.json").write_text("kept")
    with pytest.raises(
        NiwakiError, match=rf"{small_disk}.*: cannot be written: the disk is full. Free some space"
    ):
        write(small_disk)
    assert (small_disk / "results.json").read_text() == "kept"


def test_a_model_that_does_not_fit_leaves_the_earlier_one(small_disk, tmp_path, tokenizer):
    source, out = tmp_path / "source", small_disk / "model"
    make_tiny_model().save_pretrained(source)
    tokenizer.save_pretrained(source)
    save_model(make_tiny_model(), source, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (small_disk / "filler").write_bytes(b"x" * (500_000 - sum(map(len, before.values())) - 120_000))
    with pytest.raises(NiwakiError, match=rf"{out}: the disk is full"):
        save_model(make_tiny_model(), source, out, replace=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not list(small_disk.glob(".model*"))


def test_text_that_does_not_fit_into_the_cache(small_disk, tmp_path, tokenizer):
    (tmp_path / "texts").mkdir()
    for number in range(10):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"Words of text {number}. " * 200)
    (small_disk / "filler").write_bytes(b"x" * 485_000)
    with pytest.raises(NiwakiError, match=rf"{small_disk}/tokens/.*cannot be written: the disk is full"):
        prepare(str(tmp_path / "texts"), tokenizer, held_out=0.3, cache=small_disk)
    assert not list((small_disk / "tokens").iterdir())


def test_a_limit_on_the_size_of_files(tmp_path):
    train(tmp_path / "run", num_steps=8, until_step=2)
    with files_of_at_most(60_000), pytest.raises(TrainingError, match="step-0000004: cannot be saved"):
        train(tmp_path / "run")
    assert snapshots(tmp_path / "run") == ["step-0000002"]
    assert snapshot.newest(tmp_path / "run" / "checkpoints").name == "step-0000002"
    with (
        files_of_at_most(100),
        pytest.raises(NiwakiError, match=r"results.json: cannot be written: files may not be so large here"),
    ):
        write_atomically(tmp_path / "results.json", "x" * 1000)


@pytest.fixture
def read_only(tmp_path):
    """A folder that nothing can be written into, root or not."""
    folder = tmp_path / "readonly"
    is_mounted = mounts(folder, "ro")
    if not is_mounted:
        folder.chmod(0o555)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere, and cannot mount")
    yield folder
    if is_mounted:
        subprocess.run(["umount", str(folder)], check=True)
    folder.chmod(0o755)


def test_a_run_in_a_folder_that_can_only_be_read_is_refused_before_work(read_only, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    CliRunner().invoke(app, ["new", "compress", str(recipe)])
    done = CliRunner().invoke(app, ["run", str(recipe), "--out", str(read_only / "run")])
    assert done.exit_code == 2
    assert f"out '{read_only}/run' cannot be written" in done.stderr
    with pytest.raises(NiwakiError, match=rf"{read_only}/run.*Name another place, or make this one writable"):
        train(read_only / "run")


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), writing_to(tmp_path):
        (tmp_path / "missing").read_text()
