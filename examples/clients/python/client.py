"""Creates an instance, watches it come up, calls it, takes it down: the API of sypctl from Python.

./run [NAME] [--image IMAGE] [--port PORT] [--ca-file PEM]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import grpc
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2, status_pb2
from syp.v1 import instances_pb2, instances_pb2_grpc, services_pb2, services_pb2_grpc, types_pb2

Instance = types_pb2.Instance
Step = instances_pb2.OperationMetadata.Step
# a watch that breaks off is opened again, a second apart
WATCH_TRIES = 10


class Failed(Exception):
    """An operation that ended with an error."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(explain(status))


def server() -> str:
    """The local engine's socket, unless SYPCTL_SERVER names another server."""
    if given := os.environ.get("SYPCTL_SERVER"):
        return given
    share = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return f"unix:{os.environ.get('SYP_DATA_DIR') or share + '/syp'}/engine.sock"


def connect(address: str, ca_file: str | None) -> grpc.Channel:
    """Without TLS only over a Unix socket: a token never crosses a network in clear."""
    if address.startswith("unix:"):
        # the name that gRPC makes of a socket's path is none that HTTP/2 servers take
        return grpc.insecure_channel(address, options=[("grpc.default_authority", "localhost")])
    if not address.startswith("https://"):
        sys.exit(f"error: {address} is neither unix:/PATH nor https://HOST:PORT")
    ca = Path(ca_file).read_bytes() if ca_file else None
    return grpc.secure_channel(address.removeprefix("https://"), grpc.ssl_channel_credentials(ca))


class Client:
    """Calls with a token. Over the local socket the engine knows us by our user id and gives us one."""

    def __init__(self, address: str, ca_file: str | None) -> None:
        channel = connect(address, ca_file)
        self.instances = instances_pb2_grpc.InstancesStub(channel)
        self.operations = instances_pb2_grpc.OperationEventsStub(channel)
        self.access = services_pb2_grpc.AccessStub(channel)
        self.local = address.startswith("unix:")
        self.token = os.environ.get("SYPCTL_TOKEN") or self.local_token("")
        self.metadata = [("authorization", f"Bearer {self.token}")]

    def local_token(self, audience: str) -> str:
        """Without an audience: for the API itself."""
        return self.access.IssueLocalToken(services_pb2.IssueLocalTokenRequest(audience=audience), timeout=30).token

    def app_token(self, instance: str) -> str:
        """A token for calling an instance: another one than the API's, neither stands in for the other."""
        if given := os.environ.get("SYPCTL_APP_TOKEN"):
            return given
        return self.local_token(instance) if self.local else self.token

    def create(self, parent: str, name: str, spec: types_pb2.InstanceSpec) -> operations_pb2.Operation:
        """Sent again with the same request id it would be the same operation, not a second one."""
        request = instances_pb2.CreateInstanceRequest(parent=parent, instance_id=name, instance=Instance(spec=spec), request_id=str(uuid.uuid4()))
        return self.instances.CreateInstance(request, metadata=self.metadata, timeout=150)

    def destroy(self, name: str) -> operations_pb2.Operation:
        request = instances_pb2.TransitionInstanceRequest(name=name, to=Instance.DESTROYED, request_id=str(uuid.uuid4()))
        return self.instances.TransitionInstance(request, metadata=self.metadata, timeout=30)

    def get(self, name: str) -> Instance:
        return self.instances.GetInstance(instances_pb2.GetInstanceRequest(name=name), metadata=self.metadata, timeout=30)

    def receipt(self, name: str) -> types_pb2.TeardownReceipt:
        request = instances_pb2.GetTeardownReceiptRequest(name=name)
        return self.instances.GetTeardownReceipt(request, metadata=self.metadata, timeout=30)

    def watch(self, operation: operations_pb2.Operation) -> operations_pb2.Operation:
        """Prints each step as it changes, to the end. A watch that breaks off goes on where it was."""
        resume, tries = "", 0
        while True:
            request = instances_pb2.WatchOperationRequest(name=operation.name, resume_token=resume)
            try:
                for event in self.operations.WatchOperation(request, metadata=self.metadata):
                    resume, tries = event.resume_token, 0
                    kind = event.WhichOneof("event")
                    for step in event.snapshot.steps if kind == "snapshot" else [event.step] if kind == "step" else []:
                        show(step)
                    if kind == "done":
                        if event.done.HasField("error"):
                            raise Failed(event.done.error)
                        return event.done
            except grpc.RpcError as e:
                if e.code() != grpc.StatusCode.UNAVAILABLE or tries >= WATCH_TRIES:
                    raise
            tries += 1
            time.sleep(1)


def show(step: Step) -> None:
    state = instances_pb2.OperationMetadata.StepState.Name(step.state)
    why = step.waiting_on.reason
    print(f"  step {step.id:<24} {state.lower()}" + (f" ({why})" if why not in ("", state) else ""), flush=True)


def explain(status: status_pb2.Status) -> str:
    """With the stable reason, which `sypctl explain` knows."""
    info = error_details_pb2.ErrorInfo()
    reasons = [info.reason for detail in status.details if detail.Unpack(info)]
    return f"{status.message} (reason: {reasons[0] if reasons else 'none'})"


def status_of(e: grpc.RpcError) -> status_pb2.Status:
    details = dict(e.trailing_metadata() or ()).get("grpc-status-details-bin")
    return status_pb2.Status.FromString(details) if details else status_pb2.Status(message=f"{e.code().name}: {e.details()}")


def call(url: str, token: str | None) -> int:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code


def run(a: argparse.Namespace) -> None:
    client = Client(server(), a.ca_file)
    spec = types_pb2.InstanceSpec(image=a.image, port=a.port, target="docker")
    name = f"projects/default/instances/{a.name}"
    created = client.create("projects/default", a.name, spec)
    # with its uid a name means this incarnation and no later one
    target = f"{name}@{client.get(name).uid}"
    print(f"creating {target}")
    try:
        client.watch(created)
        got = client.get(target)
        print(f"{Instance.State.Name(got.state).lower()} at {got.endpoint}")
        token = client.app_token(name)
        print(f"without a token: {call(got.endpoint, None)}")
        print(f"with a token: {call(got.endpoint, token)}")
    finally:
        print(f"destroying {target}")
        client.watch(client.destroy(target))
    receipt = client.receipt(target)
    print(f"receipt: {receipt.created_count} created, {receipt.verified_gone_count} verified gone, {len(receipt.residuals)} left")


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("name", nargs="?", default="from-python")
    p.add_argument("--image", default="syp-example/hello:latest")
    p.add_argument("--port", type=int, default=8080)
    p.add_argument("--ca-file", help="certificate authorities to trust, PEM")
    try:
        run(p.parse_args())
    except Failed as e:
        print(f"error: {e}", file=sys.stderr)
    except grpc.RpcError as e:
        print(f"error: {explain(status_of(e))}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
