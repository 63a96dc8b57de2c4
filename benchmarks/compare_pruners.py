"""niwaki beside what a user would pick instead: same teacher, calibration, tokens and target size.

Every row is a process of its own on one thread, and a file in the work folder; a killed run goes on with the
same command. See compare_pruners/README.md for what is measured and for figures.

    PYTHONPATH=src python benchmarks/compare_pruners.py --set-up     # an environment for the peers, once
    PYTHONPATH=src python benchmarks/compare_pruners.py
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "compare_pruners"
sys.path.insert(0, str(HERE))

PEER_PACKAGES = ("torch-pruning==1.5.2", "optipfair==0.4.2")
# What each setting cuts. optipfair has no hidden axis: it reaches the size of `half` with layers and neurons.
SETTINGS: dict[str, dict[str, int]] = {
    "half": {"hidden": 128, "ffn": 344},
    "hidden": {"hidden": 128},
    "mlp": {"ffn": 344},
    "depth": {"layer": 5},
    "half by layers": {"layer": 4, "ffn": 173},
}
OPTIPFAIR_HALF = SETTINGS["half by layers"]
_OURS = ("niwaki", "niwaki cut alone", "taylor cut alone", "magnitude", "random")
ROWS = [
    *[("half", name) for name in (*_OURS, "torch-pruning magnitude", "torch-pruning taylor", "optipfair")],
    *[("hidden", name) for name in _OURS],
    *[("mlp", name) for name in (*_OURS, "optipfair", "optipfair weights only")],
    *[("depth", name) for name in ("niwaki", "niwaki cut alone", "random", "optipfair")],
    *[("half by layers", name) for name in ("niwaki", "niwaki cut alone", "optipfair")],
]
# The rows that are trained too, on the same tokens: by distillation, and by fine-tuning on the text alone.
TRAINED = [(name, way) for setting, name in ROWS if setting == "half" for way in ("distil", "fine-tune")]
BARS = ("scoring", "distillation step")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/compare_pruners"), help="folder of all files")
    parser.add_argument("--peers", type=Path, help="environment of the peers; default: WORK/peers")
    parser.add_argument("--set-up", action="store_true", help="make that environment, and stop")
    parser.add_argument("--steps", type=int, default=150, help="training steps of 8 rows of 256 tokens")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="methods to run; default: all")
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.absolute()
    peers = (options.peers or options.work / "peers").absolute()
    if options.set_up:
        set_up(peers)
        return
    if options.row:
        print(json.dumps(measure(options.work, options.row, options.steps)))
        return
    results = run_all(options, peers)
    table = as_markdown(results)
    (options.work / "results.json").write_text(json.dumps(results, indent=1))
    (options.work / "results.md").write_text(table)
    print(table)


def set_up(peers: Path) -> None:
    """An environment with the peers beside the very torch and transformers of this one."""
    venv.create(peers, with_pip=True)
    python = peers / "bin" / "python"
    own = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (Path(site.strip()) / "beside.pth").write_text(f"{own}\n")
    # Without their dependencies: both need only torch and transformers, which are there.
    subprocess.run([python, "-m", "pip", "install", "--no-deps", *PEER_PACKAGES], check=True)
    print(f"The peers are in {peers}.")


def run_all(options: argparse.Namespace, peers: Path) -> dict[str, Any]:
    """Run what has no result yet; the toy first."""
    from toy import Toy

    toy = Toy(options.work)
    toy.make()
    teacher = kept(options.work, ["teacher"], options, sys.executable)
    if teacher is None:
        raise SystemExit("The teacher cannot be measured.")
    results: dict[str, Any] = {"teacher": teacher}
    jobs = [["bar", bar] for bar in BARS]
    jobs += [["prune", *row] for row in ROWS] + [["train", *row] for row in TRAINED]
    for job in jobs:
        name = job[1] if job[0] == "train" else job[2] if job[0] == "prune" else None
        if options.only and name is not None and name not in options.only:
            continue
        is_peer = name is not None and name.startswith(("torch-pruning", "optipfair")) and job[0] == "prune"
        python = str(peers / "bin" / "python") if is_peer else sys.executable
        if is_peer and not Path(python).exists():
            print(f"{' '.join(job)}: no environment for the peers; see --set-up", file=sys.stderr)
            continue
        result = kept(options.work, job, options, python)
        if result is not None:
            results["/".join(job)] = result
    return results


def kept(work: Path, job: list[str], options: argparse.Namespace, python: str) -> dict[str, Any] | None:
    """The result of a job: from its file, or from a process that makes it."""
    steps = f"-{options.steps}" if job[0] == "train" else ""
    file = work / "rows" / f"{'-'.join(job).replace(' ', '_')}{steps}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [python, __file__, "--work", str(work), "--steps", str(options.steps), "--row", *job]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            print(f"{' '.join(job)}: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
            return None
        file.write_text(done.stdout.strip().splitlines()[-1])
        print(f"{' '.join(job)}: {file.read_text()}", file=sys.stderr, flush=True)
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def measure(work: Path, job: list[str], steps: int) -> dict[str, Any]:
    """Do one job in this process."""
    import torch
    import workloads
    from toy import Toy

    torch.set_num_threads(1)
    toy = Toy(work)
    kind, *names = job
    if kind == "teacher":
        return toy.measure(toy.teacher)
    if kind == "bar":
        return workloads.scoring(toy) if names[0] == "scoring" else workloads.distillation_step(toy)
    if kind == "prune":
        setting, name = names
        sizes = OPTIPFAIR_HALF if (setting, name) == ("half", "optipfair") else SETTINGS[setting]
        out = work / "models" / f"{setting}-{name}".replace(" ", "_")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return workloads.prune(toy, name, sizes, out / "model")
    name, way = names
    model = work / "models" / f"half-{name}".replace(" ", "_") / "model"
    out = work / "models" / f"half-{name}-{way}".replace(" ", "_")
    shutil.rmtree(out, ignore_errors=True)
    return workloads.train(toy, model, way, out, num_steps=steps)


def as_markdown(results: dict[str, Any]) -> str:
    """Tables: the bars, each setting after its cut, and the training of `half`."""
    teacher = results["teacher"]
    lines = [
        f"Teacher: {teacher['num_parameters']:,} parameters, held-out loss {teacher['loss']:.4f}. "
        f"{time.strftime('%Y-%m-%d')}.",
        "",
    ]
    if (bar := results.get("bar/scoring")) is not None:
        lines += [
            f"Scoring of all axes: {bar['scored_cpu_s']:.1f} CPU s, the bare forward pass "
            f"{bar['bare_cpu_s']:.1f}, {bar['ratio']:.2f} times; peak "
            f"{bar['scored_peak_bytes'] / 1e6:.0f} MB and {bar['bare_peak_bytes'] / 1e6:.0f}.",
            "",
        ]
    if (bar := results.get("bar/distillation step")) is not None:
        lines += [
            f"8 distillation steps of 8 x 256 tokens: {bar['cpu_s']:.1f} CPU s, peak "
            f"{bar['peak_bytes'] / 1e6:.0f} MB ({bar['before_bytes'] / 1e6:.0f} before).",
            "",
        ]
    for setting in SETTINGS:
        rows = [(name, results.get(f"prune/{setting}/{name}")) for where, name in ROWS if where == setting]
        shape = ", ".join(f"{axis} {size}" for axis, size in SETTINGS[setting].items())
        lines += [f"### {setting}: {shape}", ""]
        lines += [
            "| | parameters | loss | KL to teacher | CPU s | peak MB (before) |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in rows:
            if row is not None:
                cells = [f"{row['num_parameters']:,}", f"{row['loss']:.4f}", f"{row['kl']:.2g}"]
                cells += [
                    f"{row['cpu_s']:.1f}",
                    f"{row['peak_bytes'] / 1e6:.0f} ({row['before_bytes'] / 1e6:.0f})",
                ]
                lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["### half, trained on the same tokens", ""]
    lines += ["| cut by | trained by | loss before | loss after | KL after | CPU s | peak MB |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, way in TRAINED:
        row, before = results.get(f"train/{name}/{way}"), results.get(f"prune/half/{name}")
        if row is not None and before is not None:
            cells = [f"{before['loss']:.4f}", f"{row['loss']:.4f}", f"{row['kl']:.2g}", f"{row['cpu_s']:.0f}"]
            lines.append(f"| {name} | {way} | {' | '.join(cells)} | {row['peak_bytes'] / 1e6:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
