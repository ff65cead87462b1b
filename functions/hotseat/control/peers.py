"""Peers: other hotseats. Their models become external Models here, which their lists of models describe.

Each list is read in a thread of its own, so a peer that does not answer delays nothing. Its models stay while it does not answer.
"""

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import urllib3
from pydantic import ValidationError

from hotseat.api.model import PEER, PEER_HEADER, Api, Capability, Model
from hotseat.api.peers import Peer
from hotseat.api.workspace import Workspace
from hotseat.secret_values import SecretMissing, SecretReader
from hotseat.sources.http_client import explain

log = logging.getLogger(__name__)

MOST_MODELS = 1000  # of one peer
MAX_LIST = 2**23  # bytes
TIMEOUT = 10.0  # seconds
SHORTEST_PERIOD = 1.0
_DIGEST, _PEER_PART, _MODEL_PART = 8, 16, 32  # characters of a name


def models_of(peer: Peer, workspace: str, listed: Any) -> tuple[Model, ...]:
    """Return the Models for what a peer lists: the JSON of its /v1/models. Raise ValueError if that is no list of models."""
    if not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
        raise ValueError("GET /v1/models has no list of models")  # noqa: TRY004 - of a peer, not of a caller
    rows = [row for row in listed["data"] if isinstance(row, dict) and isinstance(row.get("id"), str)]
    found = (_model(peer, workspace, row) for row in rows[:MOST_MODELS])
    return tuple(model for model in found if model is not None)


def _model(peer: Peer, workspace: str, row: Mapping[str, Any]) -> Model | None:
    """Return the Model for a row. None: it is not to be served here, or its row cannot be read."""
    others = row.get("names")
    names = [each for each in (row["id"], *(others if isinstance(others, list) else ())) if isinstance(each, str)]
    names = [each for each in dict.fromkeys(names) if "*" not in each]
    wanted = any(fnmatchcase(name, pattern) for name in names for pattern in peer.models)
    if row.get("peer") or row["id"] not in names or not wanted:
        return None
    stated, metadata = row.get("capabilities"), row.get("metadata")
    known = (
        [each for each in stated if isinstance(each, str) and each in set(Capability)]
        if isinstance(stated, list)
        else []
    )
    spec = {
        "engine": "external",
        "url": peer.url,
        "names": [peer.prefix + name for name in names],
        "engineModelName": row["id"],
        "apis": list(Api),
        "capabilities": known,
        "description": str(row.get("description") or ""),
        "metadata": metadata if isinstance(metadata, dict) else {},
        "workspace": workspace,
        "headers": [{"name": PEER_HEADER, "value": "1"}],
        "lifecycle": {"responseStartTimeout": "0s"},  # it may wait for its turn there
        "circuitBreaker": {},
    }
    if peer.tls is not None:
        spec["tls"] = peer.tls.model_dump(by_alias=True, exclude_none=True)
    if peer.key is not None:
        spec["engineKey"] = peer.key.model_dump(by_alias=True, exclude_none=True)
    named = {"name": _object_name(peer.name, row["id"]), "annotations": {PEER: peer.name}}
    try:
        return Model.model_validate({"metadata": named, "spec": spec})
    except ValidationError as error:
        log.warning("peer %s: a model is left out: %s", peer.name, error)
        return None


