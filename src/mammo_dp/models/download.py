"""Weights from the network, and the error where they are absent."""

import socket
import urllib.parse
import urllib.request


def check_reachable(url: str) -> None:
    """Fail at once without a network, where clients would retry for a minute. Raises OSError."""
    if not urllib.request.getproxies():
        socket.getaddrinfo(urllib.parse.urlparse(url).hostname, 443)
