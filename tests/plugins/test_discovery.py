"""Backends are found by URL scheme, one at a time, and what is wrong is said."""

from __future__ import annotations

import sys

import pytest

from saga_core.errors import (
    BackendConflictError,
    BackendNotFoundError,
    MissingDriverError,
    StoreUrlError,
)
from saga_core.hookspecs import Capability
from saga_core.plugins import available_backends, load_backend, open_store

from .conftest import Publish, backend


async def test_the_scheme_names_the_entry_point(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})

    async with open_store("shop://till/1", create_schema=True, namespace="north") as store:
        assert store.url == "shop://till/1"  # type: ignore[attr-defined]
        assert store.create_schema is True  # type: ignore[attr-defined]
        assert store.namespace == "north"
    assert store.closed  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["shop+fast://till", "SHOP://till", "Shop+fast://till"])
async def test_a_driver_and_capitals_in_the_scheme_do_not_change_the_backend(
    publish: Publish, url: str
) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})

    async with open_store(url) as store:
        assert store.url == "shop" + url[4:]  # type: ignore[attr-defined]


def test_only_the_named_plugin_is_imported(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})
    publish("bad-store", {"bad": "bad_plugin"}, {"bad_plugin.py": "raise SystemExit('imported')"})

    assert load_backend("shop").name == "shop"
    assert "bad_plugin" not in sys.modules


async def test_an_unknown_scheme_lists_what_is_there_and_what_is_near(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})

    with pytest.raises(BackendNotFoundError) as caught:
        async with open_store("shpo://x"):
            raise AssertionError("opened")
    text = str(caught.value)
    assert "'shpo' (did you mean 'shop'?)" in text
    assert "installed: memory, postgresql, redis, shop, sqlite" in text
    assert "shop_plugin" not in sys.modules


@pytest.mark.parametrize(
    "url",
    ["orders.db", "", "host=x password=hunter2", "user:hunter2@host://x", "://x", " shop://x"],
)
async def test_text_without_a_scheme_gets_an_example_and_is_not_repeated(url: str) -> None:
    with pytest.raises(StoreUrlError, match=r"'sqlite:///orders\.db'") as caught:
        async with open_store(url):
            raise AssertionError("opened")
    assert "hunter2" not in str(caught.value)


async def test_a_url_that_is_no_string_is_refused() -> None:
    with pytest.raises(StoreUrlError, match="not bytes"):
        async with open_store(b"memory://"):  # type: ignore[arg-type]
            raise AssertionError("opened")


async def test_postgres_means_postgresql_unless_somebody_publishes_it(publish: Publish) -> None:
    publish("other-pg", {"postgres": "other_pg"}, {"other_pg.py": backend("postgres")})

    async with open_store("postgres://x/y") as store:
        assert store.url == "postgres://x/y"  # type: ignore[attr-defined]


async def test_an_alias_reaches_its_backend_under_the_backend_s_own_name(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})
    monkeypatch.setattr("saga_core.plugins._ALIASES", {"store": "shop"})

    async with open_store("store+x://till") as store:
        assert store.url == "shop+x://till"  # type: ignore[attr-defined]


async def test_a_misspelt_option_is_named_with_those_there_are(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})

    with pytest.raises(StoreUrlError) as caught:
        async with open_store("shop://x", passwort="hunter2", port="hunter3"):
            raise AssertionError("opened")
    text = str(caught.value)
    assert "no option 'passwort' (did you mean 'password'?)" in text
    assert "option 'port'" in text
    assert "its options: namespace, password, port" in text
    assert "hunter" not in text
    assert caught.value.__context__ is None


async def test_an_option_s_own_check_does_not_give_the_value_away(publish: Publish) -> None:
    source = backend("shop") + (
        "\nfrom pydantic import field_validator\n"
        "class Strict(Options):\n"
        "    @field_validator('password')\n"
        "    @classmethod\n"
        "    def check(cls, v):\n"
        "        raise ValueError(f'{v} is too short')\n"
        "from dataclasses import replace\n"
        "_spec = saga_backend()\n"
        "@hookimpl\n"
        "def saga_backend():\n"
        "    return replace(_spec, options=Strict)\n"
    )
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": source})

    with pytest.raises(StoreUrlError, match="'password': the value is refused"):
        async with open_store("shop://x", password="hunter2"):
            raise AssertionError("opened")


def test_a_missing_driver_is_named_with_the_line_that_installs_it(publish: Publish) -> None:
    publish(
        "shop-store",
        {"shop": "shop_plugin"},
        {"shop_plugin.py": "import shopdriver.asyncio"},
        extras=("shop",),
    )

    with pytest.raises(MissingDriverError) as caught:
        load_backend("shop")
    text = str(caught.value)
    assert "backend 'shop' of shop-store 1.0" in text
    assert "'shopdriver" in text
    assert "pip install 'shop-store[shop]'" in text


