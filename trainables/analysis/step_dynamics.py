"""`lethe dynamics`: the AKG decomposition of several losses on a model of a sweep.

It runs in one process, without Ray and without sharding.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from search_spaces.settings.trial_settings import TrialSettings
from trainables.analysis.learning_dynamics import (
    Change,
    actual_change,
    predicted_change,
    residual_mass,
    step_gradient,
)
from trainables.analysis.likelihood_bands import band_groups
from trainables.analysis.single_process import SingleProcessModel
from trainables.benchmarks.encoded_benchmark import load_encoded_benchmark
from trainables.data.collate import TokenBatch, collate
from trainables.data.encoding import Encoded, set_system_prompt
from trainables.engine.policy import Policy, load_causal_lm
from trainables.generation.inference import Inference, answer_logps, inference
from trainables.generation.sequence_beliefs import Belief, sample_responses
from trainables.jobs import DynamicsJob, read_measurement
from trainables.losses.methods import METHODS
from trainables.training.batch_packing import PackedBatches

RATES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Step sizes along the unit-norm gradient, which makes losses of different scales comparable."""
REPORTED_RATE = 1e-2
"""The step size of the reported changes."""
LARGEST_IN_FLOAT64 = 100_000_000
"""Parameters up to which the model is converted to float64, where rounding does not hide small steps."""
BELIEF_TOKENS = 20
"""Top tokens that count as belief in the residuals of losses without token beliefs."""


def run_dynamics(job: DynamicsJob, say: Callable[[str], None]) -> dict[str, Any]:
    """Predict and take one step for each loss.

    Args:
        job: The models, the data and the losses.
        say: Called with one line before each stage.

    Returns:
        `rates`, `told_rate`, `sizes` of the groups of probes, and `updates`: for each loss `method`,
        `beliefs`, `slopes` and `correlations` by rate, `residual_mass`, and per group of probes the means per
        response in nats of `predicted`, `actual`, `logit`, `softmax` (at `told_rate`), and `softmax_share`.
    """
    # Forward-mode derivatives exist for the eager form of attention only; bfloat16 would round the changes
    # away.
    settings = job.model.model_copy(update={"attention": "eager", "dtype": "float32"})
    tokenizer = AutoTokenizer.from_pretrained(
        job.folder, revision=job.model.revision, trust_remote_code=job.model.trust_remote_code
    )
    set_system_prompt(tokenizer, job.model.system_prompt)
    data = load_encoded_benchmark(job.data, tokenizer)
    policy_model, original_model = (
        _exact(load_causal_lm(folder, settings)) for folder in (job.folder, job.original_folder)
    )
    chosen = data.forget[: job.examples]
    say("searching likely answers of the original model")
    with inference(SingleProcessModel(original_model, tokenizer), job.trial.engine) as original:
        probes = band_groups(original, data, job.beams, job.examples) | {
            "unrelated": list(data.retain[: job.examples])
        }
    reference = (read_measurement(job.original) or {})["reference_logp_nats"]
    updates = []
    for method, beliefs in job.losses:
        say(f"one step of {method}, beliefs: {beliefs}")
        trial = job.trial.model_copy(
            update={
                "beliefs": beliefs,
                "forget": job.trial.forget.model_copy(update={"method": method}),
                # The effect of the forget loss is analysed by itself; a retain loss would add a step of its
                # own.
                "retain": job.trial.retain.model_copy(update={"loss": "none"}),
            }
        )
        with inference(SingleProcessModel(policy_model, tokenizer), trial.engine) as model:
            drawn = _draw(model, chosen, trial) if trial.sequence_beliefs else {}
        # The responses are drawn from the policy, but their reference log-probabilities come from the
        # original model.
        with inference(SingleProcessModel(original_model, tokenizer), trial.engine) as original:
            beliefs_of = {name: _beliefs(original, answers, trial) for name, answers in drawn.items()}
        packed_batches = PackedBatches(trial, data.forget, (), reference, beliefs=beliefs_of or None)
        updates.append(
            {"method": method, "beliefs": beliefs}
            | _update(Policy(policy_model), packed_batches, len(chosen), probes)
        )
    return {
        "rates": RATES,
        "told_rate": REPORTED_RATE,
        "sizes": {name: len(items) for name, items in probes.items()},
        "updates": updates,
    }


