"""The base model as a classifier without a head."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from crossbar_experiments.errors import BenchError
from crossbar_experiments.model import SCALE, Classifier, Tokens, load_classifier, minilm_folder
from crossbar_sim import Chip


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(minilm_folder(), max_tokens=16)


def test_zero_shot_knows_the_obvious(classifier: Classifier) -> None:
    classifier.set_classes(["food", "vehicle", "animal"])
    scores = classifier(classifier.tokens(["a loaf of bread", "a fast red truck", "the dog barks"]))
    assert scores.argmax(1).tolist() == [0, 1, 2]
    assert scores.abs().max() <= SCALE


def test_what_nobody_reads_is_not_computed(classifier: Classifier) -> None:
    out = classifier.encoder(input_ids=classifier.tokens(["a dog"]).ids)
    assert out.pooler_output is None


def test_padding_changes_no_embedding(classifier: Classifier) -> None:
    texts = ["a dog", "a considerably longer sentence about a dog and its owner"]
    together = classifier.embed(classifier.tokens(texts))
    alone = torch.cat([classifier.embed(classifier.tokens([text])) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)


def test_texts_are_cut_and_batches_are_as_wide_as_they_must(classifier: Classifier) -> None:
    tokens = classifier.tokens(["word " * 100, "short", "tiny"], [0, 1, 2])
    assert tokens.ids.shape[1] == 16
    narrow = tokens.take([1, 2])
    assert narrow.ids.shape[1] == int(tokens.mask[1:].sum(1).max())
    assert narrow.labels.tolist() == [1, 2]
    assert [len(batch) for batch in tokens.batches(2)] == [2, 1]


def test_a_folder_without_a_model_is_told(tmp_path) -> None:
    with pytest.raises(BenchError, match="not a model folder"):
        load_classifier(tmp_path, max_tokens=8)


class Echo(torch.nn.Module):
    """An encoder that returns what it holds for every position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.states = torch.nn.Parameter(torch.ones(width))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.states.expand(*input_ids.shape, -1))


def walk_head(lengths: list[int], width: int, classes: int) -> tuple[Counter[str], Counter[str]]:
    """The head's operations forward and backward, one by one."""
    there: Counter[str] = Counter()
    back: Counter[str] = Counter()
    for length in lengths:
        for _ in range(width):
            there.update({"digital_add": length - 1, "digital_mul": 1})  # the mean
            there.update({"digital_mul": 2})  # its square, and its share of the length
            back.update(
                {"digital_mul": 3, "digital_add": 1}
            )  # y . dy, y (y . dy), over the length; dy minus it
            back.update({"digital_mul": 1})  # over the number of tokens
        there.update(
            {"digital_function": 2, "digital_add": width - 1}
        )  # 1 / tokens, 1 / length; the sum of squares
        back.update({"digital_add": width - 1})  # the sum of y . dy
        for _ in range(classes):
            for counts in (there, back):
                counts.update({"digital_mul": width + 1, "digital_add": width})  # the cosine, times its scale
            there.update({"digital_add": 3, "digital_mul": 1, "digital_function": 1})  # softmax
            back.update({"digital_mul": 1})  # over the number of texts
        there.update(
            {"digital_add": -2, "digital_function": 2}
        )  # k - 1 sums and comparisons; reciprocal, logarithm
        back.update({"digital_add": 1})  # minus one for the label's class
        there["activation_write_bit"] += 16 * (width + 1 + classes)
        back["activation_read_bit"] += 16 * (width + 1 + classes)
    return there, back


@pytest.mark.parametrize(("lengths", "width", "classes"), [([3, 1, 2], 4, 2), ([5], 3, 6)])
def test_the_head_books_its_digital_work(lengths: list[int], width: int, classes: int) -> None:
    classifier, chip = Classifier(Echo(width), None, max_tokens=8), Chip("ideal")
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    tokens = Tokens(mask, mask, torch.zeros(len(lengths), dtype=torch.long))
    classifier.prototypes = torch.ones(classes, width)
    classifier.loss(tokens)
    assert not chip.ledger.counts
    classifier.chip = chip
    with chip.ledger.scope(phase="forward"):
        loss = classifier.loss(tokens)
    with chip.ledger.scope(phase="backward"):
        loss.backward()
    for phase, expected in zip(("forward", "backward"), walk_head(lengths, width, classes), strict=True):
        booked = {k.action: n for k, n in chip.ledger.counts.items() if k.phase == phase}
        assert {action: n for action, n in booked.items() if not action.startswith("sram")} == expected
        assert all(k.layer == "head" and k.matrix == "rest" for k in chip.ledger.counts)
