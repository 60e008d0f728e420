"""Makes the local paths of a sweep absolute."""

from typing import Any

from search_spaces.paths import is_local, resolved
from search_spaces.settings.base_settings import Settings
from search_spaces.settings.data_settings import LocalFilesData, MuseData, TofuData, WmdpData
from search_spaces.settings.sweep_settings import SweepSettings


def with_absolute_paths(sweep: SweepSettings) -> SweepSettings:
    """Returns the sweep with absolute local paths.

    Relative paths start in the working directory of lethe. Workers may have another working directory.

    Raises:
        UserError: A path cannot be accessed.
    """

    data = sweep.data
    if isinstance(data, LocalFilesData):
        data = _absolute(data, "data", "forget", "retain", "holdout")
    elif isinstance(data, TofuData | MuseData):
        data = _absolute(data, "data", *_local(data, "path"))
    elif isinstance(data, WmdpData):
        data = _absolute(data, "data", "forget_corpus", "retain_corpus", *_local(data, "path", "mmlu"))
    # `scratch` is a keyword, even if a folder of that name exists.
    models = [
        name
        for name in _local(sweep.model, "base", "target", "retrained")
        if getattr(sweep.model, name) != "scratch"
    ]
    model = _absolute(sweep.model, "model", *models)
    # Names of sweeps contain no slash, so a source with a slash is the path of a sweep folder.
    earlier = tuple(
        str(resolved(source, "search.warm_start")) if "/" in source else source
        for source in sweep.search.warm_start
    )
    search = sweep.search.model_copy(update={"warm_start": earlier})
    evaluation = _absolute(sweep.evaluation, "evaluation", *_local(sweep.evaluation, "gibberish_model"))
    paraphrase = _absolute(evaluation.probe.paraphrase, "evaluation.probe.paraphrase", "file")
    probe = evaluation.probe.model_copy(update={"paraphrase": paraphrase})
    evaluation = evaluation.model_copy(update={"probe": probe})
    return sweep.model_copy(update={"data": data, "model": model, "evaluation": evaluation, "search": search})


def _local(block: Settings, *names: str) -> list[str]:
    """Returns the fields that hold a local path, and not a hub id."""
    paths = {name: getattr(block, name) for name in names}
    return [name for name, path in paths.items() if path is not None and is_local(path)]


def _absolute(block: Any, prefix: str, *names: str) -> Any:
    """Returns a block of settings with absolute paths in some of its fields; None stays None."""
    paths = {name: getattr(block, name) for name in names}
    absolute = {
        name: str(resolved(path, f"{prefix}.{name}")) for name, path in paths.items() if path is not None
    }
    return block.model_copy(update=absolute)
