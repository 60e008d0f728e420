"""The only seam to DeepSpeed: ZeRO-3 training, with a reset that makes a warm trial equal to a cold one."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import EngineSettings, TrialSettings
from trainables.data.collate import TokenBatch
from trainables.engine.cuda_graph_decoding import StaticSteps
from trainables.engine.deepspeed_setup import collect_new_garbage, deepspeed_config
from trainables.engine.optimizer import TrialOptimizer, configure
from trainables.engine.policy import Policy, load_causal_lm
from trainables.engine.trained_parameters import (
    choose_trained,
    fresh_adapter,
    is_adapter,
    merged,
    plain_name,
    set_scale,
)
from trainables.losses.head_plan import HeadOutput, HeadPlan

Weights = Literal["policy", "pristine"]
"""The model as trained so far, or as it was before unlearning."""

GATHER_ELEMENTS = 64 * 1024**2
"""Elements gathered by one collective; they bound the extra memory (256 MiB in float32)."""


class Engine:
    """A sharded policy with its optimizer, and the pristine shards that every trial starts from.

    Args:
        folder: Model folder or hub id whose weights are loaded.
        model: Precision, attention and loading switches.
        tokenizer: Tokenizer of the model.
        trial: Settings whose `lora`, `trained` and `deepspeed` blocks all trials of this engine share.

    Raises:
        UserError: The model has no parameter or layer with a name that is to be trained.

    Ranks: all.
    """

    def __init__(
        self, folder: str, model: ModelSettings, tokenizer: PreTrainedTokenizerBase, trial: TrialSettings
    ) -> None:
        import deepspeed

        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
        self.tokenizer = tokenizer
        self._model_settings = model
        causal_lm = load_causal_lm(folder, self._model_settings)
        self.hf_config = causal_lm.config
        self.generation_config = causal_lm.generation_config
        # The plain copy is loaded in the same way, since buffers that no checkpoint holds (rotary
        # frequencies) are made by the constructor.
        self._mirror: PreTrainedModel | None = None
        self.captured_steps: StaticSteps | None = None
        """Captured decode steps of the plain copy, kept from one batch to the next."""
        choose_trained(causal_lm, trial)
        policy = Policy(causal_lm)
        names = [name for name, _ in policy.named_parameters()]
        trained = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
        config = deepspeed_config(model.dtype, trial.deepspeed, trained)
        # `initialize` alone would move the whole model to the device before sharding it; `zero.Init` shards
        # each tensor as soon as it arrives there.
        for buffer in policy.buffers():
            buffer.data = buffer.data.to(self.device)
        deepspeed.zero.Init(module=policy, config_dict_or_path=config, dtype=getattr(torch, model.dtype))
        optimizer = TrialOptimizer(parameter for parameter in policy.parameters() if parameter.requires_grad)
        self._deepspeed, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=config)
        parameters = dict(self._deepspeed.module.named_parameters())
        self._parameters: dict[str, Any] = {
            plain_name(name.removeprefix("model.")): parameters[name] for name in names
        }
        # Frozen parameters never change, so their shards serve as pristine ones without a copy.
        self._pristine = {
            name: parameter.ds_tensor.detach().clone() if parameter.requires_grad else parameter.ds_tensor
            for name, parameter in self._parameters.items()
        }
        self._lora = trial.lora
        self._reference_head: list[Tensor | None] = []
        self.folder = folder

    # Weights

    def load(self, folder: str) -> None:
        """Load the pristine weights from `folder`, a model of the engine's shape. Ranks: all."""
        source = dict(load_causal_lm(folder, self._model_settings).named_parameters())
        for name in self._pristine:
            if not is_adapter(name):
                self._set_pristine(name, source[name].detach())
        self._reference_head = []
        self.folder = folder

    def _set_pristine(self, name: str, whole: Tensor) -> None:
        """Copy this rank's part of a whole tensor into the pristine shard."""
        # ZeRO-3 pads each flat tensor to a multiple of the world size: the last shard may be partly padding.
        shard, flat = self._pristine[name], whole.flatten()
        mine = flat[self.rank * shard.numel() : (self.rank + 1) * shard.numel()]
        shard.zero_()
        shard[: mine.numel()].copy_(mine)

    def reset(self, trial: TrialSettings) -> None:
        """Start a trial: pristine weights, empty optimizer, the trial's hyperparameters. Ranks: all.

        Writing the float32 master alone would leave the working shard unchanged until the next step, and
        AdamW's step counters would keep the last trial's bias correction: all three are set. Gradients are
        cleared too: where a method ends the forward pass early, DeepSpeed would step on an earlier trial's
        gradients above.
        """
        from deepspeed.utils import safe_set_local_fp32_param

        self._release_gathered()
        collect_new_garbage()
        self._lora = trial.lora
        set_scale(self._deepspeed.module.modules(), trial.lora)
        for name, parameter in self._trained.items():
            if is_adapter(name):
                self._set_pristine(name, fresh_adapter(name, parameter.ds_shape, trial.seed))
            parameter.ds_tensor.data.copy_(self._pristine[name])
            safe_set_local_fp32_param(parameter, self._pristine[name].float())
        zero = self._deepspeed.optimizer
        for state in zero.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
        zero.grad_partitions_flat_buffer.zero_()
        configure(zero.optimizer.param_groups, trial.optimizer)
        zero.clip_grad = trial.optimizer.gradient_clip
        self._checkpoint_activations(trial.engine)
        self._deepspeed.train()

    def _checkpoint_activations(self, settings: EngineSettings) -> None:
        model = self._deepspeed.module.model
        if settings.activation_checkpointing:
            # The reentrant form: the other form compares shapes, which ZeRO-3 changes until the
            # recomputation.
            model.gradient_checkpointing_enable({"use_reentrant": True})
            model.enable_input_require_grads()
        elif model.is_activation_checkpointing:
            model.gradient_checkpointing_disable()
            model.disable_input_require_grads()

    @property
    def _trained(self) -> dict[str, Any]:
        """Trained (not frozen) parameters by name."""
        return {name: parameter for name, parameter in self._parameters.items() if parameter.requires_grad}

    def shards(self, weights: Weights = "policy") -> dict[str, Tensor]:
        """Return this rank's flat shards by parameter name: `policy` (as trained so far) or `pristine`."""
        return (
            self._pristine
            if weights == "pristine"
            else {name: parameter.ds_tensor for name, parameter in self._parameters.items()}
        )

    def full_tensors(self, weights: Weights = "policy") -> Iterator[tuple[str, Tensor]]:
        """Yield whole tensors of the plain model, adapters merged, a bounded number of elements at a time.

        Ranks: all; consume it to its end.
        """
        shards = self.shards(weights)
        adapters: dict[str, Tensor] = {}
        if weights == "policy":  # pristine adapters have a product of zero
            adapters = {
                name: tensor.clone()
                for name, tensor in self._gather([name for name in shards if is_adapter(name)], shards)
            }
        for name, tensor in self._gather([name for name in shards if not is_adapter(name)], shards):
            yield name, merged(name, tensor, adapters, self._lora)

    def _gather(self, names: Sequence[str], shards: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        bundle: list[str] = []
        elements = 0
        for position, name in enumerate(names):
            bundle.append(name)
            elements += shards[name].numel() * self.world_size
            if elements >= GATHER_ELEMENTS or position == len(names) - 1:
                yield from self._gather_bundle(bundle, shards)
                bundle, elements = [], 0

    def _gather_bundle(
        self, names: Sequence[str], shards: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        mine = torch.cat([shards[name].detach().flatten() for name in names])
        everyone = torch.empty(self.world_size * mine.numel(), dtype=mine.dtype, device=mine.device)
        dist.all_gather_into_tensor(everyone, mine)  # all ranks must reach this
        by_rank = everyone.view(self.world_size, -1)
        start = 0
        for name in names:
            size, parameter = shards[name].numel(), self._parameters[name]
            flat = by_rank[:, start : start + size].reshape(-1)[: parameter.ds_numel]
            yield name, flat.view(parameter.ds_shape)
            start += size

    def plain_model(self, weights: Weights = "policy") -> PreTrainedModel:
        """Return this rank's unsharded copy, filled with the policy or pristine weights. Ranks: all."""
        if self._mirror is None:
            mirror: Any = load_causal_lm(self.folder, self._model_settings)
            self._mirror = mirror.to(self.device).eval().requires_grad_(False)
        assert self._mirror is not None
        target = dict(self._mirror.named_parameters())
        for name, tensor in self.full_tensors(weights):
            target[name].copy_(tensor)
        return self._mirror

    def save(self, folder: Path) -> None:
        """Write the policy as a Hugging Face folder. Ranks: all; rank 0 writes, from its host memory."""
        whole = {}
        for name, tensor in self.full_tensors("policy"):
            if self.rank == 0:
                whole[name] = tensor.to("cpu", copy=True)
        if self.rank == 0:
            model = self._deepspeed.module.model
            # In `state_dict` sharded parameters are empty, but buffers are whole.
            saved = model.state_dict().keys()
            saved_buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
            folder.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(folder, state_dict=saved_buffers | whole, safe_serialization=True)
            self.tokenizer.save_pretrained(folder)
        dist.barrier()  # no rank may read the folder before it is complete

    def digest(self) -> str:
        """Return the sha256 of the policy's whole weights; equal digests mean equal bits. Ranks: all."""
        digest = hashlib.sha256()
        for name, tensor in self.full_tensors("policy"):
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()

    # Checkpoints

    def shard_sizes(self) -> list[int]:
        """Return the elements of each flat master shard, padding included; the same on every rank."""
        return [master.numel() for master in self._deepspeed.optimizer.fp32_partitioned_groups_flat]

    def training_state(self) -> dict[str, Tensor]:
        """Return this rank's master weights, optimizer state and random state, not copied.

        Call it between two steps, after the first one: then the working weights are the rounded master
        weights, and gradients are empty.

        Raises:
            RuntimeError: DeepSpeed keeps the optimizer state where it cannot be read.
        """
        zero = self._deepspeed.optimizer
        state = {"random": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["random/device"] = torch.cuda.get_rng_state(self.device)
        for number, master in enumerate(zero.fp32_partitioned_groups_flat):
            moments = zero.optimizer.state.get(master)
            if zero.swap_optimizer or not moments:
                raise RuntimeError("trial.deepspeed swaps the optimizer state, or shares it between devices")
            state[f"{number}/weights"] = master.detach()
            state |= {f"{number}/{key}": value for key, value in moments.items()}
        return state

    def restore(self, state: Mapping[str, Tensor], *, only_weights: bool = False) -> None:
        """Restore a `training_state`, or its weights alone, right after `reset`. Ranks: all."""
        from deepspeed.utils import safe_get_local_fp32_param

        self._release_gathered()
        zero = self._deepspeed.optimizer
        for number, master in enumerate(zero.fp32_partitioned_groups_flat):
            master.data.copy_(state[f"{number}/weights"])
            moments = zero.optimizer.state[master]
            kept = (
                []
                if only_weights
                else [name for name in state if name.startswith(f"{number}/") and name != f"{number}/weights"]
            )
            for name in kept:
                key, value = name.partition("/")[2], state[name]
                if key in moments:
                    moments[key].copy_(value)
                else:
                    # The optimizer creates its state at the first step; a fresh engine has none yet.
                    moments[key] = value.to(master.device, copy=True)
        for parameter in self._trained.values():
            parameter.ds_tensor.data.copy_(safe_get_local_fp32_param(parameter))
        torch.set_rng_state(state["random"].clone())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random/device"].clone(), self.device)

    def _release_gathered(self) -> None:
        """Drop whole parameters that ZeRO-3 has gathered. Ranks: all.

        DeepSpeed's own `empty_partition_cache` also runs the garbage collector, for a third of a second.
        """
        self._deepspeed.optimizer.empty_partition_cache()

    def resident_parameter_bytes(self) -> int:
        """Return the bytes of weights that this rank holds between steps: about 1/world_size of the model."""
        return sum(
            parameter.ds_tensor.numel() * parameter.ds_tensor.element_size()
            + parameter.data.numel() * parameter.element_size()
            for parameter in self._parameters.values()
        )

    # Training

    def backward(self, batch: TokenBatch, plan: HeadPlan) -> HeadOutput:
        """Run forward and backward; gradients add up until `step`. Ranks: all, equally often."""
        batch = batch.to(self.device)
        output: HeadOutput
        loss, output = self._deepspeed(lambda policy: policy.loss(batch, plan))
        # DeepSpeed averages gradients over ranks, but the plan's coefficients already divide by global
        # counts: the factor turns the average back into the sum.
        self._deepspeed.backward(loss * self.world_size)
        return output

    def step(self, learning_rate: float) -> float:
        """Take one optimizer step; returns the global gradient norm before clipping. Ranks: all."""
        for group in self._deepspeed.optimizer.optimizer.param_groups:
            group["lr"] = learning_rate
        self._deepspeed.step()
        return float(self._deepspeed.get_global_grad_norm())

    @contextmanager
    def lockstep_module(self, weights: Weights = "policy") -> Iterator[Any]:
        """Open the sharded model in evaluation mode, with the policy's or the original weights.

        Ranks: all, equally many calls of the module.
        """
        # ZeRO-3 may still hold gathered parameters, and would read them in place of the new shards.
        self._release_gathered()
        kept = (
            {name: parameter.ds_tensor.detach().clone() for name, parameter in self._trained.items()}
            if weights == "pristine"
            else {}
        )
        for name in kept:
            self._parameters[name].ds_tensor.data.copy_(self._pristine[name])
        self._deepspeed.eval()
        try:
            with torch.no_grad():
                yield self._deepspeed
        finally:
            self._release_gathered()
            for name, shard in kept.items():
                self._parameters[name].ds_tensor.data.copy_(shard)
            self._deepspeed.train()

    def with_reference(self, batch: TokenBatch, plan: HeadPlan) -> HeadPlan:
        """Add the original model's hidden states and head, or its activations, at the answer rows to a plan.

        The pristine shards, which every lane keeps, replace the policy's for one forward pass: no second
        engine is needed.

        Ranks: all, equally often.
        """
        batch = batch.to(self.device)
        with self.lockstep_module("pristine") as module:
            hidden_NH = module(lambda policy: policy.compared(batch, plan))
        if plan.steering is not None:
            return replace(plan, reference=(hidden_NH, hidden_NH.new_empty(0)))
        # The head is gathered once per pristine model, not once per step.
        if not self._reference_head:
            head = self._deepspeed.module.head
            for part in (head.weight, head.bias):
                names = [name for name, parameter in self._parameters.items() if parameter is part]
                self._reference_head += (
                    [tensor for _, tensor in self._gather_bundle(names, self._pristine)] if names else [None]
                )
        weight_VH, bias_V = self._reference_head
        assert weight_VH is not None
        return replace(plan, reference=(hidden_NH, weight_VH), reference_bias_V=bias_V)

    # Collectives

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each value over ranks, in float64. Ranks: all."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the items of every rank, in the order of ranks. Ranks: all."""
        everyone: list[list[Any]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(everyone, items)
        return [item for part in everyone for item in part]
