"""Look after stores: ``python -m sigprop.sweeps``, or ``sigprop-store``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sigprop.sweeps import export, inspection, merging
from sigprop.sweeps.store import Store
from sigprop.sweeps.stored_datasets import open_store

__all__ = ["main"]

_SHOWN = 10  # of a list of chunks


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0, 1 where something is missing or damaged, 2 for mistakes."""
    options = _parser().parse_args(arguments)
    try:
        return options.do(options)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sigprop-store", description="Look after stores of sweeps."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Callable, told: str, *positional: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=told, description=told)
        added.set_defaults(do=do)
        for argument in positional:
            added.add_argument(argument, type=Path)
        return added

    command("list", _list, "the stores below a folder", "folder")
    command("status", _status, "what is there, what is missing, what failed", "store")
    command("verify", _verify, "read everything and find what is damaged", "store")
    command("repair", _repair, "have damaged chunks computed again by the next run", "store")
    exporting = command(
        "export", _export, "write a NetCDF file, or a CSV of scalars", "store", "to"
    )
    exporting.add_argument("--format", choices=["netcdf", "csv"], help="by the suffix if not given")
    joining = command("merge", _merge, "bring the chunks of several stores together", "into")
    joining.add_argument("stores", nargs="+", type=Path)
    return parser


def _list(options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        raise ValueError(f"folder must exist, got {options.folder}")
    for path in sorted(options.folder.rglob("*.zarr")):
        store = Store(path)
        if store.of_first_format:
            print(f"{path}  complete (first format)")
        elif store.books.exists():
            print(f"{path}  {_line(store)}")
    return 0


def _line(store: Store) -> str:
    try:
        with open_store(store.path) as ds:
            told = f"{ds.attrs['status']}, {ds.attrs['cells_done']} of {ds.attrs['cells']} cells"
            return f"{ds.attrs['study']}: {told}"
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"


def _status(options: argparse.Namespace) -> int:
    store = Store(options.store)
    if store.of_first_format:
        print("complete (a store of the first format, whose chunks are not told apart)")
        return 0
    plan = store.plan()
    print(f"{store.path}  {_line(store)}; chunks of {plan.rows} cells")
    print("being written now" if store.in_use() else "not being written")
    for failure in inspection.failures(store):
        print(f"failed: chunk {failure.index} ({failure.where}): {failure.error}")
    if store.complete:
        return 0
    if plan.refined:
        print(f"refined along {', '.join(plan.refined)}; run the same command to go on")
        return 1
    missing = inspection.missing(store, plan)
    print(f"missing: {len(missing)} of {len(plan.tiling)} chunks; run the same command to go on")
    for index in missing[:_SHOWN]:
        print(f"  chunk {index}: {plan.tiling.described(index)}")
    if len(missing) > _SHOWN:
        print(f"  and {len(missing) - _SHOWN} more")
    return 1


def _verify(options: argparse.Namespace) -> int:
    store = Store(options.store)
    found = list(inspection.damages(store, store.plan()))
    for damage in found:
        print(f"damaged: {damage.file}: {damage.reason}")
    print(f"{len(found)} damaged files" if found else "every checksum is right")
    return 1 if found else 0


def _repair(options: argparse.Namespace) -> int:
    store = Store(options.store)
    plan = store.plan()
    with store.claimed():
        found = list(inspection.damages(store, plan))
        boxes = sorted({damage.index for damage in found if damage.index is not None})
        if found:
            store.reopen(plan, boxes)
    print(f"{len(boxes)} chunks are to be computed again; run the sweep's own command")
    for damage in found:
        print(f"  {damage.file}: {damage.reason}")
    return 0


def _export(options: argparse.Namespace) -> int:
    kind = options.format or {".csv": "csv"}.get(options.to.suffix, "netcdf")
    write = export.to_csv if kind == "csv" else export.to_netcdf
    write(options.store, options.to)
    print(f"wrote {options.to}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    missing = merging.merge(options.into, options.stores)
    print(f"{options.into} is complete" if not missing else f"{missing} chunks are still missing")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
