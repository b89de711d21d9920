"""A CVAT server on the loopback address, as far as ``cvat-cli task auto-annotate`` needs one."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LABELS_SEEN = "/api/labels"
TIME = "2026-11-01T10:00:00.000000Z"


class CvatServer:
    """One task of images: (name, bytes of the file). ``labels``: (name, type)."""

    def __init__(self, images: list[tuple[str, bytes]], labels: list[tuple[str, str]]) -> None:
        self.images, self.labels = images, labels
        self.uploads: list[tuple[str, dict[str, Any]]] = []  # method and body of what was sent as annotations
        self.requests: list[str] = []
        self.url = ""

    def label_ids(self) -> dict[int, str]:
        return {100 + i: name for i, (name, _) in enumerate(self.labels)}

    def get(self, path: str, query: dict[str, list[str]]) -> Any:
        if path == "/api/server/about":
            return {"name": "CVAT", "description": "", "version": "2.80.0", "logo_url": "", "subtitle": ""}
        if path == "/api/tasks/7":
            return self._task()
        if path == LABELS_SEEN:
            found = [
                {"id": number, "name": name, "color": "#112233", "attributes": [], "type": kind, "sublabels": [],
                 "task_id": 7, "parent_id": None, "has_parent": False}
                for number, (name, kind) in zip(self.label_ids(), self.labels, strict=True)
            ]  # fmt: skip
            return {"count": len(found), "next": None, "previous": None, "results": found}
        if path == "/api/tasks/7/data/meta":
            return {
                "chunk_size": 2, "size": len(self.images), "image_quality": 70, "start_frame": 0,
                "stop_frame": len(self.images) - 1, "frame_filter": "", "deleted_frames": [], "chapters": None,
                "included_frames": None, "chunks_updated_date": TIME, "storage": "local", "cloud_storage_id": None,
                "frames": [{"name": name, "width": 1, "height": 1, "related_files": 0, "has_related_context": False}
                           for name, _ in self.images],
            }  # fmt: skip
        if path == "/api/tasks/7/data":
            first = 2 * int(query["number"][0])
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for number, (name, data) in enumerate(self.images[first : first + 2]):
                    archive.writestr(f"{number:06d}.{name.rsplit('.', 1)[-1]}", data)
            return buffer.getvalue()
        return None

    def _task(self) -> dict[str, Any]:
        return {
            "url": f"{self.url}/api/tasks/7", "id": 7, "name": "streets", "project_id": None, "project_name": None,
            "owner": {"url": f"{self.url}/api/users/1", "id": 1, "username": "me", "first_name": "", "last_name": ""},
            "assignee": None, "bug_tracker": "", "created_date": TIME, "updated_date": TIME, "overlap": 0,
            "segment_size": 100, "initial_replicas": 0, "status": "annotation", "data_chunk_size": 2,
            "data_original_chunk_type": "imageset", "data_compressed_chunk_type": "imageset", "guide_id": None,
            "data_cloud_storage_id": None, "size": len(self.images), "image_quality": 70, "data": 1, "dimension": "2d",
            "mode": "annotation", "subset": "", "organization": None, "organization_id": None, "target_storage": None,
            "source_storage": None, "assignee_updated_date": None, "validation_mode": None, "media_type": "image",
            "jobs": {"count": 1, "completed": 0, "validation": 0, "url": f"{self.url}/api/jobs?task_id=7"},
            "labels": {"url": f"{self.url}/api/labels?task_id=7"},
        }  # fmt: skip


@contextmanager
def running(server: CvatServer) -> Iterator[CvatServer]:
    """Serve on a free port of the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self, found: Any, status: int = 200) -> None:
            raw = isinstance(found, bytes)
            data = found if raw else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/zip" if raw else "application/vnd.cvat+json")
            self.send_header("content-length", str(len(data)))
            if self.path == "/api/auth/login":
                for cookie in ("sessionid", "csrftoken"):
                    self.send_header("set-cookie", f"{cookie}=secret; Path=/")
            self.end_headers()
            self.wfile.write(data)

        def _handle(self) -> None:
            address = urlsplit(self.path)
            server.requests.append(f"{self.command} {address.path}")
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.command == "GET":
                found = server.get(address.path.rstrip("/"), parse_qs(address.query))
                self._reply({"detail": "not found"} if found is None else found, 404 if found is None else 200)
            elif address.path.rstrip("/") == "/api/tasks/7/annotations":
                sent = json.loads(body)
                server.uploads.append((self.command, sent))
                self._reply({"version": 1, "tags": [], "shapes": [], "tracks": []})
            elif address.path == "/api/auth/login":
                self._reply({"key": "secret"})
            else:
                self._reply({})

        do_GET = do_POST = do_PATCH = do_PUT = _handle

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
