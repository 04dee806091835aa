"""URLs: recognize one, split and join it, show it without secrets."""

import re
from urllib.parse import quote

from infraredcity.errors import RemoteError

READ_ONLY_SCHEMES = ("http", "https")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_LOGIN_PART = re.compile(r"(?<=:)//(?:[^/?#@\[]*:(?!\d*(?:[/?#]|$)).*|[^/?#]*)@", re.DOTALL)
"""`//user:password@`, also where the password holds a slash or an @; what stands before a mere port is left."""
_OF_NAME = re.compile(r"[^/=&#]*\.tar(?=\?|$)", re.IGNORECASE)
"""What follows a `?` that stands for a character of a tar's name; in a query there is a `=` before anything that ends so."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_url(location: str) -> bool:
    """Whether a location is a URL: it has a scheme, as in `https://...` or `s3://...`."""
    return _SCHEME.match(location) is not None


def split(url: str) -> tuple[str, str, str]:
    """Split a URL into `scheme://host`, path, and query with its `?`; drop a fragment of http, which no server gets."""
    if is_http(url):
        url = url.partition("#")[0]
    bare, mark, query = url.partition("?")
    root = re.match(rf"{_SCHEME.pattern}[^/]*", bare)
    end = root.end() if root else 0
    return bare[:end], bare[end:], mark + query


def join(folder_url: str, name: str) -> str:
    """Make the URL of a file in a folder; a query of the folder's (a token, say) stays at the end.

    Raises:
        RemoteError: The name cannot stand in a URL of this scheme.
    """
    root, path, query = split(folder_url)
    if is_http(folder_url):
        name = quote(name)
    elif "?" in name:
        raise RemoteError(
            f"{shown(folder_url)}: holds {name!r}, which a URL cannot name for its `?`; give it another name there"
        )
    return f"{root}{path.rstrip('/')}/{name}{query}"


def shown(url: str) -> str:
    """Return a URL for messages: without user, password, query and (in http) fragment, where credentials stand."""
    bare = _LOGIN_PART.sub("//", url)
    return split_query(bare.partition("#")[0] if is_http(bare) else bare)[0]


def split_query(url: str) -> tuple[str, str]:
    """Split a URL or a pattern of URLs before its query; the query keeps its `?`.

    In `lite-00000?.tar?token=x` the first `?` stands for a character and the second begins the query.
    """
    marks = (found.start() for found in re.finditer(r"\?", url) if not _OF_NAME.match(url, found.end()))
    begin = next(marks, len(url))
    return url[:begin], url[begin:]


def shown_in(text: str) -> str:
    """Return a text with each URL in it as `shown`; a URL ends at a blank or a quote, or before the punctuation there."""
    return re.sub(
        rf"({_SCHEME.pattern}[^\s'\"]*?)([:;,.)\]}}]*)(?=[\s'\"]|$)", lambda found: shown(found[1]) + found[2], text
    )


def check_writable(url: str) -> None:
    """Raise RemoteError if the scheme is only for reading."""
    scheme = url.partition("://")[0].lower()
    if scheme in READ_ONLY_SCHEMES:
        raise RemoteError(f"{shown(url)}: {scheme} is for reading; write to s3://, gs://, sftp:// or a folder here")


def is_http(url: str) -> bool:
    """Whether a URL is of http or https."""
    return url.lower().startswith(("http://", "https://"))
