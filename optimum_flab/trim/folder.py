"""A folder with safetensors files with fewer rows in the tables of its vocabulary, whatever its class and
quantisation; every other tensor has the bytes that it had."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.initialization import no_init_weights

from ..checkpoints.finding import METADATA_PATTERNS, ModelFiles, download_weights
from ..checkpoints.saving import check_tokenizer
from ..checkpoints.tokenizer import check_vocabulary, load_tokenizer
from ..checkpoints.weight_files import check_weight_files
from ..records.json_files import read_json
from ..records.names import CARD_NAME, FILES, OTHER_TOKENIZERS, WEIGHTS, WEIGHTS_INDEX, is_secret
from ..records.shards import shards
from ..tensors.copying import copy_bytes, copy_rows
from ..tensors.lazy import stored_pieces
from ..tensors.stored import data_start, packed_header, safetensors_header, stored_entries
from ..utils.compat import new_model
from ..utils.errors import DOWNLOAD, FlabError, first_line, first_of
from ..utils.progress import progress
from ..vocabulary.files import save_tokenizer
from ..vocabulary.rewrite import GENERATION_FIELDS, remap_token_ids, rewrite_tokenizer
from .tables import TrimmedFiles


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


GROWTH = 8  # rows by which the vocabulary is enlarged to see which tensors grow with it
SIZES = ("vocab_size", "vocab_size_per_layer_input")
OF_IDS = ("_token_id", "_token_ids", "_token_index", "image_patch_id", "im_start_id", "im_end_id", "im_newline_id")
# what configurations of other parts than the text call ids of the text's vocabulary
OF_MEDIA = ("image_", "video_", "audio_", "vision_")
# what would have to be renumbered too: ids by name, ids that something is computed from, and a second model's
NOT_RENUMBERED = (
    *("vocabulary_map", "lang_to_id", "task_to_id", "forced_decoder_ids", "talker_config"),
    *("image_token_offset", "audio_token_offset", "ngram_vocab_size_base"),
)
WITH_IDS = ("generation_config.json", "processor_config.json", "preprocessor_config.json")
OFFSET = "vocab_offset"  # the first of the ids that stand for what is no text


class FolderModel:
    """A checkpoint in a folder or of the Hub.

    Args:
        files ([`~checkpoints.finding.ModelFiles`]): where it is; weights of the Hub are downloaded.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): its tokenizer, if it is not in the folder.
        trust_remote_code (`bool`): whether code from its repository may run.

    Raises:
        [`FlabError`]: weights are missing, damaged or no safetensors, transformers cannot build the model, or a table
            of the vocabulary is stored in a form that rows cannot be cut from.
    """

    def __init__(
        self, files: ModelFiles, tokenizer: PreTrainedTokenizerBase | None = None, trust_remote_code: bool = False
    ):
        self.files = files
        self._trust = trust_remote_code
        self._own_tokenizer = tokenizer
        self.raw = read_json(files.folder / "config.json", DOWNLOAD)
        download_weights(files)
        self._shards = shards(files.folder)
        if not self._shards:
            raise FlabError(
                f"model {files.name!r} has no {WEIGHTS}, and only safetensors and GGUF files are trimmed; convert its"
                " weights, or name a repository that has them"
            )
        check_weight_files(files.folder)
        self._headers = {path: safetensors_header(path) for path in self._shards}
        self._entries = dict(entry for path in self._shards for entry in stored_entries(path, self._headers[path]))
        index = files.folder / WEIGHTS_INDEX
        self._index = read_json(index, DOWNLOAD) if self._shards != [files.folder / WEIGHTS] else {}
        if missing := sorted(self._index.get("weight_map", {}).keys() - self._entries.keys()):
            raise FlabError(
                f"the weights of {files.name!r} lack {first_of(missing)}, which its index names; {DOWNLOAD}"
            )
        self.config = self._read_config(files.folder)
        self._text_path = _text_path(self.config)
        self._check_ids()
        self._add_defaults()
        self._tables = self._find_tables()
        self._trimmed: tuple[list[int], PreTrainedTokenizerBase] | None = None

    def _read_config(self, folder: Path) -> PreTrainedConfig:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=self._trust)
            config.get_text_config()
            return config
        except Exception as error:  # configurations check themselves in many ways
            raise FlabError(
                f"the configuration of {self.files.name!r} cannot be read ({first_line(error)}); check its"
                " config.json, or allow its code with `trust_remote_code` if you trust it"
            ) from error

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        text = copy.deepcopy(self.config.get_text_config())
        text.vocab_size = self.rows
        tokenizer = self._own_tokenizer or load_tokenizer(self.files, self.config, self._trust)[0]
        check_vocabulary(tokenizer, text, self.files.name)
        return tokenizer

    def trimmed_tokenizer(self, kept: Sequence[int]) -> PreTrainedTokenizerBase:
        """The tokenizer with only these tokens."""
        if self._trimmed is None or self._trimmed[0] != [*kept]:
            tokens = set(self.tokenizer.get_vocab().values())
            own = [index for index in kept if index in tokens]
            self._trimmed = [*kept], rewrite_tokenizer(self.tokenizer, own, self.config.model_type)
        return self._trimmed[1]

    @property
    def rows(self) -> int:
        """The number of ids, those without a token included."""
        return max(self._tables.values())  # an embedding can have more than there are outputs

    @property
    def layers(self) -> int:
        """The number of layers, 0 where it is not stated."""
        return getattr(self.config.get_text_config(), "num_hidden_layers", 0) or 0

    @property
    def size(self) -> int:
        """The bytes of its weight files."""
        return sum(path.stat().st_size for path in self._shards)

    @property
    def kind(self) -> str:
        """What it is, in a word or two."""
        settings = self.raw.get("quantization_config") or {}
        return f"safetensors ({settings.get('quant_method') or self.raw.get('dtype') or self.raw.get('torch_dtype')})"

    def spellings(self, kept: Sequence[int]) -> list[str]:
        """Tokens as its tokenizer has them; empty for an id without one."""
        tokens = {index: token for token, index in self.tokenizer.get_vocab().items()}
        return [tokens.get(index, "") for index in kept]

    # --- what the vocabulary is in ---------------------------------------------------------------------------------

    def _outline(self, config: PreTrainedConfig) -> PreTrainedModel:
        """The model on the meta device."""
        import transformers
        from transformers import AutoModelForCausalLM

        names = map(str, config.architectures or ())
        known = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
        plain: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}  # others may not be installed
        try:
            with torch.device("meta"), no_init_weights():
                model = (
                    new_model(known[0], config, **plain)
                    if known
                    else AutoModelForCausalLM.from_config(config, trust_remote_code=self._trust, **plain)
                )
            model.tie_weights()
            return model
        except Exception as error:  # what is wrong with a configuration shows where it is used
            raise FlabError(
                f"transformers cannot build {self.files.name!r} ({type(error).__name__}: {first_line(error)})"
            ) from error

    def _find_tables(self) -> dict[str, int]:
        """The stored tensors with a row for each token, and how many rows they have."""
        from transformers.conversion_mapping import get_model_conversion_mapping

        model, name = self._outline(self.config), self.files.name
        grown = self._outline(_grown(self.config)).state_dict()
        own = model.state_dict(keep_vars=True)
        tables = {target for target, tensor in own.items() if grown[target].shape != tensor.shape}
        self._shapes = {target: (tuple(tensor.shape), target in tables) for target, tensor in own.items()}
        for target in sorted(tables):
            if grown[target].shape != (own[target].shape[0] + GROWTH, *own[target].shape[1:]):
                raise FlabError(f"{target} of {name!r} has the vocabulary along another axis than its rows")
        if not tables:
            raise FlabError(f"{name!r} has no tensor with a row for each token")
        pieces, _ = stored_pieces(model, self._entries, get_model_conversion_mapping(model))
        # tied weights have several names, and are stored under one or more of them
        stored: dict[int, list[str]] = {}
        for target in tables:
            stored.setdefault(id(own[target]), []).extend(pieces.get(target, ()))
        for target in sorted(tables):
            if not stored[id(own[target])]:
                module = target.rpartition(".")[0].rpartition(".")[2]
                packed = [one for one in self._entries if f".{module}." in f".{one}"]
                what = f"stored as {first_of(sorted(packed))}" if packed else "not among its weights"
                raise FlabError(
                    f"{target} of {name!r} is {what}: rows cannot be cut from it; name a checkpoint whose embedding"
                    " and output head are not packed"
                )
        found = {one: self._rows_of(one, own[target]) for target in tables for one in pieces.get(target, ())}
        made = {piece for group in pieces.values() for piece in group}
        found |= self._copies(found, made)
        return found | self._beside(found, made)

    def _rows_of(self, stored: str, own: torch.Tensor) -> int:
        # tables of bytes are quantised ones, which have scales beside them
        entry, shape = self._entries[stored], tuple(own.shape)
        is_other = own.is_floating_point() and entry.dtype in ("BOOL", "I16", "I32", "I64")
        if entry.shape != shape or is_other:
            raise FlabError(
                f"{stored} of {self.files.name!r} is {list(entry.shape)} {entry.dtype}, and the model has"
                f" {list(shape)}: rows cannot be cut from it"
            )
        return shape[0]

    def _copies(self, found: Mapping[str, int], made: set[str]) -> dict[str, int]:
        """Tables that transformers does not load, such as those of layers that predict further ahead."""
        shapes = {self._entries[one].shape for one in found}
        rows = set(found.values())
        copies = dict[str, int]()
        for other, entry in self._entries.items():
            is_matrix = other.rpartition(".")[2] in ("weight", "bias")  # and no packed one, which has any shape
            if other not in made and is_matrix and rows.intersection(entry.shape):
                if entry.shape not in shapes:
                    raise FlabError(
                        f"{other} of {self.files.name!r}, which transformers does not load, is {list(entry.shape)} and"
                        " may have a row for each token: it is not known how it is cut"
                    )
                copies[other] = entry.shape[0]
        return copies

    def _beside(self, found: Mapping[str, int], made: set[str]) -> dict[str, int]:
        """What tables are quantised with, such as a scale for each row."""
        beside = {}
        for table, rows in found.items():
            prefix = f"{table.rpartition('.')[0]}."
            for other, entry in self._entries.items():
                if other.startswith(prefix) and other not in {*made, *found} and prod(entry.shape) > 1:
                    if entry.shape[0] != rows:
                        raise FlabError(
                            f"{table} of {self.files.name!r} is quantised with {other} of {list(entry.shape)}, which"
                            f" has no row for each of {rows:,} tokens: rows cannot be cut from it"
                        )
                    beside[other] = rows
        return beside

    # --- ids -------------------------------------------------------------------------------------------------------

    def _levels(self, raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The parts of a config.json that are about text, from the outside in."""
        yield raw
        for name in self._text_path:
            if name not in raw and SIZES[0] in raw:
                return  # written before there were parts
            raw = raw.setdefault(name, {})
            yield raw

    def _check_ids(self) -> None:
        """Raises a [`FlabError`] if its configurations go by ids in a way that cannot be renumbered."""
        for part in (*self._levels(self.raw), *self._others().values()):
            if found := [name for name in NOT_RENUMBERED if part.get(name)]:
                raise FlabError(
                    f"{self.files.name!r} has {found[0]}, which goes by the numbers of tokens in a way that cannot be"
                    " changed with them: its vocabulary cannot be trimmed"
                )

    def _add_defaults(self) -> None:
        """Writes out the ids that the configuration leaves to its classes, which mean other tokens afterwards."""
        levels, config = [*self._levels(self.raw)], self.config
        for depth, name in enumerate(["", *self._text_path]):
            config = getattr(config, name) if name else config
            level = levels[min(depth, len(levels) - 1)]
            for field, value in config.to_dict().items():
                if _holds_ids(field) and value is not None:
                    level.setdefault(field, value)

    def _ids(self, raw: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
        """Where a config.json has ids: a part of it, and the name of a field."""
        levels = [*self._levels(raw)]
        for level in levels:
            yield from ((level, name) for name in level if _holds_ids(name))
        for part in raw.values():
            if isinstance(part, dict) and not any(part is level for level in levels):
                yield from ((part, name) for name in part if _holds_ids(name) and name.startswith(OF_MEDIA))

    def named_ids(self) -> set[int]:
        """The ids that its configurations name, whether or not there is a token for them, and those of rows that are
        no output."""
        others = ((part, name) for part in self._others().values() for name in part if _holds_ids(name))
        named = {index for part, name in (*self._ids(self.raw), *others) for index in _ids_in(part[name])}
        for values in filter(lambda part: isinstance(part, dict), self.raw.values()):
            if isinstance(first := values.get(OFFSET), int):
                named |= set(range(first, min(first + values.get("vocab_size", 0), self.rows)))
        outputs = self.config.get_text_config().vocab_size
        return {index for index in named if 0 <= index < self.rows} | set(range(outputs, self.rows))

    def _others(self) -> dict[str, dict[str, Any]]:
        folder = self.files.folder
        return {name: read_json(folder / name, DOWNLOAD) for name in WITH_IDS if (folder / name).is_file()}

    def _new_config(self, kept: Sequence[int]) -> dict[str, Any]:
        mapping = {int(index): place for place, index in enumerate(kept)}
        raw, text = copy.deepcopy(self.raw), self.config.get_text_config()
        *outer, inner = self._levels(raw)
        for level in (*outer, inner):
            for name in SIZES:
                size = getattr(text, name, None)
                if isinstance(size, int) and (level.get(name) == size or level is inner):
                    level[name] = _rows_below(kept, size)
        for part, name in self._ids(raw):
            part[name] = _renumbered(part[name], mapping)
        for part in raw.values():
            if isinstance(part, dict) and OFFSET in part:
                part[OFFSET] = mapping[part[OFFSET]]
        return raw

    # --- writing ---------------------------------------------------------------------------------------------------

    def _header_of(self, path: Path, kept: Sequence[int]) -> bytes:
        header, at = dict[str, Any](), 0
        if "__metadata__" in self._headers[path]:
            header["__metadata__"] = self._headers[path]["__metadata__"]
        for name, entry in stored_entries(path, self._headers[path]):
            size = entry.end - entry.start
            shape = list(entry.shape)
            if name in self._tables:
                shape[0] = _rows_below(kept, self._tables[name])
                size = size // self._tables[name] * shape[0]
            header[name] = {"dtype": entry.dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        return packed_header(header)

    def bytes_with(self, kept: Sequence[int]) -> int:
        """The bytes of the weight files with only these tokens."""
        gone = sum(
            (entry.end - entry.start) // rows * (rows - _rows_below(kept, rows))
            for name, rows in self._tables.items()
            for entry in [self._entries[name]]
        )
        before = sum(data_start(path) for path in self._shards)
        return self.size - before + sum(len(self._header_of(path, kept)) for path in self._shards) - gone

    def write(self, kept: Sequence[int], folder: Path, stem: str) -> TrimmedFiles:
        """Writes the folder with only these tokens.

        Args:
            kept (`Sequence[int]`): ascending.
            stem (`str`): not needed: files keep their names.
        """
        new = self.trimmed_tokenizer(kept)
        for name in self._metadata():
            shutil.copyfile(self.files.folder / name, folder / name)
        contents = {"config.json": self._new_config(kept)}
        mapping = {int(index): place for place, index in enumerate(kept)}
        for name, values in self._others().items():
            if ids := {field: _renumbered(values[field], mapping) for field in filter(_holds_ids, values)}:
                contents[name] = values | ids
            else:
                shutil.copyfile(self.files.folder / name, folder / name)
        for name, content in contents.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
        save_tokenizer(new, folder)
        check_tokenizer(folder, new)
        self._check_new(folder, kept)
        cut, copied = dict[str, str](), dict[str, str]()
        total = 0
        with progress("Copying tensors", len(self._entries), "tensor") as tick:
            for path in self._shards:
                with path.open("rb") as source, (folder / path.name).open("wb") as target:
                    target.write(self._header_of(path, kept))
                    for name, entry in stored_entries(path, self._headers[path]):
                        size = entry.end - entry.start
                        if (rows := self._tables.get(name)) is not None:
                            stay = np.asarray(kept[: _rows_below(kept, rows)])
                            cut[name] = copy_rows(source, target, entry.start, size // rows, stay)
                        else:
                            copied[name] = copy_bytes(source, target, entry.start, size)
                            total += size
                        tick()
        if self._index:
            sizes = sum((folder / path.name).stat().st_size - data_start(folder / path.name) for path in self._shards)
            metadata = self._index["metadata"] if isinstance(self._index.get("metadata"), dict) else {}
            kept_of_it = {name: value for name, value in metadata.items() if name != "total_parameters"}
            content = {**self._index, "metadata": {**kept_of_it, "total_size": sizes}}
            (folder / WEIGHTS_INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return TrimmedFiles(tuple(folder / path.name for path in self._shards), cut, copied, total)

    def _metadata(self) -> list[str]:
        """The files that are copied as they are."""
        written = {*FILES, *OTHER_TOKENIZERS, *WITH_IDS, CARD_NAME} - {"chat_template.json"}
        runs = bool(self.raw.get("auto_map"))
        return [
            path.name
            for path in sorted(self.files.folder.iterdir())
            if path.is_file()
            and any(fnmatch(path.name, pattern) for pattern in METADATA_PATTERNS)
            and not path.name.startswith(".")
            and path.name not in written
            and path.suffix != ".model"  # a tokenizer by whatever name
            and (path.suffix != ".py" or runs)
            and not path.name.endswith(".index.json")
            and not fnmatch(path.name, "flab_*")
            and not is_secret(path.name)
        ]

    def _check_new(self, folder: Path, kept: Sequence[int]) -> None:
        """Raises a [`FlabError`] if the new configuration does not make the old model with fewer rows."""
        after = {name: tuple(one.shape) for name, one in self._outline(self._read_config(folder)).state_dict().items()}
        expected = {
            name: (_rows_below(kept, shape[0]), *shape[1:]) if is_table else shape
            for name, (shape, is_table) in self._shapes.items()
        }
        if wrong := sorted(name for name in expected if after.get(name) != expected[name]):
            raise FlabError(
                f"with fewer tokens the configuration of {self.files.name!r} makes another model: {wrong[0]} would be"
                f" {after.get(wrong[0])} and not {expected[wrong[0]]}; nothing was written"
            )

    def check_tokens(self, kept: Sequence[int], folder: Path, texts: Sequence[str]) -> str | None:
        """Nothing: what transformers makes of the new tokenizer is compared where it is written."""


def _grown(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the same model with a larger vocabulary."""
    new = copy.deepcopy(config)
    for part in {id(one): one for one in (new, new.get_text_config())}.values():
        for name in SIZES:
            if isinstance(size := getattr(part, name, None), int) and size > 0:
                with suppress(AttributeError):  # of the whole model it may be computed from that of the text
                    setattr(part, name, size + GROWTH)
    return new


def _text_path(config: PreTrainedConfig) -> list[str]:
    """The names of the configurations around that of the text, and its own."""
    text = config.get_text_config()

    def path_in(part: Any) -> list[str] | None:
        if part is text:
            return []
        for name in getattr(part, "sub_configs", {}):
            inner = getattr(part, name, None)
            if inner is not None and (rest := path_in(inner)) is not None:
                return [name, *rest]
        return None

    return path_in(config) or []


def _rows_below(kept: Sequence[int], rows: int) -> int:
    """How many of the ids that stay have a row in a table of so many."""
    return int(np.searchsorted(np.asarray(kept), rows))


def _holds_ids(name: str) -> bool:
    return name.endswith(OF_IDS) or name in GENERATION_FIELDS


def _ids_in(value: Any) -> Iterator[int]:
    if isinstance(value, bool) or isinstance(value, float):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _ids_in(item)


def _renumbered(value: Any, mapping: Mapping[int, int]) -> Any:
    """Ids in a configuration with their new numbers; negative ones mean something else."""
    return remap_token_ids(value, {**mapping, **{index: index for index in _ids_in(value) if index < 0}})
