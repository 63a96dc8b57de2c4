"""A small Hub on 127.0.0.1: repositories in memory, behind as much of the interface as uploads use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_test"


class FakeHub:
    """`repositories` maps a name to {"private": bool, "files": {path: bytes}}; `commits` are their messages.

    `requests` lists (method, path) as they came. `spoil` is a path whose bytes are damaged on arrival.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict] = {}
        self.lfs: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.spoil: str | None = None
        self.url = ""

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, dict | list]:
        """Status and JSON of one request."""
        self.requests.append((method, path))
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}
        if method == "PUT" and path.startswith("/lfs/"):
            self.lfs[path.removeprefix("/lfs/")] = body
            return 200, {}
        sent = json.loads(body) if body and not path.startswith("/api/models/") else {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            owner, _, name = (f"{sent.get('organization') or 'user'}/{sent['name']}").rpartition("/")
            found = self.repositories.get(f"{owner}/{name}")
            if found is None:
                is_private = bool(sent.get("private")) or sent.get("visibility") == "private"
                self.repositories[f"{owner}/{name}"] = {"private": is_private, "files": {}}
            return (200 if found is None else 409), {"url": f"{self.url}/{owner}/{name}"}
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return 200, {"transfer": "basic", "objects": [self._upload(each) for each in sent["objects"]]}
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+?)(?:/(\w[\w-]*)(?:/(.*))?)?", path.split("?")[0])
        if match is None or match[1] not in self.repositories:
            return 404, {"error": "Repository not found"}
        return self._model(match[1], match[2], body)

    def _upload(self, wanted: dict) -> dict:
        there = wanted["oid"] in self.lfs
        actions = {} if there else {"actions": {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}}}
        return {"oid": wanted["oid"], "size": wanted["size"], **actions}

    def _model(self, name: str, what: str | None, body: bytes) -> tuple[int, dict | list]:
        files = self.repositories[name]["files"]
        if what is None or what == "revision":
            siblings = [{"rfilename": path} for path in files]
            return 200, {"id": name, "modelId": name, "sha": "0" * 40, "siblings": siblings, "tags": []}
        if what == "tree":
            return 200, [self._info(path, content) for path, content in files.items()]
        if what == "paths-info":
            asked = re.findall(r"paths=([^&]*)", body.decode()) or json.loads(body)["paths"]
            return 200, [self._info(path, files[path]) for path in asked if path in files]
        if what == "preupload":
            wanted = json.loads(body)["files"]
            return 200, {
                "files": [{"path": w["path"], "uploadMode": _mode(w), "shouldIgnore": False} for w in wanted]
            }
        if what == "commit":
            for line in map(json.loads, body.splitlines()):
                self._commit(files, line["key"], line["value"])
            return 200, {
                "commitUrl": f"{self.url}/{name}/commit/1",
                "commitOid": "1" * 40,
                "pullRequestUrl": None,
            }
        return 404, {"error": f"The fake has no {what}"}

    def _commit(self, files: dict[str, bytes], key: str, value: dict) -> None:
        if key == "header":
            self.commits.append(value["summary"])
            return
        content = self.lfs[value["oid"]] if key == "lfsFile" else base64.b64decode(value["content"])
        files[value["path"]] = content + b"?" if value["path"] == self.spoil else content

    def _info(self, path: str, content: bytes) -> dict:
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        info = {"type": "file", "path": path, "size": len(content), "oid": git}
        if path.endswith(".safetensors"):
            info["lfs"] = {
                "oid": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 130,
            }
        return info


def _mode(wanted: dict) -> str:
    return "lfs" if wanted["path"].endswith(".safetensors") else "regular"


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A fake Hub that answers while the body runs; its address is `url`."""
    hub = FakeHub()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization")
            if self.path.startswith("/lfs/"):
                token = f"Bearer {TOKEN}"  # its addresses are signed, and get no token
            status, content = hub.answer(self.command, self.path, body, token)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
