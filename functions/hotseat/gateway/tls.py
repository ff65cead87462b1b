"""TLS of the listener: a certificate from files, which is read again when they change, or an own one."""

import hashlib
import logging
import os
import re
import ssl
import subprocess
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from hotseat.gateway.watched_files import watch
from hotseat.private_files import make_directory

log = logging.getLogger(__name__)

DAYS = 3650  # that an own certificate is valid
_TIMEOUT = 30.0  # seconds for openssl
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s", re.DOTALL)
_CONFIG = """\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = hotseat
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
subjectAltName = {names}
"""


class TlsError(ValueError):
    """The certificate cannot be used. The message says why."""


class ServerTls:
    """The certificate of the listener, and its key, in PEM files. `context` is for new connections."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raise TlsError if the files cannot be used."""
        self.certificate, self._key = certificate, key
        self.context = self._read()
        self._fingerprint = self.fingerprint

    def watch(self) -> None:
        """Read the files again when they change. Until both fit, the present certificate stays in use."""
        watch([self.certificate, self._key], self._reload, "certificate")

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the certificate, as browsers show it."""
        found = _PEM.search(self.certificate.read_text() + "\n")
        der = ssl.PEM_cert_to_DER_cert(found[0] if found else "")
        return ":".join(f"{byte:02X}" for byte in hashlib.sha256(der).digest())

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        for path in (self.certificate, self._key):
            if not os.access(path, os.R_OK):
                raise TlsError(f"{path} does not exist or cannot be read")
        try:
            # Without a password, OpenSSL would ask the terminal for one.
            context.load_cert_chain(self.certificate, self._key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise TlsError(
                f"{self.certificate} and {self._key} are not a certificate and its key in PEM, without a password: {reason}"
            ) from None
        return context

    def _reload(self) -> None:
        try:
            self.context, fingerprint = self._read(), self.fingerprint
        except (TlsError, ValueError, OSError) as error:
            log.warning("certificate not reloaded; the previous one stays in use: %s", error)
            return
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            log.warning("certificate reloaded: %s, SHA-256 %s", self.certificate, fingerprint)


def own_certificate(folder: Path, hosts: Iterable[str]) -> tuple[Path, Path]:
    """Return an own certificate and its key in a folder. They are made with openssl if they are missing. Raise TlsError.

    `hosts` are names and addresses of this server, beside those of loopback.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if certificate.exists() and key.exists():
        return certificate, key
    make_directory(folder)
    names = ",".join(dict.fromkeys(map(_name, ("localhost", "127.0.0.1", "::1", *hosts))))
    config = folder / "openssl.cnf"
    config.write_text(_CONFIG.format(names=names))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", str(DAYS), "-config", str(config), "-keyout", str(key), "-out", str(certificate)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except FileNotFoundError:
        raise TlsError(
            "there is no program openssl, which makes the certificate: install it, or give --tls-cert and --tls-key"
        ) from None
    except subprocess.TimeoutExpired:
        raise TlsError("openssl did not make a certificate in time") from None
    if made.returncode:
        raise TlsError(f"openssl made no certificate: {made.stderr.strip()[-200:]}")
    key.chmod(0o600)
    return certificate, key


def _name(host: str) -> str:
    try:
        return f"IP:{ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