def _exact(model: Any) -> Any:
    # Above the limit float64 would not fit into memory, and the smallest steps show rounding.
    small = sum(parameter.numel() for parameter in model.parameters()) <= LARGEST_IN_FLOAT64
    return (model.double() if small else model).eval()


def _draw(model: Inference, chosen: Sequence[Encoded], trial: TrialSettings) -> dict[str, list[Encoded]]:
    """Sample responses of the policy to the chosen prompts once, from its current weights."""
    groups = sample_responses(model, chosen, trial.sequence_belief, f"{trial.seed}/0", at_most=len(chosen))
    return {
        item.id: [
            Encoded(item.id, item.ids[: item.prompt_length] + ids, item.prompt_length) for ids in responses
        ]
        for item, responses in zip(chosen, groups, strict=True)
    }


def _beliefs(original: Inference, answers: Sequence[Encoded], trial: TrialSettings) -> tuple[Belief, ...]:
    """Make sequence beliefs, with reference log-probabilities if the method needs them."""
    if not METHODS[trial.forget.method].needs_reference:
        return tuple(Belief(answer) for answer in answers)
    logps = answer_logps(original, answers, at_most=len(answers))
    return tuple(Belief(answer, logp) for answer, logp in zip(answers, logps, strict=True))


def _update(
    policy: Policy, packed_batches: PackedBatches, count: int, probes: dict[str, list[Encoded]]
) -> dict[str, Any]:
    """Take one update on the first `count` forget examples, and compute its effect on every group."""
    # -1: no retain partner.
    pairs = [(index, -1) for index in range(count)]
    batch, plan = packed_batches.micro_batch(pairs, pairs)
    gradient = step_gradient(policy, batch, plan)
    # The direction is normalised, so that one set of step sizes fits losses of any scale.
    size = torch.sqrt(sum((part.double() ** 2).sum() for part in gradient.values()))  # type: ignore[arg-type]
    unit = {name: part / size.to(part.dtype) for name, part in gradient.items()}
    batches = {name: collate(members, pad_id=0) for name, members in probes.items()}
    changes = {name: predicted_change(policy, unit, probe) for name, probe in batches.items()}
    actual = {
        rate: {name: actual_change(policy, unit, rate, probe) for name, probe in batches.items()}
        for rate in RATES
    }
    predicted_N = torch.cat([change.total_N for change in changes.values()]).double().numpy()
    slopes, correlations = {}, {}
    for rate in RATES:
        actual_N = torch.cat(list(actual[rate].values())).double().numpy()
        # The slope of a regression through the origin, of actual on predicted changes: 1 where first order is
        # exact.
        slopes[str(rate)] = float(rate * predicted_N @ actual_N / (rate**2 * predicted_N @ predicted_N))
        correlations[str(rate)] = float(np.corrcoef(predicted_N, actual_N)[0, 1])
    # A loss without token beliefs still has residual mass on the policy's top tokens; the weight is not used.
    believed = plan.token_belief or packed_batches.trial.token_belief.model_copy(
        update={"top_k": BELIEF_TOKENS, "weight": 0.0}
    )
    mass = residual_mass(policy, batch, plan, believed)
    groups = {name: _group(changes[name], actual[REPORTED_RATE][name], batches[name]) for name in batches}
    return {"slopes": slopes, "correlations": correlations, "residual_mass": asdict(mass), "groups": groups}


def _group(change: Change, actual_N: torch.Tensor, probe: TokenBatch) -> dict[str, float]:
    """Return means per response in nats, and the softmax term's share in the summed absolute change."""
    responses = probe.num_sequences
    logit, softmax = (
        float(part.sum()) * REPORTED_RATE / responses for part in (change.logit_N, change.softmax_N)
    )
    # Absolute values, since the two parts often have opposite signs and their sum may vanish.
    sizes = [float(part.abs().sum()) for part in (change.logit_N, change.softmax_N)]
    return {
        "predicted": logit + softmax,
        "actual": float(actual_N.sum()) / responses,
        "logit": logit,
        "softmax": softmax,
        "softmax_share": sizes[1] / sum(sizes) if sum(sizes) else 0.0,
    }
