"""The log of a run: ``log.jsonl`` (a line per step), ``metrics.csv`` (a row per validation), and the terminal."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from segwright.core.atomic_io import without_nan, write_text
from segwright.core.progress import PLAIN_INTERVAL, duration, stderr_console, visible, wrap_line
from segwright.training.callbacks.trackers import Trackers

BRIEF_INTERVAL = 30.0  # seconds between two plain lines of a training that is one of many
STEP_KEYS = ("step", "epoch", "loss", "main_loss", "lr", "images_per_second", "time")


class RunLog:
    """Appends to ``log.jsonl`` and ``metrics.csv``. A full disk ends the log with one warning; the run continues."""

    def __init__(
        self,
        folder: Path,
        *,
        keep_until_step: int | None = None,
        validated_epoch: int | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        """``keep_until_step``: when a run is resumed, lines of later steps are dropped, since those steps are taken
        again, and so are validations of epochs after ``validated_epoch``. ``trackers`` get every record as well."""
        self.validated_epoch = validated_epoch
        self.trackers = trackers
        self.folder = folder
        self.lines, self.metrics = folder / "log.jsonl", folder / "metrics.csv"
        self.silent = False
        self.file: TextIO = io.StringIO()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._cut(keep_until_step)
            self.file = open(self.lines, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close()
        except OSError as error:
            self._give_up(error)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a line of JSON, unbuffered."""
        if self.trackers is not None:
            self.trackers.write(record)
        if self.silent:
            return
        try:
            self.file.write(json.dumps(without_nan(dict(record)), ensure_ascii=False) + "\n")
            self.file.flush()
        except OSError as error:
            self._give_up(error)

    def validation(self, record: Mapping[str, Any]) -> None:
        """Write a validation: a line in the log and a row in ``metrics.csv``, with the first row's keys as columns."""
        self.write(record)
        flat = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
        try:
            new = not self.metrics.exists()
            with open(self.metrics, "a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(flat), extrasaction="ignore")
                if new:
                    writer.writeheader()
                writer.writerow(flat)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        if self.trackers is not None:
            self.trackers.close()
        try:
            self.file.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.silent = True
        print(f"warning: the log cannot be written any more ({error.strerror}); training goes on", file=sys.stderr)

    def _cut(self, keep_until_step: int | None) -> None:
        if not self.lines.exists():
            self.metrics.unlink(missing_ok=True)
            return
        if keep_until_step is None:
            self.lines.unlink()
            self.metrics.unlink(missing_ok=True)
            return
        records = [r for r in read_log(self.folder) if kept(r, keep_until_step, self.validated_epoch)]
        write_text(self.lines, "".join(json.dumps(r) + "\n" for r in records))
        if self.metrics.exists():
            # Rewritten from the log, which has the same content: a kill may have truncated the table.
            records = [r for r in read_log(self.folder) if "val_miou" in r]
            rows = [{k: v for k, v in r.items() if not isinstance(v, dict | list)} for r in records]
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["step"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
            write_text(self.metrics, buffer.getvalue())


def kept(record: Mapping[str, Any], until: int, validated_epoch: int | None = None) -> bool:
    """Whether a record belongs to a step up to ``until``, and a validation to an epoch up to ``validated_epoch``."""
    try:
        if validated_epoch is not None and "val_miou" in record and int(record.get("epoch") or 0) > validated_epoch:
            return False
        return int(float(record.get("step") or 0)) <= until
    except (TypeError, ValueError, OverflowError):
        return False


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Every complete line of a run's ``log.jsonl``; a line that a kill truncated is left out."""
    records = []
    path = Path(folder) / "log.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


class Display:
    """The terminal during a run: a live table and a bar, or a plain line every ten seconds when piped.

    ``brief``: for a training that is one of many: no lines but those of its progress, and the table goes when it ends.
    """

    def __init__(self, *, show: bool = True, brief: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.show, self.brief = show, brief
        self.live: Live | None = None
        self.last = 0.0
        self.shown: tuple[Mapping[str, Any], float, float, str, float] | None = None  # what the table shows
        self.best: tuple[float, int] | None = None
        self.rows: deque[tuple[str, str, str]] = deque(maxlen=6)

    def __enter__(self) -> Display:
        if self.show and self.stream.isatty():
            self.live = Live(console=stderr_console(), refresh_per_second=4, transient=self.brief)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def step(self, record: Mapping[str, Any], share: float, left: float, memory: str, loader: float = 0.0) -> None:
        """Show a step's record; ``share`` of the run done, ``left`` seconds to its end, ``loader``: share of the time
        spent waiting for batches."""
        if not self.show:
            return
        self.shown = (record, share, left, memory, loader)
        if self.live is not None:
            self.live.update(self._table(*self.shown))
        elif time.monotonic() - self.last >= (BRIEF_INTERVAL if self.brief else PLAIN_INTERVAL):
            self.last = time.monotonic()
            print(self._line(*self.shown), file=self.stream, flush=True)

    def validation(self, record: Mapping[str, Any], better: bool) -> None:
        """Show a validation's figures."""
        if not self.show:
            return
        miou = float(record["val_miou"])
        if better:
            self.best = (miou, int(record["epoch"]))
        parts = ", ".join(f"{name} {value:.3f}" for name, value in record.get("val_miou_by_part", {}).items())
        text = f"epoch {record['epoch']}: val mIoU {miou:.3f}{f' ({parts})' if parts else ''}"
        text += f", pixel accuracy {float(record['val_pixel_accuracy']):.3f}"
        self.rows.append((f"epoch {record['epoch']}", f"mIoU {miou:.3f}", "best so far" if better else ""))
        if self.live is None:
            self.message(text + (" (best so far)" if better else ""))
        elif self.shown is not None:  # at the end of a run no further step would bring the row to the screen
            self.live.update(self._table(*self.shown))

    def message(self, text: str) -> None:
        """Print a line that stays on the screen."""
        if not self.show or self.brief:
            return
        if self.live is None and not self.stream.isatty():
            print(visible(text, lines=True), file=self.stream, flush=True)
            return
        console = stderr_console() if self.live is None else self.live.console
        lines = (wrap_line(line, console.width) for line in text.splitlines())
        console.print("\n".join(lines), markup=False, soft_wrap=True)

    def _line(self, record: Mapping[str, Any], share: float, left: float, memory: str, loader: float) -> str:
        if self.brief:
            best = f", val mIoU {self.best[0]:.3f}" if self.best is not None else ""
            return f"  {share:.0%}, loss {record['loss']:.3f}{best}, {duration(left)} left"
        return (
            f"{share:4.0%}  epoch {record['epoch'] + 1}  step {record['step']}  loss {record['loss']:.3f}  "
            f"lr {record['lr']:.2e}  {record['images_per_second']:.1f} images/s  loader {loader:.0%}  {memory}  "
            f"{duration(left)} left"
        )

    def _table(self, record: Mapping[str, Any], share: float, left: float, memory: str, loader: float) -> Table:
        grid = Table.grid(padding=(0, 2))
        width = 36 if self.live is None else max(10, min(36, self.live.console.width // 2 - 4))
        grid.add_row(ProgressBar(total=1.0, completed=share, width=width), f"{share:.0%}", f"{duration(left)} left")
        grid.add_row(
            f"epoch {record['epoch'] + 1}, step {record['step']}",
            f"loss {record['loss']:.3f}",
            f"learning rate {record['lr']:.2e}",
        )
        grid.add_row(f"{record['images_per_second']:.1f} images/s", memory, f"loader {loader:.0%} of a step")
        if self.best is not None and not any(row[0] == f"epoch {self.best[1]}" for row in self.rows):
            grid.add_row(f"epoch {self.best[1]}", f"mIoU {self.best[0]:.3f}", "the best")
        for row in self.rows:
            grid.add_row(*row)
        return grid
