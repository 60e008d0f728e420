"""What keeps the house in shape: who may import whom, one seam per framework, small files, nothing
unexplained."""

import ast
import subprocess
import tomllib
import typing
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from setuptools import find_packages

from search_spaces.loading.loader import load_sweep, packaged_sweeps
from search_spaces.settings.base_settings import Settings
from search_spaces.settings.sweep_settings import SweepSettings
from tests.support.places import ROOT
from tests.support.tiny_benchmarks import own_files
from trainables import jobs

PACKAGES = ("orchestrator", "trainables", "search_spaces", "cluster")
TOP_LEVEL = {"LICENSE", "README.md", "pyproject.toml", "tests", *PACKAGES}
STAR = {
    "orchestrator": {"orchestrator", "trainables", "search_spaces", "cluster"},
    "trainables": {"trainables", "search_spaces"},
    "cluster": {"cluster", "search_spaces"},
    "search_spaces": {"search_spaces"},
}
ROOMS = {
    "orchestrator": """
        cli
        commands
        simulation
        sweep terminal
        report
        search followups
        tracking lanes pareto
        storage evaluation_logs
        table
    """,
    "trainables": """
        run_job
        worker
        probes analysis
        training
        generation
        benchmarks metrics engine
        data losses jobs events durable_files
    """,
    "search_spaces": """
        loading
        checks
        catalogue
        settings
        validation_messages paths full_disk
        user_errors
    """,
    "cluster": """
        job_server
        job_request
        capacity
    """,
}
"""The law of the rooms: inside a package a room imports only rooms on lower lines."""

SEAMS = {
    "optuna": ["orchestrator/search/"],
    "mlflow": ["orchestrator/tracking/"],
    "deepspeed": ["trainables/engine/"],
    "peft": ["trainables/engine/"],
    "torch": ["trainables/"],
    "transformers": ["trainables/"],
    "ray": [
        "orchestrator/lanes/",
        "orchestrator/sweep/",
        "trainables/worker/lane_worker.py",
        "cluster/job_server.py",
    ],
    "moocore": ["orchestrator/pareto/dominance.py"],
    "lm_eval": ["trainables/analysis/lm_eval_harness.py"],
    "torchao": ["trainables/probes/quantisation.py"],
    "openai": ["trainables/probes/language_judge.py"],
}
MOST_LINES_OF_A_FILE = 400
MOST_ENTRIES_OF_A_FOLDER = 14
MOST_LINES_OF_A_FUNCTION = 60


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


FILES = {name_of(path): ast.parse(path.read_text(), path.name) for path in sources(*PACKAGES)}


