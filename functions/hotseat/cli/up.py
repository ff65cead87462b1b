"""`hotseat up`: serve the models of a file or a folder on this machine."""

import errno
import ipaddress
import os
import socket
import stat
import sys
from dataclasses import replace
from multiprocessing import RawValue
from pathlib import Path

import click
import psutil

from hotseat.api.model import Capability, Model
from hotseat.api.units import format_bytes, parse_duration, parse_quantity
from hotseat.app import App, Settings, shutdown_time
from hotseat.cli import up_top
from hotseat.cli.client import Client
from hotseat.cli.dry_run import dry_run_options, end_if_dry_run
from hotseat.cli.events import Console, chat_hints, embedding_hints
from hotseat.cli.options import Command
from hotseat.control.history_store import DAYS, LEAST_SIZE, NAME, SIZE, HistorySettings, history_at
from hotseat.gateway.captures import CaptureMode
from hotseat.gateway.http.interfaces import HttpLimits
from hotseat.gateway.key_file import KeyFileError, KeySource
from hotseat.gateway.limits import MAX_BODY, MAX_FORM, ConcurrencyLimit, thread_cap
from hotseat.gateway.server import Bounds, Server
from hotseat.gateway.threads import Threads
from hotseat.gateway.tls import ServerTls, TlsError, own_certificate
from hotseat.importing.loading import Inputs, load, wait_settled
from hotseat.manifests.files import name_of
from hotseat.manifests.loading import Manifest
from hotseat.manifests.problems import ManifestErrors
from hotseat.runtimes.local.orphans import StateDir
from hotseat.sources.cache import default_cache_dir
from hotseat.telemetry.logs import set_up_logging
from hotseat.telemetry.tracing import TracingError, check_tracing

LOOPBACK = "127.0.0.1"
IN_FLIGHT = 4000  # requests in flight, in addition to queued requests

EXAMPLES = (
    "hotseat up -f models.yaml",
    "hotseat up config.yaml",
    "hotseat up --models-dir ~/models",
    "hotseat up -f models.d/ --port 9000 --api-key-file keys.yaml",
    "hotseat up -f models.yaml --host 0.0.0.0 --api-key-file keys.yaml --tls-cert tls.crt --tls-key tls.key",
    "hotseat import config.yaml | hotseat up -f - --dry-run",
)


def _home(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default) / "hotseat"


