"""The shipped pool: what it was trained on, and that it travels whole."""

from __future__ import annotations

import torch

from crossbar_experiments.assets import asset
from crossbar_experiments.model import Tokens
from crossbar_experiments.pool import METHOD, SOURCES, shuffled_batches
from crossbar_experiments.task_table import TASKS
from lorafusion.architectures import adapted_layers, architecture
from lorafusion.module import LoraLibrary
from lorafusion.train import Training


def test_shipped_modules_are_those_of_the_sources_and_fit_the_base() -> None:
    library = LoraLibrary.load(asset("pool") / "minilm-l6-r16")
    assert set(library.names) == set(SOURCES)
    assert len(SOURCES) >= 10
    assert all(TASKS[name].role == "source" for name in SOURCES)
    chosen = architecture("minilm-l6")
    model = chosen.build()
    library.check(model)
    assert set(library.layers) == set(adapted_layers(model, chosen.targets))
    ranks = {factor.rank for module in library.modules for factor in module.factors.values()}
    assert ranks == {METHOD.rank}


def test_batches_go_through_all_texts_in_new_orders() -> None:
    tokens = Tokens(torch.arange(10)[:, None], torch.ones(10, 1), torch.arange(10))
    training = Training(steps=6, batch=5)
    batches = list(shuffled_batches(tokens, training, torch.Generator().manual_seed(0)))
    assert len(batches) == 6
    rounds = [torch.cat([b.labels for b in batches[i : i + 2]]).tolist() for i in (0, 2, 4)]
    assert all(sorted(order) == list(range(10)) for order in rounds)
    assert len({tuple(order) for order in rounds}) == 3


def test_fewer_texts_than_a_batch_still_train() -> None:
    tokens = Tokens(torch.arange(3)[:, None], torch.ones(3, 1), torch.arange(3))
    batches = list(shuffled_batches(tokens, Training(steps=2, batch=16), torch.Generator().manual_seed(0)))
    assert [len(b) for b in batches] == [3, 3]