def test_without_an_extra_of_its_name_the_distribution_itself_is_named(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": "import shopdriver"})

    with pytest.raises(MissingDriverError, match=r"pip install 'shop-store'$"):
        load_backend("shop")


async def test_a_driver_imported_on_opening_is_missed_alike(publish: Publish) -> None:
    source = backend("shop").replace(
        "    store = Store(", "    import shopdriver\n    store = Store("
    )
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": source}, extras=("shop",))

    with pytest.raises(MissingDriverError, match=r"pip install 'shop-store\[shop\]'"):
        async with open_store("shop://x"):
            raise AssertionError("opened")


@pytest.mark.parametrize(
    "missing", ["shop_plugin.nothing", "shop_helper.nothing", "saga_core.nothing", "shop_gone"]
)
def test_a_module_of_its_own_that_is_missing_is_no_driver(publish: Publish, missing: str) -> None:
    publish(
        "shop-store",
        {"shop": "shop_plugin.entry", "gone": "shop_gone.entry"},
        {
            "shop_plugin/__init__.py": "",
            "shop_plugin/entry.py": f"import {missing}",
            "shop_helper/__init__.py": "",
        },
    )

    with pytest.raises(BackendConflictError, match=r"shop-store 1\.0 cannot be loaded"):
        load_backend("shop")


async def test_what_the_caller_s_block_misses_is_not_the_driver(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})

    with pytest.raises(ModuleNotFoundError, match=r"^mine$"):
        async with open_store("shop://x"):
            raise ModuleNotFoundError("mine", name="mine")


def test_a_name_published_twice_names_both_distributions(publish: Publish) -> None:
    publish("shop-a", {"shop": "shop_a"}, {"shop_a.py": backend("shop")}, version="1.5")
    publish("shop-b", {"shop": "shop_b"}, {"shop_b.py": backend("shop")}, version="2.5")

    with pytest.raises(BackendConflictError) as caught:
        load_backend("shop")
    assert "shop-a 1.5" in str(caught.value)
    assert "shop-b 2.5" in str(caught.value)
    assert "shop_a" not in sys.modules


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            backend("shop") + "\n@hookimpl\ndef saga_observ(event): ...\n",
            r"'saga_observ', which is not a hook \(did you mean 'saga_observe'\?\)",
        ),
        (
            backend("shop") + "\n@hookimpl\ndef saga_observe(evnt): ...\n",
            "wrong parameters.*evnt",
        ),
        (
            backend("shop").replace("def saga_backend", "def saga_backends"),
            r"'saga_backends', which is not a hook \(did you mean 'saga_backend'\?\)",
        ),
        (backend("shop").replace("@hookimpl", ""), "not marked: put @hookimpl on it"),
        (
            backend("shop").replace("def saga_backend", "async def saga_backend"),
            "saga_backend is 'async def'",
        ),
        ("x = 1", "does not implement saga_backend"),
        (backend("store"), "calls itself 'store'"),
        ("syntax error", "cannot be loaded: SyntaxError"),
        ("raise RuntimeError('broken')", "cannot be loaded: RuntimeError: broken"),
        ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
        ("from saga_core.hookspecs import nothing", "cannot be loaded: ImportError"),
        (
            "from saga_core.hookspecs import hookimpl\n@hookimpl\ndef saga_backend(): return 3\n",
            "returned int, not a BackendSpec",
        ),
        (
            "from saga_core.hookspecs import hookimpl\n@hookimpl\ndef saga_backend(): return 1/0\n",
            "cannot be loaded: ZeroDivisionError",
        ),
    ],
)
def test_a_malformed_plugin_is_named_with_its_defect(
    publish: Publish, source: str, words: str
) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": source})

    with pytest.raises(BackendConflictError, match=words) as caught:
        load_backend("shop")
    assert "backend 'shop' of shop-store 1.0" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [("contract_version = 2", "contract version 2"), ("x = 0", "no contract version")],
)
async def test_a_store_of_another_contract_is_refused_and_closed(
    publish: Publish, line: str, words: str
) -> None:
    source = backend("shop").replace("contract_version = 1", line)
    source = source.replace("store.closed = True", "CLOSED.append(store)") + "\nCLOSED = []\n"
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": source})

    with pytest.raises(BackendConflictError, match=f"shop-store 1.0 declares {words}"):
        async with open_store("shop://x"):
            raise AssertionError("opened")
    assert len(sys.modules["shop_plugin"].CLOSED) == 1


def test_listing_tells_what_each_backend_can_do(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})

    info = available_backends()["shop"]

    assert info.usable
    assert (info.distribution, info.version) == ("shop-store", "1.0")
    assert info.summary == "keeps a shop"
    assert info.capabilities == {Capability.DURABLE}


def test_what_is_wrong_with_one_backend_hides_no_other(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop")})
    publish("broken", {"broken": "broken_plugin"}, {"broken_plugin.py": "raise RuntimeError('no')"})
    publish("gone", {"gone": "gone_plugin"}, {"gone_plugin.py": "import nosuch"}, extras=("gone",))
    publish("twin-a", {"twin": "twin_a"}, {"twin_a.py": backend("twin")})
    publish("twin-b", {"twin": "twin_b"}, {"twin_b.py": backend("twin")})
    bare = publish("bare", {"bare": "bare_plugin"}, {"bare_plugin.py": backend("bare")})
    (bare / "bare-1.0.dist-info" / "METADATA").unlink()

    found = available_backends()

    assert found["shop"].usable
    assert "RuntimeError: no" in (found["broken"].problem or "")
    assert "pip install 'gone[gone]'" in (found["gone"].problem or "")
    assert set(found["twin"].distribution.split(" and ")) == {"twin-a", "twin-b"}
    assert "uninstall all but one" in (found["twin"].problem or "")
    assert found["bare"].usable
    assert {"memory", "postgresql", "sqlite"} <= set(found)
