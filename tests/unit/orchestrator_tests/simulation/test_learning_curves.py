import numpy as np
import pytest
from scipy.special import expit

from orchestrator.pareto.dominance import hypervolume
from orchestrator.simulation.learning_curves import (
    METRICS,
    LearningCurves,
    features,
    held_out_rank_correlations,
    logits_of,
)
from orchestrator.simulation.recording import MEASURED, packaged_recording
from search_spaces.settings.space import apply

RECORDING = packaged_recording()
FRACTIONS = [rung / RECORDING.rungs for rung in range(1, RECORDING.rungs + 1)]


@pytest.fixture(scope="module")
def curves():
    return LearningCurves(RECORDING)


def trial(position, **more):
    return apply(RECORDING.trial, {**RECORDING.trials[position].params, **more})


def recorded_true_mass(position):
    return [canonical + rephrased for canonical, rephrased, _, _ in RECORDING.trials[position].validation]


def test_held_out_trials_are_ranked_as_recorded():
    correlations = held_out_rank_correlations(RECORDING)
    assert correlations["forget_true_mass"] >= 0.8
    assert correlations["utility"] >= 0.8


def test_recorded_trial_is_simulated_about_as_it_was(curves):
    errors = []
    for position in range(0, len(RECORDING.trials), 10):
        simulated = [
            curves.of(trial(position)).metrics(frac, "validation")["validation/forget_true_mass"]
            for frac in FRACTIONS
        ]
        errors += list(np.abs(np.array(simulated) - recorded_true_mass(position)))
    assert np.median(errors) < 0.02


def test_best_front_of_recorded_settings_is_neither_better_nor_worse_than_recorded(curves):
    recorded, simulated = [], []
    for position, row in enumerate(RECORDING.trials):
        _, _, retained, coherence = np.array(row.validation).T
        recorded += list(
            zip(
                recorded_true_mass(position),
                -2 / (1 / retained + 1 / np.maximum(coherence, 1e-9)),
                strict=True,
            )
        )
        curve = curves.of(trial(position))
        at_rungs = [curve.metrics(frac, "validation") for frac in FRACTIONS]
        simulated += [
            (metrics["validation/forget_true_mass"], -metrics["validation/utility"]) for metrics in at_rungs
        ]
    assert hypervolume(simulated, (1.0, 0.0)) == pytest.approx(hypervolume(recorded, (1.0, 0.0)), abs=0.015)


def test_same_settings_have_the_same_curve(curves):
    one, other = curves.of(trial(3)), LearningCurves(RECORDING).of(trial(3))
    assert [one.metrics(0.5, part) for part in ("validation", "test")] == [
        other.metrics(0.5, part) for part in ("validation", "test")
    ]


def test_settings_that_are_not_active_change_nothing(curves):
    plain = next(position for position, row in enumerate(RECORDING.trials) if row.params["beliefs"] == "none")
    changed = trial(plain, **{"token_belief.temperature": 2.0})
    assert curves.of(changed).metrics(1.0, "test") == curves.of(trial(plain)).metrics(1.0, "test")


def test_another_seed_moves_a_curve_much_more_than_a_hair_in_its_settings(curves):
    def moved(**change):
        changes = [
            abs(curves.of(trial(position, **change)).logits - curves.of(trial(position)).logits)[-1]
            for position in range(40)
        ]
        return np.median(changes)

    def nudged():
        rate = "optimizer.learning_rate"
        changes = []
        for position in range(40):
            change = {rate: RECORDING.trials[position].params[rate] * 0.999}
            changes.append(
                abs(curves.of(trial(position, **change)).logits - curves.of(trial(position)).logits)[-1]
            )
        return np.median(changes)

    assert moved(seed=1) > 4 * nudged() > 0


@pytest.mark.parametrize("part", ["validation", "test"])
def test_metrics_keep_to_their_range_and_to_each_other(curves, part):
    for position in range(0, len(RECORDING.trials), 7):
        found = curves.of(trial(position, seed=5)).metrics(0.3, part)
        assert found.keys() == {f"{part}/{name}" for name in METRICS}
        assert all(0 <= value <= 1 for value in found.values())
        assert found[f"{part}/forget_true_mass"] == pytest.approx(
            found[f"{part}/forget_canonical_mass"] + found[f"{part}/forget_rephrased_mass"]
        )
        parts = found[f"{part}/retain_true_mass"], found[f"{part}/forget_coherence"]
        assert found[f"{part}/utility"] == pytest.approx(2 / sum(1 / value for value in parts))


def test_curve_starts_at_the_original_model(curves):
    original = RECORDING.baselines["original"]
    found = curves.of(trial(0)).metrics(1e-9, "validation")
    assert all(
        found[f"validation/{name}"] == pytest.approx(original[f"validation/{name}"], abs=1e-3)
        for name in MEASURED
    )


def test_logits_are_of_shares_that_can_be_anything_whatever_the_others_are():
    assert expit(logits_of([0.2, 0.3, 0.9, 0.6])) == pytest.approx([0.5, 0.4, 0.9, 0.6])


def test_features_put_ranges_on_their_own_scale_and_leave_inactive_keys_neutral():
    space = RECORDING.space
    middle = {
        "forget.method": "npo",
        "beliefs": "none",
        "optimizer.learning_rate": (1e-4 * 2e-3) ** 0.5,
        "retain.weight": 5.0,
    }
    assert features(space, middle) == pytest.approx([0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0])


def test_times_are_those_of_a_recorded_trial_with_the_same_beliefs(curves):
    for beliefs, times in RECORDING.seconds.items():
        position = next(
            position for position, row in enumerate(RECORDING.trials) if row.params["beliefs"] == beliefs
        )
        assert curves.of(trial(position)).seconds in times
    assert all(times.beliefs > 0 for times in RECORDING.seconds["sequence"])
