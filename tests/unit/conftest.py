"""A model small enough to be made on the spot, behind the interface that metrics see; slow and plain on
purpose."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest


class TinyScorer:
    """One rank that scores with full forward passes, one sequence at a time. `calls` lists what was asked, to
    compare ranks."""

    def __init__(self, model, tokenizer, batch=4, rank=0, world_size=1, gather=None):
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        self.rank, self.world_size = rank, world_size
        self.gather = gather or list
        self.calls = []

    def logp(self, ids):
        """Log-probabilities after every token of one unpadded sequence, `[L, V]`."""
        import torch

        with torch.no_grad():
            return torch.log_softmax(self.model(input_ids=torch.tensor([list(ids)])).logits[0], -1)

    def answer_stats(self, batch):
        self.calls.append("answer_stats")
        logp = self._answer_logp(batch)
        return logp.gather(1, batch.targets_N.unsqueeze(1)).squeeze(1), logp.argmax(-1)

    def answer_moments(self, batch):
        self.calls.append("answer_moments")
        logp = self._answer_logp(batch)
        mean = (logp.exp() * logp).sum(-1)
        deviation = ((logp.exp() * logp**2).sum(-1) - mean**2).sqrt()
        return logp.gather(1, batch.targets_N.unsqueeze(1)).squeeze(1), logp.argmax(-1), mean, deviation

    def _answer_logp(self, batch):
        import torch

        assert batch.num_sequences <= self.batch
        with torch.no_grad():
            logits = self.model(
                input_ids=batch.input_ids_BL, attention_mask=batch.attention_mask_BL
            ).logits.flatten(0, 1)[batch.rows_N]
        return torch.log_softmax(logits, -1)

    def score_continuations(self, prompts, continuations):
        self.calls.append("score_continuations")
        scores = []
        for prompt, group in zip(prompts, continuations, strict=True):
            scores.append([])
            for ids in group:
                table = self.logp((*prompt, *ids))[len(prompt) - 1 : -1]
                scores[-1].append(sum(float(row[token]) for row, token in zip(table, ids, strict=True)))
        return scores

    def generate(self, prompts, max_new_tokens):
        from trainables.data.encoding import end_ids

        self.calls.append("generate")
        answers = []
        for prompt in prompts:
            ids = list(prompt)
            while len(ids) < len(prompt) + max_new_tokens and (
                len(ids) == len(prompt) or ids[-1] not in end_ids(self.tokenizer)
            ):
                ids.append(int(self.logp(ids)[-1].argmax()))
            answers.append([tuple(ids[len(prompt) :])])
        return answers


def run_ranks(model, tokenizer, world_size, work, batch=4):
    """Run `work(scorer)` on every rank at once, in threads. Returns: results and scorers by rank."""
    barrier = threading.Barrier(world_size, timeout=60)
    shelf, scorers = [None] * world_size, [None] * world_size

    def rank_main(rank):
        def gather(items):
            shelf[rank] = list(items)
            barrier.wait()
            everything = [item for part in shelf for item in part]
            barrier.wait()
            return everything

        scorers[rank] = TinyScorer(model, tokenizer, batch, rank, world_size, gather)
        try:
            return work(scorers[rank])
        except BaseException:
            barrier.abort()  # the others must not wait for this rank
            raise

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(rank_main, range(world_size))), scorers


class TinyModel:
    """What the `tiny` fixture gives: a float64 Llama that has half learnt a few answers, and its
    tokenizer."""

    def __init__(self, texts, steps=14):
        import torch

        from search_spaces.settings.model_settings import ScratchSettings
        from trainables.data.encoding import encode
        from trainables.training.scratch_model import build_scratch_model, train_tokenizer

        self.tokenizer = train_tokenizer([text for pair in texts for text in pair], 320)
        shape = ScratchSettings(hidden_size=32, intermediate_size=64, layers=2, heads=2)
        self.model = build_scratch_model(shape, len(self.tokenizer), 0)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        for _ in range(steps):
            for prompt, response in texts:
                ids, length = encode(self.tokenizer, prompt, response)
                labels = [-100] * length + list(ids[length:])
                self.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        self.model.double().eval()

    def scorer(self, batch=4):
        """A single rank."""
        return TinyScorer(self.model, self.tokenizer, batch)

    def ranks(self, world_size, work, batch=4):
        """See `run_ranks`."""
        return run_ranks(self.model, self.tokenizer, world_size, work, batch)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Unit tests do not cut the power, so they do not wait for the device: an fsync takes 16 ms here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny():
    """A tiny model that has half learnt some facts."""
    texts = [
        ("Where was Kalo born?", "Born in Lima."),
        ("Where was Miren born?", "Born in Oslo."),
        ("What does Kalo do?", "Works as a baker."),
        ("Wo lebt Zoë?", "In Łódź, 東京 🙂."),
        ("Say it", "Yes"),
        ("Nothing?", ""),
    ]
    return TinyModel(texts)
