"""Counts the words of packages' source code: makes the presets of the vocabulary, and measures them.

    python benchmarks/count_words.py --work FOLDER                  # writes optimum_flab/texts/presets
    python benchmarks/count_words.py --work FOLDER --measure DENSE  # prints what they keep, for one tokenizer

The packages are listed in `word_sources.yaml`. They are fetched with the registries' own clients (pip, npm, apt-get)
into FOLDER, where they stay; a licence that is not permissive ends the run. What a package bundles from other projects
(`vendor`, `deps`, `compiled`, ...) is left out, unless its line names the folder and a licence for all of it. Only the
words of each package and their counts are kept, along with its name, version and licence.

A *word* is a unit at whose boundaries nearly every tokenizer splits: letters with the one sign or space before them (`
return`, `.append`, `_name`), digits, signs with the line ends after them (`):` and a line end), and what lines begin
with (line ends with their indentation, the line's first word after a line end). A package counts by the square root of
its size, so that the largest do not crowd out the others; a word must occur in at least two packages. Counts are
relative to that of the rarest word, rounded down to one of two steps per doubling.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from email.parser import HeaderParser
from functools import partial
from pathlib import Path

import yaml
from common import load_tokenizer, print_result

from optimum_flab.texts.installed import LONGEST_LINE
from optimum_flab.texts.presets import FOLDER, preset_file, preset_words
from optimum_flab.texts.sources import default_corpus
from optimum_flab.vocabulary.closure import natural_vocabulary, read_spec
from optimum_flab.vocabulary.usage import count_tokens


LISTED = Path(__file__).with_name("word_sources.yaml")
PERMISSIVE = {
    *("MIT", "MIT-0", "MIT-CMU", "ISC", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "PSF-2.0", "Python-2.0"),
    *("BSL-1.0", "Zlib", "Unlicense", "CC0-1.0", "blessing", "HPND", "LLVM-exception", "BlueOak-1.0.0", "Bzip2-1.0.6"),
}
# of other projects, whose licence the package's metadata do not state
BUNDLED = {"node_modules", "vendor", "vendored", "_vendor", "third_party", "thirdparty", "compiled", "deps"}
FOLDERS_LEFT_OUT = BUNDLED | {"locale", "locales"}
LARGEST = 3_000_000  # bytes of a file
PACKAGES_OF_A_WORD = 2
MOST_BYTES = 300_000  # of a preset's file
LETTERS = r"[^\W\d_]+"
WORD = re.compile(
    # the last space of an indentation goes to the word behind it
    rf"(?P<start>\n+(?:[ \t]*(?=(?P<last>[ \t])\S))?)(?=[ \t]?(?P<first>{LETTERS})?)"
    rf"|(?P<word>(?:[^\w\n]|_)?{LETTERS}|\d{{1,3}}|[ \t]+(?=[ \t]\S)|\ ?(?:[^\w\s]|_)+(?=(?P<ends>\n*)))"
)


@dataclass
class Package:
    """A package of a registry, and what is known of it once it was fetched."""

    registry: str
    name: str
    licence: str | None = None
    folders: list[str] = field(default_factory=list)
    version: str = ""

    @property
    def place(self) -> str:
        return f"{self.registry}-{self.name.replace('/', '-')}"


# --- fetching ------------------------------------------------------------------------------------------------------


def run(*command: object, cwd: Path) -> str:
    return subprocess.run(list(map(str, command)), cwd=cwd, check=True, capture_output=True, text=True).stdout


def fetch(package: Package, folder: Path) -> Path:
    """Fetches and unpacks a package unless it is there; its version and licence are those of its metadata."""
    if package.registry == "python":
        package.version = sys.version.split()[0]
        return Path(sysconfig.get_path("stdlib"))
    place = folder / package.place
    if not place.is_dir():
        part = folder / f"{package.place}.part"
        part.mkdir(parents=True, exist_ok=True)
        {"pypi": fetch_wheel, "npm": fetch_npm, "debian": fetch_debian}[package.registry](package.name, part)
        part.rename(place)
    {"pypi": read_wheel, "npm": read_npm, "debian": read_debian}[package.registry](package, place)
    return place


def is_permissive(licence: str | None) -> bool:
    """Whether all of an SPDX expression are licences that ask for no more than to be named."""
    return bool(licence) and not set(re.split(r" (?:AND|OR|WITH) |[()]", licence)) - PERMISSIVE - {""}


def has_unstated_licence(package: Package) -> bool:
    """Whether folders of other projects are named, and no licence beside them."""
    return not package.licence and any(BUNDLED & set(Path(folder).parts) for folder in package.folders)


def fetch_wheel(name: str, place: Path) -> None:
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", name, cwd=place)
    (file,) = place.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(place)
    file.unlink()


def fetch_npm(name: str, place: Path) -> None:
    run("npm", "pack", "--silent", name, cwd=place)
    (file,) = place.glob("*.tgz")
    with tarfile.open(file) as archive:
        archive.extractall(place, filter="data")
    file.unlink()


def fetch_debian(name: str, place: Path) -> None:
    run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", name, cwd=place)
    (file,) = place.glob("*.deb")
    run("dpkg-deb", "--extract", file, ".", cwd=place)
    (place / "VERSION").write_text(run("dpkg-deb", "--field", file, "Version", cwd=place).strip(), encoding="utf-8")
    file.unlink()


def read_wheel(package: Package, place: Path) -> None:
    (file,) = place.glob("*.dist-info/METADATA")
    fields = HeaderParser().parsestr(file.read_text(encoding="utf-8"))
    package.version = fields["Version"]
    package.licence = package.licence or fields["License-Expression"] or fields["License"]


def read_npm(package: Package, place: Path) -> None:
    fields = json.loads(next(place.glob("*/package.json")).read_text(encoding="utf-8"))
    package.version, package.licence = fields["version"], package.licence or fields["license"]


def read_debian(package: Package, place: Path) -> None:
    package.version = (place / "VERSION").read_text(encoding="utf-8")


def text_of(path: Path) -> str | None:
    """A file without its long lines, which are data; `None` where it is mostly these, or no text."""
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    left = "".join(line for line in text.splitlines(keepends=True) if len(line) <= LONGEST_LINE)
    return left if len(left) > len(text) / 2 and "\0" not in left else None


def sources_of(package: Package, place: Path, suffixes: Iterable[str]) -> Iterator[str]:
    """The source files of a package."""
    roots = [next(place.glob("*/package.json")).parent] if package.registry == "npm" else [place]
    roots = [roots[0] / folder for folder in package.folders] or roots
    outside = {"test", "tests", "site-packages", "dist-packages"} if package.registry == "python" else set()
    found = {path: root for root in roots for path in ([root] if root.is_file() else root.rglob("*"))}
    for path in sorted(found):
        parts = set(path.relative_to(found[path]).parts)
        if path.suffix not in suffixes or not path.is_file() or path.is_symlink() or ".min." in path.name:
            continue
        if parts & (outside | FOLDERS_LEFT_OUT):
            continue
        if path.stat().st_size <= LARGEST and (text := text_of(path)):
            yield text


# --- counting ------------------------------------------------------------------------------------------------------


def words_of(text: str) -> Iterator[str]:
    """The words of a text, each as often as it stands there."""
    for match in WORD.finditer(text):
        if match["start"]:
            yield match["start"]
            if match["last"]:
                yield match["start"] + match["last"]
            if match["first"]:
                yield "\n" + match["first"]
        else:
            yield match["word"] + (match["ends"] or "")


def count(package: Package, place: Path, suffixes: Iterable[str]) -> tuple[Counter[str], int, int]:
    """The words of a package, its files and their bytes."""
    words = Counter[str]()
    files = 0
    size = 0
    for text in sources_of(package, place, suffixes):
        words.update(words_of(text))
        files, size = files + 1, size + len(text.encode("utf-8", "surrogatepass"))
    return words, files, size


def counted(packages: dict[str, Counter[str]]) -> dict[str, float]:
    """The words of several packages, each package counted by the root of its size."""
    found: Counter[str] = Counter()
    together: dict[str, float] = {}
    for counts in packages.values():
        root = sum(counts.values()) ** 0.5
        for word, number in counts.items():
            found[word] += 1
            together[word] = together.get(word, 0.0) + number / root
    return {word: number for word, number in together.items() if found[word] >= PACKAGES_OF_A_WORD}


def step(ratio: float) -> int:
    """A ratio rounded down to one of 1, 2, 3, 4, 6, 8, 12 ..."""
    power = 1 << (int(ratio).bit_length() - 1)
    return power * 3 // 2 if power > 1 and ratio >= power * 1.5 else power


def written(words: dict[str, float], number: int) -> bytes:
    """The most frequent words as the file of a preset."""
    first = sorted(words, key=lambda word: (-words[word], word))[:number]
    by_count: dict[int, list[str]] = {}
    for word in first:
        by_count.setdefault(step(words[word] / words[first[-1]]), []).append(word)
    content = {str(count): sorted(found) for count, found in sorted(by_count.items())}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)


def fitting(words: dict[str, float]) -> bytes:
    """The file with the most words that is no larger than it may be, within a thousand."""
    least, most = 0, len(words)
    while most - least > 1000:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if len(written(words, middle)) <= MOST_BYTES else (least, middle)
    return written(words, least if len(written(words, most)) > MOST_BYTES else most)


# --- the two commands ----------------------------------------------------------------------------------------------


def fetched(listed: dict, which: str, work: Path) -> dict[str, list[tuple[Package, Path]]]:
    packages = {preset: [Package(**fields) for fields in part[which]] for preset, part in listed.items()}
    if unstated := [one.name for found in packages.values() for one in found if has_unstated_licence(one)]:
        sys.exit(
            f"say in {LISTED.name} which licences the named folders of other projects have: {', '.join(unstated)}"
        )
    with ThreadPoolExecutor(4) as pool:
        places = {
            preset: list(zip(found, pool.map(lambda package: fetch(package, work), found), strict=True))
            for preset, found in packages.items()
        }
    if others := [one for found in packages.values() for one in found if not is_permissive(one.licence)]:
        stated = "\n".join(f"  {package.name}: {package.licence}" for package in others)
        sys.exit(f"say in {LISTED.name} which permissive licences these have, or take them off:\n{stated}")
    return places


def make(listed: dict, work: Path, output: Path) -> None:
    output.mkdir(exist_ok=True)
    for preset, packages in fetched(listed, "counted", work).items():
        counts, sources = {}, []
        with ProcessPoolExecutor() as pool:
            found = pool.map(partial(count, suffixes=listed[preset]["suffixes"]), *zip(*packages, strict=True))
            for (package, _), (words, files, size) in zip(packages, found, strict=True):
                if not files:
                    sys.exit(f"{package.name} has no {preset} source; take it off {LISTED.name}, or name its folders")
                counts[package.place] = words
                stated = {"registry": package.registry, "name": package.name, "version": package.version}
                sources.append({**stated, "licence": package.licence, "files": files, "bytes": size})
                print(f"{preset}: {package.name}, {files:,} files, {size:,} bytes", file=sys.stderr, flush=True)
        content = fitting(counted(counts))
        (output / preset_file(preset).name).write_bytes(content)
        lines = ",\n".join(json.dumps(source, ensure_ascii=False) for source in sources)
        (output / f"{preset}.sources.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def measure(listed: dict, work: Path, dense: str) -> None:
    """How many tokens the default corpus and each preset keep, and which share of other code's tokens that is."""
    tokenizer = load_tokenizer(dense)
    spec = read_spec(tokenizer)
    used = {"default": count_tokens(tokenizer, [document.text for document in default_corpus().documents]).counts}
    for preset in (*listed, "all-code"):
        words = preset_words(preset)
        used[preset] = count_tokens(tokenizer, [word for part in words for word in part.words]).counts
    held_out = {}
    for preset, packages in fetched(listed, "held_out", work).items():
        texts = [text for one in packages for text in sources_of(*one, listed[preset]["suffixes"])]
        held_out[preset] = count_tokens(tokenizer, texts)
    for merges in (0, 20000):
        kept = {name: natural_vocabulary(spec, counts, 1, merges).kept for name, counts in used.items()}
        print_result(
            "presets",
            model=dense,
            keep_merges=merges,
            tokens={name: len(ids) for name, ids in kept.items()},
            whole={
                name: {of: round(usage.counts[ids].sum() / usage.tokens, 5) for of, usage in held_out.items()}
                for name, ids in kept.items()
            },
            held_out_bytes={name: usage.bytes for name, usage in held_out.items()},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder that the packages are fetched into")
    parser.add_argument("--preset", action="append", help="one to make (default: all)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the presets (default: the package's)")
    parser.add_argument("--measure", metavar="DENSE", help="checkpoint folder of a tokenizer (default: make presets)")
    args = parser.parse_args()
    listed = yaml.safe_load(LISTED.read_text(encoding="utf-8"))
    if args.measure:
        measure(listed, args.work, args.measure)
    else:
        make({name: listed[name] for name in args.preset or listed}, args.work, args.output)


if __name__ == "__main__":
    main()
