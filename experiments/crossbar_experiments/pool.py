"""The pool: one LoRA module per source task, trained in plain torch and kept in PEFT format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from crossbar_experiments import tasks
from crossbar_experiments.model import Classifier, Tokens
from lorafusion.architectures import adapted_layers, architecture
from lorafusion.methods import Context
from lorafusion.methods.lora import LoraConfig
from lorafusion.module import LoraFactor, LoraModule
from lorafusion.peft_io import write_adapter
from lorafusion.train import Training, train

METHOD = LoraConfig(rank=16, alpha=32.0, learning_rate=1e-3)
TRAINING = Training(steps=300, batch=16)
TEXTS = 3000
MAX_TOKENS = 32
VALIDATION = 200
SOURCES = (
    "deb-admin",
    "deb-devel",
    "deb-devlang",
    "deb-implemented-in",
    "deb-interface",
    "deb-made-of",
    "deb-role",
    "deb-section-a",
    "deb-uitoolkit",
    "deb-works-with",
    "wn-noun-concrete",
    "wn-noun-happening",
)
"""The shipped pool: ten facets of Debian packages and two groups of noun glosses."""


def shuffled_batches(tokens: Tokens, training: Training, generator: torch.Generator) -> Iterator[Tokens]:
    """`training.steps` batches, going through the texts in a new random order each time round."""
    given = 0
    while given < training.steps:
        order = torch.randperm(len(tokens), generator=generator)
        for start in range(0, max(len(tokens) - training.batch + 1, 1), training.batch):
            if given == training.steps:
                return
            given += 1
            yield tokens.take(order[start : start + training.batch])


@torch.no_grad()
def accuracy(classifier: Classifier, tokens: Tokens, size: int = 64) -> float:
    """Share of texts whose highest score is their label's."""
    hits = sum(int((classifier(batch).argmax(1) == batch.labels).sum()) for batch in tokens.batches(size))
    return hits / len(tokens)


def train_module(
    classifier: Classifier, name: str, *, seed: int, on_step: Callable[[int, float], None] | None = None
) -> tuple[LoraModule, float]:
    """A LoRA module for one source task (its half of the texts), and its validation accuracy."""
    size = min(TEXTS, len(tasks.texts(name)) - VALIDATION)
    split = tasks.load(name, seed=seed, train=size, validation=VALIDATION, test=0)
    classifier.set_classes(split.classes)
    train_tokens = classifier.tokens([e.text for e in split.train], split.labels("train"))
    held = classifier.tokens([e.text for e in split.validation], split.labels("validation"))
    layers = adapted_layers(classifier.encoder, architecture("minilm-l6").targets)
    generator = torch.Generator().manual_seed(seed)
    adaptation = METHOD.attach(classifier.encoder, Context(layers, generator))
    train(
        adaptation,
        shuffled_batches(train_tokens, TRAINING, generator),
        lambda _, batch: classifier.loss(batch),
        training=TRAINING,
        on_step=on_step,
    )
    reached = accuracy(classifier, held)
    factors = iter(adaptation.groups[0].parameters)
    module = LoraModule(
        name,
        {
            layer: LoraFactor(a.detach().clone(), b.detach().clone(), METHOD.alpha / METHOD.rank)
            for layer, a, b in zip(layers, factors, factors, strict=True)
        },
        base="sentence-transformers/all-MiniLM-L6-v2",
    )
    adaptation.detach()
    return module, reached


def write_pool(
    classifier: Classifier, names: tuple[str, ...], folder: Path, *, seed: int = 0
) -> Iterator[tuple[str, float]]:
    """Train and write one module per source task (fp16); yields each name with its validation accuracy."""
    for name in names:
        module, reached = train_module(classifier, name, seed=seed)
        write_adapter(folder / name, module, dtype=torch.float16, base_name=module.base, overwrite=True)
        yield name, reached
