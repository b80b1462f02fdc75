"""Weights from the network, and the one sentence where they cannot be had."""

import os
import socket
import urllib.parse
import urllib.request
from pathlib import Path

from mammo_dp.errors import UserError


def from_url(url: str, *, what: str, setting: str, again: str = "run again") -> Path:
    """torch.hub's copy of a file whose name ends in the start of its SHA-256, fetched if it is not there yet.

    Raises UserError, with the file to fetch by hand and the `setting` that takes it, if it is not to be had.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    if path.is_file():
        return path
    try:
        check_reachable(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = path.stem.split("-")[-1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError) as error:
        raise _not_downloaded(what, error, url, setting, again) from None
    return path


def from_hub(repository: str, file: str, *, what: str) -> Path:
    """A file of the model hub, from the hub client's cache or downloaded into it. Raises UserError as `from_url`."""
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        check_reachable(endpoint)
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        url = f"{endpoint}/{repository}/resolve/main/{file}"
        raise _not_downloaded(what, error, url, "classifier.weights=FILE", "run again") from None


def check_reachable(url: str) -> None:
    """Fail at once without a network, where clients would retry for a minute. Raises OSError."""
    if not urllib.request.getproxies():
        socket.getaddrinfo(urllib.parse.urlparse(url).hostname, 443)


def _not_downloaded(what: str, error: Exception, url: str, setting: str, again: str) -> UserError:
    return UserError(
        f"{what} could not be downloaded ({type(error).__name__}); with a network {again}, or fetch {url} and give "
        f"{setting}"
    )
