"""Where a request of ours may go."""

import socket

import pytest
from aiohttp.abc import AbstractResolver
from yarl import URL

from marginguard.notify.destination import (
    PrivateAddressError,
    PublicResolver,
    destination,
    is_loopback_host,
)


class Names(AbstractResolver):
    def __init__(self, *addresses):
        self.addresses = addresses
        self.closed = False

    async def resolve(self, host, port=0, family=socket.AF_INET):
        return [
            {"hostname": host, "host": a, "port": port, "family": family, "proto": 0, "flags": 0}
            for a in self.addresses
        ]

    async def close(self):
        self.closed = True


async def reached(host, *addresses):
    return [found["host"] for found in await PublicResolver(Names(*addresses)).resolve(host)]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?token=1",
        "https://8.8.8.8/hook",
        "http://localhost:8080/hook",
        "http://127.0.0.1:8080/hook",
        "http://127.9.9.9/hook",
        "http://[::1]:8080/hook",
        "http://[::ffff:127.0.0.1]/hook",
        "https://localhost/hook",
        "https://[::ffff:8.8.8.8]/hook",
    ],
)
def test_https_and_this_machine_are_allowed(url):
    assert destination(url).url == URL(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "https://10.0.0.1",
        "https://172.16.0.1",
        "https://100.64.0.1",
        "https://0.0.0.0",
        "https://224.0.0.1",
        "https://[fe80::1]",
        "https://[::ffff:192.168.0.1]",
        "file:///etc/passwd",
        "https://",
        "https://example.com:99999",
        "hook",
    ],
)
def test_the_rest_is_refused(url):
    with pytest.raises(ValueError, match="address"):
        destination(url)


def test_a_private_address_is_allowed_with_leave_but_only_over_https():
    assert destination("https://10.0.0.1/", allow_private=True).host == "10.0.0.1"
    with pytest.raises(ValueError, match="use an https:// address"):
        destination("http://10.0.0.1/", allow_private=True)


def test_a_refusal_does_not_show_the_path():
    with pytest.raises(ValueError, match="private") as refusal:
        destination("https://10.0.0.1/s3cr3t?token=s3cr3t")
    assert "s3cr3t" not in str(refusal.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("LOCALHOST", True), ("127.0.0.1", True), ("::1", True), ("example.com", False), ("", False)],
)
def test_this_machine_is_told_by_its_name_or_address(host, loopback):
    assert is_loopback_host(host) is loopback


async def test_only_public_addresses_of_a_name_are_used():
    assert await reached("example.com", "10.0.0.1", "8.8.8.8", "::1", "2606:4700::1") == [
        "8.8.8.8",
        "2606:4700::1",
    ]


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "::ffff:10.0.0.1", "no address"])
async def test_a_name_with_private_addresses_alone_is_refused(address):
    with pytest.raises(PrivateAddressError):
        await reached("example.com", address)


async def test_localhost_leads_to_this_machine_and_nowhere_else():
    assert await reached("localhost", "127.0.0.1", "10.0.0.1", "8.8.8.8") == ["127.0.0.1"]


async def test_a_name_without_addresses_has_none():
    assert await reached("example.com") == []


async def test_closing_closes_the_resolver_underneath():
    names = Names()
    await PublicResolver(names).close()
    assert names.closed
