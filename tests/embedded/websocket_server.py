"""An engine for /v1/realtime, as far as a test needs one: a WebSocket server of the package `websockets`, with a health check."""

import json
import sys
from http import HTTPStatus

from websockets.sync.server import Request, Response, ServerConnection, serve

NAME, PORT = sys.argv[1], int(sys.argv[2])


def health(connection: ServerConnection, request: Request) -> Response | None:
    return connection.respond(HTTPStatus.OK, "ok\n") if request.path == "/health" else None


def handle(connection: ServerConnection) -> None:
    connection.send(
        json.dumps({"type": "session.created", "event_id": "1", "session": {"path": connection.request.path}})
    )
    for text in connection:
        asked = json.loads(text)
        answer = {
            "type": "response.output_text.done",
            "text": f"{NAME}: {asked.get('response', {}).get('instructions')}",
        }
        connection.send(json.dumps(answer | {"event_id": "2", "response_id": "1", "item_id": "1"}))


with serve(handle, "127.0.0.1", PORT, process_request=health) as server:
    server.serve_forever()
