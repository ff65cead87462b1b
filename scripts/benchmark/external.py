"""An engine for what the mock in C cannot do: it reads bodies of any size, and a stream of it has no end.

    external.py PORT

A GET is answered 200. So is a POST once its body is there; with `"stream": true` at the end of it, the answer never ends.
"""

import selectors
import socket
import sys

READ = 1 << 18
PART = b"10000\r\n" + b"x" * 65536 + b"\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
ENDLESS = b'"stream": true}'


class Peer:
    """One connection: what is still to be read, or written."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.head = b""
        self.missing = 0  # bytes of the body
        self.end = b""  # of the body
        self.unsent = memoryview(b"")

    def read(self) -> bool:
        """Read, and answer. Return whether an answer without an end has begun. Raise OSError at the end of the connection."""
        data = self.connection.recv(READ)
        if not data:
            raise ConnectionError
        if not self.missing:
            self.head += data
            head, whole, data = self.head.partition(b"\r\n\r\n")
            if not whole:
                return False
            self.head = b""
            lines = (line.lower() for line in head.split(b"\r\n"))
            self.missing = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        self.missing -= len(data)
        self.end = (self.end + data)[-len(ENDLESS) :]
        if self.missing > 0:
            return False
        self.missing = 0
        if self.end == ENDLESS:
            self.unsent = memoryview(HEAD + PART)
            return True
        self.connection.sendall(ANSWER)
        return False

    def write(self) -> None:
        """Write as much as the connection takes."""
        self.unsent = self.unsent[self.connection.send(self.unsent) :]
        if not self.unsent:
            self.unsent = memoryview(PART)


def main() -> None:
    """Serve until the process is ended."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                selector.register(connection, selectors.EVENT_READ, Peer(connection))
                continue
            peer: Peer = key.data
            try:
                if peer.unsent:
                    peer.write()
                elif peer.read():
                    peer.connection.setblocking(False)
                    selector.modify(peer.connection, selectors.EVENT_WRITE, peer)
            except OSError:
                selector.unregister(peer.connection)
                peer.connection.close()


if __name__ == "__main__":
    main()
