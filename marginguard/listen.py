"""Where a server of ours listens."""

from dataclasses import dataclass
from typing import Final, Self

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenAddress:
    """A TCP address on this machine."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "PORT" (on this machine alone), "HOST:PORT" or "[IPv6]:PORT".

        Raises `ValueError` for anything else: a host is never left out by mistake.
        """
        host, colon, port = text.rpartition(":")
        if not colon:
            host = LOOPBACK
        elif host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address stands in brackets")
        if not host or not host.isascii() or not host.isprintable() or " " in host:
            raise ValueError("no host")
        if not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65_535:
            raise ValueError("no port from 1 to 65535")
        return cls(host=host, port=int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
