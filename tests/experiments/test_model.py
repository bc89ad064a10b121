"""The base model as a classifier without a head."""

from __future__ import annotations

import pytest
import torch

from crossbar_experiments.errors import BenchError
from crossbar_experiments.model import SCALE, Classifier, load_classifier, minilm_folder


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(minilm_folder(), max_tokens=16)


def test_zero_shot_knows_the_obvious(classifier: Classifier) -> None:
    classifier.set_classes(["food", "vehicle", "animal"])
    scores = classifier(classifier.tokens(["a loaf of bread", "a fast red truck", "the dog barks"]))
    assert scores.argmax(1).tolist() == [0, 1, 2]
    assert scores.abs().max() <= SCALE


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
