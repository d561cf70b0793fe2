"""Import every module of the installed package, with whatever is installed beside it; run by .ci/run in an environment
that has only the core dependencies, so that a module that imports an optional package at the top is found."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback


def main() -> int:
    """Import all of regard.* and return the number of modules that failed."""
    import regard

    names, failed = ["regard"], []
    for found in pkgutil.walk_packages(regard.__path__, "regard.", onerror=failed.append):
        if found.name.endswith("__main__"):
            continue
        names.append(found.name)
        try:
            importlib.import_module(found.name)
        except BaseException:  # a module that exits when imported is a failure as well
            failed.append(found.name)
            traceback.print_exc()
    failed = sorted(set(failed))
    print(f"{len(names) - len(failed)} of {len(names)} modules import" + "".join(f"\n  not: {name}" for name in failed))
    return len(failed)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
