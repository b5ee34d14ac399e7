"""Where a Python package index keeps one file of one project.

The page ``<index>/<project>/`` comes as JSON (PEP 691) or as HTML whose links are files (PEP 503); an index may answer
either whatever was asked for, so the content type decides. Only the link is taken from the page: what the bytes must
be is written in the catalog, and a link that already promises other bytes is refused before they are downloaded.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import httpx

from shoal_models.errors import FetchFailed
from shoal_protocol.limits import INDEX_PAGE_BYTES_MAX

DEFAULT_INDEX: Final = "https://pypi.org/simple"
_JSON: Final = "application/vnd.pypi.simple.v1+json"
_ACCEPT: Final = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True, slots=True)
class Link:
    """A file as the index names it."""

    file: str
    url: str
    sha256: str | None


def find_link(client: httpx.Client, index: str, project: str, file: str, sha256: str) -> Link:
    """The link to ``file`` of ``project``. FetchFailed if it cannot be had or is not the file with this digest."""
    page = f"{index.rstrip('/')}/{project}/"
    shown = shown_url(page)
    try:
        with client.stream("GET", page, headers={"Accept": _ACCEPT}) as response:
            response.raise_for_status()
            body = _bounded(response, shown)
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            base = str(response.url)
    except httpx.HTTPStatusError as error:
        raise FetchFailed(f"{shown} answers {error.response.status_code}; does the index have {project}?") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchFailed(f"cannot reach {shown}: {error or type(error).__name__}; are you offline?") from error
    links = _json_links(body, base, shown) if kind.endswith("json") else _html_links(body, base)
    link = next((link for link in links if link.file == file), None)
    if link is None:
        raise FetchFailed(f"{shown} does not list {file}")
    if link.sha256 is not None and link.sha256 != sha256:
        raise FetchFailed(f"{shown} lists a {file} with sha256 {link.sha256}; the catalog wants {sha256}")
    if urlsplit(link.url).scheme not in ("http", "https"):
        raise FetchFailed(f"{shown} links {file} to {shown_url(link.url)}, which is no web address")
    return link


def shown_url(url: str) -> str:
    """``url`` without a password, fit to be shown."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b""))
    except httpx.InvalidURL:
        return "the index address"


def _bounded(response: httpx.Response, shown: str) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > INDEX_PAGE_BYTES_MAX:
            raise FetchFailed(f"{shown} is larger than {INDEX_PAGE_BYTES_MAX} bytes")
    return bytes(body)


def _json_links(body: bytes, base: str, shown: str) -> Iterator[Link]:
    try:
        files: Any = json.loads(body)["files"]
        for entry in files:
            yield Link(str(entry["filename"]), urljoin(base, entry["url"]), entry.get("hashes", {}).get("sha256"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FetchFailed(f"{shown} is not a package index's page: {error!r}") from error


def _html_links(body: bytes, base: str) -> Iterator[Link]:
    parser = _Anchors()
    parser.feed(body.decode("utf-8", errors="replace"))
    parser.close()
    for href in parser.hrefs:
        url, fragment = urldefrag(urljoin(base, href))
        name, _, value = fragment.partition("=")
        file = unquote(urlsplit(url).path.rpartition("/")[2])
        yield Link(file, url, value if name == "sha256" and value else None)


class _Anchors(HTMLParser):
    """Collects the targets of all links (the library demands a subclass)."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for key, value in attrs if key == "href" and value]
