"""What is shown in the terminal when the label page starts."""

from __future__ import annotations

from segwright.core.counted import counted
from segwright.labeling.page.service import LabelService


def started_lines(service: LabelService) -> list[str]:
    """Images, labels that are there already, questions, and what was passed over."""
    summary = service.store.summary()
    labeled = sum(1 for found in service.store.journal.images.values() if found.painted)
    images, classes = len(service.images.names), len(service.store.info.label_space)
    lines = [f"{counted(images, 'image')}, {counted(classes, 'class')}; labels in {service.store.folder}"]
    if service.model:
        lines.append(f"model: {service.model}")
    if summary["strokes"]:
        lines.append(
            f"resumed: {summary['strokes']} strokes on {counted(labeled, 'image')} by "
            f"{', '.join(summary['annotators'])}"
        )
    if summary["torn"]:
        lines.append(f"note: {summary['torn']} lines of the journal were cut short; they were never acknowledged")
    left = service.queue.left()
    if left is not None:
        lines.append(f"{counted(left, 'question', 'is')} open")
    if service.queue.unknown:
        lines.append(
            f"note: questions about {counted(len(service.queue.unknown), 'image')} that are not here are passed over"
        )
    return lines
