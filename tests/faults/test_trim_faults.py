"""Trimming when things go wrong: nothing half-done is left, nothing that was there is lost."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from niwaki.errors import CheckpointError
from niwaki.pruning.trim import trim

KEEP = {"hidden": torch.arange(0, 32, 2)}


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    path = tmp_path / "source"
    AutoModelForCausalLM.from_config(config).save_pretrained(path, max_shard_size="16KB")
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_missing_or_short_shard_is_known_before_anything_is_written(source, tmp_path):
    shard = sorted(source.glob("*.safetensors"))[-1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=f"{shard.name}.*Download"):
        trim(source, tmp_path / "out", keep=KEEP)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}: the file is missing"):
        trim(source, tmp_path / "out", keep=KEEP)
    assert names(tmp_path) == ["source"]


def test_a_nan_is_refused_by_name(source, tmp_path):
    shard = sorted(source.glob("*.safetensors"))[-1]
    tensors = load_file(shard)
    name = max(tensors)
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{name} holds values that are not finite"):
        trim(source, tmp_path / "out", keep=KEEP)
    assert names(tmp_path) == ["source"]


def test_a_folder_that_holds_something_else_is_left_as_it_is(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"already holds something else \(thesis.txt\).*another output"):
        trim(source, out, keep=KEEP)
    assert contents(out) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_named_and_the_rest_is_left_whole(source, tmp_path, monkeypatch, number):
    before, written = contents(source), []
    write = os.pwrite

    def fill_up(descriptor, data, offset):
        written.append(len(data))
        if len(written) > 10:
            raise OSError(number, os.strerror(number))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", fill_up)
    with pytest.raises(CheckpointError, match=r"disk is full: [\d,]+ bytes are needed, [\d,]+ are free"):
        trim(source, tmp_path / "out", keep=KEEP)
    assert len(written) > 10
    assert names(tmp_path) == ["source"]
    assert contents(source) == before
    monkeypatch.undo()
    trim(source, tmp_path / "out", keep=KEEP)


def test_a_disk_without_room_is_known_before_anything_is_read(source, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("niwaki.ground.checkpoint.Checkpoint.read", None)
    with pytest.raises(CheckpointError, match=r"disk is full: .* are needed, 100 are free"):
        trim(source, tmp_path / "out", keep=KEEP)
    assert names(tmp_path) == ["source"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    import niwaki.pruning.trim as subject

    source, out, event, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    left = number

    def count(name, arguments):
        global left
        if name == event and ".out.partial" in str(arguments[0] if arguments else ""):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    subject.trim(source, out, keep={"hidden": torch.arange(0, 32, 2)})
"""


def run_killed(source, out, event, number):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(source), str(out), event, str(number)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, timeout=300).returncode


@pytest.mark.parametrize(
    "event, number",
    [
        ("os.mkdir", 0),  # before the partial folder is there
        ("open", 0),  # in an empty partial folder
        ("open", 6),  # between two shards
        ("open", 15),  # late: while the result is checked or flushed
        ("os.rename", 0),  # complete, checked, and not yet under its name
    ],
)
def test_after_sigkill_the_same_trim_gives_the_same_bytes(source, tmp_path, event, number):
    trim(source, tmp_path / "undisturbed", keep=KEEP)
    out = tmp_path / "out"
    assert run_killed(source, out, event, number) == -signal.SIGKILL
    assert not out.exists()
    trim(source, out, keep=KEEP)
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert names(tmp_path) == ["out", "source", "undisturbed"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_after_sigkill_at_a_random_moment_the_same_trim_gives_the_same_bytes(source, tmp_path, seed):
    trim(source, tmp_path / "undisturbed", keep=KEEP)
    out = tmp_path / "out"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(source), str(out), "never", "0"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / ".out.partial").exists():
        time.sleep(0.001)
    time.sleep(float(torch.rand(1, generator=torch.Generator().manual_seed(seed))) * 0.5)
    process.kill()
    process.wait()
    trim(source, out, keep=KEEP)
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert names(tmp_path) == ["out", "source", "undisturbed"]


LIMITED = """
    import resource, sys
    from pathlib import Path
    import torch
    from niwaki.ground.checkpoint import Checkpoint
    from niwaki.pruning.trim import trim

    def status(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    keep = {"hidden": torch.arange(0, 512, 2), "ffn": torch.arange(0, 1024, 2).expand(24, 512)}
    trim(source, out.with_name("warm-up"), keep={"hidden": keep["hidden"][:16], "layer": torch.tensor([0])})
    checkpoint = Checkpoint(source)
    largest = max(checkpoint.spec(name).num_bytes for name in checkpoint.names())
    limit = status("VmData") + 2 * largest + 4 * 2**20
    assert checkpoint.num_bytes > 8 * (limit - status("VmData")), (checkpoint.num_bytes, limit)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(trim(source, out, keep=keep).checked)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of writable memory")
def test_memory_beyond_the_process_is_two_of_the_largest_tensors(tmp_path):
    config = LlamaConfig(
        vocab_size=2048, hidden_size=512, intermediate_size=1024, num_hidden_layers=24, num_attention_heads=4,
        num_key_value_heads=4, head_dim=128, bos_token_id=1, eos_token_id=2, dtype="bfloat16",
    )  # fmt: skip
    source = tmp_path / "source"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(
        source, max_shard_size="30MB"
    )
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(source), str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "shapes"
