"""Makes the local paths of a sweep absolute."""

from typing import Any

from search_spaces.paths import is_local, resolved
from search_spaces.settings.data_settings import LocalFilesData, MuseData, TofuData, WmdpData
from search_spaces.settings.sweep_settings import SweepSettings


def with_absolute_paths(sweep: SweepSettings) -> SweepSettings:
    """Returns the sweep with absolute local paths.

    Relative paths start in the working directory of lethe. Workers may have another working directory.

    Raises:
        UserError: A path cannot be accessed.
    """

    def absolute(block: Any, prefix: str, *names: str) -> Any:
        paths = {name: getattr(block, name) for name in names}
        return block.model_copy(
            update={
                name: str(resolved(path, f"{prefix}.{name}"))
                for name, path in paths.items()
                if path is not None
            }
        )

    data = sweep.data
    if isinstance(data, LocalFilesData):
        data = absolute(data, "data", "forget", "retain", "holdout")
    elif isinstance(data, TofuData | MuseData) and is_local(data.path):
        data = absolute(data, "data", "path")
    elif isinstance(data, WmdpData):
        questions = [
            name
            for name in ("path", "mmlu")
            if (place := getattr(data, name)) is not None and is_local(place)
        ]
        data = absolute(data, "data", "forget_corpus", "retain_corpus", *questions)
    models = {"base": sweep.model.base, "target": sweep.model.target, "retrained": sweep.model.retrained}
    local = [
        name for name, model in models.items() if model is not None and model != "scratch" and is_local(model)
    ]
    # Names of sweeps contain no slash, so a source with a slash is the path of a sweep folder.
    earlier = tuple(
        str(resolved(source, "search.warm_start")) if "/" in source else source
        for source in sweep.search.warm_start
    )
    search = sweep.search.model_copy(update={"warm_start": earlier})
    judge = ["gibberish_model"] if is_local(sweep.evaluation.gibberish_model) else []
    evaluation = absolute(sweep.evaluation, "evaluation", *judge)
    paraphrase = absolute(evaluation.probe.paraphrase, "evaluation.probe.paraphrase", "file")
    evaluation = evaluation.model_copy(
        update={"probe": evaluation.probe.model_copy(update={"paraphrase": paraphrase})}
    )
    model = absolute(sweep.model, "model", *local)
    return sweep.model_copy(update={"data": data, "model": model, "evaluation": evaluation, "search": search})
