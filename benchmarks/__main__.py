"""python -m benchmarks: list the benchmarks. python -m benchmarks NAME: run one.

Only the one that is named is imported: it needs no package of the others.
"""

import argparse
import importlib
import inspect
import sys
from types import ModuleType

NAMES = (
    "decode",
    "cpu",
    "training",
    "framework",
    "peers",
    "solver-scipy",
    "solver-joint",
    "inversion",
    "gan-recovery",
    "csgm",
    "lasso",
    "methods",
    "bm3d",
    "deep-decoder",
    "loader",
    "memory",
    "faults",
    "gpu",
    "pack",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="name", metavar="NAME")
    names = [name for name in sys.argv[1:2] if name in NAMES] or NAMES
    modules = {name: importlib.import_module(f"benchmarks.{module_of(name)}") for name in names}
    for name, module in modules.items():
        command = commands.add_parser(
            name,
            description=about(module),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(command)
    options = parser.parse_args()
    if options.name is None:
        for name, module in modules.items():
            print(f"{name:14s}{about(module).splitlines()[0]}")
        return
    modules[options.name].run(options)


def about(module: ModuleType) -> str:
    return inspect.getdoc(module) or ""


def module_of(name: str) -> str:
    return name.replace("-", "_")


if __name__ == "__main__":
    main()
