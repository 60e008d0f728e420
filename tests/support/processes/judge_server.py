"""A local server with the part of the OpenAI protocol that a judge needs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def judge_server(reply) -> Iterator[tuple[str, list]]:
    """Serves answers during a block.

    Args:
        reply: Returns the text of the answer to a request, or an HTTP status.

    Yields:
        The address, and the list of requests so far: path, headers and body.
    """
    seen: list = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, request))
            answer = reply(request)
            status = answer if isinstance(answer, int) else 200
            message = {"role": "assistant", "content": answer}
            body = {"error": {"message": "no"}} if status != 200 else completion(request["model"], message)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def completion(model, message):
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}
