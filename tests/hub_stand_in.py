"""A stand-in for the Hub on localhost: repositories with commits, branches and tags, large files by LFS, in memory.

It answers what huggingface_hub asks when one creates a repository, uploads, tags, lists and downloads. Whatever else
is asked gets a 404 and is kept in `unanswered`, so that tests notice. Processes use it with the environment
`hub.environment`, which huggingface_hub reads when it is imported.

    with HubStandIn() as hub: subprocess.run(command, env=os.environ | hub.environment)
"""

import base64
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_PATTERNS = ("*.safetensors", "*.parquet", "*.jpg", "*.png", "*.whl")
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Answer `method` on paths like "/api/KIND/REPO/revision/REVISION"; what is in capitals becomes an argument."""
    parts = {
        "KIND": r"(?P<kind>models|datasets|spaces)",
        "FOLDER": r"(?:(?P<kind>datasets|spaces)/)?",  # models lie at the root
        "REPO": r"(?P<name>[^/]+/[^/]+?)",
        "REVISION": r"(?P<revision>[^/]+)",
        "PATH": r"(?P<path>.+)",
    }
    for name, expression in parts.items():
        pattern = pattern.replace(name, expression)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


@dataclass
class Repository:
    """Files by path, in every commit."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Add a commit to a branch and return its id."""
        listing = json.dumps([len(self.commits), *((path, git_id(data)) for path, data in sorted(files.items()))])
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        """The commit of a branch, tag or commit id."""
        known = self.branches | self.tags | {commit: commit for commit in self.commits}
        return known.get(revision)


def is_large(path: str) -> bool:
    """Whether the Hub keeps a file by LFS."""
    return any(fnmatch.fnmatch(path, pattern) for pattern in LFS_PATTERNS)


