"""Made `earlier_sweep.tar.xz` from a checkout of commit 1805e04, the last one before the code went into
rooms.

    git worktree add /tmp/old 1805e04
    python make_earlier_sweep.py /tmp/old earlier_sweep.tar.xz

A sweep of five trials is killed while its fourth has a checkpoint; then its knee is confirmed under one seed
and audited. That is what the archive holds. It also holds what the old code ends with when it goes on from
there (`ended.json`), and what it hashed into names that hold absolute paths (`hashed.json`). All of it is run
by the old code; nothing here imports today's.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import yaml

ROOT = Path("/tmp/earlier_sweep")
"""Where the sweep runs. Absolute paths of it are in the archive; whoever unpacks it moves them."""
STORAGE = ROOT / "storage"
SWEEP = {
    "name": "earlier",
    "model": {
        "base": "scratch",
        "scratch": {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "vocabulary": 400},
        "prepare": {"steps": 150, "global_batch": 32, "micro_batch": 16, "learning_rate": 0.005},
    },
    "data": {
        "benchmark": "closed_world",
        "people": 8,
        "forget_people": 2,
        "attributes": 2,
        "values": 4,
        "phrasings": 3,
    },
    "trial": {
        "steps": 2,
        "rungs": 2,
        "optimizer": {"global_batch": 4, "micro_batch": 4, "warmup_epochs": 0},
        "sequence_belief": {"num_samples": 2, "max_new_tokens": 8},
    },
    "space": {
        "forget.method": {"choice": ["graddiff", "npo", "wga"]},
        "beliefs": {"choice": ["none", "token", "sequence"]},
        "optimizer.learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]},
        "token_belief.top_k": {"log_int": [2, 32], "when": {"beliefs": "token"}},
    },
    "search": {
        "trials": 5,
        "sampler": "random",
        "enqueue": [{"optimizer.learning_rate": 0.005, "forget.method": "npo", "beliefs": "sequence"}],
    },
    "resources": {"workers_per_trial": 2, "cpus_per_worker": 1, "checkpoint_steps": 1},
}
LEFT_OUT = ("report.html", "front.png", "ray", "driver.lock", "mlflow.db.lock")
"""Written anew by whatever command needs them."""
LEFT_OUT_MODELS = ("models/initial-", "t0000/weights", "t0002/weights/rung1")
"""187 KB each, and read by no command that the tests run: the archive has to stay small."""
HASHED = """
import json, sys
from pathlib import Path
from orchestrator import baselines
from orchestrator.sweep_folder import open_sweep
from search_spaces.space import apply
from trainables.checkpoints import PLACES
from trainables.jobs import TrialJob

made_from, hash_of = {}, baselines._hash
def noted(value):
    name = hash_of(value)
    made_from[name] = {**value, "version": baselines.RECIPE_VERSION}
    return name
baselines._hash = noted
folder, sweep = open_sweep(Path(sys.argv[1]), "earlier")
plan = baselines.plan_baselines(sweep, folder.models)
assert not plan.prepare and not plan.measure
params = json.loads(sys.argv[2])
job = TrialJob(
    trial_id="t0003",
    model=sweep.model,
    data=sweep.data,
    evaluation=sweep.evaluation,
    trial=apply(sweep.trial, params),
    folder=plan.original.folder,
    original=str(plan.original.measurement),
    retrained=str(plan.retrained.measurement),
)
print(json.dumps({"names": made_from, "checkpoint": job.model_dump(mode="json", exclude=PLACES)}))
"""
ENDED = """
import json, platform, sys
from pathlib import Path
import optuna, torch
optuna.logging.disable_default_handler()
backend = optuna.storages.journal.JournalFileBackend(sys.argv[1])
study = optuna.load_study(study_name="earlier", storage=optuna.storages.JournalStorage(backend))
def rungs(trial):
    return [trial.user_attrs[key] for key in sorted(trial.user_attrs) if key.startswith("rung:")]
models = {line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")}
print(json.dumps({
    "machine": [*sorted(models), torch.backends.cpu.get_cpu_capability(), torch.__version__],
    "trials": {
        trial.number: {"params": trial.params, "values": trial.values, "rungs": rungs(trial)}
        for trial in study.get_trials()
    },
}))
"""


def main() -> None:
    old, archive = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir()
    (ROOT / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    run_until_checkpoint(old)
    lethe(old, "confirm", "earlier", "--pick", "knee", "--seeds", "1")
    lethe(old, "audit", "earlier", "--trial", "knee")
    kept = ROOT.with_name("earlier_sweep_kept")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(STORAGE, kept / "storage")
    shutil.copy(ROOT / "sweep.yaml", kept)

    lethe(old, "run", str(ROOT / "sweep.yaml"))
    ended = json.loads(python(old, ENDED, str(STORAGE / "earlier" / "study.journal")))
    ended["front"] = json.loads((STORAGE / "earlier" / "front.json").read_text())
    trials = STORAGE / "earlier" / "trials"
    ended["weights"] = sorted(str(path.relative_to(trials)) for path in trials.glob("*/weights/*"))
    (kept / "ended.json").write_text(json.dumps(ended, indent=1))
    hashed = json.loads(python(old, HASHED, str(STORAGE), json.dumps(ended["trials"]["3"]["params"])))
    (kept / "hashed.json").write_text(json.dumps({"root": str(ROOT), **hashed}, indent=1))
    pack(kept, archive)


def pack(kept: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(kept.rglob("*")):
            name = str(path.relative_to(kept))
            left_out = set(name.split("/")) & set(LEFT_OUT) or any(part in name for part in LEFT_OUT_MODELS)
            if path.is_file() and not left_out:
                packed.add(path, name)
    print(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB")


def environment(old: Path) -> dict[str, str]:
    """That of the tests, with the old code in front."""
    fixed = {"PYTHONPATH": str(old), "LETHE_STORAGE": str(STORAGE), "OMP_NUM_THREADS": "1"}
    return {"RAY_AUTH_MODE": "disabled"} | os.environ | fixed | {"HF_HUB_OFFLINE": "1"}


def lethe(old: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    subprocess.run(command, cwd=old, env=environment(old), check=True)


def python(old: Path, script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, cwd=old, env=environment(old), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.splitlines()[-1]


def run_until_checkpoint(old: Path) -> None:
    """Kill the driver when its fourth trial has a checkpoint; before, hold it, so that the trial waits for
    its word at the last rung and keeps the checkpoint."""
    checkpoint = STORAGE / "earlier" / "trials" / "t0003" / "checkpoint" / "step1" / "shared.json"
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(ROOT / "sweep.yaml")]
    driver = subprocess.Popen(command, cwd=old, env=environment(old))
    while not checkpoint.is_file():
        assert driver.poll() is None, "the driver has ended"
        time.sleep(0.005)
    os.kill(driver.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(10)
    assert checkpoint.is_file(), "the trial has ended: try again"


if __name__ == "__main__":
    main()
