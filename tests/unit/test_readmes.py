"""What READMEs name is there: links, commands, options, files and rooms. And they stay short."""

import ast
import re
import subprocess

import pytest
import typer.main

from orchestrator.cli import app
from search_spaces.catalogue.reference_tables import INTRODUCTIONS as GENERATED
from search_spaces.loading.loader import load_sweep
from tests.support.markdown_text import (
    anchors,
    code_blocks,
    code_pieces,
    code_spans,
    link_targets,
    prose,
    section,
)
from tests.support.places import ROOT

PACKAGES = ("orchestrator", "trainables", "search_spaces", "cluster")
FOLDERS = (*PACKAGES, "tests", ".github", ".ci")
DOOR = ROOT / "README.md"
PATHS = [DOOR, *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PATHS}
COMMANDS = typer.main.get_command(app).commands
MOST_WORDS, MOST_LINES, MOST_COLUMNS = 1500, 180, 120
RIDDLES = re.compile(r"\b(told|asked|whoever|nobody|there is but)\b", re.IGNORECASE)
LETHE = re.compile(r"(?:(?<=bin/)|(?<![\w./=-]))lethe (--help|[a-z][a-z-]*)((?:(?!&&|;| -- ).)*)")
MODULE = rf"-m (?:tests|{'|'.join(PACKAGES)})\.[\w.]+"
SCRIPT = re.compile(rf"(?:python3?|torchrun\b.*?) (tests/[\w/]+\.py|{MODULE})(.*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FILE_NAME = re.compile(r"[\w.-]+\.(?:py|md|yaml|sh|toml)")


def options_of(command):
    """Those that its help shows: hidden ones are older spellings."""
    return {"--help"}.union(*(param.opts for param in command.params if not getattr(param, "hidden", False)))


def options_of_script(path):
    """What a script's argparse takes, read from its text."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    added = [call.args[0].value for call in calls if getattr(call.func, "attr", "") == "add_argument"]
    return {"--help", *added}


def wrong_links(name, text, texts=TEXTS):
    """Relative links to what is not there, and anchors that no heading makes."""
    wrong = []
    for target in link_targets(text):
        file, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        path = ((ROOT / name).parent / file).resolve()
        inside = path.exists() and path.is_relative_to(ROOT)
        page = text if not file else texts.get(str(path.relative_to(ROOT)), "") if inside else ""
        if not inside or (anchor and anchor not in anchors(page)):
            wrong.append(target)
    return wrong


def wrong_commands(text):
    """Commands of `lethe` that do not exist, and options that they do not take."""
    wrong = []
    for command, rest in (found for piece in code_pieces(text) for found in LETHE.findall(piece)):
        if command in COMMANDS:
            known = options_of(COMMANDS[command])
            wrong += [f"lethe {command} {option}" for option in OPTION.findall(rest) if option not in known]
        elif command != "--help":
            wrong.append(f"lethe {command}")
    return wrong


def wrong_scripts(text):
    """Scripts and modules that do not exist, and options that they do not take."""
    wrong = []
    for script, rest in (found for piece in code_pieces(text) for found in SCRIPT.findall(piece)):
        name = script.removeprefix("-m ")
        path = ROOT / (name if name.endswith(".py") else f"{name.replace('.', '/')}.py")
        if path.is_file():
            known = options_of_script(path)
            wrong += [f"{name} {option}" for option in OPTION.findall(rest) if option not in known]
        else:
            wrong.append(name)
    return wrong


def wrong_options(text):
    """Options named by themselves that no command of `lethe` has, and no command line of the same page."""
    known = set().union(*map(options_of, COMMANDS.values()), *map(OPTION.findall, code_blocks(text)))
    spans = [span for span in code_spans(text) if span.startswith("-")]
    return [option for span in spans for option in OPTION.findall(span) if option not in known]


def wrong_paths(name, text):
    """Paths below a folder of ours or one beside the page, and source files, that are not on disk."""
    here, wrong = (ROOT / name).parent, []
    words = [word for piece in code_pieces(text) for word in re.split(r"[\s'\"(),=]+", piece)]
    for word in words:
        first, slash, _ = word.partition("/")
        ours = first in FOLDERS or (re.match(r"\w", first) and (here / first).is_dir())
        if slash and ours and not re.search(r"[<*]", word):
            wrong += [word] * (not (ROOT / word).exists() and not (here / word).exists())
    for span in filter(FILE_NAME.fullmatch, code_spans(text)):
        known = (here / span).exists() or (ROOT / span).exists()
        wrong += [span] * (not known and not any(any((ROOT / top).rglob(span)) for top in FOLDERS))
    return wrong


def rooms_of(text):
    """Package and room of each line of the house: rooms are indented below their package."""
    found, package = [], ""
    for line in code_blocks(section(text, "The rooms"))[0].splitlines():
        match = re.fullmatch(r"( *)(\w+)/ +\S.*", line)
        assert match, f"not a room with its description: {line}"
        package = package if match[1] else match[2]
        found.append((package, match[2] if match[1] else ""))
    return found


def wide_lines(text):
    """Lines that are too wide. Tables, and the words under a picture, cannot be wrapped."""
    wide = [line for line in text.splitlines() if len(line) > MOST_COLUMNS]
    return [line for line in wide if not line.lstrip().startswith(("|", "!["))]


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    assert wrong_links(name, TEXTS[name]) == []


@pytest.mark.parametrize(
    "link", ["gone.md", "LICENSE#gone", "#gone", "search_spaces/README.md#gone", "../outside.md"]
)
def test_link_that_leads_nowhere_is_seen(link):
    right = "# Here\n\n[right](search_spaces/README.md#domains), [here](#here)"
    assert wrong_links("README.md", f"{right}, [wrong]({link})") == [link]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_exist_and_take_their_options(name):
    assert wrong_commands(TEXTS[name]) == []
    assert wrong_options(TEXTS[name]) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`lethe ran quickstart`", ["lethe ran"]),
        ("`lethe front SWEEP [--yaml|--csv]`", ["lethe front --yaml"]),
        ("```bash\nlethe confirm x \\\n  --sedes 3   # --pick is right\n```", ["lethe confirm --sedes"]),
        ("```\n.venv/bin/lethe run x && lethe stop y --trials 3 && ruff --fix\n```", ["lethe stop --trials"]),
        ("`ray job submit --working-dir . -- lethe run FILE --lanes 2`", ["lethe run --lanes"]),
        ("`lethe` alone, `/mnt/lethe lethe front a`, lethe ran in prose, `--name=lethe --from`", []),
    ],
)
def test_command_or_option_that_does_not_exist_is_seen(text, wrong):
    assert wrong_commands(text) == wrong


def test_option_by_itself_that_no_command_has_is_seen():
    text = "`--set KEY=VALUE`, `--sett a`, `--dist b`\n\n```bash\npytest --dist b\n```"
    assert wrong_options(text) == ["--sett"]


@pytest.mark.parametrize("name", TEXTS)
def test_scripts_exist_and_take_their_options(name):
    assert wrong_scripts(TEXTS[name]) == []


def test_script_or_option_that_does_not_exist_is_seen():
    right = "`python tests/benchmarks/search_bench.py --seeds 12`, `python -m tests.chaos.chaos --real`"
    wrong = "`python -m tests.chaos.calm`, `torchrun --standalone tests/benchmarks/gpu.py heads --in x`"
    assert wrong_scripts(f"{right}, {wrong}") == ["tests.chaos.calm", "tests/benchmarks/gpu.py --in"]


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_folders_exist(name):
    assert wrong_paths(name, TEXTS[name]) == []


def test_file_or_folder_that_does_not_exist_is_seen():
    right = "`tests/unit/`, `unit/test_readmes.py`, `chaos.py`, `trials/t0007`, `unit/<room>/`, `/mnt`"
    wrong = "`tests/units/`, `unit/test_readme.py`, `order.py`, `pytest tests/gpus`"
    expected = ["tests/units/", "unit/test_readme.py", "tests/gpus", "order.py"]
    assert wrong_paths("tests/README.md", f"{right}, {wrong}") == expected


def test_door_names_every_room_and_no_other():
    rooms = [path.parent for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")]
    on_disk = [(package, "") for package in PACKAGES] + [room.relative_to(ROOT).parts for room in rooms]
    assert sorted(rooms_of(TEXTS["README.md"])) == sorted(on_disk)


def test_door_groups_the_commands_as_the_help_does():
    groups, panel = {}, ""
    table = section(TEXTS["README.md"], "Commands")
    for first, second in re.findall(r"^\| ([^|]*)\| `lethe ([a-z]+)[^|]*\|", table, re.MULTILINE):
        panel = first.strip() or panel
        groups.setdefault(panel, []).append(second)
    shown = {}
    for name, command in COMMANDS.items():
        shown.setdefault(command.rich_help_panel, []).append(name)
    assert list(groups.items()) == list(shown.items())


def test_door_is_short():
    text = TEXTS["README.md"]
    assert len(text.split()) <= MOST_WORDS
    assert len(text.splitlines()) <= MOST_LINES
    assert max(map(len, text.splitlines())) <= MOST_COLUMNS


def test_door_leads_to_every_page():
    reached, todo = set(), [DOOR]
    while todo:
        path = todo.pop()
        if path in PATHS and path not in reached:
            reached.add(path)
            files = {link.partition("#")[0] for link in link_targets(path.read_text())}
            todo += [(path.parent / file).resolve() for file in files if file]
    assert sorted(set(PATHS) - reached) == []


def test_example_of_the_door_is_a_valid_sweep_of_fifteen_lines(tmp_path, monkeypatch):
    (example,) = code_blocks(section(TEXTS["README.md"], "A sweep file"), "yaml")
    assert len(example.splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    for name in ("forget", "retain"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name}", "response": "b"}}\n')
    (tmp_path / "takedown.yaml").write_text(example)
    # The model is a folder as save_pretrained writes it; a hub id is not looked at here.
    sweep = load_sweep(tmp_path / "takedown.yaml", ["model.target=org/model"])
    assert sweep.name == "takedown" and len(sweep.space) == 4


@pytest.mark.parametrize("marker", ["run command", "test command"])
def test_marked_command_is_one_of_bash(marker):
    (command,) = re.findall(rf"<!-- {marker} -->\n```bash\n(.*?)```", TEXTS["README.md"], re.DOTALL)
    assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
    assert "pip install" in command


def test_ci_runs_the_test_command_whole():
    (reading,) = re.findall(r"^command=.*$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    shell = ["bash", "-c", f'{reading}; printf %s "$command"']
    command = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    parts = ("ruff check .", "mypy", "tests/unit", "-m 'not soak' tests/integration tests/gpu")
    assert all(part in command for part in parts)
    assert command in TEXTS["README.md"]


@pytest.mark.parametrize("folder", ["benchmarks", "chaos"])
def test_every_script_has_its_place_in_the_page_beside_it(folder):
    scripts = {path.name for path in (ROOT / "tests" / folder).glob("*.py")}
    assert scripts - set(code_spans(TEXTS[f"tests/{folder}/README.md"])) == set()


@pytest.mark.parametrize("name", TEXTS)
def test_lines_are_not_wider_than_a_screen(name):
    assert wide_lines(TEXTS[name]) == []
    assert wide_lines(f"{'a ' * 70}\n| {'a ' * 70}|\n") == ["a " * 70]


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - {f"search_spaces/{page}" for page in GENERATED}))
def test_sentences_have_a_subject_that_a_reader_knows(name):
    assert RIDDLES.findall(prose(TEXTS[name])) == []
    assert RIDDLES.findall(prose("Whoever reads `forget_told` is told.")) == ["Whoever", "told"]
