"""A local HTTP server that answers the few requests by which a pipeline is loaded from the Hub.

Run as a script with a folder: serves each of its subfolders as a repository `someone/<subfolder>`, loads them through
`ScoreSdePipeline` online, stops the server, loads them again from the cache, and prints the checksums of their images. A
process of its own, because huggingface_hub reads its endpoint when it is imported.
"""

import hashlib
import json
import os
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


OWNER, COMMIT = "someone", "0123456789abcdef0123456789abcdef01234567"


def describe(name: str, files: dict[str, bytes], is_tree: bool) -> list | dict:
    if is_tree:
        return [{"type": "file", "path": path, "size": len(content), "oid": COMMIT} for path, content in files.items()]
    siblings = [{"rfilename": path} for path in files]
    return {"id": f"{OWNER}/{name}", "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}


def handler_for(root: Path) -> type[BaseHTTPRequestHandler]:
    repositories = {
        folder.name: {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in root.iterdir()
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self, body: bool = True) -> None:
            # /api/models/<owner>/<name>[/revision/<ref> | /tree/<ref>] and /<owner>/<name>/resolve/<ref>/<file>
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:3] == ["api", "models", OWNER] and parts[3] in repositories:
                document = describe(parts[3], repositories[parts[3]], is_tree="tree" in parts[4:5])
                return self.answer(json.dumps(document).encode(), "application/json", body)
            files = repositories.get(parts[1], {}) if len(parts) > 4 and parts[2] == "resolve" else {}
            if "/".join(parts[4:]) in files:
                return self.answer(files["/".join(parts[4:])], "application/octet-stream", body)
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def answer(self, content: bytes, kind: str, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


def main(root: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": tempfile.mkdtemp(),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    import torch
    from huggingface_hub import constants

    from scoresde_pipelines import ScoreSdePipeline
    from scoresde_pipelines.training.model_names import ModelNotFoundError, resolve_pipeline

    def checksums(**options: object) -> dict[str, str]:
        found = {}
        for folder in root.iterdir():
            pipe = ScoreSdePipeline.from_pretrained(f"{OWNER}/{folder.name}", **options)
            pipe.set_progress_bar_config(disable=True)
            images = pipe(2, 2, generator=torch.Generator().manual_seed(0), output_type="np").images
            found[folder.name] = hashlib.sha256(images.tobytes()).hexdigest()
        return found

    def refused(name: str) -> str:
        try:
            ScoreSdePipeline.from_pretrained(name)
        except ModelNotFoundError as error:
            return str(error)
        return "found"

    online = checksums()
    revision = sorted(path.name for path in resolve_pipeline(f"{OWNER}/ours@v1").iterdir())
    missing = [refused(f"{OWNER}/missing")]
    server.shutdown()
    server.server_close()
    offline = [checksums(local_files_only=True)]
    constants.HF_HUB_OFFLINE = True
    offline.append(checksums())
    missing.append(refused(f"{OWNER}/missing"))
    print(json.dumps({"online": online, "offline": offline, "revision": revision, "missing": missing}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