def _size(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    try:
        return int(parse_quantity(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not {error}") from None


def _history_size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    if (size := _size(ctx, param, value)) < LEAST_SIZE:
        raise click.BadParameter(f"{value!r} is too little; allowed: at least {format_bytes(LEAST_SIZE)}")
    return size


def _duration(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not {error}") from None


def _writable(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    """Raise BadParameter immediately if the file cannot be appended to."""
    if value is None:
        return None
    if str(value) == "-":
        raise click.BadParameter("standard output is used for events; name a file")
    try:
        with open(value, "ab", opener=_open_nonblocking):
            return value
    except OSError as error:
        raise click.BadParameter(f"{value} cannot be written: {error.strerror or error}") from None


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file. A FIFO without a reader does not block."""
    try:
        return os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116
            return os.open(os.devnull, flags)  # a FIFO without a reader
        raise


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("named", metavar="[FILE|DIR]...", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@click.option("-f", "--file", "files", type=click.Path(path_type=Path), multiple=True, metavar="FILE|DIR",
              help="Documents to serve, or a configuration of llama-swap. Can be repeated. - is standard input.")  # fmt: skip
@click.option("--config-dir", "config_dirs", type=click.Path(path_type=Path, exists=True, file_okay=False), multiple=True, metavar="DIR",
              help="Folder of documents, or of parts of a configuration of llama-swap, which are merged. The same as -f DIR.")  # fmt: skip
@click.option("--models-dir", "models_dirs", type=click.Path(path_type=Path, exists=True, file_okay=False), multiple=True, metavar="DIR",
              help="Folder of GGUF files, each of which is served by llama.cpp. Can be repeated, and combined with documents, which "
                  "take precedence.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on. 0 picks a free port.",
)
@click.option("--admin-bind", metavar="ADDRESS:PORT",
              help="Address for admin routes: all routes but inference, lists of models, /health and /ready. --port then does not "
                  "serve them. API keys are required there too.")  # fmt: skip
@click.option(
    "--admin-port", type=click.IntRange(1, 65535), metavar="PORT", help="Short for --admin-bind 127.0.0.1:PORT."
)
@click.option("--upstream-port", type=click.IntRange(1, 65535), metavar="PORT",
              help="Port on 127.0.0.1 that serves the engines' own pages (/upstream/MODEL/) and nothing else. There they have an origin of "
                  "their own, so they are not sandboxed.")  # fmt: skip
@click.option("--api-key", "keys", multiple=True, metavar="KEY", envvar="HOTSEAT_API_KEY",
              help="API key that clients must send on every route but /health and /ready. Can be repeated. The "
                  "list of processes shows it: use the variable or a file instead.  [env var: HOTSEAT_API_KEY]")  # fmt: skip
@click.option("--api-key-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), envvar="HOTSEAT_API_KEY_FILE",
              help="File with API keys: of `hotseat key new`, or one per line. It is read again when it changes.  [env var: "
                  "HOTSEAT_API_KEY_FILE]")  # fmt: skip
@click.option("--tls-cert", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Certificate in PEM, and its chain: serve https. It is read again when it changes.")  # fmt: skip
@click.option(
    "--tls-key", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Key of the certificate, in PEM."
)
@click.option("--tls-self-signed", is_flag=True,
              help="Serve https with an own certificate, which openssl makes at the first start in the state directory.")  # fmt: skip
@click.option("--no-auth", is_flag=True, help="Allow listening on a non-loopback address without API keys.")
@click.option("--sink", metavar="URL", envvar="K_SINK", help="URL to send CloudEvents to.  [env var: K_SINK]")
@click.option(
    "--cors-origin",
    "cors",
    multiple=True,
    metavar="ORIGIN",
    help="Origin whose web pages may send requests. * allows any origin.",
)
@click.option("--allowed-host", "hosts", multiple=True, metavar="HOST",
              help="Name of this server that requests may be for, in addition to localhost and IP addresses. Can be repeated. "
                  "* allows any name. Names are checked only without API keys, on a loopback address.")  # fmt: skip
@click.option(
    "--max-body",
    default=f"{MAX_BODY // 2**20}Mi",
    show_default=True,
    callback=_size,
    help="Maximum size of a request body.",
)
@click.option("--max-form", default=f"{MAX_FORM // 2**30}Gi", show_default=True, callback=_size,
              help="Maximum size of a form (multipart/form-data). Forms above 256Ki are kept in files in the state directory until they "
                  "are answered, all together at most four times this size. 0: forms are held in memory, within --max-body.")  # fmt: skip
@click.option(
    "--max-header", default="64Ki", show_default=True, callback=_size, help="Maximum size of the headers of a request."
)
@click.option("--header-timeout", default="60s", show_default=True, callback=_duration,
              help="Time in which the headers of a request must arrive.")  # fmt: skip
@click.option("--body-timeout", default="60s", show_default=True, callback=_duration,
              help="Time between two parts of a request body.")  # fmt: skip
@click.option("--keepalive-timeout", default="75s", show_default=True, callback=_duration,
              help="Time after which a connection without a request is closed.")  # fmt: skip
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), envvar="HOTSEAT_STATE_DIR",
              help="Directory for logs, learned statistics and crash recovery.  [env var: HOTSEAT_STATE_DIR]")  # fmt: skip
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False), envvar="HOTSEAT_CACHE_DIR",
              help="Directory for downloaded weights.  [env var: HOTSEAT_CACHE_DIR]")  # fmt: skip
@click.option("--request-log", type=click.Path(path_type=Path, dir_okay=False), callback=_writable, envvar="HOTSEAT_REQUEST_LOG",
              help="Append a JSON line for each finished request, for `hotseat simulate --trace`. The log contains "
                  "no prompts or answers.  [env var: HOTSEAT_REQUEST_LOG]")  # fmt: skip
@click.option("--history", metavar="PATH|off", envvar="HOTSEAT_HISTORY",
              help="File in which events, switches and requests are kept over restarts (SQLite), without prompts and answers. off: nothing "
                  f"is kept.  [env var: HOTSEAT_HISTORY; default: {NAME} in the state directory]")  # fmt: skip
@click.option("--history-days", type=click.IntRange(1, 99_999), default=DAYS, show_default=True, envvar="HOTSEAT_HISTORY_DAYS",
              help="Days after which they are deleted.  [env var: HOTSEAT_HISTORY_DAYS]")  # fmt: skip
@click.option("--history-size", default=f"{SIZE // 2**20}Mi", show_default=True, callback=_history_size, envvar="HOTSEAT_HISTORY_SIZE",
              help="Maximum size of the file, with its write-ahead log. The oldest are deleted first.  [env var: "
                  "HOTSEAT_HISTORY_SIZE]")  # fmt: skip
@click.option("--capture", type=click.Choice([mode.value for mode in CaptureMode]), envvar="HOTSEAT_CAPTURE",
              help="Capture the bodies of requests and answers in memory, for GET /api/captures/{id}. With `redacted`, texts become "
                  "their lengths. Without this option, no bodies are kept.  [env var: HOTSEAT_CAPTURE]")  # fmt: skip
@click.option("--no-watch", is_flag=True, help="Do not reload when a file changes. SIGHUP still reloads.")
@click.option("--log-level", default="warning", show_default=True, type=click.Choice(["debug", "info", "warning", "error"]),
              help="Log level of hotseat's own log, which goes to standard error.")  # fmt: skip
@click.option(
    "--json/--no-json", "json_lines", default=None, help="Print JSON lines.  [default: if the output is not a terminal]"
)
@click.option("--top", "with_top", is_flag=True,
              help="Show `hotseat top` in this terminal. What hotseat prints goes to up.log in the state directory.")  # fmt: skip
@dry_run_options
def up(  # noqa: PLR0917 — one parameter an option
    named: tuple[Path, ...],
    files: tuple[Path, ...],
    config_dirs: tuple[Path, ...],
    models_dirs: tuple[Path, ...],
    host: str,
    port: int,
    admin_bind: str | None,
    admin_port: int | None,
    upstream_port: int | None,
    keys: tuple[str, ...],
    api_key_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_self_signed: bool,
    no_auth: bool,
    sink: str | None,
    cors: tuple[str, ...],
    hosts: tuple[str, ...],
    max_body: int,
    max_form: int,
    max_header: int,
    header_timeout: float,
    body_timeout: float,
    keepalive_timeout: float,
    state_dir: Path | None,
    cache_dir: Path | None,
    request_log: Path | None,
    history: str | None,
    history_days: int,
    history_size: int,
    capture: str | None,
    no_watch: bool,
    log_level: str,
    json_lines: bool | None,
    with_top: bool,
) -> None:
    """Serve the models of a file or a folder.

    FILE has documents of kind Model and Workspace, or is a config.yaml of llama-swap or llmsnap, which is converted as by
    `hotseat import`. DIR is a folder of such files.

    The models take turns on the accelerator. A request for a model that is not loaded is queued until the loaded model has
    finished its requests and is stopped, and the requested model is ready. Changes of the file are applied while hotseat runs,
    also on SIGHUP. Ctrl-C lets requests in flight finish; a second Ctrl-C stops immediately.
    """
    json_lines = (with_top or not sys.stdout.isatty()) if json_lines is None else json_lines
    set_up_logging(log_level, json_lines=json_lines)
    inputs = Inputs((*named, *files, *config_dirs), tuple(path.absolute() for path in models_dirs))
    manifest = _read(inputs)
    end_if_dry_run(manifest, host, port, (cache_dir or default_cache_dir()).absolute())
    key_source = _key_source(keys, api_key_file)
    top_key = None
    if with_top:
        up_top.check_terminal()
        if key_source.keys:
            top_key = up_top.own_key()
            key_source = _key_source((*keys, top_key), api_key_file)
    admin_host, admin_port = _admin_address(admin_bind, admin_port)
    for option, address in (("--host", host), ("--admin-bind", admin_host)):
        if not key_source.keys and not no_auth and not _is_loopback(address):
            raise click.UsageError(f"{option} {address} is not loopback: use --api-key, --api-key-file or --no-auth")
    home = _home("XDG_STATE_HOME", ".local/state")
    port = _check_port(host, port, state_dir or home / f"port-{port}")
    used = {port: "--port"}
    for option, address, other in (
        ("--admin-bind" if admin_bind else "--admin-port", admin_host, admin_port),
        ("--upstream-port", LOOPBACK, upstream_port),
    ):
        if other is not None:
            if _check_port(address, other, state_dir or home / f"port-{port}", option) in used:
                raise click.UsageError(f"{option} is {other}, which is {used[other]}; choose another")
            used[other] = option
    state_dir = (state_dir or home / f"port-{port}").absolute()
    settings = Settings(
        inputs=inputs,
        state_dir=state_dir,
        cache_dir=(cache_dir or default_cache_dir()).absolute(),
        keys=key_source,
        sink=sink,
        max_body=max_body,
        max_form=max_form,
        cors=cors,
        hosts=(*hosts, host),
        watch=not no_watch,
        request_log=request_log and request_log.absolute(),
        admin_port=admin_port,
        upstream_port=upstream_port,
        capture=None if capture is None else CaptureMode(capture),
        history=_history(history, state_dir, history_days, history_size),
    )
    _check_tracing()

    limits = HttpLimits(max_header, header_timeout, body_timeout, keepalive_timeout)
    tls = _tls(tls_cert, tls_key, settings.state_dir if tls_self_signed else None, host)
    addresses = (host, port), (admin_host, admin_port), (LOOPBACK, upstream_port)
    if with_top:
        output = settings.state_dir / "up.log"
        if pid := up_top.fork_server(output):
            url = _url(addresses[0 if admin_port is None else 1], tls)
            client = Client(url, top_key, fingerprint=None if tls is None else tls.fingerprint)
            up_top.show_until_end(pid, client, output)
            return
    _serve(settings, limits, manifest, addresses, tls, Console(sys.stdout, json_lines, color=sys.stdout.isatty()))


def _check_tracing() -> None:
    try:
        check_tracing()
    except TracingError as error:
        raise click.ClickException(str(error)) from None


def _history(path: str | None, state_dir: Path, days: int, size: int) -> HistorySettings | None:
    """Return where history is kept. None: nowhere. Raise UsageError if the path is that of something else, which would be renamed."""
    if path == "off":
        return None
    if not path:
        return HistorySettings(state_dir / NAME, days, size)
    try:
        return history_at(Path(path), days, size)
    except ValueError as error:
        raise click.UsageError(f"--history: {error}") from None


def _host_port(address: tuple[str, int | None]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _url(address: tuple[str, int | None], tls: ServerTls | None) -> str:
    """Return the URL by which this machine reaches an address that is listened on."""
    return f"{'http' if tls is None else 'https'}://{_host_port(address)}".replace("0.0.0.0", "127.0.0.1")  # noqa: S104


def _serve(  # noqa: PLR0917 — what the options say
    settings: Settings,
    limits: HttpLimits,
    manifest: Manifest,
    addresses: tuple[tuple[str, int | None], ...],
    tls: ServerTls | None,
    console: Console,
) -> None:
    """Serve at addresses, of which the first is for clients."""
    bounds = Bounds.of_this_process()
    threads = Threads(cap=thread_cap())
    settings = replace(settings, concurrency=ConcurrencyLimit(0, threads))
    end = RawValue("d", shutdown_time(manifest))  # seconds, from the worker to the arbiter
    bind = [_host_port(address) for address in addresses if address[1] is not None]
    url = _url(addresses[0], tls)

    def create() -> App:
        # Called in each new worker: the documents may have changed since the last one.
        return App(
            settings,
            _newest(settings, manifest, console),
            listener=console.event,
            report=console.log,
            on_shutdown_time=lambda seconds: setattr(end, "value", seconds),
            on_apply=resize,
        )

    def resize(manifest: Manifest) -> None:
        """Set the limit on requests by the documents. Warn if they allow more than one process can hold."""
        wanted = sum(w.spec.queue.max_waiting for w in manifest.workspaces)
        settings.concurrency.resize(min(wanted + IN_FLIGHT, bounds.max_requests))
        if wanted > bounds.max_requests:
            console.log(
                f"queue.maxWaiting allows {wanted} queued requests in all Workspaces together, but this hotseat holds at most"
                f" {bounds.max_requests}: {bounds.why}. Further requests get 429"
            )

    def is_up() -> None:
        hints = [hint for capability in (Capability.CHAT, Capability.EMBEDDING) for hint in _hints(capability)]
        console.banner(
            url,
            [(m.shown_name, m.spec.engine, m.names[1:], _state(m)) for m in manifest.models],
            [(w.name, w.spec.capacity.gpus if w.spec.capacity.counted else None) for w in manifest.workspaces],
            hints,
        )
        if tls is not None:
            console.log(f"certificate {tls.certificate}, SHA-256 {tls.fingerprint}")

    own_ca = str(tls.certificate) if tls is not None and tls.certificate.is_relative_to(settings.state_dir) else ""

    def _hints(capability: Capability) -> list[str]:
        capable = [m.shown_name for m in manifest.models if capability in (m.spec.capabilities or (Capability.CHAT,))]
        make = chat_hints if capability is Capability.CHAT else embedding_hints
        return make(url, capable[0], ca_file=own_ca, with_key=bool(settings.keys.keys)) if capable else []

    limits = replace(limits, connections=bounds.connections)
    Server(create, is_up, bind=bind, threads=threads, limits=limits, graceful=lambda: end.value, tls=tls).run()


def _read(inputs: Inputs) -> Manifest:
    """Return what is to be served, and print what was changed in a conversion. End this process if there is a problem."""
    if not inputs.files and not inputs.models_dirs:
        raise click.UsageError("nothing to serve: name a file of documents, or use --models-dir DIR")
    unsettled = wait_settled(inputs.models_dirs)
    try:
        manifest = load(inputs)
    except ManifestErrors as errors:
        click.echo(str(errors), err=True)
        sys.exit(2)
    for line in (*manifest.notes, *(f"{name_of(path)}: still being written, not a Model yet" for path in unsettled)):
        click.echo(f"warning: {line}", err=True)
    if inputs.models_dirs and not manifest.models:
        folders = ", ".join(map(name_of, inputs.models_dirs))
        raise click.ClickException(f"no GGUF file in {folders}, so there is no Model to serve; names must end in .gguf")
    return manifest


def _newest(settings: Settings, manifest: Manifest, console: Console) -> Manifest:
    try:
        return load(settings.inputs, known=manifest) if settings.inputs.can_reload else manifest
    except ManifestErrors as errors:
        console.log(f"the documents from the start of hotseat stay in use:\n{errors}")
        return manifest


def _state(model: Model) -> str:
    return "ready" if model.spec.engine == "external" else "unloaded"


def _key_source(keys: tuple[str, ...], path: Path | None) -> KeySource:
    """Return where API keys come from, after reading them. Raise UsageError if that is not possible."""
    source = KeySource(keys, path and path.absolute())
    try:
        source.read()
    except KeyFileError as error:
        raise click.UsageError(str(error)) from None
    return source


def _admin_address(bind: str | None, port: int | None) -> tuple[str, int | None]:
    """Return the address and the port for admin routes. Port None: each port has them."""
    if bind is None:
        return LOOPBACK, port
    host, _, number = bind.rpartition(":")
    if port is not None:
        raise click.UsageError("use --admin-bind or --admin-port, not both")
    if not host or not (number.isascii() and number.isdecimal() and 0 < int(number) < 65536):  # noqa: PLR2004
        raise click.UsageError(f"--admin-bind is {bind}; allowed: ADDRESS:PORT, such as 127.0.0.1:8001 or [::1]:8001")
    return host.removeprefix("[").removesuffix("]"), int(number)


def _tls(certificate: Path | None, key: Path | None, own: Path | None, host: str) -> ServerTls | None:
    """Return the certificate to serve with. `own`: the state directory with an own one. None: it is not wanted."""
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together: give both")
    if own is not None and certificate is not None:
        raise click.UsageError("use --tls-cert and --tls-key, or --tls-self-signed, not both")
    try:
        if own is not None:
            certificate, key = own_certificate(own / "tls", [socket.gethostname(), *_addresses(host)])
        return None if certificate is None or key is None else ServerTls(certificate.absolute(), key.absolute())
    except (TlsError, OSError) as error:
        raise click.ClickException(f"no https: {error}") from None


def _addresses(host: str) -> list[str]:
    """Return the addresses at which a server is reached that listens on `host`."""
    if host not in {"0.0.0.0", "::"}:  # noqa: S104
        return [host]
    families = (socket.AF_INET, socket.AF_INET6) if host == "::" else (socket.AF_INET,)
    found = (each for addresses in psutil.net_if_addrs().values() for each in addresses if each.family in families)
    return [each.address for each in found if "%" not in each.address]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(host: str, port: int, state_dir: Path, option: str = "--port") -> int:
    """Return the port, or a free port for 0.

    Raise ClickException immediately if the port is in use, and name the process. (gunicorn would retry for
    five seconds.)
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        advice = f"choose another port with {option}"
        if error.errno == errno.EADDRINUSE and (pid := StateDir(state_dir).owner()) is not None:
            advice = (
                f"hotseat process {pid} uses it, and may still be finishing requests in flight"
                f" (state directory {state_dir}); wait until it ends, or choose another port with {option}"
            )
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}; {advice}") from None
