"""The check's result for people in a terminal: what it is, the classes as bars, the findings with their fixes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segwright.core.counted import counted
from segwright.core.progress import literal, visible
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.label_rules import share_text
from segwright.data.check.runner import CheckResult
from segwright.data.records import Problem

FILES_SHOWN = 4
BAR, LEAST_BAR = 24, 6
FEW = 6  # more classes than this that never occur are a line, and not rows of zeros
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def render_check(result: CheckResult, console: Console) -> None:
    """Print to ``console``: tables where it is a terminal, the same text without color where it is piped."""
    splits = ", ".join(f"{name} {count}" for name, count in result.splits.items())
    head = f": {result.format}, {counted(result.images, 'image')}" + (f" ({splits})" if splits else "")
    console.print(Text.assemble((visible(result.root), "bold"), visible(head)), soft_wrap=True)
    for note in result.notes:
        console.print(Padding(literal(note), (0, 0, 0, 2), expand=False), style="dim")
    if result.fingerprint is not None and result.fingerprint.examined:
        for line in describe(result.fingerprint):
            console.print(Padding(literal(line), (0, 0, 0, 2), expand=False))
        if result.fingerprint.labeled:
            console.print(_classes(result, console.width))
    for problem in result.problems:
        _print_problem(problem, console)
    console.print(verdict(result))


def describe(found: Fingerprint) -> list[str]:
    """The fingerprint in a few lines."""
    if found.same_size:
        size = f"all {found.height[0]}×{found.width[0]}"
    else:
        size = (
            f"{found.height[0]}×{found.width[0]} to {found.height[2]}×{found.width[2]}, "
            f"median {found.height[1]}×{found.width[1]}"
        )
    mean = ", ".join(f"{value:.0f}" for value in found.mean[:4])
    lines = [f"sizes (height×width): {size}; {found.channels} channels, mean {mean} of 255"]
    if found.sparse:
        lines.append(
            f"labels: {found.classes_per_image:.1f} classes per image; {share_text(found)} labeled, the rest ignored"
        )
    elif found.labeled:
        lines.append(
            f"labels: {found.classes_per_image:.1f} classes per image, {100 * found.ignored_share:.1f} % ignored, "
            f"{100 * found.boundary_density:.1f} % of the pixels on a border"
        )
    return lines


def verdict(result: CheckResult) -> Text:
    """The last line."""
    counts = {severity: sum(p.severity == severity for p in result.problems) for severity in STYLES}
    if not result.problems:
        return Text("No problems found.", style="bold green")
    text = ", ".join(counted(count, name) for name, count in counts.items() if count)
    return Text(text, style="bold red" if counts["error"] else "bold green")


def _classes(result: CheckResult, width: int) -> Table:
    found = result.fingerprint
    assert found is not None
    table = Table(box=None, pad_edge=True, padding=(0, 1))
    table.add_column("class")
    table.add_column("share", justify="right")
    table.add_column("")
    table.add_column("images", justify="right")
    table.add_column("typical size", justify="right")
    if result.objects:
        table.add_column("objects", justify="right")
    parts = [name for name, one in result.by_split.items() if one.labeled]
    compare = parts if len(parts) > 1 else []
    for name in compare:
        table.add_column(literal(name), justify="right")
    # Scaled, not cut off, where the terminal is narrow: the other columns take what they need first.
    others = [
        max(len(visible(name)) for name in found.class_names),
        len("100.00 %"),
        len("images"),
        len("typical size"),
    ]
    if result.objects:
        others.append(max(len("objects"), *(len(objects_text(result, index)) for index in result.objects)))
    others += [max(len(visible(name)), len("100.00 %")) for name in compare]
    room = min(max(width - sum(others) - 2 * (len(others) + 1), LEAST_BAR), BAR)
    most = max(max(found.class_shares), 1e-9)
    absent = sum(
        not pixels and not result.objects.get(index, (0, 0))[0] for index, pixels in enumerate(found.class_pixels)
    )
    for index, name in enumerate(found.class_names):
        if absent > FEW and not found.class_pixels[index] and not result.objects.get(index, (0, 0))[0]:
            continue  # a finding names them
        share, scale = found.class_shares[index], found.scales[index]
        table.add_row(
            literal(name),
            f"{100 * share:.2f} %",
            "█" * max(1, round(room * share / most)) if share else "",
            str(found.class_images[index]),
            f"{scale.median:.0f} px" if scale and not found.sparse else "-",
            *([objects_text(result, index)] if result.objects else []),
            *(f"{100 * result.by_split[part].class_shares[index]:.2f} %" for part in compare),
        )
    if absent > FEW:
        table.add_row(f"… and {counted(absent, 'class')} without pixels")
    return table


def objects_text(result: CheckResult, label: int) -> str:
    """How many objects of a class are annotated; and how many of them cover a pixel, where that differs."""
    listed, drawn = result.objects.get(label, (0, 0))
    if not listed:
        return "-"
    return str(listed) if drawn == listed else f"{drawn} of {listed}"


def _print_problem(problem: Problem, console: Console) -> None:
    style = STYLES[problem.severity]
    console.print(
        Text.assemble((problem.severity, style), " ", (visible(problem.kind), "bold"), f": {visible(problem.message)}")
    )
    for line in shown_files(problem.files):
        console.print(Padding(literal(line), (0, 0, 0, 4), expand=False), style="dim", soft_wrap=True)
    if problem.fix:
        console.print(Padding(literal(f"fix: {problem.fix}"), (0, 0, 0, 4), expand=False))


def shown_files(files: Sequence[str]) -> list[str]:
    """The first few files, names only where they share a folder, and how many more there are."""
    if not files:
        return []
    shown = [visible(file) for file in files[:FILES_SHOWN]]
    folders = {str(Path(file).parent) for file in files[:FILES_SHOWN]}
    if len(folders) == 1 and len(shown) > 1:
        shown = [visible(f"{folders.pop()}: ") + ", ".join(visible(Path(file).name) for file in files[:FILES_SHOWN])]
    rest = len(files) - FILES_SHOWN
    return [*shown, f"… and {rest} more (--json lists all)"] if rest > 0 else shown
