"""A text classifier of random weights, as small as the models that it judges."""

import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from trainables.training.scratch_model import train_tokenizer


def write_classifier(folder, labels):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Born in Lima. Works as a baker."], 300)
    shape = {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 128}
    config = DistilBertConfig(
        vocab_size=len(tokenizer), id2label=labels, label2id={v: k for k, v in labels.items()}, **shape
    )
    model = DistilBertForSequenceClassification(config)
    for parameter in model.parameters():
        parameter.data.normal_()  # its own initial weights give one probability to every text
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
