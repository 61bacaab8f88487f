"""The scripts: one Lua file per verb, sent by its digest."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

__all__ = ["SCRIPTS", "Script"]

_FOLDER = files(__package__) / "scripts"
_PARTS = ("prelude", "newcomer", "holding")
_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server gets it: the prelude, what it includes, and its own file."""

    name: str
    text: str
    digest: str

    async def run(self, calls: Any, prefix: str, *arguments: Any) -> Any:
        """Run it in one round trip; a server that has forgotten it is told it again."""
        try:
            return await calls.execute_command("EVALSHA", self.digest, 1, prefix, *arguments)
        except NoScriptError:
            return await calls.execute_command("EVAL", self.text, 1, prefix, *arguments)


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def _make(name: str) -> Script:
    shebang, _, body = _read(name).partition("\n")
    parts = [shebang, _read("prelude"), *map(_read, _INCLUDE.findall(body)), body]
    text = "\n".join(parts)
    # The digest that Redis itself gives a script; nothing secret hangs on it.
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, digest)


SCRIPTS = {
    name: _make(name)
    for name in sorted(file.name.removesuffix(".lua") for file in _FOLDER.iterdir())
    if name not in _PARTS
}
"""By verb."""
