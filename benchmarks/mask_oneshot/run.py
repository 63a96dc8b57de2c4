"""One-shot 2:4 masks: CPU seconds, memory and KL to the dense model, against llm-compressor on the same toy.

    python benchmarks/mask_oneshot/run.py --work /tmp/mask_oneshot [--peer-python /tmp/llmc/bin/python]

The toy is that of `compare_pruners`: a Llama of 6.85 M parameters, 128 calibration rows of 256 tokens.
Every way runs in a process of its own with one thread; "forward" is the bare pass over the calibration
rows. Seconds are of the processor; the ratio to the bare forward pass of the same run is what compares
machines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "compare_pruners"))

from toy import BATCH_ROWS, CALIBRATION_ROWS, Toy, cpu_s, high_water_bytes  # noqa: E402

from niwaki.ground.model import load_model  # noqa: E402
from niwaki.masks.apply import apply_in_memory  # noqa: E402
from niwaki.masks.oneshot import one_shot  # noqa: E402
from niwaki.masks.patterns import Pattern  # noqa: E402

WAYS = ("forward", "magnitude", "wanda", "sparsegpt", "sparsegpt_update")
PEERS = ("wanda", "sparsegpt_update")


def niwaki_way(toy: Toy, way: str, out: Path) -> dict[str, Any]:
    model = load_model(toy.teacher, dtype=torch.float32)
    rows = toy.calibration
    before, began = high_water_bytes(), cpu_s()
    if way == "forward":
        with torch.no_grad():
            for batch in toy.batches():
                model(input_ids=batch["input_ids"])
        return {"cpu_s": cpu_s() - began, "peak_bytes": high_water_bytes(), "before_bytes": before}
    pattern = Pattern.parse("2:4")
    method: Any = way.removesuffix("_update")
    update = way.endswith("_update")
    pruned = one_shot(
        model,
        rows,
        pattern=pattern,
        method=method,
        update=update,
        num_samples=CALIBRATION_ROWS,
        batch_rows=BATCH_ROWS,
    )
    apply_in_memory(model, {each.name: each.numbers for each in pruned}, pattern)
    spent = {"cpu_s": cpu_s() - began, "peak_bytes": high_water_bytes(), "before_bytes": before}
    model.save_pretrained(out)
    return toy.measure(out) | spent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, help="a Python that has llmcompressor")
    parser.add_argument("--way", help="run one way in this process")
    arguments = parser.parse_args()
    toy = Toy(arguments.work)
    if arguments.way:
        out = arguments.work / "models" / arguments.way
        print(json.dumps(niwaki_way(toy, arguments.way, out)))
        return
    toy.make()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    results: dict[str, Any] = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--work", str(arguments.work), "--way", way]
        told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        results[way] = json.loads(told.splitlines()[-1])
        print(way, results[way], flush=True)
    if arguments.peer_python:
        rows_file = arguments.work / "rows.json"
        rows_file.write_text(json.dumps([batch["input_ids"].tolist() for batch in toy.batches()]))
        for way in PEERS:
            out = arguments.work / "models" / f"peer-{way}"
            command = [arguments.peer_python, HERE / "peer.py", toy.teacher, rows_file, way, out]
            told = subprocess.run(
                [str(word) for word in command],
                env=environment | {"PYTHONPATH": ""},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            results[f"llm-compressor {way}"] = json.loads(told.splitlines()[-1]) | toy.measure(out)
            print("llm-compressor", way, results[f"llm-compressor {way}"], flush=True)
    (arguments.work / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
