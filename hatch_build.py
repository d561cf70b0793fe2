"""Compiles the kernels while a wheel is made, so that `pip install` leaves nothing to compile at first use.

Where there is no compiler, or REGARD_KERNELS=0 says not to, the wheel is made without them; they are then compiled when
first wanted, if that is possible. Editable installs go that way too.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Kernels(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library beside its source; a wheel that holds one is for this sort of machine only."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is put together. Never fails: what went wrong is said."""
        if version == "editable" or os.environ.get("REGARD_KERNELS") == "0":
            return
        path = Path(self.root, "src", "regard", "native", "build.py")
        spec = importlib.util.spec_from_file_location("regard_native_build", path)
        assert spec is not None and spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(build)
            self.folder = tempfile.TemporaryDirectory()
            library = Path(self.folder.name, build.name())
            build.compile_to(library)
        except Exception as error:
            self.app.display_warning(f"regard: installed without kernels for writing: {error}")
            return
        library.chmod(0o755)
        build_data["force_include"][str(library)] = f"regard/native/{library.name}"
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
