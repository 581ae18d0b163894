"""The server as its clients have it."""

from __future__ import annotations

import json
import signal
import threading
import time
import unittest

from .harness import GATE, serve


class Answers(unittest.TestCase):
    def test_json_in_json_out(self) -> None:
        w = serve(self, "def f(a: int, b: list[float] = [], *, c: str = 'x'): return {'a': a, 'b': b, 'c': c}")
        self.assertEqual(w.call({"a": 1, "b": [2]}), (200, {"a": 1, "b": [2.0], "c": "x"}))
        status, answer = w.call({"a": 1, "b": [2, "x"]}, headers={"x-request-id": "r-1"})
        self.assertEqual(status, 400)
        self.assertEqual(
            answer, {"error": {"reason": "ARGUMENT_INVALID", "message": "b[1] must be a number, not a string", "field": "b[1]", "request_id": "r-1"}}
        )
        for body, reason in [
            ({}, "ARGUMENT_INVALID"),
            ({"a": 1, "z": 1}, "ARGUMENT_INVALID"),
            ([1], "JSON_INVALID"),
            (b"{", "JSON_INVALID"),
            (b'{"a": NaN}', "JSON_INVALID"),
            (b'{"a": 1, "a": 2}', "JSON_INVALID"),
            (b'{"a": "\xff"}', "JSON_INVALID"),
            (b"[" * 100_000, "JSON_INVALID"),
        ]:
            with self.subTest(body=body[:9] if isinstance(body, bytes) else body):
                self.assertEqual(w.reason(body), (400, reason))
        line = w.log("request", request_id="r-1")
        self.assertEqual((line["status"], line["reason"], line["path"]), (400, "ARGUMENT_INVALID", "/"))

    def test_what_is_not_the_callable(self) -> None:
        w = serve(self, "def f(): return 'ü'", 'path = "/run"\nmax_body = 100')
        self.assertEqual(w.call(None, path="/run"), (200, "ü"))
        self.assertEqual(w.call(None, "GET", "/healthz"), (200, {"status": "ok"}))
        self.assertEqual(w.reason(None), (404, "NOT_FOUND"))
        r = w.open("GET", "/run")
        self.assertEqual((r.status, r.headers["allow"]), (405, "POST"))
        self.assertEqual(w.reason(b"a=1", path="/run", headers={"content-type": "text/plain"}), (415, "MEDIA_TYPE_UNSUPPORTED"))
        self.assertEqual(w.reason(b" " * 101, path="/run"), (413, "BODY_TOO_LARGE"))
        chunked = {"transfer-encoding": "chunked", "content-type": "application/json"}
        c = w.connect()
        c.request("POST", "/run", iter([b" " * 60, b" " * 60]), chunked, encode_chunked=True)
        self.assertEqual(c.getresponse().status, 413)

    def test_a_query(self) -> None:
        w = serve(self, "def f(a: int, b: list[str] = []): return [a, b]", 'method = "GET"')
        self.assertEqual(w.call(None, "GET", "/?a=1&b=x&b=y%20z"), (200, [1, ["x", "y z"]]))
        self.assertEqual(w.reason(None, method="GET", path="/?a=x"), (400, "ARGUMENT_INVALID"))
        self.assertEqual(w.reason(None, method="GET", path="/?a"), (400, "QUERY_INVALID"))

    def test_failures_say_nothing_of_the_inside(self) -> None:
        w = serve(
            self,
            """
            import sys
            from syp_wrapper import Refused
            def f(how: str):
                if how == "raise": raise ValueError("secret")
                if how == "refuse": raise Refused("MODEL_UNKNOWN", "no such model", status=404)
                if how == "exit": sys.exit(3)
                if how == "stop": raise StopIteration
                return {"set": {1}, "bytes": b"", "nan": float("nan")}[how]
            """,
        )
        for how, status, reason in [
            ("raise", 500, "CALLABLE_FAILED"),
            ("refuse", 404, "MODEL_UNKNOWN"),
            ("exit", 500, "CALLABLE_FAILED"),
            ("stop", 500, "CALLABLE_FAILED"),
            ("bytes", 500, "RESULT_NOT_JSON"),
            ("nan", 500, "RESULT_NOT_JSON"),
        ]:
            with self.subTest(how=how):
                status_, answer = w.call({"how": how})
                self.assertEqual((status_, answer["error"]["reason"]), (status, reason))
                self.assertNotIn("secret", json.dumps(answer))
                self.assertNotIn("Traceback", json.dumps(answer))
        self.assertEqual(w.call({"how": "set"}), (200, [1]))
        self.assertIn("ValueError: secret", w.log("the callable failed")["traceback"])

    def test_asynchronous_ones_are_on_one_loop(self) -> None:
        w = serve(self, "import asyncio, threading\nasync def f(ms: int):\n  await asyncio.sleep(ms / 1000)\n  return threading.current_thread().name")
        self.assertEqual(w.call({"ms": 1}), (200, "MainThread"))

    def test_the_callables_own_logs_know_their_request(self) -> None:
        w = serve(self, "import logging\ndef f(): logging.getLogger('mine').info('at work'); return 1")
        w.call(None, headers={"x-request-id": "r-7"})
        self.assertEqual(w.log("at work")["request_id"], "r-7")

    def test_variables(self) -> None:
        code = "import os\nV = os.environ['A'], os.environ['B']\ndef f(): return V"
        w = serve(self, code, '[env]\nA = "default"\nB = "default"', B="said")
        self.assertEqual(w.call(), (200, ["default", "said"]))


