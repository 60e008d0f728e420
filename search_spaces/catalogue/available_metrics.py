"""Determines which metrics a sweep's data and models can give, and its default objectives."""

from collections.abc import Mapping
from pathlib import Path

from search_spaces.catalogue.metric_catalogue import METRICS, Need
from search_spaces.paths import is_local
from search_spaces.settings.data_settings import ClosedWorldData, LocalFilesData, MuseData, TofuData, WmdpData
from search_spaces.settings.sweep_settings import ObjectiveSettings, SweepSettings

REWORDED_BENCHMARKS = frozenset({"closed_world", "tofu"})
"""Benchmarks that contain other wordings of their forget questions."""


def available_metrics(sweep: SweepSettings) -> set[str]:
    """Returns the names of the metrics that the sweep's data, models and evaluation settings can give."""
    present = given(sweep)
    return {
        name
        for name, metric in METRICS.items()
        if sweep.data.benchmark in metric.benchmarks and metric.needs <= present
    }


def default_objectives(sweep: SweepSettings) -> dict[str, ObjectiveSettings]:
    """Returns the benchmark's two default objectives, with the worst values as reference point."""
    pairs: Mapping[str, tuple[str, str]] = {
        "closed_world": ("forget_true_mass", "utility"),
        "tofu": ("mem", "model_utility"),
        "muse": ("verbmem_rouge_l_f1", "retain_knowmem_rouge_l_f1"),
        "wmdp": ("wmdp_accuracy", "retain_probability"),
        "local_files": ("forget_extraction_strength", "retain_probability"),
    }
    objectives = {}
    for name in pairs[sweep.data.benchmark]:
        direction = METRICS[name].direction
        assert direction is not None, "a default objective has a direction"
        objectives[name] = ObjectiveSettings(direction=direction, reference=METRICS[name].worst)
    return objectives


def given(sweep: SweepSettings) -> frozenset[Need]:
    """Returns the requirements of metrics that the data, the models and the evaluation settings satisfy."""
    found: set[Need] = set()
    # The names of these settings' values are the names of the requirements.
    if sweep.evaluation.fluency != "none":
        found.add(sweep.evaluation.fluency)
    if sweep.evaluation.gradient_norm:
        found.add("gradient_norm")
    # The probe `paraphrase` needs other wordings, from the benchmark or from a file.
    has_wordings = (
        sweep.data.benchmark in REWORDED_BENCHMARKS or sweep.evaluation.probe.paraphrase.file is not None
    )
    for name in sweep.evaluation.probes:
        if name != "paraphrase" or has_wordings:
            found |= {name, "probe"}
    # A retrained model is given, or `lethe prepare` trains one from the base model.
    if sweep.model.retrained is not None or sweep.model.base is not None:
        found.add("retrained")
    data = sweep.data
    if isinstance(data, TofuData):
        found |= _given_by_tofu(data)
    elif isinstance(data, MuseData):
        found.add("holdout")
    elif isinstance(data, WmdpData):
        if data.mmlu is not None:
            found.add("mmlu")
    elif isinstance(data, LocalFilesData):
        # A plain text search is enough here; the benchmark's reader reports malformed lines.
        if _mentions(data.forget, '"paraphrases"'):
            found.add("paraphrases")
        if _mentions(data.retain, '"paraphrases"'):
            found.add("retain_paraphrases")
        if data.holdout is not None:
            found.add("holdout")
    else:
        assert isinstance(data, ClosedWorldData), data
    return frozenset(found)


def _given_by_tofu(data: TofuData) -> set[Need]:
    # The data set on the hub is complete; a local folder may lack files.
    folder = Path(data.path).expanduser() if is_local(data.path) else None

    def has(*splits: str) -> bool:
        return folder is None or all((folder / f"{split}.json").is_file() for split in splits)

    found: set[Need] = set()
    if has(f"{data.forget}_perturbed", "retain_perturbed"):
        found |= {"paraphrases", "retain_paraphrases", "perturbed"}
    if has(f"holdout{data.forget.removeprefix('forget')}"):
        found.add("holdout")
    # A subset of authors is for models trained from scratch, which know nothing of the real world.
    if data.authors is None and has("real_authors_perturbed", "world_facts_perturbed"):
        found.add("utility_sets")
    return found


def _mentions(path: str, text: str) -> bool:
    try:
        with Path(path).expanduser().open(encoding="utf-8", errors="replace") as lines:
            return any(text in line for line in lines)
    except OSError:
        # `sweep_checks` reports missing files.
        return False
