"""Real tokenizers of many kinds with the vocabulary of a corpus, and with half of what a size setting may remove from
that.

The corpus is the standard library's source. Every text of it must be tokenised as before by what `tokenizers` by
itself loads from the written file. Of 5,000 strings (code, prose in many scripts, random Unicode, the tokenizer's own
added tokens; the same in every run) each that round-trips through the dense tokenizer must round-trip at both sizes;
for the others it counts how many decode differently than with the dense one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import sysconfig
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import print_result
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from optimum_flab.utils.errors import FlabError
from optimum_flab.vocabulary.closure import TokenizerSpec, natural_vocabulary, read_spec, resize, with_prior_uses
from optimum_flab.vocabulary.files import reload_tokenizer, save_tokenizer
from optimum_flab.vocabulary.rewrite import rewrite_tokenizer
from optimum_flab.vocabulary.usage import count_tokens


PROSE = (
    "The quick brown fox doesn't jump over the lazy dog's 1,234 friends – “really?” he said.",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au delà des îles.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; Füße, Maße, Straße.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy. Zażółć gęślą jaźń. Pijamalı hasta yağız şoföre çabucak güvendi.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Жебракують філософи при ґанку церкви.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία, ο καλύμνιος σφουγγαράς ψιθύρισε.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق.",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण।",
    "আমি কাচ খেতে পারি। யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது எங்கும் காணோம்.",
    "天地玄黃,宇宙洪荒。我能吞下玻璃而不伤身体。私はガラスを食べられます。いろはにほへと ちりぬるを",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "Գիտե՞ք ինչպես. მინას ვჭამ და არა მტკივა. አማርኛ ሰላም ለዓለም። ខ្ញុំអាចញុំកញ្ចក់បាន មြန်မာဘာသာ",
    "🙂👩‍💻🏳️‍🌈 ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β → γ ½ ² ™ ﬁ Å Å ｆｕｌｌ　ｗｉｄｔｈ ‏rtl‎ zero​width",
)
# planes and blocks that random text is drawn from, besides all of Unicode
RANGES = (
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x300, 0x36F),
    (0x370, 0x6FF),
    (0x900, 0xFFF),
    (0x3040, 0x9FFF),
    (0x1F300, 0x1FAFF),
)
SHOWN = 3
PART = 4000  # characters


def corpus(size: int) -> list[str]:
    """Modules of the standard library, sorted, up to so many bytes, in parts: normalizers that replace by regular
    expressions take a time that grows with the square of a text's length."""
    texts = []
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in file.parts or size <= 0:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        texts += [text[start : start + PART] for start in range(0, len(text), PART)]
        size -= len(text.encode("utf-8"))
    return texts


def strings(number: int, added: list[str], code: list[str]) -> list[str]:
    """So many short texts of four kinds in turn, the same for the same added tokens."""
    draw = random.Random(0)
    makers = (lambda: _slice(draw, draw.choice(code)), lambda: _slice(draw, draw.choice(PROSE)))
    found = []
    for place in range(number):
        if place % 4 < 2:
            found.append(makers[place % 4]())
        elif place % 4 == 2:
            found.append("".join(_character(draw) for _ in range(draw.randint(0, 20))))
        else:
            parts = [
                draw.choice([draw.choice(added or ["<s>"]), draw.choice(makers)()[:12], " ", "\n"]) for _ in range(5)
            ]
            found.append("".join(parts))
    return found


def _slice(draw: random.Random, text: str) -> str:
    start = draw.randrange(max(len(text), 1))
    return text[start : start + draw.randint(0, 200)]


def _character(draw: random.Random) -> str:
    first, last = draw.choice([*RANGES, (0, 0x10FFFF)])
    point = draw.randint(first, last)
    return chr(point) if not 0xD800 <= point <= 0xDFFF else "\ufffd"


def read_back(backend: Tokenizer, texts: list[str]) -> list[str]:
    """Texts encoded and decoded."""
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    return [backend.decode(encoding.ids, skip_special_tokens=False) for encoding in encodings]


