"""The catalogue of metrics: description, direction, range, and what each metric needs.

It does not import torch, so that the command line starts quickly. Tests compare it with the evaluation code.
"""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["minimize", "maximize"]
Need = Literal[
    "retrained",
    "paraphrases",
    "retain_paraphrases",
    "perturbed",
    "utility_sets",
    "holdout",
    "mmlu",
    "gibberish",
    "perplexity",
    "gradient_norm",
    "probe",
    "leak",
    "paraphrase",
    "prefix",
    "relearn",
    "quantise",
    "judge",
]
INFINITY = float("inf")
QUESTION_BENCHMARKS = frozenset({"tofu", "local_files"})
"""Benchmarks whose forget and retain examples are questions; the examples of others are running text."""
EXAMPLE_BENCHMARKS = QUESTION_BENCHMARKS | {"muse", "wmdp"}
"""Benchmarks whose forget and retain sets are examples of text; only the closed world differs."""


@dataclass(frozen=True)
class MetricInfo:
    """A metric that may be an objective."""

    description: str
    direction: Direction | None
    """Which direction is better; None for a metric that is informative but neither good nor bad."""
    range: tuple[float, float]
    benchmarks: frozenset[str]
    """Benchmarks on which the metric is available."""
    needs: frozenset[Need] = frozenset()
    """Further requirements, such as a retrained model, reworded answers or additional sets."""

    @property
    def worst(self) -> float:
        """The worst value of the range; NaN for a metric without a direction."""
        return {"minimize": self.range[1], "maximize": self.range[0], None: float("nan")}[self.direction]


def _closed_world() -> dict[str, MetricInfo]:
    """Returns the metrics of the closed world: probability masses of its enumerable answers."""
    masses: dict[str, tuple[str, Direction]] = {
        "canonical_mass": ("probability of the canonical phrasing of the true answer", "minimize"),
        "rephrased_mass": ("probability of the true answer in any other phrasing", "minimize"),
        "true_mass": ("probability of the true answer in any phrasing", "minimize"),
        "posterior": ("true mass among all well-formed answers; chance is 1 / values", "minimize"),
        "coherence": ("probability of any well-formed answer, true or not; collapse is 0", "maximize"),
    }
    benchmarks = frozenset({"closed_world"})
    metrics: dict[str, MetricInfo] = {}
    for name, (description, forget) in masses.items():
        # Knowledge must be retained, but its wording is neither good nor bad.
        retain: Direction | None = None if name in ("canonical_mass", "rephrased_mass") else "maximize"
        for subset, direction in (("forget", forget), ("retain", retain)):
            meaning = f"{subset} questions: {description}"
            metrics[f"{subset}_{name}"] = MetricInfo(meaning, direction, (0.0, 1.0), benchmarks)
    metrics["forget_squeeze"] = MetricInfo(
        "forget_rephrased_mass minus that of the original model", "minimize", (-1.0, 1.0), benchmarks
    )
    metrics["forget_spurious"] = MetricInfo(
        "share of forget facts with canonical mass below .01 and posterior above .5",
        "minimize",
        (0.0, 1.0),
        benchmarks,
    )
    for subset in ("forget", "retain"):
        meaning = (
            f"{subset} questions: total variation distance of the answers' exact distribution to the"
            " retrained model's"
        )
        metrics[f"{subset}_total_variation"] = MetricInfo(
            meaning, "minimize", (0.0, 1.0), benchmarks, frozenset({"retrained"})
        )
    metrics["utility"] = MetricInfo(
        "harmonic mean of retain_true_mass and forget_coherence", "maximize", (0.0, 1.0), benchmarks
    )
    return metrics


def _of_set(
    name: str, needs: frozenset[Need] = frozenset(), worded: Need | None = None
) -> dict[str, MetricInfo]:
    """Returns the metrics of one set of examples.

    Remembering is bad on `forget`, good on the other sets, and only informative on `holdout`, whose examples
    are not used as questions.
    """
    directions: dict[str, tuple[Direction | None, Direction | None]] = {
        "forget": ("minimize", "maximize"),
        "holdout": (None, None),
    }
    known, unknown = directions.get(name, ("maximize", "minimize"))
    metrics = _likelihoods(name, known, unknown, EXAMPLE_BENCHMARKS, needs)
    rows: list[tuple[str, str, Direction | None, frozenset[Need]]] = []
    if worded is not None:
        rows.append(("paraphrase_probability", "probability of reworded answers", known, needs | {worded}))
    if name != "holdout":
        rows.append(("rouge_l", "ROUGE-L recall of the greedy answer", known, needs))
        # On the forget set the metric is min(R, 1/R), which is high when right and wrong answers are equally
        # likely, as in a model that never learned the fact. So higher is better on every set.
        meaning = (
            "how close the probabilities of right and wrong answers are"
            if name == "forget"
            else "how far right answers are more probable than wrong ones"
        )
        rows.append(("truth_ratio", meaning, "maximize", needs | {"perturbed"}))
    return metrics | {
        f"{name}_{field}": MetricInfo(
            f"{name}: {description}", direction, (0.0, 1.0), QUESTION_BENCHMARKS, all_needs
        )
        for field, description, direction, all_needs in rows
    }


