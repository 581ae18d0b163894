"""What is refused before anything listens."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path

from syp_wrapper.config import load
from syp_wrapper.errors import ConfigError

from .harness import ROOT, command


class Settings(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "wrapper.toml"

    def load(self, text: str, **env: str):  # type: ignore[no-untyped-def]
        self.file.write_text(text)
        return load(self.file, env)

    def problems(self, text: str, **env: str) -> list[str]:
        with self.assertRaises(ConfigError) as e:
            self.load(text, **env)
        return [p.replace(str(self.file), "F") for p in e.exception.problems]

    def test_the_environment_counts_more(self) -> None:
        text = 'callable = "a:b"\ntimeout = 1\nport = 1\n[env]\nA = "x"'
        c = self.load(text, WRAPPER_TIMEOUT="2.5", PORT="2", OTHER="x", WRAPPER_CONFIG="y")
        self.assertEqual((c.timeout, c.port, c.env), (2.5, 2, {"A": "x"}))
        self.assertEqual(self.load(text, PORT="2", WRAPPER_PORT="3", WRAPPER_CALLABLE="c.d:e.f").port, 3)

    def test_everything_that_is_wrong_is_said_at_once(self) -> None:
        text = 'timeout = 0\nqueue = 1.5\nmethod = "post"\npath = "/healthz"\nports = 1\nconcurrency = true\n[env]\nA = 1'
        self.assertEqual(
            sorted(self.problems(text, WRAPPER_TIMOUT="3", PORT="x")),
            sorted(
                [
                    "F: 'timeout' must be a number of seconds from 0.01 to 86400, not 0",
                    "F: 'queue' must be a whole number of requests from 0 to 100000, not 1.5",
                    "F: 'method' must be GET, POST or PUT, not 'post'",
                    "F: 'ports' is no setting (there are: callable, path, method, health, host, port, timeout, concurrency, queue, "
                    "max_body, grace, stream, env)",
                    "F: 'concurrency' must be a whole number of calls from 1 to 1024, not True",
                    "F: 'env' has A = 1: a variable is a text, put it into quotes",
                    "WRAPPER_TIMOUT is no setting (there are: callable, path, method, health, host, port, timeout, concurrency, queue, "
                    "max_body, grace, stream, env)",
                    "PORT must be a whole number of a port from 0 to 65535, not 'x'",
                    "F: 'callable' is missing, such as callable = \"app:predict\"",
                    "F: 'path' and 'health' are both '/healthz'",
                ]
            ),
        )

    def test_files_that_can_not_be_read(self) -> None:
        self.assertIn("Invalid value", self.problems("a = ")[0])
        with self.assertRaises(ConfigError):
            load(self.file.with_name("none.toml"), {})
        self.assertIn("has PORT, which is a setting", self.problems('callable = "a:b"\n[env]\nPORT = "1"')[0])


class Start(unittest.TestCase):
    """The program says it in its log, with code 2, and never listens."""

    def refused(self, code: str, settings: str = "", served: str = "mine:f") -> str:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "mine.py").write_text(code)
            (Path(folder) / "wrapper.toml").write_text(f'callable = "{served}"\nhost = "127.0.0.1"\n{settings}')
            argv, env = command(Path(folder))
            p = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=20, check=False)
        self.assertEqual((p.returncode, p.stdout), (2, ""), p.stderr)
        line = json.loads(p.stderr.strip().splitlines()[-1])
        self.assertEqual((line["level"], line["reason"]), ("error", "CONFIG_INVALID"))
        return str(line["message"])

    def test_callables_that_can_not_be_served(self) -> None:
        for code, words in [
            ("", "mine has no 'f'"),
            ("f = 3", "is a whole number and can't be called"),
            ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("import sys; sys.exit('no model')", "SystemExit: no model"),
            ("def f(:", "SyntaxError"),
            ("def f(a: bytes): ...", "the parameter 'a': bytes can't be made from JSON"),
            ("def f(a, /): ...", "the parameter 'a' has no name that JSON could give"),
            ("def f(*a): ...", "the parameter 'a' has no name that JSON could give"),
            ("def f(a: 'Nowhere'): ...", "its signature can't be read"),
        ]:
            with self.subTest(code=code):
                self.assertIn(words, self.refused(code))
        self.assertIn('use method = "POST"', self.refused("def f(a: dict): ...", 'method = "GET"'))
        self.assertIn("there is no module 'none'", self.refused("", served="none:f"))
        self.assertIn("there is no module 'mine.none'", self.refused("", served="mine.none:f"))

    def test_a_start_that_takes_long_can_be_ended(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "mine.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
            (Path(folder) / "wrapper.toml").write_text('callable = "mine:f"')
            argv, env = command(Path(folder))
            with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as p:
                assert p.stdout
                self.assertEqual(p.stdout.readline(), b"importing\n")
                p.terminate()
                self.assertEqual(p.wait(10), 143)

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.assertIn(f"can't listen on 127.0.0.1 port {port}", self.refused("def f(): ...", f"port = {port}"))

    def test_the_example_can_be_served(self) -> None:
        argv, env = command(ROOT, "--check")
        p = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=20, check=False)
        self.assertEqual((p.returncode, p.stdout), (0, "app:greet at POST /: name, times\n"), p.stderr)
