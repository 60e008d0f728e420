"""The engine's interface over ordinary autograd: no process group, no DeepSpeed. Ranks are threads, and each
holds the whole model."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from search_spaces.settings.trial_settings import TrialSettings
from trainables.data.encoding import Encoded
from trainables.engine.optimizer import TrialOptimizer, configure
from trainables.engine.policy import Policy


def random_llama(seed=0, *, vocabulary=24, sharpness=40.0, tied=False):
    """A float64 Llama of random weights whose larger head makes some tokens near certain."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.25,
    )
    model = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpness * 0.25)
    return model


def copied(module, seen=None):
    """A copy of a model with weights of its own.

    It shares the model's configuration, which `copy.deepcopy` copies again in every layer: that takes longer
    than many a trial of these tests.
    """
    seen = {} if seen is None else seen
    if module is None:
        return None
    twin = module.__new__(type(module))
    twin.__dict__.update(
        (name, copy.copy(value) if isinstance(value, dict | list | set) else value)
        for name, value in vars(module).items()
    )
    for name, child in module._modules.items():
        twin._modules[name] = copied(child, seen)
    for tensors in (twin._parameters, twin._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and id(tensor) not in seen:  # tied weights stay tied
                seen[id(tensor)] = copy.deepcopy(tensor)
            tensors[name] = seen.get(id(tensor))
    return twin


def random_examples(name, lengths, *, seed, vocabulary=24):
    """Examples of the given (prompt, answer) lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Encoded(
            f"{name}/{index}",
            tuple(torch.randint(1, vocabulary, (prompt + answer,), generator=generator).tolist()),
            prompt,
        )
        for index, (prompt, answer) in enumerate(lengths)
    ]


def half_memorised(model, examples):
    """The examples with every other answer token replaced by the one that the model is surest of."""
    changed = []
    for item in examples:
        ids = list(item.ids)
        for position in range(item.prompt_length, len(ids), 2):
            with torch.no_grad():
                ids[position] = int(model(input_ids=torch.tensor([ids[:position]])).logits[0, -1].argmax())
        changed.append(replace(item, ids=tuple(ids)))
    return changed


def answer_logits(model, item):
    """Logits that predict the answer of one unpadded sequence, and the answer."""
    logits = model(input_ids=torch.tensor([item.ids]), use_cache=False).logits[0]
    return logits[item.prompt_length - 1 : -1], torch.tensor(item.answer)


def answer_logps(model, item):
    """Log-probability of each answer token of one response."""
    with torch.no_grad():
        logits, targets = answer_logits(model, item)
        return tuple(logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1).tolist())


class Ranks:
    """Where the threads of one world meet."""

    def __init__(self, world_size):
        self.world_size = world_size
        self._barrier = threading.Barrier(world_size, timeout=30)
        self._shelf: list[Any] = [None] * world_size

    def exchange(self, rank, value):
        """The values of all ranks."""
        self._shelf[rank] = value
        self._barrier.wait()
        values = list(self._shelf)
        self._barrier.wait()
        return values

    def abort(self):
        """Let nobody wait for a rank that failed."""
        self._barrier.abort()


class PlainEngine:
    """One rank. `events` lists what was asked of it, to compare ranks."""

    def __init__(self, model, tokenizer=None, ranks=None, rank=0):
        self._ranks = ranks or Ranks(1)
        self.rank, self.world_size, self.device = rank, self._ranks.world_size, torch.device("cpu")
        self.tokenizer, self.hf_config = tokenizer, model.config
        self.models = {"policy": copied(model), "pristine": copied(model)}
        self.policy = Policy(self.models["policy"])
        self.events: list[Any] = []
        self.rates: list[float] = []

    def reset(self, trial: TrialSettings):
        self.events.append("reset")
        self.models["policy"].load_state_dict(self.models["pristine"].state_dict())
        self._optimizer = TrialOptimizer(self.policy.parameters())
        configure(self._optimizer.param_groups, trial.optimizer)
        self._clip = trial.optimizer.gradient_clip or float("inf")

    def backward(self, batch, plan):
        self.events.append("backward")
        loss, output = self.policy(lambda policy: policy.loss(batch, plan))
        loss.backward()
        return output

    def step(self, learning_rate):
        self.events.append("step")
        self.rates.append(learning_rate)
        parameters: list[Any] = list(self.policy.parameters())
        # As under ZeRO-3, what no gradient reached has one of zero.
        zeros = (
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for parameter in parameters
        )
        everyone = self._ranks.exchange(self.rank, list(zeros))
        for parameter, *gradients in zip(parameters, *everyone, strict=True):
            parameter.grad = sum(gradients)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip)
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def shard_sizes(self):
        return [sum(parameter.numel() for parameter in self.policy.parameters())]

    def training_state(self):
        state = {f"weights/{name}": parameter.detach() for name, parameter in self.policy.named_parameters()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            state |= {f"{number}/{key}": value for key, value in moments.items()}
        return state

    def restore(self, state, only_weights=False):
        self.events.append("restore")
        for name, parameter in self.policy.named_parameters():
            parameter.data.copy_(state[f"weights/{name}"])
        if only_weights:
            return
        moments = {}
        for name in (name for name in state if not name.startswith("weights/")):
            number, _, key = name.partition("/")
            moments.setdefault(int(number), {})[key] = state[name].clone()
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})

    def with_reference(self, batch, plan):
        self.events.append("reference")
        pristine = Policy(self.models["pristine"])
        with torch.no_grad():
            return replace(plan, reference=(pristine.compared(batch, plan), pristine.head.weight))

    def plain_model(self, weights="policy"):
        return copied(self.models[weights])

    @contextmanager
    def lockstep_module(self, weights="policy"):
        module = Policy(self.models[weights])

        def call(work):
            # Stands for the gathers inside a sharded forward: a rank that makes fewer calls leaves the others
            # waiting.
            self._ranks.exchange(self.rank, "forward")
            self.events.append("forward")
            return module(work)

        with torch.no_grad():
            yield call

    def sum(self, values):
        return [sum(column) for column in zip(*self._ranks.exchange(self.rank, list(values)), strict=True)]

    def gather(self, items):
        return [item for part in self._ranks.exchange(self.rank, list(items)) for item in part]


def run_ranks(model, world_size, work, tokenizer=None):
    """Run `work(engine)` on every rank at once. Returns: results and engines by rank."""
    ranks = Ranks(world_size)
    engines = [PlainEngine(model, tokenizer, ranks, rank) for rank in range(world_size)]

    def rank_main(engine):
        try:
            return work(engine)
        except BaseException:
            ranks.abort()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(rank_main, engines)), engines