@cache
def imports(tree):
    """Absolute dotted names that a module imports, wherever in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("." * node.level + (node.module or ""))
            found += [f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names]
    return found


def root_of(module):
    return module.partition(".")[0]


def settings_classes():
    """Every block of settings, found from the classes that are read from files and JSON."""
    found, todo = set(), [SweepSettings, *typing.get_args(jobs.AnyJob)]
    while todo:
        block = todo.pop()
        if block not in found:
            found.add(block)
            todo += [
                member for field in block.model_fields.values() for member in blocks_in(field.annotation)
            ]
    return sorted(found, key=lambda block: block.__name__)


def blocks_in(annotation):
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return [annotation] if issubclass(annotation, Settings) else []
    return [block for member in typing.get_args(annotation) for block in blocks_in(member)]


def is_tag(annotation):
    """A field with one possible value, which only tells the members of a union apart."""
    return typing.get_origin(annotation) is typing.Literal and len(typing.get_args(annotation)) == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_along_the_star(package):
    wrong = [
        (name, module)
        for name, tree in FILES.items()
        if root_of(name.replace("/", ".")) == package
        for module in imports(tree)
        if root_of(module) in {*PACKAGES, "tests"} - STAR[package]
    ]
    assert wrong == []


def test_orchestrator_knows_of_the_cluster_only_its_capacity_and_how_a_command_submits():
    known = {
        (name, module)
        for name, tree in FILES.items()
        if name.startswith("orchestrator/") and name != "orchestrator/commands/submit.py"
        for module in imports(tree)
    }
    assert {
        pair
        for pair in known
        if root_of(pair[1]) == "cluster" and not pair[1].startswith("cluster.capacity.")
    } == set()


def against_the_law(name, tree):
    """Imports of a file that do not lead down to a lower line of `ROOMS`."""
    package, room = Path(name).with_suffix("").parts[:2]
    floors = {
        member: floor for floor, line in enumerate(ROOMS[package].split("\n")) for member in line.split()
    }
    assert room in floors, f"{name}: give the room {room} a line in ROOMS"
    rooms = {module.split(".")[1] for module in imports(tree) if module.startswith(f"{package}.")}
    return sorted(other for other in rooms & floors.keys() - {room} if floors[other] <= floors[room])


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_only_rooms_on_lower_lines(package):
    files = {
        name: tree
        for name, tree in FILES.items()
        if name.startswith(f"{package}/") and name != f"{package}/__init__.py"
    }
    wrong = {name: rooms for name, tree in files.items() if (rooms := against_the_law(name, tree))}
    assert wrong == {}


def test_import_in_the_wrong_direction_breaks_the_law():
    upwards, sideways = (
        "from orchestrator.sweep.session import open_session",
        "import orchestrator.search.study",
    )
    assert against_the_law("orchestrator/storage/baselines.py", ast.parse(upwards)) == ["sweep"]
    assert against_the_law("orchestrator/followups/audits.py", ast.parse(sideways)) == ["search"]
    assert against_the_law("orchestrator/commands/run.py", ast.parse(upwards)) == []


def test_folders_hold_few_entries():
    listed = [path.relative_to(ROOT) for path in sources(*PACKAGES, "tests") if path.name != "__init__.py"]
    entries = {
        (folder, path.parts[len(folder.parts)]) for path in listed for folder in path.parents if folder.parts
    }
    counts = Counter(str(folder) for folder, _ in entries)
    assert {folder: count for folder, count in counts.items() if count > MOST_ENTRIES_OF_A_FOLDER} == {}


def test_init_of_a_room_is_one_docstring():
    """Whoever imports one file of a room must not wait for the others; the packages themselves set what
    libraries read early."""
    rooms = {
        name: tree for name, tree in FILES.items() if name.endswith("/__init__.py") and name.count("/") > 1
    }
    assert (
        rooms
        and [name for name, tree in rooms.items() if len(tree.body) != 1 or not ast.get_docstring(tree)] == []
    )


def test_imports_are_absolute():
    assert [
        (name, module) for name, tree in FILES.items() for module in imports(tree) if module.startswith(".")
    ] == []


@pytest.mark.parametrize("framework", SEAMS)
def test_framework_is_known_behind_its_seam_only(framework):
    knowing = [
        name for name, tree in FILES.items() if framework in {root_of(module) for module in imports(tree)}
    ]
    assert knowing, f"nothing imports {framework}: take it out of this test"
    assert [name for name in knowing if not name.startswith(tuple(SEAMS[framework]))] == []


def test_no_two_files_have_one_stem():
    stems = Counter(
        path.stem for path in sources(*PACKAGES, "tests") if path.stem not in ("__init__", "conftest")
    )
    assert {stem: count for stem, count in stems.items() if count > 1} == {}


def test_files_are_named_after_what_they_do():
    vague = {"utils", "util", "common", "helpers", "misc", "base", "core"}
    assert [name for name in FILES if Path(name).stem in vague] == []


def test_no_greek_letters_stand_in_for_words():
    assert [
        name_of(path)
        for path in sources(*PACKAGES)
        if any("\u0370" <= letter <= "\u03ff" for letter in path.read_text())
    ] == []


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in sources(*PACKAGES, "tests")}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE} == {}


def statements(tree):
    """Every statement, however deep: functions are among them, and expressions need not be looked through."""
    todo = [tree]
    while todo:
        for child in ast.iter_child_nodes(todo.pop()):
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                yield child
                todo.append(child)


def test_functions_are_short():
    trees = chain(FILES.items(), ((name_of(path), ast.parse(path.read_text())) for path in sources("tests")))
    lengths = {
        f"{name}:{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in trees
        for node in statements(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {function: lines for function, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


def test_every_module_says_what_it_is_for():
    assert [name for name, tree in FILES.items() if not ast.get_docstring(tree)] == []


def test_top_level_holds_nothing_unexpected():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: what was unpacked beside the sources cannot be told from them")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = {name.partition("/")[0] for name in listed}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_test_folders_are_not_named_after_packages():
    assert not {path.name for path in (ROOT / "tests").iterdir()} & set(PACKAGES)


def test_packages_of_the_build_are_those_on_disk():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = find_packages(str(ROOT), **project["tool"]["setuptools"]["packages"]["find"])
    assert set(found) == {name_of(path.parent).replace("/", ".") for path in sources(*PACKAGES)}


def test_every_shipped_file_is_package_data():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    suffixes = (".yaml", ".jsonl", ".json", ".md")
    shipped = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in suffixes
    ]
    assert shipped
    for path in shipped:
        package = name_of(path.parent).replace("/", ".")
        assert any(path.match(pattern) for pattern in patterns.get(package, [])), (
            f"{name_of(path)} would be missing from a wheel"
        )


@pytest.mark.parametrize("block", settings_classes(), ids=lambda block: block.__name__)
def test_every_setting_is_explained(block):
    assert block.__doc__ and block.__doc__ != Settings.__doc__
    # A block is explained by its class.
    unexplained = [
        name
        for name, field in block.model_fields.items()
        if not field.description and not blocks_in(field.annotation) and not is_tag(field.annotation)
    ]
    assert unexplained == []


@pytest.mark.parametrize("name", packaged_sweeps())
def test_every_shipped_sweep_loads(name, tmp_path):
    sweep = load_sweep(Path(name), own_files(name, tmp_path))
    assert sweep.name == Path(name).stem
    assert len(sweep.objectives) >= 2 and sweep.space