def _object_name(peer: str, name: str) -> str:
    """Return metadata.name of a peer's model: readable, and unique by a digest."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MODEL_PART]
    return "-".join(part.strip("-") for part in (peer[:_PEER_PART], plain, digest) if part.strip("-"))


def without_conflicts(own: Iterable[Model], theirs: Iterable[Model], reserved: Iterable[str] = ()) -> list[Model]:
    """Return THEIRS without RESERVED names and those that OWN or an earlier one has. A Model whose first name is taken is left out."""
    taken = {*reserved, *chain.from_iterable(model.names for model in own)}
    kept = []
    for model in theirs:
        if model.shown_name in taken or model.name in taken:
            continue
        names = tuple(name for name in model.spec.names if name not in taken)
        spec = model.spec.model_copy(update={"names": names})
        kept.append(model if names == model.spec.names else model.model_copy(update={"spec": spec}))
        taken |= {*names, model.name}
    return kept


def _tls(peer: Peer) -> dict[str, Any]:
    """Return how the certificate of a peer is verified."""
    tls = peer.tls
    if tls is None:
        return {}
    verified: dict[str, Any] = {"cert_reqs": "CERT_NONE" if tls.insecure_skip_verify else "CERT_REQUIRED"}
    if tls.ca_file is not None:
        verified["ca_certs"] = tls.ca_file
    if tls.server_name is not None:
        verified |= {"server_hostname": tls.server_name, "assert_hostname": tls.server_name}
    return verified


class PeerList:
    """The models of one peer, read again in each period. `problem`: why they cannot be read now.

    `changed` is called, in its thread, when they are others than before.
    """

    def __init__(self, peer: Peer, workspace: str, changed: Callable[[], None]) -> None:
        self.models: tuple[Model, ...] = ()
        self._peer, self._workspace, self._changed = peer, workspace, changed
        where = f"Workspace/{workspace}: spec.peers[{peer.name}].key"
        self._key = None if peer.key is None else SecretReader(peer.key, where)
        self._http = urllib3.PoolManager(timeout=TIMEOUT, retries=False, **_tls(peer))
        self.problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"peer-{peer.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, without waiting for a list that is being read."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                models = models_of(self._peer, self._workspace, self._read())
            except (urllib3.exceptions.HTTPError, OSError, ValueError, SecretMissing, RecursionError) as error:
                why = explain(error) if isinstance(error, urllib3.exceptions.HTTPError) else error
                self._report(f"cannot read its models: {why}")
            except Exception:  # the list is read again
                log.exception("peer %s: internal error (a bug in hotseat)", self._peer.name)
                self._report("cannot read its models: internal error")
            else:
                self._report("")
                if models != self.models and not self._stop.is_set():
                    self.models = models
                    self._tell()
            self._stop.wait(max(SHORTEST_PERIOD, self._peer.refresh_period))

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception:  # the next change may be taken in
            log.exception("peer %s: its models cannot be served", self._peer.name)

    def _read(self) -> Any:
        headers = {PEER_HEADER: "1"} | ({} if self._key is None else {"Authorization": f"Bearer {self._key.read()}"})
        url = f"{self._peer.url.rstrip('/')}/v1/models"
        response = self._http.request("GET", url, headers=headers, redirect=False, preload_content=False)
        try:
            if response.status != 200:  # noqa: PLR2004
                raise ValueError(f"GET /v1/models got status {response.status}")
            body = response.read(MAX_LIST + 1)
        finally:
            response.close()
            self._http.clear()
        if len(body) > MAX_LIST:
            raise ValueError("its list of models is too large")
        return json.loads(body)

    def _report(self, problem: str) -> None:
        """Log the problem when it begins, and its end."""
        if bool(problem) != bool(self.problem):
            if problem:
                log.warning("peer %s: %s", self._peer.name, problem)
            else:
                log.info("peer %s: it answers again", self._peer.name)
        self.problem = problem


class Peers:
    """The peers of all Workspaces. `changed` is called, in a thread of its own, when models of peers are others than before."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lists: dict[tuple[str, Peer], PeerList] = {}

    def configure(self, workspaces: Iterable[Workspace]) -> None:
        """Begin to read the lists of new peers, and forget those that are in no document any more."""
        wanted = [(workspace.name, peer) for workspace in workspaces for peer in workspace.spec.peers]
        if wanted == list(self._lists):
            return
        lists = {key: self._lists.get(key) or PeerList(key[1], key[0], self._changed) for key in wanted}
        for key, each in self._lists.items():
            if key not in lists:
                each.stop()
        self._lists = lists

    def models(self, own: Iterable[Model], reserved: Iterable[str] = ()) -> list[Model]:
        """Return the Models of peers. OWN are those of documents, whose names are not given to others, nor are RESERVED ones."""
        return (
            []
            if not self._lists
            else without_conflicts(own, (model for each in self._lists.values() for model in each.models), reserved)
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return what is known of each peer."""
        return [
            {"name": peer.name, "workspace": name, "url": peer.url, "models": len(each.models), "problem": each.problem}
            for (name, peer), each in self._lists.items()
        ]

    def close(self) -> None:
        """End."""
        self.configure(())
