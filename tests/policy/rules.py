"""The rules of the house, as functions from source text to complaints; an empty list means all is well."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

# An import may only go to a smaller number; siblings with equal numbers never import each other.
LAYERS = {
    "errors": 0,
    "recipe": 1,
    "ground": 2,
    "verify": 3,
    **dict.fromkeys(
        [
            "pruning",
            "distillation",
            "masks",
            "reward",
            "curation",
            "rl",
            "evaluation",
            "reporting",
        ],
        4,
    ),
    "sapling": 5,
    "pipelines": 6,
    "cli": 7,
    "__main__": 8,
}
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 100
BANNED_FILES = {"utils.py", "helpers.py", "base.py", "common.py", "misc.py"}
BANNED_CLASS_ENDINGS = ("Manager", "Handler", "Helper", "Utils")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
LIGHT_ROOMS = ("niwaki", "niwaki.errors", "niwaki.cli", "niwaki.recipe")
HEAVY_LIBRARIES = {"torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "lm_eval"}
_MACHINE_PATH = re.compile(r"(?<![\w.~}*-])/(?:home|root|Users|work|mnt)/\w")

Sources = Mapping[str, str]  # module name -> source text


def imported(module: str, source: str, known: Sources) -> set[str]:
    """The modules of `known` that `module` imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = _absolute(module, node, is_package=any(name.startswith(module + ".") for name in known))
            for alias in node.names:
                nested = f"{start}.{alias.name}"
                found.add(nested if nested in known else start)
    return found & set(known)


def upward_imports(sources: Sources) -> list[str]:
    """Imports that go up, or sideways between rooms. The package root imports no room."""
    complaints = []
    for module, source in sources.items():
        for target in sorted(imported(module, source, sources)):
            here, there = _room(module), _room(target)
            if here != there and there != "" and (here == "" or LAYERS[there] >= LAYERS[here]):
                complaints.append(f"{module} imports {target}, which is not below it")
    return complaints


def unknown_rooms(sources: Sources) -> list[str]:
    """Rooms that have no place in the order of layers."""
    return sorted({room for room in map(_room, sources) if room and room not in LAYERS})


def cycles(sources: Sources) -> list[str]:
    """Modules that import themselves through others."""
    graph = {module: imported(module, source, sources) - {module} for module, source in sources.items()}
    while leaves := [module for module, targets in graph.items() if not targets & set(graph)]:
        for leaf in leaves:
            del graph[leaf]
    while roots := [module for module in graph if not any(module in graph[other] for other in graph)]:
        for root in roots:
            del graph[root]
    return [f"{module} is part of an import cycle" for module in sorted(graph)]


def too_long(name: str, source: str) -> list[str]:
    """Files and functions that are too long to be one idea."""
    complaints = []
    if (num_lines := len(source.splitlines())) > MOST_LINES_OF_A_FILE:
        complaints.append(f"{name} has {num_lines} lines")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MOST_LINES_OF_A_FUNCTION:
                complaints.append(f"{name}: {node.name} has {num_lines} lines")
    return complaints


def banned_names(name: str, source: str) -> list[str]:
    """Names that say nothing about what is inside."""
    complaints = [f"{name}: this file name says nothing"] if name.split("/")[-1] in BANNED_FILES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name.endswith(BANNED_CLASS_ENDINGS):
            complaints.append(f"{name}: the class name {node.name} says nothing")
    return complaints


def undocumented(name: str, source: str) -> list[str]:
    """Public modules, classes, functions and methods without a docstring."""

    def visit(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
        for child in node.body:
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if child.name.startswith("_"):
                continue
            if ast.get_docstring(child) is None:
                yield f"{prefix}{child.name} has no docstring"
            if isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.")

    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else [f"{name} has no docstring"]
    return missing + list(visit(tree, f"{name}: "))


def unsafe(name: str, source: str) -> list[str]:
    """Ways to run code that somebody else put into a model folder."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            complaints += [f"{where}: imports {n}" for n in names if n.split(".")[0] in UNPICKLERS]
        if isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch":
            complaints.append(f"{where}: torch.load unpickles")
        if (
            isinstance(node, ast.keyword)
            and node.arg == "trust_remote_code"
            and ast.unparse(node.value) != "False"
        ):
            complaints.append(f"{name}: trust_remote_code is not False")
    return complaints


def heavy_imports(module: str, source: str) -> list[str]:
    """Imports at the top of a light module that make `niwaki --help` slow."""
    if not any(
        module == room or (room != "niwaki" and module.startswith(room + ".")) for room in LIGHT_ROOMS
    ):
        return []
    complaints = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        complaints += [
            f"{module} imports {n} at its top" for n in names if n.split(".")[0] in HEAVY_LIBRARIES
        ]
    return complaints


def machine_paths(name: str, text: str) -> list[str]:
    """Absolute paths that exist on one machine only."""
    return [
        f"{name}:{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if _MACHINE_PATH.search(line)
    ]


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _absolute(module: str, node: ast.ImportFrom, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, node.module] if node.module else parts)
