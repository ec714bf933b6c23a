"""A page in the browser: things are chosen by clicks and sent somewhere by dragging. Served on loopback only."""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from pointworld.errors import InputError
from pointworld.view.goal_editor import GoalEditor

#: A page sends no more than this [bytes].
MOST_BYTES = 200_000
_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'"
)


class GoalPage:
    """Serves an editor until the page says that the person is done. The token in the address keeps others out."""

    def __init__(self, editor: GoalEditor, *, port: int = 0) -> None:
        """Opens the port. Args: port: 0 = any that is free.

        Raises:
            InputError: the port is taken.
        """
        self.editor, self.token = editor, secrets.token_urlsafe(16)
        self.lock, self._done = threading.Lock(), threading.Event()
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        except OSError as error:
            raise InputError(f"--port {port} cannot be used: {error}") from error
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self.token}/"

    def serve(self) -> None:
        """Answer until the person is done."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            # In slices, so that Ctrl-C is heard at once on every system.
            while not self._done.wait(0.2):
                continue
        finally:
            self._server.shutdown()
            self._server.server_close()

    def answer(self, what: str, record: Any) -> dict[str, Any]:
        """What the page asked for.

        Raises:
            InputError: it cannot be done, and why.
        """
        editor = self.editor
        with self.lock:
            if what == "start":
                return editor.describe()
            if what == "choose":
                return editor.choose(record)
            if what == "put":
                editor.put(record)
            elif what == "remove" and isinstance(record, str):
                editor.remove(record)
            elif what == "write":
                return {"counts": editor.write()}
            elif what == "done":
                self._done.set()
            else:
                raise InputError(f"the page asked for '{what}'")
            return {"sets": editor.listed()}


def _handler(page: GoalPage) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """GET of the page and its pictures, POST of a question with a JSON body."""

        def do_GET(self) -> None:
            """The page, or pictures/NUMBER.png."""
            word = self._word()
            if word == "":
                html = resources.files("pointworld.view").joinpath("goal_page.html").read_bytes()
                self._reply(200, "text/html; charset=utf-8", html)
            elif word is not None and word.startswith("pictures/"):
                number = word.removeprefix("pictures/").removesuffix(".png")
                self._attempt(
                    "image/png",
                    lambda: page.editor.picture(int(number) if number.isdigit() else -1),
                )
            else:
                self._reply(404, "text/plain", b"there is nothing here")

        def do_POST(self) -> None:
            """A question: see `GoalPage.answer`."""
            word, length = self._word(), self.headers.get("Content-Length", "")
            if word is None or not length.isdigit() or int(length) > MOST_BYTES:
                self._reply(404 if word is None else 413, "text/plain", b"refused")
                return
            body = self.rfile.read(int(length))
            self._attempt("application/json", lambda: _json(page.answer(word, _parsed(body))))

        def _word(self) -> str | None:
            """What comes after the token; None for strangers and for pages of other sites."""
            _, _, rest = self.path.partition("/")
            token, _, word = rest.partition("/")
            mine = hmac.compare_digest(token.encode(), page.token.encode())
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            return word if mine and host in ("127.0.0.1", "localhost") else None

        def _attempt(self, kind: str, make: Callable[[], bytes]) -> None:
            try:
                self._reply(200, kind, make())
            except InputError as error:
                words = " ".join(str(error).split())
                self._reply(422, "application/json", _json({"problem": words}))

        def _reply(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """The terminal belongs to the command."""

    return Handler


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the page sent no JSON: {error}") from error
