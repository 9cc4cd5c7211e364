"""Files for other programs: GGUF, which llama.cpp runs."""

from .file_cost import file_cost, own_reference
from .gguf_file import Exported, WrittenFile, check_export, check_path, export_gguf


__all__ = ["Exported", "WrittenFile", "check_export", "check_path", "export_gguf", "file_cost", "own_reference"]
