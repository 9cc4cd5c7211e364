"""A Hub on loopback: repositories with commits, branches, pull requests and LFS, and faults on demand.

It speaks what `huggingface_hub` needs of it over plain HTTP, and keeps everything in memory.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from .card_rules import card_errors


LFS_FROM = 10_000  # bytes; the Hub takes 10 MB, and text or not
# what may become of a request: before anything was done, or after it was done
FAULTS = (
    *("reset", "429", "500", "503", "403", "413", "killed", "refused", "limited", "deleted", "gated", "full"),
    *("reset-after", "500-after", "504-after", "truncated-after", "killed-after"),
)
# what the Hub says of a repository that can no longer be written
REFUSALS = {
    "deleted": (404, "Repository not found", {"X-Error-Code": "RepoNotFound"}),
    "gated": (403, "Access to this model is restricted", {"X-Error-Code": "GatedRepo"}),
    "full": (403, "Private repository storage limit reached", {}),
}


@dataclass(frozen=True)
class Blob:
    """A file: its content, and for a large one its SHA-256."""

    size: int
    oid: str
    content: bytes
    sha256: str | None = None

    @classmethod
    def of(cls, content: bytes) -> Blob:
        return cls(len(content), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), content)

    @classmethod
    def stored(cls, content: bytes) -> Blob:
        """As the Hub would keep a file of this content."""
        if len(content) < LFS_FROM:
            return cls.of(content)
        return cls.pointer(len(content), hashlib.sha256(content).hexdigest(), content)

    @classmethod
    def pointer(cls, size: int, sha256: str, content: bytes) -> Blob:
        return cls(size, hashlib.sha1(f"{sha256} {size}".encode()).hexdigest(), content, sha256)


@dataclass
class Repository:
    private: bool
    numbers: Iterator[int]
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    requests: list[dict] = field(default_factory=list)
    titles: dict[str, tuple[str, str]] = field(default_factory=dict)  # of each commit, with its description
    gated: bool = False

    def commit(self, branch: str, files: dict[str, Blob], title: str = "", message: str = "") -> str:
        self.branches[branch] = self.record(files, title, message)
        return self.branches[branch]

    def record(self, files: dict[str, Blob], title: str, message: str) -> str:
        sha = hashlib.sha1(b"%d" % next(self.numbers)).hexdigest()
        self.commits[sha], self.titles[sha] = files, (title, message)
        return sha

    def propose(self, files: dict[str, Blob], title: str, message: str) -> tuple[int, str]:
        """Opens a pull request; its number and commit."""
        number, sha = len(self.requests) + 1, self.record(files, title, message)
        self.requests.append({"ref": f"refs/pr/{number}", "sha": sha})
        return number, sha

    def request(self, reference: str) -> dict | None:
        return next((request for request in self.requests if request["ref"] == reference), None)

    def resolve(self, revision: str) -> str | None:
        if request := self.request(revision):
            return request["sha"]
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Hub(ThreadingHTTPServer):
    """The server. `requests` lists every request, `fault` says what becomes of the one with this number."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.RLock()
        self.numbers = itertools.count()  # clients cache by commit, so that none may come twice
        self.reset()

    def reset(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens = {"hf_right0000": "write", "hf_reader000": "read"}
        self.requests: list[tuple[str, str]] = []
        self.fault: tuple[int, str] | None = None
        self.lasting = False  # whether the fault stays from then on
        self.limit = 1  # seconds that a client is asked to wait for
        self.client: int | None = None  # the process that is killed
        self.bodies: list[bytes] = []
        self.before_commit = None
        self.instead: dict[str, tuple[int, bytes, dict[str, str]]] = {}  # answers by a pattern of method and path
        self.storage = self.url  # where large files are sent to

    def handle_error(self, request, client_address) -> None:
        pass  # clients are cut off on purpose

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> Repository:
        """A repository with one commit."""
        repository = self.repositories[repo_id] = Repository(private, self.numbers)
        repository.commit("main", {path: self.blob(content) for path, content in files.items()})
        return repository

    def blob(self, content: bytes) -> Blob:
        blob = Blob.stored(content)
        if blob.sha256:
            self.objects[blob.sha256] = content
        return blob

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository with their content."""
        repository = self.repositories[repo_id]
        return {path: blob.content for path, blob in repository.commits[repository.resolve(revision)].items()}

    def state(self, repo_id: str) -> dict | None:
        """All branches and pull requests with their files; `None` where there is no repository."""
        if repo_id not in self.repositories:
            return None
        repository = self.repositories[repo_id]
        names = [*repository.branches, *(request["ref"] for request in repository.requests)]
        return {name: {path: blob.oid for path, blob in self.tree(repository, name).items()} for name in names}

    def tree(self, repository: Repository, name: str) -> dict[str, Blob]:
        return repository.commits[repository.resolve(name)]

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a reply in two packets would wait 40 ms for the client's acknowledgement
    wbufsize = 1 << 16
    server: Hub

    def handle_any(self) -> None:
        hub = self.server
        length = int(self.headers.get("Content-Length") or 0)
        with hub.lock:
            number = len(hub.requests)
            hub.requests.append((self.command, self.path))
        fault = None
        if hub.fault is not None and (number == hub.fault[0] or (hub.lasting and number > hub.fault[0])):
            fault = hub.fault[1]
        if fault == "reset":
            self.rfile.read(length // 2)  # in the middle of an upload
            return self.cut()
        body = self.rfile.read(length) if not self.headers.get("Transfer-Encoding") else self.read_chunks()
        for pattern, reply in hub.instead.items():
            if re.search(pattern, f"{self.command} {self.path}"):
                return self.reply(*reply)
        if fault is not None and fault.isdigit():
            return self.json(int(fault), {"error": "as the test asked for"})
        if fault in REFUSALS:
            return self.reply(*failed(*REFUSALS[fault]))
        if fault == "limited":
            headers = {"RateLimit": f'"api";r=0;t={hub.limit}', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
            return self.json(429, {"error": "as the test asked for"}, **headers)
        if fault == "refused":
            return self.json(307, {}, Location=f"http://127.0.0.1:{unused_port()}{self.path}")
        if fault == "killed":
            return self.kill()
        with hub.lock:
            hub.bodies.append(body)
            reply = self.answer(body)
        if fault is None:
            return self.reply(*reply)
        kind = fault.removesuffix("-after")
        if kind == "reset":
            return self.cut()
        if kind == "killed":
            return self.kill()
        if kind == "truncated":
            return self.reply(*reply, cut=True)
        return self.json(int(kind), {"error": "as the test asked for"})

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any

    # --- what becomes of a connection

    def cut(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def kill(self) -> None:
        os.kill(self.server.client, signal.SIGKILL)
        time.sleep(0.01)
        self.close_connection = True

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), "Content-Type": "application/json", **(headers or {})}
        if cut and not content:
            headers["Content-Length"] = "10"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def json(self, status: int, value: object, **headers: str) -> None:
        self.reply(status, json.dumps(value).encode(), headers)

    def log_message(self, *arguments: object) -> None:
        pass

    # --- what the Hub answers

    def answer(self, body: bytes) -> tuple:
        hub, url = self.server, urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        role = hub.tokens.get(token)
        if path == "/api/validate-yaml":
            given = json.loads(body)
            errors = card_errors(given["content"])
            return ok({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                return failed(400, "the content is not what was announced")
            hub.objects[match[1]] = body
            return 200, b""
        if token and role is None:
            return failed(401, "Invalid credentials in Authorization header")
        if path == "/api/agent-harnesses":
            return ok({"standardEnvVars": [], "harnesses": {}})
        if path == "/api/whoami-v2":
            if role is None:
                return failed(401, "Invalid credentials")
            return ok(
                {
                    "type": "user",
                    "name": "me",
                    "orgs": [{"name": "team", "roleInOrg": "write"}, {"name": "watched", "roleInOrg": "read"}],
                    "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
                }
            )
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'me'}/{given['name']}"
            if role != "write" or name.split("/")[0] not in ("me", "team"):
                return failed(403, f"You don't have the rights to create a model under the namespace {name}")
            if name in hub.repositories:
                return ok({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
            # clients before 2 say `private`
            private = given.get("visibility") == "private" or given.get("private", False)
            hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private)
            return ok({"url": f"{hub.url}/{name}", "name": name})
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.batch(match[1], json.loads(body), role)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(.*))?", path):
            return self.model(match[1], match[2] or "", query, body, role)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+|refs/pr/\d+)/(.+)", path):
            return self.file(match[1], match[2], match[3], role)
        return failed(404, f"nothing at {path}")

    def repository(self, name: str, role: str | None) -> Repository | tuple:
        found = self.server.repositories.get(name)
        if found is None or (found.private and role is None):
            return failed(404 if role else 401, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        return found

    def batch(self, name: str, given: dict, role: str | None) -> tuple:
        if role != "write":
            return failed(403, "no write access")
        objects = []
        for wanted in given["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.objects:
                entry["actions"] = {"upload": {"href": f"{self.server.storage}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(entry)
        return ok({"transfer": "basic", "objects": objects})

    def file(self, name: str, revision: str, path: str, role: str | None) -> tuple:
        repository = self.repository(name, role)
        if isinstance(repository, tuple):
            return repository
        if repository.gated:
            return failed(403, "gated", {"X-Error-Code": "GatedRepo"})
        sha = repository.resolve(revision)
        if sha is None:
            return failed(404, "no such revision", {"X-Error-Code": "RevisionNotFound"})
        blob = repository.commits[sha].get(path)
        if blob is None:
            return failed(404, "no such file", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"', "Content-Type": "application/octet-stream"}
        if blob.sha256:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        return 200, blob.content, headers

    def model(self, name: str, rest: str, query: dict, body: bytes, role: str | None) -> tuple:
        repository = self.repository(name, role)
        if isinstance(repository, tuple):
            return repository
        writes = self.command in ("POST", "DELETE") and not rest.startswith("paths-info")
        if writes and role != "write":
            return failed(403, "no write access")
        if rest == "" or rest.startswith("revision/"):
            revision = rest.removeprefix("revision/") or "main"
            sha = repository.resolve(revision)
            if sha is None:
                return failed(404, "no such revision", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": path} for path in repository.commits[sha]]
            return ok({"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})
        if match := re.fullmatch(r"tree/(.+)", rest):
            if repository.resolve(match[1]) is None:  # a folder of a revision, since there are none here
                return failed(404, "no such folder", {"X-Error-Code": "EntryNotFound"})
            tree = repository.commits[repository.resolve(match[1])]
            return ok([entry(path, blob) for path, blob in sorted(tree.items())])
        if match := re.fullmatch(r"branch/(.+)", rest):
            if match[1] in repository.branches:
                return failed(409, "Reference already exists")
            start = repository.resolve(json.loads(body or b"{}").get("startingPoint") or "main")
            repository.branches[match[1]] = start
            return 200, b"{}"
        if match := re.fullmatch(r"preupload/(.+)", rest):
            if repository.resolve(match[1]) is None:
                return failed(404, "no such revision", {"X-Error-Code": "RevisionNotFound"})
            there = repository.commits[repository.resolve(match[1])]
            files = []
            for given in json.loads(body)["files"]:
                blob = there.get(given["path"])
                large = given["size"] >= LFS_FROM
                files.append(
                    {
                        "path": given["path"],
                        "uploadMode": "lfs" if large else "regular",
                        "shouldIgnore": False,
                        "oid": None if blob is None else blob.sha256 or blob.oid,
                    }
                )
            return ok({"files": files})
        if match := re.fullmatch(r"commit/(.+)", rest):
            return self.commit(name, repository, match[1], bool(query.get("create_pr")), body)
        return failed(404, f"nothing at {rest}")

    def commit(self, name: str, repository: Repository, branch: str, create_pr: bool, body: bytes) -> tuple:
        hub = self.server
        if branch not in repository.branches:
            return failed(404, "no such revision", {"X-Error-Code": "RevisionNotFound"})
        if hub.before_commit is not None:
            hub.before_commit(repository)
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = repository.resolve(branch)
        parent = header.get("parentCommit")
        if parent not in (None, head) and not create_pr:
            return failed(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[parent or head])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob.of(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in hub.objects:
                    return failed(400, f"{value['path']} was not uploaded")
                files[value["path"]] = Blob.pointer(value["size"], value["oid"], hub.objects[value["oid"]])
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return failed(400, f"{value['path']} is not there")
        said = header["summary"], header.get("description", "")
        if create_pr:
            number, sha = repository.propose(files, *said)
            found = {"pullRequestUrl": f"{hub.url}/{name}/discussions/{number}"}
        else:
            sha, found = repository.commit(branch, files, *said), {}
        return ok({"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{name}/commit/{sha}", **found})


def unused_port() -> int:
    """A port that refuses connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ok(value: object, status: int = 200) -> tuple:
    return status, json.dumps(value).encode()


def failed(status: int, message: str, headers: Mapping[str, str] | None = None) -> tuple:
    return status, json.dumps({"error": message}).encode(), {"X-Error-Message": message, **(headers or {})}


def entry(path: str, blob: Blob) -> dict:
    found = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    if blob.sha256:
        found["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
    return found
