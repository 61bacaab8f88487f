"""TLS: what the URL says is handed to redis-py, and held to.

The proxy speaks TLS for the server, which not every program is built for: it is the client that is
looked at.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from saga_core import SagaStatus, StoreUnavailableError, open_store
from saga_testing.redis_proxy import redis_proxy
from saga_testing.servers import RedisServer
from tests.behaviour.cast import Story, saga


@dataclass(frozen=True, slots=True)
class Certificates:
    ca: Path
    client: Path
    stranger: Path
    """Of an authority that the server does not know."""


@dataclass(frozen=True, slots=True)
class Secured:
    port: int
    files: Certificates

    def url(self, query: str) -> str:
        return f"rediss://localhost:{self.port}?{query}"


@pytest_asyncio.fixture
async def secured(tmp_path: Path, redis: RedisServer) -> AsyncIterator[Secured]:
    """Speak TLS, with clients that have certificates."""
    authority = trustme.CA()
    files = Certificates(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "stranger.pem")
    authority.cert_pem.write_to_path(str(files.ca))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(files.client))
    trustme.CA().cert_pem.write_to_path(str(files.stranger))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls)
    authority.issue_cert("localhost").configure_cert(tls)
    async with redis_proxy(redis.url, tls=tls) as proxy:
        yield Secured(int(proxy.url.rpartition(":")[2]), files)


def with_certificate(files: Certificates) -> str:
    return f"ssl_ca_certs={files.ca}&ssl_certfile={files.client}&ssl_keyfile={files.client}"


async def test_saga_runs_over_tls_with_a_certificate_of_the_client(secured: Secured) -> None:
    async with open_store(secured.url(with_certificate(secured.files))) as store:
        story = Story()
        one = saga(store, story.step(), story.step())
        assert (await one.run()).status is SagaStatus.COMPLETED
        wakeups = store.wakeups()
        await anext(wakeups)
        await wakeups.aclose()  # type: ignore[attr-defined]


REFUSED = {
    "a server that the client does not trust": "ssl_ca_certs={stranger}",
    "a client without a certificate": "ssl_ca_certs={ca}",
    "a file that is not there": "ssl_ca_certs={ca}.missing",
}


@pytest.mark.parametrize("query", REFUSED.values(), ids=REFUSED)
async def test_refusal_of_tls_is_our_error(secured: Secured, query: str) -> None:
    files = secured.files
    url = secured.url(query.format(ca=files.ca, stranger=files.stranger))
    with pytest.raises(StoreUnavailableError, match=f"localhost:{secured.port}"):
        async with open_store(url):
            pass


async def test_plain_connection_to_a_tls_port_is_our_error(secured: Secured) -> None:
    with pytest.raises(StoreUnavailableError, match=f"localhost:{secured.port}"):
        async with open_store(f"redis://localhost:{secured.port}"):
            pass
