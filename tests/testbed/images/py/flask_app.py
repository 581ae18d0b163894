"""A plain Flask app. LISTEN_HOST and LISTEN_PORT (0.0.0.0:5000) say where it listens."""

import json
import os
import signal
import sys
import time

from flask import Flask, Response, request
from werkzeug.serving import WSGIRequestHandler

app = Flask(__name__)


@app.route("/")
def index():
    return "hello from flask\n"


@app.route("/headers", methods=["GET", "POST", "PUT", "DELETE"])
def headers():
    """The request's headers as JSON, names in lower case; a header that came twice is joined by ', '."""
    seen = {}
    for name, value in request.headers:
        name = name.lower()
        seen[name] = f"{seen[name]}, {value}" if name in seen else value
    return Response(json.dumps(seen), mimetype="application/json")


@app.route("/slow")
def slow():
    """Answers after ?ms= milliseconds."""
    ms = int(request.args.get("ms", "1000"))
    time.sleep(ms / 1000)
    return f"slept {ms} ms\n"


@app.route("/stream")
def stream():
    """?n= chunks (5), ?ms= apart (100), each flushed by itself."""
    n = int(request.args.get("n", "5"))
    ms = int(request.args.get("ms", "100"))

    def chunks():
        for i in range(n):
            yield f"chunk {i}\n"
            time.sleep(ms / 1000)

    return Response(chunks(), mimetype="text/plain")


@app.route("/upload", methods=["POST", "PUT"])
def upload():
    """How many bytes came, without keeping them."""
    size = 0
    while block := request.stream.read(1 << 16):
        size += len(block)
    return {"bytes": size}


@app.route("/download")
def download():
    """?bytes= bytes of body."""
    left = int(request.args.get("bytes", "1048576"))

    def blocks():
        block = b"x" * 65536
        for at in range(0, left, len(block)):
            yield block[: min(len(block), left - at)]

    return Response(blocks(), mimetype="application/octet-stream", headers={"content-length": str(left)})


@app.route("/status/<int:code>")
def status(code):
    return f"status {code}\n", code


@app.route("/env/<name>")
def env(name):
    """One variable of the environment."""
    return (os.environ[name] + "\n") if name in os.environ else ("unset\n", 404)


@app.route("/file")
def file():
    """?path= read back (for secret files)."""
    with open(request.args["path"], encoding="utf-8") as f:
        return f.read()


@app.route("/exit")
def leave():
    """Ends the process with ?code= (1), as a crash would."""
    print("fatal: told to exit", file=sys.stderr, flush=True)
    os._exit(int(request.args.get("code", "1")))


if __name__ == "__main__":
    # a process 1 has no default action for SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # chunks for a body of unknown length (each connection still has one request)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    app.run(os.environ.get("LISTEN_HOST", "0.0.0.0"), int(os.environ.get("LISTEN_PORT", "5000")), threaded=True)
