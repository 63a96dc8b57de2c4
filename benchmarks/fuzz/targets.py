"""What is fuzzed: each target is a parser of untrusted bytes, and what it reads without complaint.

A target may return or raise a NiwakiError. Anything else is a find. As a script, `targets.py NAME ...` runs
one under atheris (libFuzzer), whose options follow the name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["niwaki.recipe", "niwaki.ground", "niwaki.verify", "niwaki.masks"]):
    from niwaki.errors import NiwakiError
    from niwaki.evaluation.paired import load_paired
    from niwaki.ground import axes
    from niwaki.ground.shard import open_shard
    from niwaki.masks.file import MaskFile, Origin, save
    from niwaki.masks.patterns import Pattern
    from niwaki.pruning.importance import load_importance, save_importance
    from niwaki.pruning.scores import Scores
    from niwaki.recipe.compress import starter
    from niwaki.recipe.kinds import parse_recipe
    from niwaki.recipe.write import dump
    from niwaki.verify.check import check
    from niwaki.verify.question import read_questions

import torch

SCRATCH = TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
GOLDS = ("42", "B", r"\frac{3}{4}", "[1, 3)", "x^2 + 2x", "12 km", "{1, 2}", "Paris")


def from_file(parse: Callable[[Path], object], name: str) -> Callable[[bytes], None]:
    """Fuzz a parser of files."""
    path = Path(SCRATCH.name) / name

    def run(data: bytes) -> None:
        path.write_bytes(data)
        parse(path)

    return run


def from_text(parse: Callable[[str], object]) -> Callable[[bytes], None]:
    """Fuzz a parser of text."""
    return lambda data: parse(data.decode("utf-8", "ignore")) and None


def answer(text: str) -> None:
    """Grade a text against every kind of right answer."""
    for gold in GOLDS:
        check(text, gold, limit_s=20)


def mask(path: Path) -> None:
    """Read a mask file to its last tensor."""
    MaskFile(path).load()


def _mask_bytes() -> bytes:
    pattern, path = Pattern.parse("2:4"), Path(SCRATCH.name) / "seed.mask"
    numbers = {"layer.weight": torch.arange(4, dtype=torch.uint8)}
    save(path, numbers, {"layer.weight": (2, 8)}, pattern, Origin("model", "0" * 8, {}))
    return path.read_bytes()


def _importance_bytes() -> bytes:
    path = Path(SCRATCH.name) / "seed.safetensors"
    save_importance(path, {"hidden": torch.arange(4.0)}, provenance={})
    return path.read_bytes()


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "recipe": (
        from_text(lambda text: parse_recipe(text, name="fuzz.yaml")),
        lambda: [dump(starter()).encode(), b"kind: reward\n", b"kind: sparsify\nmodel: x\n"],
    ),
    "axes": (
        from_text(axes.parse),
        lambda: [b"[(kv group dim) | (kv dim)] hidden", b"expert (2 effn) hidden"],
    ),
    "tensors": (from_file(open_shard, "x.safetensors"), lambda: [_importance_bytes(), _mask_bytes()]),
    "importance": (from_file(load_importance, "x.safetensors"), lambda: [_importance_bytes()]),
    "scores": (from_file(Scores.load, "x.safetensors"), lambda: [_importance_bytes()]),
    "mask": (from_file(mask, "x.mask"), lambda: [_mask_bytes()]),
    "answer": (
        from_text(answer),
        lambda: [rb"so \boxed{\frac{3}{4}}", b"The answer is (B).", b"12 km", rb"x \in [1, 3)"],
    ),
    "questions": (
        from_file(lambda path: list(read_questions(path)), "x.jsonl"),
        lambda: [json.dumps({"id": "a", "question": "q", "gold": "1"}).encode()],
    ),
    "paired": (
        from_file(load_paired, "x.json"),
        lambda: [b'{"product": "a", "baseline": "b", "measures": {}}'],
    ),
}


def main() -> None:
    """Fuzz the target named first; a folder among the options gets the seeds."""
    name = sys.argv.pop(1)
    run, seeds = TARGETS[name]

    def one(data: bytes) -> None:
        with suppress(NiwakiError):
            run(data)

    folder = next(Path(argument) for argument in sys.argv[1:] if not argument.startswith("-"))
    for number, seed in enumerate(seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
