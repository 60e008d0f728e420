"""The policy: one module that holds a Hugging Face causal LM and its head fused with the loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from search_spaces.settings.model_settings import ModelSettings
from search_spaces.user_errors import UserError
from trainables.data.collate import TokenBatch
from trainables.engine.early_exit import ends_after
from trainables.engine.vocabulary_moments import target_moments
from trainables.losses.fused_head import FusedHead, target_logp
from trainables.losses.head_plan import HeadOutput, HeadPlan
from trainables.losses.steering import steer

Result = TypeVar("Result")


@dataclass(frozen=True)
class AnswerTargets:
    """Request to the head for the log-probability of each target and the argmax token."""

    targets_N: Tensor
    """Target tokens."""
    chunk: int | None
    """Rows whose logits exist at a time; None: chosen by the device."""
    moments: bool = False
    """Request also mean and standard deviation of the log-probability over the vocabulary."""


class LossHead(FusedHead):
    """The fused head with two more uses that need no gradient.

    All uses go through `forward`, since ZeRO-3 gathers the weight only around it.
    """

    def forward(self, hidden_NH: Tensor, request: HeadPlan | AnswerTargets | None) -> Any:
        """Serve one request on hidden states `[N, H]`.

        Returns:
            For a plan: the loss and a `HeadOutput`. For `AnswerTargets`: `(logp_N, argmax_N)`, followed by
            the moments if requested. For None: the logits `[N, V]` in float32.
        """
        if request is None:
            return nn.functional.linear(hidden_NH, self.weight, self.bias).float()
        if isinstance(request, AnswerTargets):
            measure = target_moments if request.moments else target_logp
            return measure(hidden_NH, self.weight, self.bias, request.targets_N, request.chunk)
        # Returned as a plain tuple: DeepSpeed finds the tensors that it hooks in tuples, not in dataclasses.
        output: HeadOutput = super().forward(hidden_NH, request)
        return output.loss, output


class Policy(nn.Module):
    """Backbone and fused head of one causal LM.

    Both live in one module because DeepSpeed gathers a partitioned parameter around the forward of the module
    that owns it; a loss computed outside would see an empty head. The head's weight is the same Parameter
    object as the model's own output embedding. The same class wraps the unsharded copy used for evaluation,
    so training and evaluation run the same code.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        output = model.get_output_embeddings()
        if not isinstance(output, nn.Linear):
            raise UserError(
                "this model has no linear output head",
                key="model.target",
                value=type(model).__name__,
                remedy="use a causal LM with a plain lm_head",
            )
        self.model = model
        self.head = LossHead(output.weight, output.bias)

    def forward(self, work: Callable[["Policy"], Result]) -> Result:
        """Run `work` inside this module's forward, seen by ZeRO-3 as one pass. Ranks: all, equally often."""
        return work(self)

    def answer_hidden(self, batch: TokenBatch) -> Tensor:
        """Return the hidden states at the answer rows, `[N, H]`."""
        # The decoder alone, not the causal LM: its forward would compute the logits of every token.
        decoder = self.model.get_decoder()
        hidden_BLH: Tensor = decoder(
            input_ids=batch.input_ids_BL, attention_mask=batch.attention_mask_BL, use_cache=False
        ).last_hidden_state
        return hidden_BLH.flatten(0, 1)[batch.rows_N]

    def activations(self, batch: TokenBatch, layer: int) -> Tensor:
        """Return a decoder layer's output at the answer rows, `[N, H]`; the forward pass ends there."""
        decoder = self.model.get_decoder()
        with ends_after(decoder, layer) as outputs:
            decoder(input_ids=batch.input_ids_BL, attention_mask=batch.attention_mask_BL, use_cache=False)
        (output_BLH,) = outputs
        return output_BLH.flatten(0, 1)[batch.rows_N]

    def compared(self, batch: TokenBatch, plan: HeadPlan) -> Tensor:
        """Return what a plan's loss compares, `[N, H]`: last hidden states or activations at answer rows."""
        return (
            self.answer_hidden(batch)
            if plan.steering is None
            else self.activations(batch, plan.steering.layer)
        )

    def loss(self, batch: TokenBatch, plan: HeadPlan) -> tuple[Tensor, HeadOutput]:
        """Compute the loss of one packed micro-batch; returns it with the statistics of the plan's terms."""
        if plan.steering is None:
            loss, output = self.head(self.answer_hidden(batch), plan)
            return loss, output
        output = steer(self.compared(batch, plan), plan)
        return output.loss, output

    def answer_stats(self, batch: TokenBatch, chunk: int | None) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each answer token in nats, and the argmax token, both `[N]`."""
        targets = AnswerTargets(batch.targets_N, chunk)
        stats: tuple[Tensor, Tensor] = self.head(self.answer_hidden(batch), targets)
        return stats

    def answer_moments(self, batch: TokenBatch, chunk: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `answer_stats`, and mean and standard deviation in nats over the vocabulary, all `[N]`."""
        targets = AnswerTargets(batch.targets_N, chunk, moments=True)
        moments: tuple[Tensor, Tensor, Tensor, Tensor] = self.head(self.answer_hidden(batch), targets)
        return moments


def load_causal_lm(folder: str, settings: ModelSettings) -> PreTrainedModel:
    """Load a causal LM with its weights on the CPU.

    Args:
        folder: A local folder or a hub id.
        settings: Precision, attention, revision, and whether code that comes with the model may run.

    Raises:
        UserError: No model can be loaded, or its logits are not a plain product of hidden states and head.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attention,
            trust_remote_code=settings.trust_remote_code,
            revision=settings.revision,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"no model could be loaded: {error}",
            key="model",
            value=folder,
            remedy="give a folder with config.json and safetensors weights, or a hub id",
        ) from error
    check_plain_head(model)
    return model


def check_plain_head(model: PreTrainedModel) -> None:
    """Refuse families that scale or cap their logits after the head (Gemma, Granite, Cohere).

    The fused head computes a plain product, and its losses would be wrong for them.

    Raises:
        UserError: The product of hidden states and head differs from the model's own logits.
    """
    # Any token ids do; the remainder keeps them inside a tiny test vocabulary.
    ids = torch.arange(1, 9).unsqueeze(0) % int(model.config.get_text_config().vocab_size)
    output: Any = model.get_output_embeddings()
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits.float()
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        ours = torch.nn.functional.linear(hidden, output.weight, output.bias).float()
    # Relative to the largest logit: a scale of 1.05 must exceed it, the rounding of two kernels must not.
    tolerance = 2e-2 if ours.dtype != hidden.dtype else 1e-4
    if float((expected - ours).abs().max()) > tolerance * float(expected.abs().max()):
        raise UserError(
            "this model scales or caps its logits after the head, which the fused head does not do",
            key="model.target",
            value=type(model).__name__,
            remedy="use a family with a plain head (Llama, Mistral, Qwen, Phi, OLMo, ...)",
        )
