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

KEYS = {"apiVersion", "kind", "name", "labels", "allow", "operators", "spec"}
Rule = types_pb2.AccessPolicy.Rule


class Loader(yaml.SafeLoader):
    """A key that is there twice is a mistake, not the last one's right."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        if twice := [k for k in keys if keys.count(k) > 1]:
            raise ValueError(f"{twice[0]} is there twice")
        return super().construct_mapping(node, deep)


def read(file: Path) -> list[tuple[str, types_pb2.Instance]]:
    """The instances in a file, with '---' between them."""
    found = [instance(d) for d in yaml.load_all(file.read_text("utf-8"), Loader) if d is not None]
    if not found:
        raise ValueError("it holds no instance")
    return found


def instance(document: object) -> tuple[str, types_pb2.Instance]:
    """Name and instance of a document."""
    if not isinstance(document, dict) or document.get("apiVersion") != "syp.v1" or document.get("kind") != "Instance":
        raise ValueError("apiVersion must be syp.v1 and kind must be Instance")
    if unknown := document.keys() - KEYS:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    made = types_pb2.Instance(labels=document.get("labels") or {})
    json_format.ParseDict(document["spec"], made.spec)
    # the field names of the proto file are taken too by the parser; samples show one form
    again = json_format.MessageToDict(made.spec)
    if unlike := document["spec"].keys() - again.keys():
        raise ValueError(f"not the JSON name, or nothing said: {', '.join(sorted(unlike))}")
    for needed in ("image", "port", "target"):
        if needed not in document["spec"]:
            raise ValueError(f"spec.{needed} is missing")
    for key, policy, role in (("allow", "access", types_pb2.USER), ("operators", "operators", types_pb2.OPERATOR)):
        if members := document.get(key):
            if policy in document["spec"]:
                raise ValueError(f"{key} and its long form in spec: choose one")
            getattr(made.spec, policy).rules.append(Rule(effect=types_pb2.AccessPolicy.ALLOW, role=role, members=members))
    return document["name"], made


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
            for name, made in read(Path(file)):
                if client:
                    ask(client, name, made)
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
