"""The architecture is a test: layers, sizes, names, docstrings, safety. Each rule is shown to bite."""

import subprocess
import sys
from pathlib import Path

import pytest
import rules

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


FILES = {path.relative_to(SOURCE).as_posix(): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
MODULES = {module_name(SOURCE / name): text for name, text in FILES.items()}
WRITTEN = [
    path
    for folder in ("src", "tests", "docs", "recipes", "benchmarks", "experiments")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".yaml", ".yml", ".txt", ".toml", ".html", ".j2"}
] + [
    path
    for path in sorted(ROOT.glob("*"))
    if path.suffix in {".md", ".toml", ".txt"} or path.name == "Makefile"
]


def test_there_is_something_to_check():
    assert "niwaki.errors" in MODULES
    assert len(WRITTEN) > 10


def test_imports_go_downward_only():
    assert rules.upward_imports(MODULES) == []
    assert rules.unknown_rooms(MODULES) == []


@pytest.mark.parametrize(
    "module, line, complaints",
    [
        ("niwaki.ground.loop", "from niwaki.pruning import score", 1),
        ("niwaki.ground.loop", "def f():\n    import niwaki.pruning.score", 1),
        ("niwaki.ground.loop", "from ..pruning.score import score", 1),
        ("niwaki.distillation.train", "from niwaki.pruning.score import score", 1),
        ("niwaki", "from niwaki.pruning import score", 1),
        ("niwaki.pruning.trim", "from .score import score", 0),
        ("niwaki.pipelines.compress", "from niwaki.pruning import score", 0),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(module, line, complaints):
    sources = dict.fromkeys(["niwaki", "niwaki.pruning", "niwaki.pruning.score"], "")
    assert len(rules.upward_imports(sources | {module: line})) == complaints


def test_a_room_outside_the_order_is_found():
    assert rules.unknown_rooms({"niwaki.attic.box": ""}) == ["attic"]


def test_there_are_no_import_cycles():
    assert rules.cycles(MODULES) == []


def test_an_import_cycle_is_found():
    ring = {"niwaki.a": "import niwaki.b", "niwaki.b": "import niwaki.c", "niwaki.c": "import niwaki.a"}
    assert len(rules.cycles(ring | {"niwaki.d": "import niwaki.a", "niwaki.e": ""})) == 3
    assert rules.cycles({"niwaki.a": "import niwaki.b", "niwaki.b": ""}) == []


@pytest.mark.parametrize("name", FILES)
def test_every_file_keeps_the_rules(name):
    text = FILES[name]
    for rule in (rules.too_long, rules.banned_names, rules.undocumented, rules.unsafe):
        assert rule(name, text) == []
    assert rules.heavy_imports(module_name(SOURCE / name), text) == []


@pytest.mark.parametrize(
    "rule, name, text",
    [
        (rules.too_long, "a.py", "x = 1\n" * 401),
        (rules.too_long, "a.py", "def f():\n" + "    x = 1\n" * 100),
        (rules.banned_names, "ground/utils.py", ""),
        (rules.banned_names, "a.py", "class RunManager: pass"),
        (rules.undocumented, "a.py", ""),
        (rules.undocumented, "a.py", '"""."""\ndef f(): pass'),
        (rules.undocumented, "a.py", '"""."""\nclass A:\n    """."""\n    def f(self): pass'),
        (rules.unsafe, "a.py", "import pickle"),
        (rules.unsafe, "a.py", "from joblib import load"),
        (rules.unsafe, "a.py", "import torch\ntorch.load('x')"),
        (rules.unsafe, "a.py", "f(trust_remote_code=True)"),
        (rules.unsafe, "a.py", "f(trust_remote_code=option)"),
        (rules.heavy_imports, "niwaki.recipe.load", "import torch.nn"),
        (rules.heavy_imports, "niwaki", "from transformers import AutoConfig"),
        (rules.machine_paths, "a.md", "see /" + "home/me/model"),
    ],
)
def test_a_broken_rule_is_found(rule, name, text):
    assert len(rule(name, text)) == 1


@pytest.mark.parametrize(
    "rule, name, text",
    [
        (rules.too_long, "a.py", "x = 1\n" * 400),
        (rules.undocumented, "a.py", '"""."""\ndef _f(): pass'),
        (rules.unsafe, "a.py", "f(trust_remote_code=False)\nsafetensors.load('x')"),
        (rules.heavy_imports, "niwaki.cli", "def f():\n    import torch"),
        (rules.heavy_imports, "niwaki.ground.loop", "import torch"),
        (rules.machine_paths, "a.md", "https://example.org/home/page and src/work/x"),
    ],
)
def test_a_kept_rule_is_silent(rule, name, text):
    assert rule(name, text) == []


def test_no_file_names_one_machine():
    assert [line for path in WRITTEN for line in rules.machine_paths(path.name, path.read_text())] == []


HELP = "import sys; from niwaki.cli import app; app(['--help'], standalone_mode=False)\n"
REPORT = "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"


def loaded_libraries(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SOURCE)},
    )
    return set(done.stdout.splitlines()[-1].split()) & rules.HEAVY_LIBRARIES


def test_help_loads_no_heavy_library():
    assert loaded_libraries(HELP + REPORT) == set()


def test_a_heavy_library_would_be_seen():
    assert loaded_libraries("import safetensors, sys\n" + REPORT) == {"safetensors"}
