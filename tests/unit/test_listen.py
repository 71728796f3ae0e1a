"""Which addresses a server of ours may be told to listen on."""

import pytest

from marginguard.listen import ListenAddress


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("9464", "127.0.0.1", 9464),
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("localhost:1", "localhost", 1),
        ("0.0.0.0:65535", "0.0.0.0", 65_535),
        ("[::1]:9464", "::1", 9464),
    ],
)
def test_a_port_alone_is_on_this_machine_and_a_host_is_taken_as_it_is(text, host, port):
    assert ListenAddress.parse(text) == ListenAddress(host=host, port=port)


@pytest.mark.parametrize(
    "text",
    ["", "on", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:9464",
     "[]:9464", "a b:9464", "9464\n", "host:+1", "host:\uff11", "http://127.0.0.1:9464"],
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"no host|no port|brackets"):
        ListenAddress.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:9464", "[::1]:9464"])
def test_an_address_is_written_as_it_is_read(text):
    assert str(ListenAddress.parse(text)) == text
