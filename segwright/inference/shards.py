"""Predictions as Parquet files: a row per image with its mask, what else was written, class shares and confidence.

| column | type | what |
|---|---|---|
| path | string | the source, as in results: no password |
| name | string | the name of its outputs in a folder, without a suffix |
| index | int64 | frame of a video or page of a TIFF; null otherwise |
| height, width | int32 | pixels |
| mask_file | string | the mask's file name in a folder; its suffix is the format |
| mask, overlay, confidence, … | large_binary | the files that a folder would have, byte for byte |
| shares | map<string, double> | class name → share of the pixels, 0…1 |
| mean_confidence | double | 0…1 |
| beside | map<string, large_binary> | further files of the image, such as a world file: name → content |
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from segwright.core.errors import MissingExtraError
from segwright.inference.ledger import OUTPUTS
from segwright.inference.output_options import OutputOptions

SHARD_BYTES = 128 << 20  # a file ends with the row that reaches this
ROWS = 256  # of a row group, at most


def require_parquet() -> None:
    """MissingExtraError without pyarrow."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "Parquet files need pyarrow", found=str(error), fix="pip install 'segwright[ray]'"
        ) from error


def columns(options: OutputOptions) -> list[str]:
    """The columns of files that the options ask for."""
    wanted = {
        "mask": True, "overlay": options.overlay, "confidence": options.confidence,
        "probabilities": options.probabilities is not None, "uncertainty": options.uncertainty is not None,
        "geojson": "geojson" in options.polygons, "labelme": "labelme" in options.polygons, "video": options.video,
    }  # fmt: skip
    return [key for key in OUTPUTS if wanted[key]]


def schema(options: OutputOptions, metadata: Mapping[str, str]) -> Any:
    """The schema of every file of a run; ``metadata``: what the file's own key-value part has."""
    import pyarrow as pa

    binary = pa.large_binary()
    fields = [
        ("path", pa.string()), ("name", pa.string()), ("index", pa.int64()), ("height", pa.int32()),
        ("width", pa.int32()), ("mask_file", pa.string()), *((key, binary) for key in columns(options)),
        ("shares", pa.map_(pa.string(), pa.float64())), ("mean_confidence", pa.float64()),
        ("beside", pa.map_(pa.string(), binary)),
    ]  # fmt: skip
    return pa.schema(fields, metadata={key.encode(): value.encode() for key, value in metadata.items()})


def shards(rows: Iterable[Mapping[str, Any]], form: Any, largest: int = SHARD_BYTES) -> Iterator[tuple[bytes, int]]:
    """Parquet files of rows, each with its number of rows; one that reaches ``largest`` bytes ends."""
    waiting: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        waiting.append(row)
        size += _bytes(row)
        if size >= largest:
            yield _file(waiting, form), len(waiting)
            waiting, size = [], 0
    if waiting:
        yield _file(waiting, form), len(waiting)


def _bytes(row: Mapping[str, Any]) -> int:
    own = sum(len(value) for value in row.values() if isinstance(value, bytes))
    return own + sum(len(value) for _, value in row.get("beside") or ())


def _file(rows: list[Mapping[str, Any]], form: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = io.BytesIO()
    named = [{name: row.get(name) for name in form.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(named, schema=form), data, row_group_size=ROWS, compression="zstd")
    return data.getvalue()


def row_of(
    item: Mapping[str, Any], name: str, folder: Path, beside: Iterable[Path], size: tuple[int | None, int | None]
) -> dict[str, Any]:
    """The row of one image: what was written for it in ``folder``."""
    files = {key: Path(item[key]) for key in OUTPUTS if key in item}
    index = item.get("frame", item.get("page"))
    return {
        "path": item["file"], "name": name, "index": index, "height": size[0], "width": size[1],
        "mask_file": files["mask"].relative_to(folder).as_posix() if "mask" in files else None,
        **{key: path.read_bytes() for key, path in files.items()},
        "shares": list(item.get("shares", {}).items()), "mean_confidence": item.get("mean_confidence"),
        "beside": [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in beside] or None,
    }  # fmt: skip
