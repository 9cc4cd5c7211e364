"""Files for other programs: GGUF, which llama.cpp runs."""

from .gguf_file import Exported, WrittenFile, check_export, check_path, export_gguf


__all__ = ["Exported", "WrittenFile", "check_export", "check_path", "export_gguf"]
