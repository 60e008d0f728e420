"""`lethe benchmark`: run public benchmarks on a model of a sweep."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.export import tracking_store
from orchestrator.commands.options import (
    AsJson,
    Rung,
    Storage,
    Sweep,
    TrackingUri,
    app,
    open_named,
    print_json,
    screen,
    user_errors,
)
from orchestrator.commands.run import sweep_session
from orchestrator.terminal.rich_tables import say
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from orchestrator.followups.benchmark_scores import BenchmarkTask, Scores
    from orchestrator.sweep.session import Session


@app.command(rich_help_panel="Out of a sweep")
def benchmark(
    sweep: Sweep,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks", help="Names of lm-eval's tasks, separated by commas: mmlu, arc_easy, gsm8k, ..."
        ),
    ],
    trial: Rung = "knee",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Largest number of items per task.", show_default="all"),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Items per forward pass.")] = 8,
    task_folder: Annotated[
        Path | None,
        typer.Option("--task-folder", exists=True, file_okay=False, help="Folder with your own task files."),
    ] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Run public benchmarks (lm-eval) on a model of a sweep and on the original model."""
    with user_errors():
        from orchestrator.followups.benchmark_scores import BenchmarkRequest, BenchmarkTask
        from orchestrator.followups.model_export import find_weights
        from orchestrator.pareto.member_selection import choose_rung
        from orchestrator.pareto.objectives import criteria_of
        from orchestrator.storage.baselines import read_baselines
        from trainables.analysis.lm_eval_harness import check_tasks

        names = tuple(name.strip() for name in tasks.split(",") if name.strip())
        request = BenchmarkRequest(names, limit, batch, task_folder)
        # Before any model is loaded, which takes minutes.
        check_tasks(request.tasks, None if task_folder is None else str(task_folder))
        folder, settings, study = open_named(sweep, storage)
        chosen = choose_rung(study.records(), criteria_of(settings), trial, "--trial")
        models = {
            "original": read_baselines(folder)["original"].folder,
            chosen.name: str(find_weights(folder, chosen)),
        }
        # Without the original's scores it would not be known what unlearning has changed.
        runs = [
            BenchmarkTask(name, weights, settings.model, request, folder) for name, weights in models.items()
        ]
        # No lane is started if an earlier call has evaluated everything.
        if missing := [run for run in runs if run.missing]:
            file = str(folder.settings)
            with sweep_session(settings, file, storage, tracking_uri, quiet_stdout=as_json) as session:
                _run(session, missing)
        scores = {run.model_name: run.scores() for run in runs}
        if as_json:
            print_json(scores)
        else:
            _show(scores)
        # The original has no run of a trial to which its scores could be added.
        if chosen.record.mlflow_run_id is not None:
            store = tracking_store(tracking_uri, folder)
            _send_to_mlflow(store, chosen.record.mlflow_run_id, scores[chosen.name])


def _run(session: "Session", tasks: "list[BenchmarkTask]") -> None:
    from orchestrator.sweep.followup_runs import run_in_one_process

    if failed := run_in_one_process(session, tasks):
        raise UserError(f"{', '.join(failed)} failed: the lines above say why", key="--tasks")


def _send_to_mlflow(store: str, run_id: str, scores: "Scores") -> None:
    from orchestrator.tracking.tracked_sweep import add_metrics

    try:
        add_metrics(store, run_id, {f"lm_eval/{name}": value for name, value in scores.items()})
    except UserError as error:
        # No reason to fail: the scores are on disk and on the screen.
        say(screen(stderr=True), f"not sent to MLflow: {error}")


def _show(scores: "dict[str, Scores]") -> None:
    from orchestrator.table import Table, columns
    from orchestrator.terminal.rich_tables import rich_table

    # All models have been evaluated on the same tasks.
    original = scores["original"]
    names = [name for name in original if not name.endswith("_stderr")]
    rows = [[name, *(_cell(model_scores, name) for model_scores in scores.values())] for name in names]
    screen().print(rich_table(Table(columns("metric", *scores), rows)))


def _cell(scores: "Scores", name: str) -> str:
    error = scores.get(f"{name}_stderr")
    return f"{scores[name]:.4f}" + (f" ± {error:.4f}" if error is not None else "")