class Callers(unittest.TestCase):
    CODE = "from syp_wrapper import Caller\ndef f(caller: Caller, n: int = 0): return caller"

    def test_the_gate_says_who_calls(self) -> None:
        w = serve(self, self.CODE)
        status, who = w.call({}, headers={**GATE, "x-syp-user": "j%C3%BCrg@example.com", "x-syp-groups": "ml,a%2Cb"})
        self.assertEqual(status, 200)
        self.assertEqual(who, {"user": "jürg@example.com", "subject": "s-1", "issuer": "https://issuer", "email": "ada@example.com", "groups": ["ml", "a,b"]})
        self.assertEqual(w.log("request", status=200)["user"], "jürg@example.com")

    def test_nobody_else_says_it(self) -> None:
        w = serve(self, self.CODE)
        self.assertEqual(w.reason({}), (403, "CALLER_MISSING"))
        self.assertEqual(w.reason({"caller": {"user": "x"}}, headers=GATE), (400, "ARGUMENT_INVALID"))
        self.assertEqual(w.reason({}, headers={**GATE, "X-Syp-user": "mallory"}), (400, "CALLER_INVALID"))

    def test_not_in_others_either(self) -> None:
        w = serve(self, "def f(**others: int): return others")
        self.assertEqual(w.call({"a": 1}), (200, {"a": 1}))
        self.assertEqual(w.reason({"caller": 1}), (400, "ARGUMENT_INVALID"))

    def test_a_callable_that_can_do_without(self) -> None:
        w = serve(self, "from syp_wrapper import Caller\ndef f(caller: Caller | None): return caller and caller.user")
        self.assertEqual(w.call(), (200, None))
        self.assertEqual(w.call(headers=GATE), (200, "ada@example.com"))


class Streams(unittest.TestCase):
    PLAIN = """
        import time
        def f(n: int, ms: int = 0, fail: bool = False):
            for i in range(n):
                time.sleep(ms / 1000)
                yield {"i": i}
            if fail: raise ValueError("secret")
        """
    ASYNC = PLAIN.replace("import time", "import asyncio").replace("time.sleep", "await asyncio.sleep").replace("def f", "async def f")

    def test_lines_and_events(self) -> None:
        for code in (self.PLAIN, self.ASYNC):
            w = serve(self, code)
            with self.subTest(code=code):
                r = w.open(body={"n": 2})
                self.assertEqual((r.status, r.headers["content-type"], r.read()), (200, "application/x-ndjson", b'{"i":0}\n{"i":1}\n'))
                r = w.open(body={"n": 1}, headers={"accept": "text/event-stream"})
                self.assertEqual((r.headers["content-type"], r.read()), ("text/event-stream", b'data: {"i":0}\n\n'))
                self.assertEqual(w.open(body={"n": 0}).read(), b"")

    def test_items_come_when_they_are_made(self) -> None:
        for code in (self.PLAIN, self.ASYNC):
            w = serve(self, code)
            r = w.open(body={"n": 3, "ms": 300})
            r.readline()
            first = time.monotonic()
            r.read()
            self.assertGreater(time.monotonic() - first, 0.45)

    def test_a_failure_before_the_first_item_has_its_status(self) -> None:
        w = serve(self, self.PLAIN)
        self.assertEqual(w.reason({"n": 0, "fail": True}), (500, "CALLABLE_FAILED"))

    def test_a_failure_later_is_the_last_item(self) -> None:
        w = serve(self, self.ASYNC)
        lines = w.open(body={"n": 1, "fail": True}).read().splitlines()
        self.assertEqual((lines[0], json.loads(lines[1])["error"]["reason"]), (b'{"i":0}', "CALLABLE_FAILED"))
        text = w.open(body={"n": 1, "fail": True}, headers={"accept": "text/event-stream"}).read()
        self.assertIn(b"event: error\ndata: {", text)

    ENDLESS = """
        import logging, time
        def f():
            try:
                while True:
                    time.sleep(0.05)
                    yield 1
            finally:
                logging.warning("its end")
        """

    def test_a_client_that_goes_ends_it(self) -> None:
        asynchronous = self.ENDLESS.replace("logging, time", "logging, asyncio").replace("time.sleep", "await asyncio.sleep").replace("def f", "async def f")
        for code in (self.ENDLESS, asynchronous):
            w = serve(self, code, "concurrency = 1\nqueue = 0")
            for _ in range(2):
                # the second time: its place is free again
                end = time.monotonic() + 5
                while (r := w.open()).status != 200:
                    self.assertLess(time.monotonic(), end)
                    time.sleep(0.02)
                r.readline()
                w.hang_up()
                w.log("its end")
                w.log("request", reason="CLIENT_GONE")
                w.logs.clear()


