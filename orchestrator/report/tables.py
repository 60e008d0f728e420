"""Tables of the front and of failed trials, for every medium that shows them, and MLflow's leaderboard."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from orchestrator.pareto.objectives import Objective
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.audit_table import audit_columns, titles_of
from orchestrator.report.figure_data import baseline_points, group_name, method_and_beliefs
from orchestrator.table import Column, Table


def front_table(view: SweepView) -> Table:
    """Returns the members of the front, from best to worst in the first objective, and the baselines below.

    Returns:
        A table with everything that is known of a member, from which each medium selects: `trial`,
        `trial_id`, `rung`, `method`, `time`, `parameters`; the objectives' names on the test part, and
        `validation NAME` on the validation part; every searched key; the titles of `probe_titles`.
    """
    keys, probes = searched_keys(view), probe_titles(view)
    audits = {audit.name: audit_columns(audit) for audit in view.audits}
    names = [objective.name for objective in view.objectives]
    columns = [
        Column("trial"),
        Column("trial_id"),
        Column("rung"),
        Column("method"),
        *map(_test_column, view.objectives),
        *(Column(f"validation {name}", "{:.4f}".format) for name in names),
        Column("time", "{:.0f} s".format),
        *(Column(title, "{:.3g}".format) for title in probes),
        Column("parameters", params_line, long=True),
        *map(Column, keys),
    ]
    rows = []
    for member in view.front.members:
        record, found = member.record, audits.get(member.name, {})
        rows.append(
            [
                *(member.name, record.trial_id, member.rung),
                group_name(*method_and_beliefs(view.sweep, record)),
                *(member.objectives[name] for name in names),
                *(member.validation[name] for name in names),
                record.duration_s,
                *(found.get(title) for title in probes),
                record.params,
                *(record.params.get(key) for key in keys),
            ]
        )
    foot = []
    for baseline, values in baseline_points(view).items():
        found = audits.get(baseline, {})
        test, measured = [values[name] for name in names], [found.get(title) for title in probes]
        unknown = [None] * (len(names) + 1)
        foot.append([baseline, baseline, None, None, *test, *unknown, *measured, None, *[None] * len(keys)])
    return Table(columns, rows, foot)


def searched_keys(view: SweepView) -> list[str]:
    """Returns the space keys that any member of the front has."""
    return sorted({key for member in view.front.members for key in member.record.params})


def probe_titles(view: SweepView) -> list[str]:
    """Returns the titles of what audits found, over all audited models."""
    return titles_of({audit.name: audit_columns(audit) for audit in view.audits})


def leaderboard(view: SweepView) -> str:
    """Returns the front and the baselines as Markdown, or a sentence while there is neither."""
    counts = Counter(record.status for record in view.records)
    head = (
        f"**Hypervolume {view.front.hypervolume:.4f}** over {len(view.records)} trials, {counts['stopped']}"
        f" stopped, {counts['failed']} failed. Values are of the test part."
    )
    names = (objective.name for objective in view.objectives)
    table = front_table(view).select("trial", *names, *probe_titles(view), "parameters")
    if not table.rows and not table.foot:
        return f"{head}\n\nNo trial is on the front yet."
    return f"{head}\n\n{table.markdown()}"


def front_csv(view: SweepView) -> str:
    """Returns the front as CSV: one row per member and baseline, a column per objective and parameter."""
    names = (objective.name for objective in view.objectives)
    table = front_table(view)
    return table.select("trial_id", *names, "rung", *searched_keys(view), *probe_titles(view)).csv()


def failed_table(view: SweepView) -> Table:
    """Returns the failed trials with their reasons."""
    failed = [record for record in view.records if record.status == "failed"]
    columns = [Column("trial"), Column("reason", long=True), Column("parameters", params_line, long=True)]
    return Table(columns, [[record.trial_id, record.reason, record.params] for record in failed])


def params_line(params: Mapping[str, Any]) -> str:
    """Returns parameters in one line, numbers to three digits."""
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    )


def _test_column(objective: Objective) -> Column:
    return Column(f"{objective.name} ({objective.direction})", "{:.4f}".format, objective.name)