def git_id(data: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def describe(path: str, data: bytes) -> dict[str, Any]:
    """The entry of a file in a listing."""
    entry = {"type": "file", "path": path, "oid": git_id(data), "size": len(data)}
    if is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: "HubStandIn"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def answer(self) -> None:
        """Find the route and take it."""
        url = urlsplit(self.path)
        self.body, self.query = self.read_body(), parse_qs(url.query)
        for method, pattern, function in ROUTES:
            match = pattern.fullmatch(url.path)
            if match and method == self.command:
                return function(self, **{k: unquote(v) if v else v for k, v in match.groupdict().items()})
        self.hub.unanswered.append(f"{self.command} {self.path}")
        self.refuse("NotFound", f"the stand-in does not know {self.command} {url.path}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def read_body(self) -> bytes:
        """Read what came with the request, sent as a whole or in chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def reply(self, body: Any = b"", status: int = 200, **headers: str) -> None:
        """Send bytes as they are and anything else as json; `ETag`, `X_Repo_Commit`, ... become headers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, code: str, message: str, status: int = 404) -> None:
        """Send an error as the Hub words it."""
        self.reply({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def find(self, kind: str | None, name: str, revision: str = "main") -> tuple[Repository, str] | None:
        """The repository and the commit, or None after an error was sent."""
        repository = self.hub.repositories.get((kind or "models", name))
        if repository is None:
            return self.refuse("RepoNotFound", f"there is no repository {name}")
        commit = repository.find(revision)
        if commit is None:
            return self.refuse("RevisionNotFound", f"{name} has no revision {revision}")
        return repository, commit

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        """Everybody is the same user."""
        self.reply({"type": "user", "name": "tester", "auth": {"type": "access_token"}, "orgs": []})

    @route("POST", "/api/repos/create")
    def create(self) -> None:
        """Create a repository with an empty first commit."""
        wanted = json.loads(self.body)
        kind, name = f"{wanted.get('type') or 'model'}s", f"{wanted.get('organization', 'tester')}/{wanted['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.hub.repositories:
            return self.reply({"error": "exists already", "url": url}, 409)
        repository = Repository(private=wanted.get("visibility") == "private")
        repository.commit("main", {})
        self.hub.repositories[kind, name] = repository
        self.reply({"url": url, "name": name, "id": name})

    @route("POST", "/api/validate-yaml")
    def validate_card(self) -> None:
        """Take every card."""
        self.reply({"errors": [], "warnings": []})

    @route("POST", "/api/KIND/REPO/preupload/REVISION")
    def announce(self, kind: str, name: str, revision: str) -> None:
        """Say which of the files to upload go by LFS."""
        if self.find(kind, name, revision):
            files = [file["path"] for file in json.loads(self.body)["files"]]
            modes = [{"path": path, "uploadMode": "lfs" if is_large(path) else "regular"} for path in files]
            self.reply({"files": [mode | {"shouldIgnore": False} for mode in modes]})

    @route("POST", "/FOLDERREPO\\.git/info/lfs/objects/batch")
    def announce_large(self, kind: str | None, name: str) -> None:
        """Say where to upload large files that are not here yet."""
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}", "header": {}}}}
            objects.append(wanted | ({} if wanted["oid"] in self.hub.large_files else upload))
        self.reply({"transfer": "basic", "objects": objects})

    @route("PUT", "/lfs/PATH")
    def upload_large(self, path: str) -> None:
        """Keep a large file under its hash."""
        if hashlib.sha256(self.body).hexdigest() != path:
            return self.refuse("BadHash", "the content has another hash", 400)
        self.hub.large_files[path] = self.body
        self.reply()

    @route("POST", "/api/KIND/REPO/commit/REVISION")
    def commit(self, kind: str, name: str, revision: str) -> None:
        """Add, replace and delete files; the body has a json line each."""
        found = self.find(kind, name, revision)
        if found is None:
            return
        repository, parent = found
        files = dict(repository.commits[parent])
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(revision, files)
        self.reply({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})

    @route("POST", "/api/KIND/REPO/tag/REVISION")
    def tag(self, kind: str, name: str, revision: str) -> None:
        """Give a revision a name."""
        found = self.find(kind, name, revision)
        if found:
            repository, commit = found
            tag = json.loads(self.body)["tag"]
            if tag in repository.tags:
                return self.refuse("TagExists", f"{name} has a tag {tag} already", 409)
            repository.tags[tag] = commit
            self.reply({})

    @route("GET", "/api/KIND/REPO/refs")
    def list_names(self, kind: str, name: str) -> None:
        """Branches and tags."""
        found = self.find(kind, name)
        if found:
            names = {"branches": ("heads", found[0].branches), "tags": ("tags", found[0].tags)}
            self.reply(
                {
                    group: [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": c} for n, c in commits.items()]
                    for group, (ref, commits) in names.items()
                }
                | {"converts": []}
            )

    @route("GET", "/api/KIND/REPO/revision/REVISION")
    def show_revision(self, kind: str, name: str, revision: str) -> None:
        """What a revision holds."""
        found = self.find(kind, name, revision)
        if found:
            repository, commit = found
            files = [{"rfilename": path} for path in sorted(repository.commits[commit])]
            self.reply({"id": name, "sha": commit, "private": repository.private, "siblings": files, "tags": []})

    @route("GET", "/api/KIND/REPO")
    def show(self, kind: str, name: str) -> None:
        """What the repository holds now."""
        self.show_revision(kind, name, "main")

    @route("GET", "/api/KIND/REPO/tree/REVISION(?:/PATH)?")
    def list_files(self, kind: str, name: str, revision: str, path: str | None) -> None:
        """All files below a folder, or the files and folders in it."""
        found = self.find(kind, name, revision)
        if found is None:
            return
        repository, commit = found
        start = f"{path}/" if path else ""
        entries = {}
        for file, data in sorted(repository.commits[commit].items()):
            if file.startswith(start):
                child = start + file[len(start) :].split("/")[0]
                if child == file or self.query.get("recursive", ["false"])[0].lower() == "true":
                    entries[file] = describe(file, data)
                else:
                    entries[child] = {"type": "directory", "path": child, "oid": git_id(child.encode()), "size": 0}
        if path and not entries:
            return self.refuse("EntryNotFound", f"{name} has no folder {path}")
        self.reply(list(entries.values()))

    @route("POST", "/api/KIND/REPO/paths-info/REVISION")
    def list_paths(self, kind: str, name: str, revision: str) -> None:
        """The entries of some files."""
        found = self.find(kind, name, revision)
        if found:
            files = found[0].commits[found[1]]
            is_json = "json" in self.headers.get("Content-Type", "")
            paths = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode())["paths"]
            self.reply([describe(path, files[path]) for path in paths if path in files])

    def download(self, kind: str | None, name: str, revision: str, path: str) -> None:
        """Send a file."""
        found = self.find(kind, name, revision)
        if found is None:
            return
        repository, commit = found
        data = repository.commits[commit].get(path)
        if data is None:
            return self.refuse("EntryNotFound", f"{name} has no file {path}")
        entry = describe(path, data)
        headers = {"X_Repo_Commit": commit, "ETag": f'"{entry.get("lfs", entry)["oid"]}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
            span = f"bytes {first}-{last}/{len(data)}"
            return self.reply(data[first : last + 1], 206, Content_Range=span, **headers)
        self.reply(data, **headers)

    for method in ("GET", "HEAD"):
        route(method, "/FOLDERREPO/resolve/REVISION/PATH")(download)


class HubStandIn:
    """The server; a context manager that starts and ends it.

    Attributes:
        repositories: by ("models", "datasets" or "spaces", name).
        unanswered: requests that it does not know.
        url: where it listens.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.unanswered: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to take this for the Hub."""
        switches = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": "hf_x"} | switches

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision by path."""
        repository = self.repositories[kind, name]
        return repository.commits[repository.find(revision)]

    def __enter__(self) -> "HubStandIn":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
