"""What the README prints works as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """Return the code between two markers."""
    match = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```\n<!-- /{name} -->", README, re.S)
    assert match is not None, name
    return match[1]


def test_quick_start_runs_as_printed(tmp_path: Path) -> None:
    script = tmp_path / "quick_start.py"
    script.write_text(block("quick-start"))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "COMPLETED pay-res-order-123\n", done.stderr


def test_ci_runs_the_printed_test_command() -> None:
    assert "test-command" in (ROOT / ".ci" / "run").read_text()
    assert block("test-command").count("\n") == 1
    assert block("demo-command").count("\n") == 1


def test_links_and_named_tests_exist() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]
    missing = []
    for document in documents:
        text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.S | re.M)
        links = [document.parent / target for target in re.findall(r"\]\(([^)#:]+)\)", text)]
        named = re.findall(r"`((?:tests|saga_\w+)/[\w/.]+\.py)", text)
        files = [*links, *(ROOT / target for target in named)]
        missing += [f"{document.name}: {file}" for file in files if not file.exists()]
    assert missing == []


def test_every_public_name_is_importable() -> None:
    import saga_core

    assert [name for name in saga_core.__all__ if not hasattr(saga_core, name)] == []
