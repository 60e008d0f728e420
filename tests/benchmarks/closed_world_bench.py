"""Every method on the closed world: full sweeps of the popular ones at equal budget, the others at their
recipes, over several seeds.

    python tests/benchmarks/closed_world_bench.py --out /tmp/closed_world --seeds 3 --trials 10

GradDiff, NPO, WGA and SimNPO, each plain, with BS-T and with BS-S (and GradDiff with BS-T unguarded), get a
sweep of so many trials per seed; a seed decides sampler and trials. Everything is told on the test part:
hypervolume, and, at the member of the front whose own hypervolume is the largest on the validation part,
squeeze, spurious share, distance to the retrained model. An interrupted run goes on where it was. One-worker
lanes, as many as there are cores.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from orchestrator.pareto.front import build_front
from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.study import Study
from orchestrator.storage.sweep_folder import open_sweep

METHODS = ("graddiff", "npo", "wga", "simnpo")
DOMAINS = {
    "token_belief.weight": "{uniform: [0.05, 0.5]}",
    "token_belief.top_k": "{log_int: [2, 64]}",
    "token_belief.temperature": "{uniform: [0.5, 2.5]}",
    "sequence_belief.weight": "{uniform: [0.2, 0.8]}",
    "sequence_belief.temperature": "{uniform: [0.7, 1.5]}",
}
"""As in the quickstart, without the conditions that a fixed choice of beliefs leaves nothing of."""
BELIEFS: dict[str, dict[str, Any]] = {
    "plain": {"beliefs": "none"},
    "BS-T": {"beliefs": "token", "token_belief.guard_target": True},
    "BS-T, no guard": {"beliefs": "token", "token_belief.guard_target": False},
    "BS-S": {"beliefs": "token+sequence", "token_belief.guard_target": True},
}
RECIPES = {
    "with retain": ["tnpo", "wtnpo", "satimp", "dpo", "altpo", "pdu", "rmu"],
    "without retain": ["flat", "ceu", "undial"],
}
TOLD = ("forget_true_mass", "utility", "forget_squeeze", "forget_spurious", "forget_total_variation")
COMMON = {
    "resources": "{workers_per_trial: 1, cpus_per_worker: 1, start_timeout_s: 1800}",
    "baselines": "{instruction: null, retrained_twin: true}",
    "search.enqueue": "[]",
}


def lethe(file: str, name: str, storage: Path, overrides: dict[str, Any]) -> None:
    """One sweep; one that was interrupted goes on, one that is finished is left alone."""
    done = storage / name / "bench_done"
    if done.exists():
        return
    sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "orchestrator.cli",
        "run",
        file,
        "--name",
        name,
        "--storage",
        str(storage),
        *sets,
    ]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    done.touch()


def contenders() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, row of the table, and settings of each sweep of the first kind."""
    for method in METHODS:
        for number, (row, fixed) in enumerate(BELIEFS.items()):
            settings: dict[str, Any] = {
                "space.forget.method": "null",
                "trial.forget.method": method,
                "space.beliefs": "null",
            }
            settings |= {f"trial.{key}": str(value).lower() for key, value in fixed.items()}
            for key, domain in DOMAINS.items():
                settings[f"space.{key}"] = domain if key.partition("_")[0] in fixed["beliefs"] else "null"
            if row == "BS-T, no guard" and method != "graddiff":
                continue  # the unguarded form is told apart on one method
            if method == "npo":
                settings["space.forget.npo.beta"] = "{log_uniform: [0.02, 1.0]}"
            yield f"{method}-{number}", f"{method}: {row}", settings


def members(storage: Path, name: str) -> tuple[float, dict[str, float], dict[str, dict[str, float]]]:
    """Hypervolume of a sweep, metrics of its best member, and the last metrics of every trial by method, all
    on the test part."""
    folder, sweep = open_sweep(storage, name)
    records = Study.open(folder.journal, sweep).records()
    front = build_front(records, criteria_of(sweep))
    best = max(
        front.members,
        key=lambda member: (1 - member.validation["forget_true_mass"]) * member.validation["utility"],
    )
    return (
        front.hypervolume,
        told(best.record.rungs[best.rung - 1]),
        {r.params["forget.method"]: told(r.metrics) for r in records if "forget.method" in r.params},
    )


def told(metrics: Any) -> dict[str, float]:
    """What the tables hold, of one rung."""
    return {name: metrics[f"test/{name}"] for name in TOLD} | {"guarded_frac": metrics["train/guarded_frac"]}


def interval(values: list[float]) -> str:
    """Mean and 95 % t-interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweeps and of result.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=10)
    given = parser.parse_args()
    rows: dict[str, list[tuple[float, dict[str, float]]]] = {}
    recipes: dict[str, list[dict[str, float]]] = {}
    for seed in range(given.seeds):
        seeded = {**COMMON, "search.seed": seed, "trial.seed": seed}
        for name, row, settings in contenders():
            lethe(
                "quickstart",
                f"{name}-s{seed}",
                given.out,
                {**seeded, **settings, "search.trials": given.trials},
            )
            volume, best, _ = members(given.out, f"{name}-s{seed}")
            rows.setdefault(row, []).append((volume, best))
            print(f"{row}, seed {seed}: hypervolume {volume:.3f}, {best}", flush=True)
        for kind, names in RECIPES.items():
            lethe(
                "all_methods",
                f"recipes-{kind.replace(' ', '-')}-s{seed}",
                given.out,
                {**seeded, **recipe_settings(kind, names)},
            )
            for method, metrics in members(given.out, f"recipes-{kind.replace(' ', '-')}-s{seed}")[2].items():
                recipes.setdefault(method, []).append(metrics)
        (given.out / "result.json").write_text(json.dumps({"sweeps": rows, "recipes": recipes}, indent=1))
    report(rows, recipes)


def recipe_settings(kind: str, names: list[str]) -> dict[str, Any]:
    """Each recipe once, at the learning rate of the quickstart's own first trials."""
    settings: dict[str, Any] = {
        "search.recipes": f"[{', '.join(names)}]",
        "search.trials": len(names),
        "early_stopping": "null",
    }
    settings |= {"space.optimizer.learning_rate": "null", "trial.optimizer.learning_rate": 4.0e-4}
    if kind == "without retain":
        settings |= {"space.retain.loss": "null", "trial.retain.loss": "none", "space.retain.weight": "null"}
        settings["space.forget.method"] = f"{{choice: [{', '.join(names)}]}}"
    return settings


def report(
    rows: dict[str, list[tuple[float, dict[str, float]]]], recipes: dict[str, list[dict[str, float]]]
) -> None:
    """Print both tables as Markdown."""
    print(
        "\n| sweep | hypervolume | true mass | utility | squeeze | spurious | distance to retrained |"
        " guarded |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row, found in sorted(
        rows.items(), key=lambda pair: -statistics.mean(volume for volume, _ in pair[1])
    ):
        print(
            f"| {row} | {interval([volume for volume, _ in found])} | {cells([best for _, best in found])} |"
        )
    print("\n| recipe | true mass | utility | squeeze | spurious | distance to retrained | guarded |")
    print("|---|---|---|---|---|---|---|")
    for method, found in recipes.items():
        print(f"| {method} | {cells(found)} |")


def cells(found: list[dict[str, float]]) -> str:
    """One cell per metric: the mean over seeds."""
    return " | ".join(
        f"{statistics.mean(metrics[name] for metrics in found):.3f}" for name in (*TOLD, "guarded_frac")
    )


if __name__ == "__main__":
    main()
