"""Broken inputs through `lethe validate`: each is refused by one message with file, key or line, and what to
do; never a traceback. The default run takes every third of the 276, and each mutation at least once."""

import os
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator import cli
from search_spaces.loading.loader import PACKAGED
from tests.support.mutations import JSONL_MUTATIONS, WORLD, YAML_MUTATIONS, chance_of
from tests.support.tiny_benchmarks import write_muse, write_wmdp

YAML_CASES, JSONL_CASES, TEXT_CASES, PATH_CASES = 110, 78, 76, 12
THIRDS = [
    pytest.param(0, id="every-third"),
    pytest.param(1, marks=pytest.mark.soak),
    pytest.param(2, marks=pytest.mark.soak),
]
"""First case of each third."""
PLACE = re.compile(r"(?m)^(?:error:|  -) .*(?:[\w.\]\[]+: |line \d+|:\d+: )")
REMEDY = re.compile(
    r"Allowed: |Did you mean|such as|needs |is missing\. \w|"
    r"(?i:\b(?:give|write|use|set|remove|take|search|check|mend|add) )"
)
tried, refused = set(), set()
"""Cases that were tried, and those that were refused, over the whole file."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")


def base(number, folder):
    """The settings of a shipped sweep on data that is here."""
    # TOFU itself is not here: its files would be missed before anything else is looked at.
    names = ("quickstart.yaml", "local_files.yaml", "tofu_scratch.yaml")
    name = names[number % len(names)]
    settings = yaml.safe_load((PACKAGED / name).read_text())
    if name == "local_files.yaml":
        settings["model"] = {"target": "org/model"}
        settings["data"] |= data_files(folder)
    else:
        settings["data"] = dict(WORLD)
    return settings


def rows(name):
    return [{"prompt": f"What is {name} {number}?", "response": f"It is {number}."} for number in range(5)]


def data_files(folder, **texts):
    from tests.support.mutations import lines_of

    for name in ("forget", "retain"):
        (folder / f"{name}.jsonl").write_bytes(texts.get(name) or lines_of(rows(name)))
    return {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain")}


def check(case, file, *mentioned):
    """One input: valid, or refused as it should be."""
    tried.add(case)
    done = CliRunner().invoke(cli.app, ["validate", str(file)])
    context = f"{case}: {done.output[:800]}"
    assert done.exception is None or isinstance(done.exception, SystemExit), f"{case}: {done.exception!r}"
    assert done.exit_code in (0, 2), context
    if done.exit_code == 0:
        assert "valid" in done.stdout, context
        return
    refused.add(case)
    assert "Traceback" not in done.output, context
    assert done.stderr.startswith("error: ") and done.stderr.count("error: ") == 1, context
    assert any(str(name) in done.stderr for name in (file, *mentioned)), context
    assert PLACE.search(done.stderr.replace(str(file), "FILE", 1)), f"no key or line: {context}"
    assert REMEDY.search(done.stderr), f"no remedy: {context}"
    assert len(done.stderr) < 20_000, f"endless: {case}"


@pytest.mark.parametrize("first", THIRDS)
def test_broken_sweep_file_is_refused_by_one_message(tmp_path, first):
    for number in range(first, YAML_CASES, 3):
        mutate = YAML_MUTATIONS[number % len(YAML_MUTATIONS)]
        file = tmp_path / f"s{number}.yaml"
        file.write_bytes(mutate(base(number // len(YAML_MUTATIONS), tmp_path), chance_of("yaml", number)))
        check(f"yaml {number} {mutate.__name__}", file)


@pytest.mark.parametrize("first", THIRDS)
def test_broken_data_file_is_refused_by_one_message(tmp_path, first):
    settings = base(1, tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(settings))
    for number in range(first, JSONL_CASES, 3):
        mutate, chance = JSONL_MUTATIONS[number % len(JSONL_MUTATIONS)], chance_of("jsonl", number)
        part = chance.choice(["forget", "retain"])
        data_files(tmp_path, **{part: mutate(rows(part), chance)})
        check(f"jsonl {number} {mutate.__name__} {part}", file, tmp_path / f"{part}.jsonl")


def in_schema(text, kind):
    """A broken file of prompts and responses as one of texts, or of questions: whatever is broken stays
    so."""
    names = {"text": (b"text", b"more"), "question": (b"question", b"answer")}[kind]
    return text.replace(b'"prompt', b'"' + names[0]).replace(b'"response', b'"' + names[1])


@pytest.mark.parametrize("first", THIRDS)
def test_broken_file_of_a_benchmark_is_refused_by_one_message(tmp_path, first):
    muse, wmdp = write_muse(tmp_path / "muse"), write_wmdp(tmp_path / "wmdp")
    file = tmp_path / "own.yaml"
    objects = {
        "raw/forget.json": "text",
        "knowmem/retain_qa.json": "question",
        "forget.jsonl": "text",
        "wmdp-bio/test.json": "question",
    }
    for number in range(first, TEXT_CASES, 3):
        mutate, chance = JSONL_MUTATIONS[number % len(JSONL_MUTATIONS)], chance_of("text", number)
        name, kind = list(objects.items())[number % len(objects)]
        of_muse = number % len(objects) < 2
        data = {"benchmark": "muse", "path": str(muse)} if of_muse else {"benchmark": "wmdp", **wmdp}
        settings = {
            "model": {"target": "org/model"},
            "data": data,
            "space": {"retain.weight": {"uniform": [1, 2]}},
        }
        file.write_text(yaml.safe_dump(settings))
        broken = tmp_path / ("muse" if of_muse else "wmdp") / name
        before = broken.read_bytes()
        broken.write_bytes(in_schema(mutate(rows(name), chance), kind))
        check(f"text {number} {mutate.__name__} {name}", file, broken)
        broken.write_bytes(before)


def make_path(kind, path: Path):
    match kind:
        case "folder":
            path.mkdir()
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "unreadable":
            path.write_text("")
            path.chmod(0)


@pytest.mark.parametrize("kind", ["folder", "dangling", "loop", "unreadable", "missing", "long"])
def test_path_that_cannot_be_read_is_refused_by_one_message(tmp_path, kind):
    path = tmp_path / ("x" * 300 if kind == "long" else "odd")
    make_path(kind, path)
    if kind == "unreadable" and os.access(path, os.R_OK):
        path.write_bytes(b"\xff")  # root reads everything
    check(f"sweep file {kind}", path)
    settings = base(1, tmp_path)
    settings["data"]["forget"] = str(path)
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(settings))
    check(f"data file {kind}", file, path)


def test_most_of_the_inputs_were_broken_indeed(request):
    ran = {item.name.partition("[")[0] for item in request.session.items}
    if len(ran) < 5:
        pytest.skip("counts what the other tests of this file have found")
    assert YAML_CASES + JSONL_CASES + TEXT_CASES + PATH_CASES == 276
    assert len(refused) >= 0.76 * len(tried), (len(refused), len(tried))