class Limits(unittest.TestCase):
    SLEEP = "import time\ndef f(ms: int): time.sleep(ms / 1000); return ms"

    def test_time(self) -> None:
        asynchronous = "import asyncio\nasync def f(ms: int): await asyncio.sleep(ms / 1000); return ms"
        for code in (self.SLEEP, asynchronous):
            w = serve(self, code, "timeout = 0.2")
            begun = time.monotonic()
            self.assertEqual(w.reason({"ms": 3000}), (504, "TIMEOUT"))
            self.assertLess(time.monotonic() - begun, 2)
            self.assertEqual(w.call({"ms": 0}), (200, 0))

    def test_the_callables_own_timeout_is_not_ours(self) -> None:
        w = serve(self, "import asyncio\nasync def f():\n  async with asyncio.timeout(0.01): await asyncio.sleep(5)")
        self.assertEqual(w.reason(), (500, "CALLABLE_FAILED"))

    def test_places(self) -> None:
        w = serve(self, self.SLEEP, "concurrency = 1\nqueue = 1")
        answers: list[tuple[int, object]] = []
        clients = [threading.Thread(target=lambda: answers.append(w.call({"ms": 400}))) for _ in range(4)]
        for c in clients:
            c.start()
        for c in clients:
            c.join()
        self.assertEqual(sorted(status for status, _ in answers), [200, 200, 503, 503])
        busy = next(body for status, body in answers if status == 503)
        self.assertEqual(busy["error"]["reason"], "BUSY")  # type: ignore[index]

    def test_a_thread_over_its_time_keeps_its_place(self) -> None:
        w = serve(self, self.SLEEP, "concurrency = 1\nqueue = 0\ntimeout = 0.2")
        self.assertEqual(w.reason({"ms": 700}), (504, "TIMEOUT"))
        self.assertEqual(w.reason({"ms": 0}), (503, "BUSY"))
        time.sleep(0.7)
        self.assertEqual(w.call({"ms": 0}), (200, 0))

    def test_a_body_that_does_not_come(self) -> None:
        w = serve(self, "def f(): return 1", "timeout = 0.3")
        c = w.connect()
        c.putrequest("POST", "/")
        c.putheader("content-type", "application/json")
        c.putheader("content-length", "5")
        c.endheaders(b"{")
        r = c.getresponse()
        self.assertEqual((r.status, json.loads(r.read())["error"]["reason"]), (408, "BODY_TIMEOUT"))


class Ends(unittest.TestCase):
    def test_what_is_under_way_is_finished(self) -> None:
        for sig in (signal.SIGTERM, signal.SIGINT):
            w = serve(self, "import time\ndef f(): print('on', flush=True); time.sleep(0.6); return 1")
            answers: list[tuple[int, object]] = []
            t = threading.Thread(target=lambda w=w, answers=answers: answers.append(w.call()))
            t.start()
            time.sleep(0.3)
            begun = time.monotonic()
            self.assertEqual(w.end(sig), 0)
            t.join()
            self.assertEqual(answers, [(200, 1)])
            self.assertLess(time.monotonic() - begun, 3)
            w.log("stopped")

    def test_an_idle_one_ends_at_once(self) -> None:
        w = serve(self, "def f(): return 1")
        kept = w.connect()
        kept.request("GET", "/healthz")
        kept.getresponse().read()
        begun = time.monotonic()
        self.assertEqual(w.end(), 0)
        self.assertLess(time.monotonic() - begun, 2)

    def test_after_the_grace_what_runs_is_told(self) -> None:
        code = "import asyncio\nasync def f():\n  yield 1\n  await asyncio.sleep(60)"
        w = serve(self, code, "grace = 0.2")
        r = w.open()
        self.assertEqual(r.readline(), b"1\n")
        begun = time.monotonic()
        w.process.send_signal(signal.SIGTERM)
        self.assertEqual(json.loads(r.readline())["error"]["reason"], "STOPPING")
        self.assertEqual(w.process.wait(20), 0)
        self.assertLess(time.monotonic() - begun, 3)

    def test_a_thread_that_never_returns_holds_nothing(self) -> None:
        w = serve(self, "import time\ndef f(): time.sleep(60)", "grace = 0.1\ntimeout = 0.1")
        self.assertEqual(w.reason(), (504, "TIMEOUT"))
        begun = time.monotonic()
        self.assertEqual(w.end(), 0)
        self.assertLess(time.monotonic() - begun, 5)
        w.log("calls were cut off")
