#!/usr/bin/env python3
"""mkimage.py OUT.tar NAME:TAG ENTRYPOINT_JSON CMD_JSON SRC=DEST...

A docker archive with one layer of the given files; SRC '->TARGET' is a symbolic link. There is always a /tmp.
GOARCH names the architecture.
"""
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile


def layer(files):
    raw, made = io.BytesIO(), set()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def folders(path):
            parts = [p for p in path.split("/") if p]
            for i in range(1, len(parts) + 1):
                name = "/".join(parts[:i])
                if name in made:
                    continue
                made.add(name)
                info = tarfile.TarInfo(name)
                info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                tar.addfile(info)

        folders("tmp")
        for entry in files:
            src, dest = entry.split("=", 1)
            dest = dest.lstrip("/")
            folders(os.path.dirname(dest))
            info = tarfile.TarInfo(dest)
            if src.startswith("->"):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, src[2:], 0o777
                tar.addfile(info)
                continue
            info.size = os.path.getsize(src)
            info.mode = 0o755 if os.access(src, os.X_OK) or ".so" in dest else 0o644
            with open(src, "rb") as data:
                tar.addfile(info, data)
    return raw.getvalue()


def main():
    out, ref, entrypoint, cmd, *files = sys.argv[1:]
    raw = layer(files)
    # with a header that says nothing of the time: the same files are the same image
    packed = gzip.compress(raw, compresslevel=1, mtime=0)
    config = {
        "architecture": os.environ["GOARCH"],
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": json.loads(entrypoint),
            "Cmd": json.loads(cmd),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(raw).hexdigest()]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mkimage.py"}],
    }
    config = json.dumps(config, separators=(",", ":")).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    layer_name = hashlib.sha256(packed).hexdigest() + "/layer.tar"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [ref], "Layers": [layer_name]}]).encode()
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in ((config_name, config), (layer_name, packed), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))


main()
