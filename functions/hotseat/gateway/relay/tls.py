"""TLS towards upstreams: contexts by their settings, made anew when the file of authorities changes."""

import ssl
from pathlib import Path

from hotseat.core.errors import HotseatError, Unreachable
from hotseat.engines.access import TlsSettings

_State = tuple[int, int, int] | None


class TlsContexts:
    """Contexts for connections. Their authorities are read when the first is made, which takes some 20 ms: use it in a thread."""

    def __init__(self) -> None:
        self._contexts: dict[TlsSettings, tuple[_State, ssl.SSLContext]] = {}

    def of(self, settings: TlsSettings) -> ssl.SSLContext:
        """Return the context. Raise Unreachable if the file of authorities cannot be read."""
        try:
            state = _state_of(settings.ca_file)
            known = self._contexts.get(settings)
            if known is None or known[0] != state:
                known = self._contexts[settings] = (state, _context(settings))
        except OSError as error:  # ssl.SSLError is one
            why = "it has no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise Unreachable(f"The file {settings.ca_file} (tls.caFile) cannot be used: {why}.") from None
        return known[1]


def _state_of(file: str | None) -> _State:
    if file is None:
        return None
    found = Path(file).stat()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def tls_failed(error: OSError) -> HotseatError | None:
    """Return the error for the client, after a handshake that failed. None: it was not TLS that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(f"The certificate of the upstream is not accepted: {error.verify_message}.")
    if isinstance(error, ssl.SSLError):
        return Unreachable(f"TLS to the upstream failed: {error.reason or error.strerror}.")
    return None
