"""Reads instance files as the API would: every key of `spec` is a field of InstanceSpec, every value fits.

check_yaml.py [--ask] FILE...       --ask: the engine too says whether it would take them; nothing is made
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import grpc
import yaml
from client import Client, explain, server, status_of
from google.protobuf import json_format
from syp.v1 import instances_pb2, types_pb2

KEYS = {"apiVersion", "kind", "name", "labels", "spec"}


class Loader(yaml.SafeLoader):
    """A key that is there twice is a mistake, not the last one's right."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        if twice := [k for k in keys if keys.count(k) > 1]:
            raise ValueError(f"{twice[0]} is there twice")
        return super().construct_mapping(node, deep)


def read(file: Path) -> tuple[str, types_pb2.Instance]:
    """The instance in a file."""
    document = yaml.load(file.read_text("utf-8"), Loader)  # noqa: S506  a SafeLoader
    if not isinstance(document, dict) or document.get("apiVersion") != "syp.v1" or document.get("kind") != "Instance":
        raise ValueError("apiVersion must be syp.v1 and kind must be Instance")
    if unknown := document.keys() - KEYS:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    instance = types_pb2.Instance(labels=document.get("labels") or {})
    json_format.ParseDict(document["spec"], instance.spec)
    # the field names of the proto file are taken too by the parser; samples show one form
    again = json_format.MessageToDict(instance.spec)
    if unlike := document["spec"].keys() - again.keys():
        raise ValueError(f"not the JSON name, or nothing said: {', '.join(sorted(unlike))}")
    for needed in ("image", "port", "target"):
        if needed not in document["spec"]:
            raise ValueError(f"spec.{needed} is missing")
    return document["name"], instance


def ask(client: Client, name: str, instance: types_pb2.Instance) -> None:
    """A create that only looks."""
    request = instances_pb2.CreateInstanceRequest(
        parent="projects/default", instance_id=name, instance=instance, request_id=str(uuid.uuid4()), validate_only=True
    )
    client.instances.CreateInstance(request, metadata=client.metadata, timeout=150)


def main() -> int:
    files, code = sys.argv[1:], 0
    client = Client(server(), None) if "--ask" in files else None
    for file in files:
        if file == "--ask":
            continue
        try:
            name, instance = read(Path(file))
            if client:
                ask(client, name, instance)
            print(f"{file}: ok")
        except grpc.RpcError as e:
            print(f"{file}: {explain(status_of(e))}", file=sys.stderr)
            code = 1
        except (ValueError, KeyError, TypeError, yaml.YAMLError, json_format.ParseError) as e:
            print(f"{file}: {e}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
