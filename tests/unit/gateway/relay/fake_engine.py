"""Two ends for the relay's tests: an engine that follows a script, and a client of a server on an event loop."""

import contextlib
import socket
import threading
import time

from hotseat.gateway.relay import Call, Connections, Exchange

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def sized(body, extra=b""):
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b" % (
        len(body),
        extra,
        body,
    )


class Peer:
    """One connection, as the engine's script sees it."""

    def __init__(self, sock, engine):
        self.sock, self._engine, self._rest = sock, engine, b""

    def request(self):
        """The next whole request; b"" when the relay closed the connection."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(65536)
            if not more:
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += self.sock.recv(65536)
        self._rest = body[length:]
        request = head + b"\r\n\r\n" + body[:length]
        self._engine.requests.append(request)
        return request

    def send(self, data):
        self.sock.sendall(data)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def until_closed(self):
        """Note when the relay has closed its end."""
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass
        self._engine.closed_at = time.monotonic()
        self._engine.closed.set()


class Engine:
    """Listens, and plays a script to each connection; the last script is for all that follow."""

    def __init__(self, *scripts, port=0):
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = []
        self.connections = 0
        self.closed = threading.Event()
        self.closed_at = None
        self._threads = []
        self._peers = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop_listening()
        for sock in self._peers:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def stop_listening(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def peer(self):
        """The first connection's socket, once it was accepted."""
        while not self._peers:
            time.sleep(0.001)
        return self._peers[0]

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                script = self._scripts[min(self.connections, len(self._scripts) - 1)]
                self.connections += 1
                self._peers.append(sock)
                thread = threading.Thread(target=self._play, args=(script, sock))
                self._threads.append(thread)
                thread.start()

    def _play(self, script, sock):
        with sock, contextlib.suppress(OSError):
            script(Peer(sock, self))


def answers(response):
    """Script: every request gets this."""

    def script(peer):
        while peer.request():
            peer.send(response)

    return script


def dechunk(data):
    """Payloads of the chunks, written apart from what is tested."""
    pieces = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert data == b"\r\n"
            return pieces
        pieces.append(data[:length])
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]


class Client:
    """A client's connection, and the response to its first request, which has been received."""

    def __init__(self, server, *, modern=True, head=False, close=False, buffers=None, upgrade=False, ahead=b""):
        self.server = server
        self.sock = socket.socket()
        if buffers:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        self.sock.connect(server.address)
        self.sock.settimeout(10)
        lines = [f"{'HEAD' if head else 'GET' if upgrade else 'POST'} / HTTP/1.{int(modern)}", "Host: us"]
        lines += ["Connection: close"] if close else [] if modern or upgrade else ["Connection: keep-alive"]
        lines += ["Connection: Upgrade", "Upgrade: websocket"] if upgrade else []
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + ahead)
        self.stream, self._connection = server.next_response()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def begin(self, *pieces):
        """Begin a stream of events."""

        def begin():
            self.stream.begin("200 OK", b"Content-Type: text/event-stream\r\n", counted=False)
            for piece in pieces:
                self.stream.write(piece)

        self.server.call(begin)

    def received(self):
        """All that came, after which the server closes."""
        self.server.call(self._connection._transport.close)
        return self.rest()

    def rest(self):
        """All until the server closes."""
        pieces = []
        while piece := self.sock.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)

    def answer(self):
        head, _, body = self.received().partition(b"\r\n\r\n")
        return head.decode("latin-1").split("\r\n"), body

    def until(self, end):
        data = b""
        while not data.endswith(end):
            piece = self.sock.recv(65536)
            assert piece, data
            data += piece
        return data


class Exchanging:
    """An exchange; `result` waits for it."""

    def __init__(self, engine, client, connections=None, *, cancelled=None, **call):
        self.server = client.server
        self.connections = connections or Connections(self.server.owner)
        call = {"method": "POST", "target": b"/v1/completions", "body": b"{}"} | call
        extra = call.pop("extra", ())
        self._stream = client.stream
        self._over = threading.Event()
        self.exchange = self._outcome = None

        def start():
            made = Call(engine.address, **call)
            self.exchange = Exchange(self.connections, made, client.stream, self._done, extra)
            if cancelled is not None:
                self.exchange.cancel(cancelled)
            self.exchange.start()

        self.server.call(start)

    def _done(self, outcome):
        self._outcome = outcome
        self._over.set()

    def cancel(self, error):
        self.server.call(lambda: self.exchange.cancel(error))

    def result(self):
        assert self._over.wait(10)
        if self._outcome.error is not None and not self._stream.begun:
            raise self._outcome.error
        return self._outcome


def relay(engine, client, connections=None, **call):
    """One exchange from its start to its end."""
    running = Exchanging(engine, client, connections, **call)
    try:
        return running.result()
    finally:
        if connections is None:
            running.connections.close()
