"""What an attention computes in digital logic: per query, per key and per pair of real tokens."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, NamedTuple

from torch import Tensor, nn

from crossbar_sim import cost
from crossbar_sim import cost_digital as digital
from crossbar_sim.chip import Site
from crossbar_sim.digital_hooks import Hook
from crossbar_sim.moment import valid_per_sample
from crossbar_sim.tally import Tally

HEADS = ("num_attention_heads", "n_heads", "num_heads")
HEAD_WIDTHS = ("attention_head_size", "key_value_proj_dim", "head_dim", "d_kv")
STATES = ("key_value_states", "encoder_hidden_states", "key")
"""Arguments of an attention that hold what the keys come from, where that is not what the queries come from."""


def number_of(module: nn.Module, names: tuple[str, ...]) -> int:
    """The first of these attributes, of the module or of its configuration; 0 where there is none."""
    for holder in (module, getattr(module, "config", None)):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return 0


def heads_of(module: nn.Module) -> int:
    """Heads of an attention; 0: it is none."""
    own = any(isinstance(getattr(module, name, None), int) for name in HEAD_WIDTHS)
    return number_of(module, HEADS) if own else 0


def _others(given: Mapping[str, Any], x: Tensor) -> Tensor | None:
    """What the keys come from, where that is not `x`, what the queries come from."""
    return next((s for s in map(given.get, STATES) if s is not None and s is not x), None)


def _lead(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Texts and positions of a tensor [texts, positions, hidden], or [positions, texts, hidden] where the module says so."""
    lead = tuple(x.shape[:-1])
    return lead if getattr(module, "batch_first", True) else lead[::-1]


class _Call(NamedTuple):
    """What decides the work of an attention per query, per key and per pair."""

    hidden: int
    cross: bool
    biased: bool
    rotated: bool
    wants_q: bool
    wants_k: bool
    wants_v: bool
    wants_x: bool
    """The gradient of what the queries come from."""
    wants_states: bool
    """The gradient of what the keys come from, where that is something else."""
    wants_bias: bool
    """The gradient of the bias by position, which the method trains."""


class _Size(NamedTuple):
    """Real queries, keys, and pairs of them."""

    queries: int
    keys: int
    pairs: int


class _Work:
    """Work of an attention per query, per key and per pair."""

    def __init__(self, site: Site, query: cost.Counts, key: cost.Counts, pair: cost.Counts) -> None:
        self.tallies = Tally(site, query), Tally(site, key), Tally(site, pair)

    def book(self, size: _Size) -> None:
        for tally, times in zip(self.tallies, size, strict=True):
            tally.book(times)