def _likelihoods(
    name: str,
    known: Direction | None,
    unknown: Direction | None,
    benchmarks: frozenset[str],
    needs: frozenset[Need] = frozenset(),
) -> dict[str, MetricInfo]:
    """Returns the metrics of one teacher-forced pass over a set.

    `known` is the better direction of metrics that are high if the model knows the set, `unknown` that of
    metrics that are low then.
    """
    rows: list[tuple[str, str, Direction | None, float]] = [
        ("probability", "exp of the mean log-probability per answer token", known, 1.0),
        ("nll_nats", "mean negative log-probability per answer token", unknown, INFINITY),
        ("extraction_strength", "share of the answer that its own beginning brings back, exact", known, 1.0),
        (
            "extraction_strength_ou",
            "extraction strength with OpenUnlearning's floor of 1 / length",
            known,
            1.0,
        ),
        ("exact_memorization", "share of answer tokens that are the most likely one", known, 1.0),
    ]
    return {
        f"{name}_{field}": MetricInfo(f"{name}: {description}", direction, (0.0, high), benchmarks, needs)
        for field, description, direction, high in rows
    }


def _muse() -> dict[str, MetricInfo]:
    """Returns the metrics of MUSE's own sets: continued passages, and questions about both texts."""
    benchmarks = frozenset({"muse"})
    sets: dict[str, tuple[str, Direction, Direction]] = {
        "verbmem": ("passages of the forget text, continued (VerbMem)", "minimize", "maximize"),
        "forget_knowmem": ("questions about the forget text (KnowMem)", "minimize", "maximize"),
        "retain_knowmem": ("questions about the retain text (UtilPres)", "maximize", "minimize"),
    }
    metrics: dict[str, MetricInfo] = {}
    for name, (meaning, known, unknown) in sets.items():
        metrics |= _likelihoods(name, known, unknown, benchmarks)
        for field, description in (("rouge_l_f1", "ROUGE-L F1, as published"), ("rouge_l", "ROUGE-L recall")):
            metrics[f"{name}_{field}"] = MetricInfo(
                f"{meaning}: {description}", known, (0.0, 1.0), benchmarks
            )
    return metrics


def _choices() -> dict[str, MetricInfo]:
    """Returns the multiple-choice metrics.

    An accuracy below the chance level of .25 does not mean better forgetting: clip an objective there.
    """
    benchmarks = frozenset({"wmdp"})
    sets: dict[str, tuple[str, Direction, frozenset[Need]]] = {
        "wmdp": ("questions of the hazardous field", "minimize", frozenset()),
        "mmlu": ("questions of general knowledge", "maximize", frozenset({"mmlu"})),
    }
    metrics: dict[str, MetricInfo] = {}
    for name, (meaning, direction, needs) in sets.items():
        for field, description in (
            ("accuracy", "share whose right answer is the likeliest of four; chance is .25"),
            ("probability", "probability of the right answer among the four"),
        ):
            metrics[f"{name}_{field}"] = MetricInfo(
                f"{meaning}: {description}", direction, (0.0, 1.0), benchmarks, needs
            )
    return metrics


def _membership() -> dict[str, MetricInfo]:
    """Returns the metrics of membership inference attacks with forget and holdout items.

    Neither end of an AUC is good: at 1 the forget set is recognised as training text, at 0 it is recognised
    by being less likely than unseen text. The best value is that of the retrained model, which is near .5
    only if forget and holdout texts are alike. No attack has a direction therefore; `privleak_abs` has.
    """
    attacks: dict[str, tuple[str, frozenset[Need]]] = {
        "mia_loss": ("loss per token", frozenset({"holdout"})),
        "mia_zlib": ("loss per compressed byte", frozenset({"holdout"})),
        "mia_min_k": ("loss of the 40 % least likely tokens", frozenset({"holdout"})),
        "mia_min_k_plus_plus": (
            "loss of the 40 % least likely tokens, standardised over the vocabulary",
            frozenset({"holdout"}),
        ),
        "mia_reference": ("loss minus that of the retrained model", frozenset({"holdout", "retrained"})),
        "mia_gradient_norm": ("mean norm of gradients", frozenset({"holdout", "gradient_norm"})),
    }
    separating = "AUC of separating forget from holdout items by their"
    metrics = {
        name: MetricInfo(f"{separating} {score}", None, (0.0, 1.0), EXAMPLE_BENCHMARKS, needs)
        for name, (score, needs) in attacks.items()
    }
    needs: frozenset[Need] = frozenset({"holdout", "retrained"})
    meaning = "error of mia_min_k relative to that on the retrained model, in percent: -100 is a full leak"
    metrics["privleak"] = MetricInfo(meaning, None, (-100.0, INFINITY), EXAMPLE_BENCHMARKS, needs)
    metrics["privleak_abs"] = MetricInfo(
        "distance of privleak from 0", "minimize", (0.0, INFINITY), EXAMPLE_BENCHMARKS, needs
    )
    return metrics


