"""The client's side of HTTP/1.1, on an event loop: listeners, connections, requests and responses."""
