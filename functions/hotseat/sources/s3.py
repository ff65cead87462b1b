"""s3://bucket/key: one object, or with a final slash all objects below it, by signed URLs (Signature Version 4).

AWS_ENDPOINT_URL is the URL of another store (MinIO, Ceph …). AWS_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN have the same meaning as for Amazon's tools. Without a
key, requests are unsigned, as for a public bucket.
"""

import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree as ET

import urllib3

from hotseat.sources.base import SourceError, split
from hotseat.sources.download import RETRYABLE_STATUS, Progress, RemoteFile, download, make_pool, request

URL_LIFETIME = 12 * 3600  # seconds that a signed URL is valid, for resumed downloads too


def fetch(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the objects into `folder`; return the file or the folder."""
    bucket, _, key = split(source)[1].partition("/")
    if not bucket or not key:
        raise SourceError(f"source {source}: expected s3://bucket/key, or s3://bucket/folder/")
    pool = make_pool()
    is_folder = key.endswith("/")
    objects = list(_list(pool, bucket, key, source)) if is_folder else [(key, None)]
    if not objects:
        raise SourceError(f"{source} holds no objects")
    if is_folder:
        progress.total = sum(size for _, size in objects if size)
    for name, size in objects:
        # Objects of a folder keep their relative paths; a single object keeps its base name only.
        inside = name.removeprefix(key) if is_folder else name.rpartition("/")[2]
        remote = RemoteFile(url(os.environ, bucket, name), size=size)
        target = download(pool, remote, folder, inside, progress.file(inside.rpartition("/")[2]))
    return folder if is_folder else target


def url(
    env: Mapping[str, str], bucket: str, key: str, query: Mapping[str, str] | None = None, now: datetime | None = None
) -> str:
    """Return the URL of a GET, signed if there is a key. For AWS_ENDPOINT_URL the bucket is part of the path."""
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    base = f"{endpoint.rstrip('/')}/{bucket}" if endpoint else f"https://{bucket}.s3.{region}.amazonaws.com"
    parts = urlsplit(f"{base}/{quote(key)}")
    fields = dict(query or {})
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        fields |= _signed(env, region, parts.netloc, parts.path, fields, now or datetime.now(UTC))
    return parts._replace(query=_encoded(fields)).geturl()


def _signed(  # noqa: PLR0917
    env: Mapping[str, str], region: str, host: str, path: str, query: Mapping[str, str], now: datetime
) -> dict[str, str]:
    """Return the query with its signature. Names follow Amazon's documentation."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    fields = {
        **query,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{env['AWS_ACCESS_KEY_ID']}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(URL_LIFETIME),
        "X-Amz-SignedHeaders": "host",
    }
    if env.get("AWS_SESSION_TOKEN"):
        fields["X-Amz-Security-Token"] = env["AWS_SESSION_TOKEN"]
    request = "\n".join(("GET", path, _encoded(fields), f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"))
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    secret = f"AWS4{env['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in scope.split("/"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    return {**fields, "X-Amz-Signature": hmac.digest(secret, text.encode(), "sha256").hex()}


def _encoded(fields: Mapping[str, str]) -> str:
    return urlencode(sorted(fields.items()), quote_via=quote, safe="")


def _list(pool: urllib3.PoolManager, bucket: str, prefix: str, source: str) -> Iterator[tuple[str, int]]:
    """Yield keys and sizes below a prefix. Empty objects that some tools create for folders are skipped."""
    query = {"list-type": "2", "prefix": prefix}
    while True:
        response = request(pool, url(os.environ, bucket, "", query))
        if response.status != 200:  # noqa: PLR2004
            retryable = response.status in RETRYABLE_STATUS
            raise SourceError(f"{source}: the store answered {response.status} to a listing", retryable=retryable)
        try:
            answer = ET.fromstring(response.data)  # noqa: S314 - expat refuses entities that grow
            found = [
                (item.findtext("{*}Key", ""), int(item.findtext("{*}Size", "0")))
                for item in answer.iterfind("{*}Contents")
            ]
        except (ET.ParseError, ValueError) as error:
            raise SourceError(f"{source}: the store's listing cannot be read: {error}") from None
        yield from ((key, size) for key, size in found if not key.endswith("/"))
        token = answer.findtext("{*}NextContinuationToken")
        if not token:
            return
        query = {**query, "continuation-token": token}