class Attention(Hook):
    """Scores, probabilities and their product with the values, the rotation of queries and keys, and the residual sum that follows.

    Pairs are of real tokens: q k per text, in a causal attention q (k - q) + q (q + 1) / 2. Padding and causal masks need no addition, as what
    they hide is not computed. Backward: where the attention's input needs a gradient the gradients of queries, keys and values and the residual one are
    summed; the gradient of an encoder's states is gathered from every attention that reads them, that of a trained bias by
    position from every score it was added to.
    """

    def __init__(self, site: Site, module: nn.Module) -> None:
        super().__init__(site)
        self.heads, self.width = heads_of(module), number_of(module, HEAD_WIDTHS)
        self.shared = number_of(module, ("num_key_value_heads",)) or self.heads
        self.scaled = getattr(module, "scaling", None) != 1.0
        self.causal = bool(getattr(module, "is_causal", False))
        self.names = tuple(signature(module.forward).parameters)
        children = [name for name, _ in module.named_children()]
        self.projections = {
            letter: [n for n in children if n.startswith(letter)] or children for letter in "qkv"
        }
        self.bias = self.own({"digital_add": self.heads})
        self._works: dict[_Call, tuple[_Work, _Work, _Work]] = {}

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        x: Tensor = given[self.names[0]]
        states = _others(given, x)
        out = output if isinstance(output, Tensor) else output[0]
        call = self._call(module, given, x, states, recorded=out.requires_grad)
        size = self._size(module, given, x, states)
        if call not in self._works:
            self._works[call] = self._forward(call), self._kept(call), self._backward(call)
        forward, kept, backward = self._works[call]
        forward.book(size)
        if call.wants_q or call.wants_k or call.wants_v:
            kept.book(size)
            out.register_hook(lambda _: backward.book(size))
        if call.wants_bias:
            out.register_hook(lambda _: self.bias.book(size.pairs))

    def _call(
        self,
        module: nn.Module,
        given: Mapping[str, Any],
        x: Tensor,
        states: Tensor | None,
        *,
        recorded: bool,
    ) -> _Call:
        source = x if states is None else states
        table, shared = getattr(module, "relative_attention_bias", None), given.get("position_bias")
        biased = shared is not None or table is not None
        bias = table.weight if shared is None and table is not None else shared
        wants_x = recorded and x.requires_grad
        wants_source = recorded and source.requires_grad
        return _Call(
            x.shape[-1],
            states is not None,
            states is None and biased,
            given.get("position_embeddings") is not None,
            wants_x or (recorded and self._trains(module, "q")),
            wants_source or (recorded and self._trains(module, "k")),
            wants_source or (recorded and self._trains(module, "v")),
            wants_x,
            states is not None and wants_source,
            recorded and states is None and bias is not None and bias.requires_grad,
        )

    def _trains(self, module: nn.Module, letter: str) -> bool:
        """Whether the projection of queries, keys or values has a trained parameter."""
        children = (module.get_submodule(name) for name in self.projections[letter])
        return any(p.requires_grad for child in children for p in child.parameters())

    def _size(self, module: nn.Module, given: Mapping[str, Any], x: Tensor, states: Tensor | None) -> _Size:
        chip = self.site.chip
        q = valid_per_sample(chip, _lead(module, x))
        lead = _lead(module, x if states is None else states)
        past = given.get("past_key_values")
        if states is None and past is not None:  # keys of earlier calls
            lead = (*lead[:-1], int(past.get_seq_length(getattr(module, "layer_idx", 0))))
        k = q if lead == _lead(module, x) else valid_per_sample(chip, lead)
        causal = self.causal and states is None
        pairs = q * (k - q) + q * (q + 1) // 2 if causal else q * k
        return _Size(int(q.sum()), int(k.sum()), int(pairs.sum()))

    def _forward(self, call: _Call) -> _Work:
        turned = digital.rotary(1, (self.heads + self.shared) * self.width) if call.rotated else {}
        query = digital.total(digital.added(1, call.hidden), digital.softmax(self.heads, 0), turned)
        scores = digital.softmax(0, self.heads, scaled=self.scaled, biased=call.biased)
        pair = digital.total(digital.attention_products(1, self.heads, self.width), scores)
        return _Work(self.site, query, {}, pair)

    def _kept_words(self, call: _Call) -> tuple[int, int, int]:
        """Words per query (Q, for dK), per key (K, for dQ, and V, for the scores' gradient) and per pair (the probabilities)."""
        of_scores = call.wants_q or call.wants_k
        words = self.shared * self.width
        return call.wants_k * self.heads * self.width, (call.wants_q + of_scores) * words, self.heads

    def _kept(self, call: _Call) -> _Work:
        query, key, pair = (digital.kept(words) for words in self._kept_words(call))
        return _Work(self.site, query, key, pair)

    def _backward(self, call: _Call) -> _Work:
        of_scores = call.wants_q or call.wants_k
        turned = call.rotated * (call.wants_q * self.heads + call.wants_k * self.shared) * self.width
        branches = call.wants_x * (1 if call.cross else 3)
        query = [digital.rotary(1, turned), digital.added(branches, call.hidden)]
        products = call.wants_v + of_scores + call.wants_q + call.wants_k
        pair = [digital.attention_products(1, self.heads, self.width, products=products)]
        if of_scores:
            query.append(digital.softmax_backward(self.heads, 0))
            pair.append(digital.softmax_backward(0, self.heads, scaled=self.scaled))
        key = [digital.added(call.wants_states * 2, call.hidden)]
        each = (
            digital.total(*counts, digital.fetched(words))
            for counts, words in zip((query, key, pair), self._kept_words(call), strict=True)
        )
        return _Work(self.site, *each)


class Projections(Hook):
    """The projections of queries, keys, values and results inside nn.MultiheadAttention, which stay digital (crossbar_sim.conversion)."""

    def __init__(self, site: Site, module: nn.MultiheadAttention) -> None:
        super().__init__(site)
        width, sources = module.embed_dim, (module.kdim, module.vdim)
        shift = {} if module.in_proj_bias is None else digital.bias(width, 2)
        own = cost.dense(width, width, 2)
        self.query = Tally(site, digital.total(own, shift))
        self.key = Tally(site, digital.total(*(cost.dense(width, n, 1) for n in sources), shift))
        self.query_back = Tally(site, own)
        self.key_back = Tally(site, digital.total(*(cost.dense(n, width, 1) for n in sources)))

    def _book(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
        for name, forward, backward in (
            ("query", self.query, self.query_back),
            ("key", self.key, self.key_back),
        ):
            n = self.vectors(_lead(module, given[name]))
            forward.book(n)
            if output[0].requires_grad and given[name].requires_grad:
                output[0].register_hook(lambda _, n=n, backward=backward: backward.book(n))
