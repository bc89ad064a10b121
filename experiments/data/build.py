"""Make the vendored data sets of this folder from their raw files.

    python build.py --packages Packages --wordnet dict/ [--out .]

`Packages` is the (uncompressed) index dists/bookworm/main/binary-amd64/Packages of Debian 12, `dict/` the
folder with data.noun, data.verb, data.adj and data.adv of WordNet 3.1. README.md tells where both come
from. The result depends on the raw files alone: rows are sorted, samples are taken by hash, and the
compressor's settings are fixed.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

PER_LEXNAME = 700
SAMPLES = {"adjective": 3000, "adverb": 2000}
FILES = {"noun": "data.noun", "verb": "data.verb", "adjective": "data.adj", "adverb": "data.adv"}

# Lexicographer files in the order of their numbers: lexnames(5WN), Princeton University.
# fmt: off
LEXNAMES = (
    "adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact",
    "noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling",
    "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object", "noun.person",
    "noun.phenomenon", "noun.plant", "noun.possession", "noun.process", "noun.quantity", "noun.relation",
    "noun.shape", "noun.state", "noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition",
    "verb.communication", "verb.competition", "verb.consumption", "verb.contact", "verb.creation",
    "verb.emotion", "verb.motion", "verb.perception", "verb.possession", "verb.social", "verb.stative",
    "verb.weather", "adj.ppl",
)
# fmt: on

Row = tuple[str, ...]


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a Debian index: field name -> value, continuation lines joined."""
    for block in text.split("\n\n"):
        unfolded = re.sub(r"\n[ \t]+", " ", block.strip("\n"))
        fields = (line.split(":", 1) for line in unfolded.split("\n") if ":" in line)
        yield {name: value.strip() for name, value in fields}


def debtags_rows(text: str) -> list[Row]:
    """(package, section, tags, synopsis) of every package that carries tags; tags sorted."""
    rows = set()
    for stanza in stanzas(text):
        if "Tag" in stanza:
            tags = " ".join(sorted(re.split(r",\s*", stanza["Tag"])))
            rows.add((stanza["Package"], stanza["Section"], tags, one_line(stanza["Description"])))
    return sorted(rows)


def gloss_of(raw: str) -> str:
    """The definition in a WordNet gloss: what stands before the first usage example, which is quoted."""
    return one_line(re.split(r'[;:,]\s*(?:as in |e\.g\.,? )?[`"]', raw)[0]).rstrip("; ")


def wordnet_rows(folder: Path) -> list[Row]:
    """(synset key, part of speech, lexname, gloss) of a sample of the synsets, see `sampled`."""
    strata: dict[str, list[Row]] = defaultdict(list)
    for pos, name in FILES.items():
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):  # the licence notice at the head of each file
                continue
            data, _, raw = line.partition(" | ")
            offset, lexname = data[:8], LEXNAMES[int(data[9:11])]
            gloss = gloss_of(raw)
            if gloss and not gloss.startswith(('"', "`")):
                strata[pos if pos in SAMPLES else lexname].append(
                    (f"{offset}-{line.split()[2]}", pos, lexname, gloss)
                )
    kept = (row for name in strata for row in sampled(strata[name], SAMPLES.get(name, PER_LEXNAME)))
    return sorted(kept)


def sampled(rows: Iterable[Row], size: int) -> list[Row]:
    """At most `size` rows, those whose key has the smallest sha256: random, yet the same everywhere."""
    return sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())[:size]


def one_line(text: str) -> str:
    """The text with every run of white space as one space, so that it fits a cell of a table."""
    return " ".join(text.split())


def write(path: Path, header: Row, rows: list[Row]) -> None:
    """Write a tab-separated table, xz with fixed settings (same rows, same bytes), and print its digest."""
    table = "".join("\t".join(row) + "\n" for row in [header, *rows]).encode()
    packed = lzma.compress(
        table, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME
    )
    path.write_bytes(packed)
    print(f"{hashlib.sha256(packed).hexdigest()}  {path.name}  {len(rows)} rows, {len(packed)} bytes")


def main() -> None:
    """Read the command line and write both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", type=Path, required=True, help="Debian's index, uncompressed")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun, data.verb, ...")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="where to write (default: here)"
    )
    args = parser.parse_args()
    debtags = debtags_rows(args.packages.read_text(encoding="utf-8"))
    write(args.out / "debtags.tsv.xz", ("package", "section", "tags", "synopsis"), debtags)
    write(args.out / "wordnet.tsv.xz", ("synset", "pos", "lexname", "gloss"), wordnet_rows(args.wordnet))


if __name__ == "__main__":
    main()
