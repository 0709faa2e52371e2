"""`kineme demo`: both networks at work, on people made up on the spot.

Promises: writes only under its folder; calls the actions with specs as a user would; the
people and cameras of the tests are none of training's. Ends with one table, the size of the
folder and the paths of the reports.
Leaves out: a model for real use. The figures are synthetic, and so is what is learned.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from kineme.demo import skeletons, videos
from kineme.demo.steps import Log
from kineme.errors import EXIT_OK, SpecError

USAGE = "usage: kineme demo [--out DIR] [--seed N]"


def main(argv: Sequence[str] = ()) -> int:
    """Run the demo; returns the exit code. Raises KinemeError."""
    options = _parse(argv)
    if options is None:
        print(USAGE)
        return EXIT_OK
    folder, seed = options
    halves = {"skeletons": skeletons.run, "videos": videos.run}
    logs = {name: Log(name) for name in halves}
    reports = [run(folder, seed, logs[name]) for name, run in halves.items()]
    _print(logs, reports, folder)
    return EXIT_OK


def _parse(argv: Sequence[str]) -> tuple[Path, int] | None:
    """The folder and the seed; None when help is wanted."""
    values = {"--seed": "0"}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("-h", "--help"):
            return None
        if name not in ("--out", "--seed"):
            raise SpecError("kineme demo", "--out DIR or --seed N", repr(word), USAGE)
        values[name] = value if equals else next(words, "")
        if not values[name]:
            raise SpecError(name, "a value after it", "nothing")
    if not values["--seed"].isdigit():
        raise SpecError("--seed", "a whole number of at least 0", repr(values["--seed"]))
    if "--out" not in values:
        return next(path for path in _free_names() if not path.exists()), int(values["--seed"])
    folder = Path(values["--out"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError("--out", "a folder that is new or empty", repr(str(folder)))
    return folder, int(values["--seed"])


def _free_names() -> Iterator[Path]:
    yield Path("kineme-demo")
    for number in count(2):
        yield Path(f"kineme-demo-{number}")


def _size(folder: Path) -> str:
    """What all files take, those with several names once."""
    found = (path.lstat() for path in folder.rglob("*"))
    sizes = {(facts.st_dev, facts.st_ino): facts.st_size for facts in found}
    return (
        f"{sum(sizes.values()) / 1e6:,.0f} MB, mostly checkpoints; delete it when you have seen it"
    )


def _print(logs: dict[str, Log], reports: Sequence[Path], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "data",
        "step",
        "result",
        title=f"in {folder.resolve()}, {_size(folder)}",
        title_justify="left",
    )
    table.add_column("seconds", justify="right")
    for half, log in logs.items():
        for i, (step, result, seconds) in enumerate(log.rows):
            table.add_row("" if i else half, step, result, f"{seconds:.1f}")
        table.add_row("", "", "", f"{log.seconds:.1f}")
        table.add_section()
    console = Console(markup=False, highlight=False)
    console.print(table)
    for report in reports:
        console.print(f"report: {report.resolve()}", soft_wrap=True)
