"""The table of tasks: data set, classes, and whether a module's source or an adaptation's target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["source", "target"]
Stratum = Literal["same data set", "same kind", "unrelated"]

VENDORED = ("debtags", "wordnet")


@dataclass(frozen=True)
class Task:
    """One text classification task.

    Attributes:
        name: key in `TASKS`.
        title: what is to be told from the text.
        dataset: what `datasets.read` takes.
        role: "source" tasks train the pool's modules, "target" tasks are adapted to.
        stratum: how a target relates to the sources; None for sources.
        classes: raw label -> readable name in the data set's own words, in the order of the class indices.
    """

    name: str
    title: str
    dataset: str
    role: Role
    stratum: Stratum | None
    classes: Mapping[str, str]

    @property
    def vendored(self) -> bool:
        """Whether the texts travel with the program, so that nothing has to be fetched."""
        return self.dataset.partition(":")[0] in VENDORED


def _classes(words: str, prefix: str = "") -> dict[str, str]:
    """'a, b=bee' -> {prefix a: a, prefix b: bee}."""
    pairs = (word.partition("=") for word in words.split(", "))
    return {prefix + raw: readable or raw for raw, _, readable in pairs}


def _source(name: str, title: str, dataset: str, classes: Mapping[str, str]) -> Task:
    return Task(name, title, dataset, "source", None, classes)


_CONCRETE = "animal, artifact, body, food, object, person, plant, substance"
_HAPPENING = "act, event, group, location, phenomenon, possession, process"
_ABSTRACT = "attribute, cognition, communication, feeling, quantity, relation, shape, state, time"
_VERBS = (
    "body, change, cognition, communication, competition, consumption, contact, creation, emotion, motion, "
    "perception, possession, social, stative, weather"
)
_SENTIMENT = _classes("negative, positive")

_VENDORED_SOURCES = (
    _source(
        "deb-works-with",
        "what kind of data a program works with",
        "debtags:works-with",
        _classes(
            "text, audio, mail, db=databases, file=files, software:source=source code, "
            "network-traffic=network traffic, software:running=running programs, archive=archives, "
            "dictionary=dictionaries, software:package=software packages, image=images",
            "works-with::",
        ),
    ),
    _source(
        "deb-role",
        "the role a package plays",
        "debtags:role",
        _classes(
            "shared-lib=shared library, program, devel-lib=development library, documentation, "
            "app-data=application data, plugin, data, metapackage, debug-symbols=debug symbols",
            "role::",
        ),
    ),
    _source(
        "deb-implemented-in",
        "the programming language of a program",
        "debtags:implemented-in",
        _classes(
            "perl=Perl, c=C, c++=C++, python=Python, lisp=Lisp, java=Java, ocaml=OCaml, shell, r=R, "
            "objc=Objective-C, "
            "ruby=Ruby",
            "implemented-in::",
        ),
    ),
    _source(
        "deb-interface",
        "the user interface of a program",
        "debtags:interface",
        _classes("commandline=command line, daemon, text-mode=text mode, web, shell", "interface::"),
    ),
    _source(
        "deb-uitoolkit",
        "the toolkit of a user interface",
        "debtags:uitoolkit",
        _classes("gtk=GTK, qt=Qt, ncurses, sdl=SDL, xlib=Xlib, tk=Tk, wxwidgets=wxWidgets", "uitoolkit::"),
    ),
    _source(
        "deb-section-a",
        "the section of a package, every other section by size",
        "debtags:section",
        _classes(
            "libs=libraries, perl=Perl, utils=utilities, games, devel=development, text, sound, graphics, "
            "java=Java, mail, ocaml=OCaml, lisp=Lisp, cli-mono=Mono, video"
        ),
    ),
    _source(
        "deb-admin",
        "what a program administers",
        "debtags:admin",
        _classes(
            "virtualization, monitoring, configuring, filesystem, hardware, "
            "package-management=package management, backup",
            "admin::",
        ),
    ),
    _source(
        "deb-made-of",
        "what a package is made of",
        "debtags:made-of",
        _classes("html=HTML, font=fonts, dictionary, icons", "made-of::"),
    ),
    _source(
        "deb-devel",
        "what a package gives a developer",
        "debtags:devel",
        _classes("library, doc=documentation, rcs=revision control", "devel::"),
    ),
    _source(
        "deb-devlang",
        "the programming language a package develops for",
        "debtags:devel::lang:",
        _classes(
            "perl=Perl, c=C, java=Java, haskell=Haskell, c++=C++, python=Python, ocaml=OCaml, r=R, lisp=Lisp",
            "devel::lang:",
        ),
    ),
    _source(
        "wn-noun-concrete", "supersense of a concrete noun", "wordnet:lexname", _classes(_CONCRETE, "noun.")
    ),
    _source(
        "wn-noun-happening",
        "supersense of a noun for happenings, groups and places",
        "wordnet:lexname",
        _classes(_HAPPENING, "noun."),
    ),
)

_FETCHED_SOURCES = (
    _source("hutto-movie", "sentiment of a sentence on a film", "hutto:movieReviewSnippets", _SENTIMENT),
    _source("hutto-amazon", "sentiment of a sentence on a product", "hutto:amazonReviewSnippets", _SENTIMENT),
    _source("hutto-nyt", "sentiment of a sentence of an editorial", "hutto:nytEditorialSnippets", _SENTIMENT),
    _source(
        "trec-fine",
        "what exactly a question asks for",
        "trec:fine",
        _classes(
            "HUM:ind=individual, LOC:other=other location, DESC:def=definition, NUM:count=count, "
            "DESC:manner=manner, DESC:desc=description, NUM:date=date, ENTY:other=other entity, "
            "ENTY:cremat=creative material, DESC:reason=reason, HUM:gr=group, LOC:country=country, "
            "LOC:city=city, ENTY:animal=animal, ENTY:food=food, ENTY:dismed=disease or medicine, "
            "ENTY:termeq=equivalent term, NUM:period=period, ABBR:exp=expanded abbreviation, "
            "LOC:state=state, NUM:money=money, ENTY:sport=sport"
        ),
    ),
    _source(
        "20ng-comp",
        "the newsgroup on computers",
        "orange:20newsgroups",
        _classes(
            "graphics, os.ms-windows.misc=Microsoft Windows, sys.ibm.pc.hardware=IBM PC hardware, "
            "sys.mac.hardware=Mac hardware, windows.x=X Window System",
            "comp.",
        ),
    ),
    _source(
        "20ng-rec",
        "the newsgroup on recreation",
        "orange:20newsgroups",
        _classes("autos, motorcycles, sport.baseball=baseball, sport.hockey=hockey", "rec."),
    ),
    _source(
        "reuters-r8",
        "the topic of a news item",
        "orange:reuters-r8",
        _classes(
            "acq=acquisitions, crude=crude oil, earn=earnings, interest, money-fx=foreign exchange, ship, "
            "trade"
        ),
    ),
)

_VENDORED_TARGETS = (
    Task(
        "deb-use",
        "what a program is used for",
        "debtags:use",
        "target",
        "same data set",
        _classes(
            "gameplaying=game playing, converting, checking, editing, monitor, configuring, viewing, "
            "playing, searching, login, downloading, timekeeping, organizing, scanning, storing, chatting, "
            "driver, analysing, learning, "
            "compressing",
            "use::",
        ),
    ),
    Task(
        "deb-section-b",
        "the section of a package, the sections that deb-section-a leaves",
        "debtags:section",
        "target",
        "same data set",
        _classes(
            "libdevel=library development, doc=documentation, net=network, x11=X11, admin=administration, "
            "python=Python, science, fonts, gnome=GNOME, web, kde=KDE, math=mathematics, editors, tex=TeX"
        ),
    ),
    Task(
        "wn-noun-abstract",
        "supersense of an abstract noun",
        "wordnet:lexname",
        "target",
        "same data set",
        _classes(_ABSTRACT, "noun."),
    ),
    Task(
        "wn-verb", "supersense of a verb", "wordnet:lexname", "target", "same kind", _classes(_VERBS, "verb.")
    ),
    Task(
        "wn-pos",
        "the part of speech a gloss defines",
        "wordnet:pos",
        "target",
        "unrelated",
        _classes("noun, verb, adjective, adverb"),
    ),
)

_FETCHED_TARGETS = (
    Task("hutto-tweets", "sentiment of a tweet", "hutto:tweets", "target", "same kind", _SENTIMENT),
    Task(
        "trec-coarse",
        "what kind of thing a question asks for",
        "trec:coarse",
        "target",
        "same data set",
        _classes("ABBR=abbreviation, DESC=description, ENTY=entity, HUM=human, LOC=location, NUM=number"),
    ),
    Task(
        "20ng-talk",
        "the newsgroup on religion or politics",
        "orange:20newsgroups",
        "target",
        "same data set",
        _classes(
            "alt.atheism=atheism, soc.religion.christian=Christian religion, "
            "talk.politics.guns=politics of guns, talk.politics.mideast=politics of the Middle East, "
            "talk.politics.misc=politics, talk.religion.misc=religion"
        ),
    ),
    Task(
        "sms-spam", "whether a message is spam", "sms:spam", "target", "unrelated", _classes("0=ham, 1=spam")
    ),
)

TASKS: dict[str, Task] = {
    task.name: task for task in (*_VENDORED_SOURCES, *_FETCHED_SOURCES, *_VENDORED_TARGETS, *_FETCHED_TARGETS)
}
