"""A real web server over a folder of the tests, which can be killed, and a proxy that cuts connections."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import PATIENCE_S

CONFIG = """
daemon off; master_process off; pid {work}/pid; error_log {work}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format connections "$connection"; access_log {work}/access.log connections; default_type application/octet-stream; keepalive_timeout 60;
  client_body_temp_path {work}/a; proxy_temp_path {work}/b; fastcgi_temp_path {work}/c; uwsgi_temp_path {work}/d; scgi_temp_path {work}/e;
  server {{
    listen 127.0.0.1:{port};
    location / {{ root {root}; autoindex on; }}
    location /slow/ {{ alias {root}/; limit_rate 300; }}
    location /whole/ {{ alias {root}/; max_ranges 0; }}
    location /busy/ {{ return 503; }}
    location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
  }}
}}
"""  # noqa: E501 -- nginx does not mind


@dataclass
class Nginx:
    """A web server over a folder, with a configuration and a port of its own."""

    root: Path
    work: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.work / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # or it could not enter the folders of the tests
        config.write_text(user + CONFIG.format(work=self.work, root=self.root, port=self.port))
        command = ["nginx", "-p", str(self.work), "-c", str(config), "-e", str(self.work / "error.log")]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.01)
        raise AssertionError((self.work / "error.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def requests(self) -> list[str]:
        """For each request, the number of its connection."""
        return (self.work / "access.log").read_text().splitlines()


@contextlib.contextmanager
def serving(root: Path, work: Path) -> Iterator[Nginx]:
    """A web server over `root` on a free port, with its own files in the new folder `work`; the test is skipped without nginx."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    work.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Nginx(root=root, work=work, port=port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Cutter:
    """A TCP proxy that resets a connection after so many bytes of answers, as long as it has any cuts left."""

    upstream: int
    cut_after: int = 0
    cuts_left: int = 0
    port: int = 0
    _socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(("127.0.0.1", self.upstream))
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    @staticmethod
    def _forward(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        sent = 0
        with contextlib.suppress(OSError), server, client:
            while data := server.recv(65536):
                if self.cuts_left > 0 and sent + len(data) > self.cut_after:
                    self.cuts_left -= 1
                    client.sendall(data[: self.cut_after - sent])
                    # Closing with a linger time of zero resets the connection, as a crash of the other machine does.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.shutdown(socket.SHUT_RD)
                    return
                client.sendall(data)
                sent += len(data)
