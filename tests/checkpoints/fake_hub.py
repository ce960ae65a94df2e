"""A hub of one's own: the part of the Hugging Face hub's protocol that downloads speak, served on this machine.

    with FakeHub() as hub:
        commit = hub.commit("acme/tiny", {"config.json": b"{}"}, tags=["v1"])
        ...  # HF_ENDPOINT=hub.url
        assert hub.files_sent() == ["config.json"]

Large files (`.safetensors`, `.bin`) are redirected to a second host name, as the real hub redirects to its storage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE = (".safetensors", ".bin")


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    token: str | None
    range: str | None


@dataclass
class HubRepository:
    """What the server keeps of one repository."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False


class FakeHub:
    """The server; a context manager.

    Attributes:
        url: What HF_ENDPOINT is to be.
        requests: Every request so far, in order.
        breaks: For each coming download of a file, how many bytes are sent before the connection is cut.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.breaks: list[int] = []
        self.repositories: dict[str, HubRepository] = {}
        self.connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go off the network: later connections are refused, and open ones end."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed by the other side already
                connection.shutdown(socket.SHUT_RDWR)

    def commit(
        self,
        repo: str,
        files: dict[str, bytes],
        branch: str = "main",
        tags: list[str] | None = None,
        token: str | None = None,
        gated: bool = False,
    ) -> str:
        """Add a commit that holds exactly these files, and move the branch to it; the commit's id."""
        repository = self.repositories.setdefault(repo, HubRepository())
        repository.token, repository.gated = token, gated
        digest = hashlib.sha1(repr((repo, len(repository.commits), sorted(files.items()))).encode()).hexdigest()
        repository.commits[digest] = dict(files)
        repository.refs.update(dict.fromkeys([branch, *(tags or [])], digest))
        return digest

    def files_sent(self) -> list[str]:
        """The names of the files whose content was asked for, in order."""
        return [
            request.path.rpartition("/")[2]
            for request in self.requests
            if request.method == "GET" and ("/resolve/" in request.path or "/storage/" in request.path)
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are kept in `hub.requests`; nothing is printed."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(Request(self.command, path, token, self.headers.get("Range")))
        if match := re.fullmatch(r"/storage/(?P<repo>.+)/(?P<commit>[0-9a-f]{40})/(?P<file>.+)", path):
            content = self.hub.repositories[match["repo"]].commits[match["commit"]][match["file"]]
            return self._send_file(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})
        if match := re.fullmatch(r"/(?P<repo>[^/]+(/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path):
            return self._resolve(token, **match.groupdict())
        if match := re.fullmatch(r"/api/models/(?P<repo>[^/]+(/[^/]+)?)(/(revision|tree)/(?P<revision>[^/]+))?", path):
            return self._describe(token, match["repo"], match["revision"] or "main", tree="/tree/" in path)
        return self._fail(404, "NotFound", "This server knows no such path.")

    def _find(self, token: str | None, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files, or an answer sent already."""
        repository = self.hub.repositories.get(repo)
        allowed = repository is not None and repository.token in (None, token)
        if repository is None or (not allowed and not repository.gated):
            self._fail(404 if token else 401, "RepoNotFound", "Repository not found")
        elif not allowed:
            self._fail(403 if token else 401, "GatedRepo", f"Access to model {repo} is restricted.")
        elif (commit := repository.refs.get(revision, revision)) not in repository.commits:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return commit, repository.commits[commit]
        return None

    def _resolve(self, token: str | None, repo: str, revision: str, file: str, **_: str) -> None:
        found = self._find(token, repo, revision)
        if found is None:
            return
        commit, files = found
        headers = {"X-Repo-Commit": commit}
        if file not in files:
            self._fail(404, "EntryNotFound", "Entry not found", headers)
        elif file.endswith(LARGE):
            headers |= {
                "X-Linked-Size": str(len(files[file])),
                "X-Linked-Etag": f'"{hashlib.sha256(files[file]).hexdigest()}"',
                "Location": f"http://localhost:{self.hub.port}/storage/{repo}/{commit}/{file}",
            }
            self._send(302, b"", headers)
        else:
            self._send_file(files[file], headers | {"ETag": f'"{hashlib.sha1(files[file]).hexdigest()}"'})

    def _describe(self, token: str | None, repo: str, revision: str, tree: bool) -> None:
        found = self._find(token, repo, revision)
        if found is None:
            return
        commit, files = found
        if tree:
            answer: Any = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
        else:
            answer = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json", "X-Repo-Commit": commit})

    def _send_file(self, content: bytes, headers: dict[str, str]) -> None:
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if first is None:
            return self._send(200, content, headers)
        start = int(first[1])
        return self._send(
            206, content[start:], headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        )

    def _fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        cut = self.hub.breaks.pop(0) if status in (200, 206) and self.command == "GET" and self.hub.breaks else None
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True
