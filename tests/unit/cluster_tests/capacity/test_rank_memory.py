import pytest

from cluster.capacity import rank_memory
from cluster.capacity.model_shapes import KNOWN
from cluster.capacity.rank_memory import Lengths, memory_of_rank
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import TrialSettings

SHAPE = KNOWN["llama-3.1-8b"]


def predicted(workers=8, dtype="bfloat16", shape=SHAPE, gpu=True, **trial):
    model = ModelSettings(target="a/model", dtype=dtype)
    return memory_of_rank(shape, model, TrialSettings(**trial), Lengths(256, 60), workers, gpu=gpu)


def test_resident_parts_are_shards_in_their_precision():
    parts = predicted(workers=8).phases["optimizer step"]
    shard = SHAPE.shard(8)
    assert (parts["weights"], parts["gradients"], parts["pristine weights"]) == (2 * shard,) * 3
    assert (parts["master weights"], parts["Adam moments"]) == (4 * shard, 8 * shard)
    assert parts["full copy"] == 2 * SHAPE.parameters
    assert parts["gradient bucket"] == 2 * 500_000_000


def test_float32_weights_take_twice_as_much_and_masters_the_same():
    half, full = (predicted(dtype=dtype).phases["optimizer step"] for dtype in ("bfloat16", "float32"))
    assert full["weights"] == 2 * half["weights"]
    assert full["master weights"] == half["master weights"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("beliefs", ["none", "token+sequence"])
def test_more_workers_never_need_more_memory_each(dtype, beliefs):
    # From two on: a single rank needs no gathered copies.
    peaks = [predicted(workers, dtype, beliefs=beliefs).peak for workers in range(2, 65)]
    assert peaks == sorted(peaks, reverse=True)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all():
    plain = predicted().phases["forward and backward"]["activations"]
    kept = predicted(engine={"activation_checkpointing": True}).phases["forward and backward"]["activations"]
    inputs = 2 * 4 * 256 * SHAPE.hidden * 2  # 4 pairs of 256 tokens, two bytes each
    assert kept == plain // SHAPE.layers + SHAPE.layers * inputs


def test_micro_batch_and_beliefs_scale_activations():
    one, four = (
        predicted(optimizer={"micro_batch": size}).phases["forward and backward"]["activations"]
        for size in (1, 4)
    )
    assert four == 4 * one
    belief = predicted(
        beliefs="sequence",
        optimizer={"micro_batch": 1},
        sequence_belief={"num_samples": 3, "max_new_tokens": 10},
    )
    assert belief.phases["forward and backward"]["activations"] == one * 5 // 2


def test_preferred_answers_are_one_more_sequence_and_distillation_needs_the_original():
    plain, preferring = (
        predicted(forget={"method": method}).phases["forward and backward"] for method in ("npo", "dpo")
    )
    assert 2 * preferring["activations"] == 3 * plain["activations"]
    assert (
        predicted(forget={"method": "undial"}).phases["forward and backward"]["reference head"]
        == 2 * SHAPE.head_elements
    )


def test_head_chunk_is_chunk_times_vocabulary():
    parts = predicted(engine={"head_chunk_tokens": 64}).phases["forward and backward"]
    assert parts["head chunk"] == 64 * 128_256 * 14


def test_kl_keeps_the_original_head_and_swaps_shards():
    parts = predicted(retain={"loss": "kl"}).phases["forward and backward"]
    assert parts["reference head"] == 2 * SHAPE.head_elements
    assert parts["original's shards in place"] == 2 * SHAPE.shard(8)


def test_steering_swaps_shards_for_the_original_but_keeps_no_head_of_it():
    trial = {"forget": {"method": "rmu"}, "retain": {"loss": "activations"}}
    parts = predicted(**trial).phases["forward and backward"]
    assert parts["original's shards in place"] == parts["weights"]
    assert "reference head" not in parts


def test_start_holds_one_tensor_on_a_gpu_and_the_whole_model_in_a_process():
    assert predicted(workers=64).phases["start"]["model before it is cut"] == 2 * SHAPE.largest_tensor
    assert predicted(workers=64, gpu=False).phases["start"]["model before it is cut"] == 2 * SHAPE.parameters


def test_lockstep_needs_no_full_copy():
    assert "full copy" not in predicted(engine={"inference": "lockstep"}).phases["optimizer step"]
    assert "full copy" in predicted().phases["optimizer step"]


def test_saving_puts_the_model_together_in_host_memory():
    assert "whole model for the file" not in predicted().phases["saving"]
    assert predicted(gpu=False).phases["saving"]["whole model for the file"] == 2 * SHAPE.parameters


def test_adapters_are_all_that_has_gradients_masters_and_moments():
    memory = predicted(lora={"rank": 16})
    parts, training = memory.phases["optimizer step"], memory.phases["forward and backward"]
    adapters = (
        sum(
            16 * (out + into)
            for sides in SHAPE.layer_tensors.values()
            if len(sides) == 2
            for out, into in [sides]
        )
        * SHAPE.layers
    )
    # 41,943,040 as peft counts them for this model.
    assert adapters == 41_943_040
    for part, size in {"gradients": 2, "master weights": 4, "Adam moments": 8, "pristine weights": 2}.items():
        assert parts[part] == adapters // 8 * size
    assert parts["weights"] == 2 * (SHAPE.shard(8) + adapters // 8)
    assert "head gradient" not in training


def test_frozen_parameters_have_no_gradients():
    parts = predicted(trained=[r"model\.layers\.[567]\.mlp\.down_proj\.weight"]).phases["optimizer step"]
    assert parts["Adam moments"] == 8 * 3 * SHAPE.hidden * SHAPE.intermediate // 8
    assert (
        predicted(trained=["lm_head.weight"]).phases["forward and backward"]["head gradient"]
        == 6 * SHAPE.head_elements
    )


def test_patterns_that_name_nothing_of_a_llama_promise_nothing():
    assert predicted(trained=["transformer.h.0"]).peak == predicted().peak


def test_deepspeed_block_changes_its_buckets():
    trial = {"deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000}}}
    assert predicted(**trial).phases["optimizer step"]["gradient bucket"] == 2000


def test_peak_is_that_of_the_worst_phase():
    memory = predicted()
    assert (
        memory.peak
        == max(sum(parts.values()) for parts in memory.phases.values())
        == sum(memory.parts.values())
    )


def test_cpu_counts_only_what_is_touched():
    small = KNOWN["llama-3.2-1b"].__class__("small", 64, 128, 2, 4, 4, 16, 500, False)
    memory = predicted(workers=2, dtype="float32", shape=small, gpu=False)
    assert memory.parts["gradient bucket"] == 4 * small.parameters


def test_bundles_are_those_of_the_engine():
    from trainables.engine.zero3_engine import GATHER_ELEMENTS

    assert rank_memory.GATHER_ELEMENTS == GATHER_ELEMENTS
