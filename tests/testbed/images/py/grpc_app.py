"""A gRPC server without generated code: every message goes back byte for byte, so that any message type can be used.

/syp.test.v1.Echo/Unary          the request
/syp.test.v1.Echo/ServerStream   the request, `x-count` times (5), `x-interval-ms` apart (50)
/syp.test.v1.Echo/Bidi           each request
/syp.test.v1.Echo/Fail           status PERMISSION_DENIED "told to fail"
/syp.test.v1.Echo/Metadata       the request's metadata as JSON
/grpc.health.v1.Health/Check     SERVING
"""

import json
import os
import signal
import time
from concurrent import futures

import grpc


def meta(context):
    return dict(context.invocation_metadata())


def unary(request, context):
    return request


def server_stream(request, context):
    seen = meta(context)
    for _ in range(int(seen.get("x-count", "5"))):
        yield request
        time.sleep(int(seen.get("x-interval-ms", "50")) / 1000)


def bidi(requests, context):
    yield from requests


def fail(request, context):
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "told to fail")


def metadata(request, context):
    return json.dumps({k: v if isinstance(v, str) else v.hex() for k, v in meta(context).items()}).encode()


def check(request, context):
    return b"\x08\x01"


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "syp.test.v1.Echo",
                {
                    "Unary": grpc.unary_unary_rpc_method_handler(unary),
                    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
                    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
                    "Fail": grpc.unary_unary_rpc_method_handler(fail),
                    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
                },
            ),
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
            ),
        )
    )
    port = server.add_insecure_port(f"{os.environ.get('LISTEN_HOST', '0.0.0.0')}:{os.environ.get('LISTEN_PORT', '50051')}")
    if port == 0:
        raise SystemExit("cannot listen")
    server.start()
    print(f"grpc listens on {port}", flush=True)
    # a process 1 has no default action for SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