def bare(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """What `tokenizers` alone makes of the file that is written."""
    with TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, folder)
        return Tokenizer.from_file(str(Path(folder, "tokenizer.json")))


def pruned_row(
    dense: PreTrainedTokenizerBase, spec: TokenizerSpec, texts: list[str], number: int
) -> dict[str, object]:
    """What happens to one tokenizer."""
    start = time.perf_counter()
    counts = count_tokens(dense, texts).counts
    natural = natural_vocabulary(spec, counts)
    size = (len(natural.kept) + len(natural.protected)) // 2
    half = resize(spec, natural, with_prior_uses(spec, counts.astype(float)), size)
    new = rewrite_tokenizer(dense, natural.kept)
    seconds, file = time.perf_counter() - start, bare(new)
    pieces = (backend.encode_batch(texts, add_special_tokens=False) for backend in (dense.backend_tokenizer, file))
    changed = sum(
        before.ids != natural.kept[np.array(after.ids, dtype=int)].tolist()
        for before, after in zip(*pieces, strict=True)
    )
    row: dict[str, object] = {
        "tokens": len(dense),
        "kept": len(natural.kept),
        "half": size,
        "protected": len(natural.protected),
        "seconds": round(seconds, 1),
        "changed_texts": changed,
    }
    samples = strings(number, sorted(dense.get_added_vocab()), texts)
    there = read_back(dense.backend_tokenizer, samples)
    row["dense_reads_back"] = sum(text == back for text, back in zip(samples, there, strict=True))
    for name, backend in (("kept", file), ("half", bare(rewrite_tokenizer(dense, half)))):
        back = read_back(backend, samples)
        broken = [text for text, one, other in zip(samples, there, back, strict=True) if one == text != other]
        row[f"lost_at_{name}"] = len(broken)
        row[f"otherwise_at_{name}"] = sum(one != other for one, other in zip(there, back, strict=True)) - len(broken)
        if broken:
            row[f"examples_at_{name}"] = [text[:80] for text in broken[:SHOWN]]
    return row


def row_of(folder: Path, texts: list[str], number: int) -> dict[str, object]:
    """One tokenizer, pruned or refused."""
    dense = reload_tokenizer(PreTrainedTokenizerFast.from_pretrained(folder), str(folder))
    dense.backend_tokenizer.no_truncation()
    dense.backend_tokenizer.no_padding()
    model = json.loads(dense.backend_tokenizer.to_str())["model"]
    flags = [name for name in ("byte_fallback", "ignore_merges") if model.get(name)]
    row: dict[str, object] = {"name": folder_name(folder), "model": " ".join([model["type"], *flags])}
    try:
        spec = read_spec(dense)
    except FlabError as error:
        return {**row, "refused": str(error)}
    return {**row, "byte_level": spec.byte_level, **pruned_row(dense, spec, texts, number)}


def folder_name(folder: Path) -> str:
    """The part of a path that says what it is: packages of npm all have the same two at its end."""
    return next((part for part in reversed(folder.resolve().parts) if part not in ("models", "package")), str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a folder with a tokenizer.json")
    parser.add_argument("--megabytes", type=float, default=2.0, help="size of the corpus, in 10**6 bytes of UTF-8")
    parser.add_argument("--strings", type=int, default=5000, help="how many strings are read back")
    args = parser.parse_args()

    texts, rows = corpus(int(args.megabytes * 1e6)), []
    for folder in args.folders:
        rows.append(row_of(folder, texts, args.strings))
        print(json.dumps(rows[-1], ensure_ascii=False), file=sys.stderr, flush=True)
    counted = [row for row in rows if "refused" not in row]
    print_result(
        "tokenizer_kinds",
        bytes=sum(len(text.encode("utf-8")) for text in texts),
        texts=len(texts),
        strings=args.strings,
        tokenizers=rows,
        violations=sum(
            int(str(row[name])) for row in counted for name in ("changed_texts", "lost_at_kept", "lost_at_half")
        ),
    )


if __name__ == "__main__":
    main()
