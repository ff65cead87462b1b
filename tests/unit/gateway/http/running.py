"""A server on an event loop in a thread of its own, for tests that are its clients over real sockets."""

import asyncio
import contextlib
import queue
import socket
import threading
import time

import uvloop

from hotseat.control.owner import LoopOwner
from hotseat.gateway.http.interfaces import HttpLimits
from hotseat.gateway.http.server import HttpServer

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Kept:
    """A service that keeps each response, for the test to answer."""

    max_body = 1_000_000

    def __init__(self):
        self.requests = queue.SimpleQueue()

    def accept(self, request):
        return Handler(self, request)

    def refused(self, request, error):
        pass


class Handler:
    def __init__(self, service, request):
        self.service, self.request, self.max_body = service, request, service.max_body

    def received(self, size):
        pass

    def serve(self, response):
        self.service.requests.put((self.request, response))

    def abandon(self, status):
        self.service.requests.put((self.request, status))


class Server:
    """Serves `service` on a free port."""

    def __init__(self, service=None, loop="uvloop", tls=None, **limits):
        self.service = service or Kept()
        self.loop = LOOPS[loop]()
        self.owner = LoopOwner()
        self.errors = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.address = self._listener.getsockname()
        self.http = HttpServer(self.loop, [self._listener], self.service, HttpLimits(**limits), tls)
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._begun.wait(10)

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.owner.begin(self.loop)
        self.http.start()
        self.loop.call_soon(self._begun.set)
        self.loop.run_forever()
        self.owner.end()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def call(self, function):
        """Run a function on the loop."""
        return self.owner.call(function)

    def next_response(self):
        """The response to the next request that comes, and its connection."""
        _, response = self.service.requests.get(timeout=10)
        return response, response._connection

    def close(self):
        def stop():
            for connection in list(self.http._all):
                connection.abort()
            self.http.stop_listening()
            self.loop.call_later(0.01, self.loop.stop)

        self.call(stop)
        self._thread.join()
        self._listener.close()
        assert not self.errors, self.errors


@contextlib.contextmanager
def serving(service=None, **limits):
    server = Server(service, **limits)
    try:
        yield server
    finally:
        server.close()


def eventually(condition, seconds=10):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.002)
    return found
