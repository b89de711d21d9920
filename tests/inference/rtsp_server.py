"""A small RTSP camera: JPEG frames over RTP in the same TCP connection (RFC 2326, RFC 2435)."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import cv2
import numpy as np

MOST = 1200  # bytes of a packet


def jpeg_parts(image: np.ndarray) -> tuple[bytes, bytes]:
    """The two quantization tables and the entropy-coded data of a baseline JPEG, 4:2:0."""
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    tables, at = b"", 2
    while True:
        marker, size = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        body = data[at + 4 : at + 2 + size]
        if marker == 0xDB:
            for start in range(0, len(body), 65):
                tables += body[start + 1 : start + 65]
        at += 2 + size
        if marker == 0xDA:
            return tables, data[at:-2]


class Camera:
    """Sends ``frame(i)`` until ``stop``; ``breaks``: after so many frames the first connection is closed."""

    def __init__(self, frame: Callable[[int], np.ndarray], breaks: int = 0, silent: bool = False) -> None:
        self.frame, self.breaks, self.silent = frame, breaks, silent
        self.connections = self.sent = 0
        self._stop = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://user:secret@127.0.0.1:{self._socket.getsockname()[1]}/live"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._stop = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while not self._stop:
            with suppress(OSError):
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            file = connection.makefile("rb")
            while True:
                lines = []
                while line := file.readline().strip().decode():
                    lines.append(line)
                if not lines:
                    return
                verb = lines[0].split()[0]
                number = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
                more, body = "Session: 7\r\n", ""
                if verb == "OPTIONS":
                    more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif verb == "DESCRIBE":
                    body = (
                        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=live\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                        "m=video 0 RTP/AVP 26\r\na=control:track\r\n"
                    )
                    more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif verb == "SETUP":
                    more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}\r\n{body}".encode())
                if verb == "PLAY":
                    self.connections += 1
                    self._play(connection, self.breaks if self.connections == 1 else 0)
                    return

    def _play(self, connection: socket.socket, breaks: int) -> None:
        sequence = count = 0
        while not self._stop and (not breaks or count < breaks):
            if self.silent:
                time.sleep(0.05)
                continue
            image = self.frame(self.sent)
            tables, scan = jpeg_parts(image)
            for at in range(0, len(scan), MOST):
                last = at + MOST >= len(scan)
                head = struct.pack(">BBHII", 0x80, 26 | (0x80 if last else 0), sequence & 0xFFFF, count * 3600, 1)
                head += struct.pack(">I", at) + bytes((1, 255, image.shape[1] // 8, image.shape[0] // 8))
                if at == 0:
                    head += struct.pack(">BBH", 0, 0, len(tables)) + tables
                packet = head + scan[at : at + MOST]
                connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
                sequence += 1
            count += 1
            self.sent += 1
            time.sleep(0.04)