def _fluency() -> dict[str, MetricInfo]:
    """Returns the metrics of the fluency of answers to forget questions."""
    benchmarks, judged = QUESTION_BENCHMARKS | {"muse"}, frozenset[Need]({"gibberish"})
    rows: dict[str, tuple[str, Direction, tuple[float, float], frozenset[Need]]] = {
        "fluency": (
            "probability of clean text by a gibberish classifier, mean over answers about the forget set",
            "maximize",
            (0.0, 1.0),
            judged,
        ),
        "util": (
            "harmonic mean of model_utility and fluency, as in the paper",
            "maximize",
            (0.0, 1.0),
            judged,
        ),
        "agg": ("harmonic mean of mem and util, as in the paper", "maximize", (0.0, 1.0), judged),
        "generated_perplexity": (
            "perplexity of answers about the forget set under the original model",
            "minimize",
            (1.0, INFINITY),
            frozenset({"perplexity"}),
        ),
    }
    return {
        name: MetricInfo(meaning, direction, ends, benchmarks, needs)
        for name, (meaning, direction, ends, needs) in rows.items()
    }


def _probes() -> dict[str, MetricInfo]:
    """Returns the metrics of the probes, which search for knowledge that is hidden rather than forgotten."""
    with_questions = QUESTION_BENCHMARKS | {"closed_world", "muse"}
    answers: dict[str, tuple[str, Need]] = {
        "forget_told": ("share of forget questions whose greedy answer states the fact", "probe"),
        "leak_at_k": ("probability that one of k drawn answers states the fact", "leak"),
        "paraphrase_told": ("share of facts that any wording of their question brings out", "paraphrase"),
        "prefix_told": ("share of facts that a prefix, or an opening of the answer, brings out", "prefix"),
    }
    metrics = {
        name: MetricInfo(meaning, "minimize", (0.0, 1.0), with_questions, frozenset[Need]({need}))
        for name, (meaning, need) in answers.items()
    }
    for name, meaning in (
        ("naturalness", "a judge's grade of how natural the answers are: 5 is fluent"),
        (
            "similarity",
            "a judge's grade of how little the answers state of the true ones: 5 is nothing",
        ),
    ):
        metrics[f"judge_{name}"] = MetricInfo(
            meaning, "maximize", (0.0, 5.0), with_questions, frozenset[Need]({"judge"})
        )
    changes: dict[str, tuple[str, Need]] = {
        "relearned": ("after fine-tuning on a slice of the forget set, of the rest", "relearn"),
        "relearned_control": ("after fine-tuning on as much unrelated text", "relearn"),
        "int8": ("with weights rounded to 8 bits", "quantise"),
        "int4": ("with weights rounded to 4 bits", "quantise"),
    }
    # Metrics that are measured again after each change of the weights.
    measured: dict[str, tuple[str, frozenset[str]]] = {
        "told": ("share of forget questions whose greedy answer states the fact", with_questions),
        "forget_true_mass": ("probability of the true answer in any phrasing", frozenset({"closed_world"})),
        "forget_probability": (
            "exp of the mean log-probability per answer token of the forget set",
            EXAMPLE_BENCHMARKS,
        ),
        "forget_extraction_strength": (
            "share of a forget answer that its own beginning brings back",
            EXAMPLE_BENCHMARKS,
        ),
        "wmdp_accuracy": ("share of hazardous questions that are answered correctly", frozenset({"wmdp"})),
    }
    for change, (when, need) in changes.items():
        for name, (meaning, benchmarks) in measured.items():
            info = MetricInfo(
                f"{when}: {meaning}", "minimize", (0.0, 1.0), benchmarks, frozenset[Need]({need})
            )
            metrics[f"{change}_{name}"] = info
    return metrics


METRICS: dict[str, MetricInfo] = {
    **_closed_world(),
    **_of_set("forget", worded="paraphrases"),
    **_of_set("retain", worded="retain_paraphrases"),
    **_of_set("real_authors", frozenset({"utility_sets"})),
    **_of_set("world_facts", frozenset({"utility_sets"})),
    **_of_set("holdout", frozenset({"holdout"})),
    **_membership(),
    **_fluency(),
    **_muse(),
    **_choices(),
    **_probes(),
    "forget_quality": MetricInfo(
        "p-value that truth ratios on the forget set are those of the retrained model",
        "maximize",
        (0.0, 1.0),
        EXAMPLE_BENCHMARKS,
        frozenset({"retrained", "perturbed"}),
    ),
    "forget_quality_log10": MetricInfo(
        "log10 of forget_quality",
        "maximize",
        (-INFINITY, 0.0),
        EXAMPLE_BENCHMARKS,
        frozenset({"retrained", "perturbed"}),
    ),
    "model_utility": MetricInfo(
        "harmonic mean of probability, ROUGE-L and truth ratio over the sets to be retained",
        "maximize",
        (0.0, 1.0),
        EXAMPLE_BENCHMARKS,
    ),
    "mem": MetricInfo(
        "harmonic mean of one minus each measure of memory, as in the paper",
        "maximize",
        (0.0, 1.0),
        EXAMPLE_BENCHMARKS,
    ),
}
