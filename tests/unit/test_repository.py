"""What holds for the repository as a whole: what it may say, how it is shaped, what must be documented."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "beamwright"
MODULE_LINES, FUNCTION_LINES = 600, 60
TEXT = {".py", ".toml", ".md", ".txt", ".in", ".cfg", ".ini", ".html", ".css", ".json", ".mako", ".yml", ""}


def _committed() -> list[Path]:
    """Return the files of the repository, or of an unpacked source archive."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return [path for path in paths if path.is_file()]


def _texts() -> Iterator[tuple[str, str]]:
    for path in _committed():
        if path.suffix in TEXT:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _python() -> list[Path]:
    return [path for path in _committed() if path.suffix == ".py"]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return _load(ROOT / "docs" / "_generate.py")


# --- what is said -------------------------------------------------------------------------------------------

# Each pattern is put together so that this file does not hold what it looks for.
FORBIDDEN = {
    "an address of a package registry": re.compile(
        "|".join(
            ["py" + r"pi\.org", "python" + "hosted", "reg" + r"istry\.npmjs", "deb" + r"ian\.org/debian"]
        )
    ),
    "a path of one machine": re.compile(r"(?<![\w./<$-])/" + r"(?:work|root)/"),
    "work left undone": re.compile(
        "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "Not" + "ImplementedError"])
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_committed_text_holds(what: str) -> None:
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what}: {found}"


def test_lock_files_carry_hashes_and_no_addresses() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text()
        pinned = re.findall(r"^[a-z0-9][a-z0-9._-]*==\S+.*\\\n +--hash=sha256:", text, flags=re.MULTILINE)
        named = re.findall(r"^[a-z0-9]", text, flags=re.MULTILINE)
        assert len(pinned) == len(named) > 0, path.name
        assert "://" not in text, path.name


def test_the_package_knows_no_experiment() -> None:
    known = re.compile("or" + "ca|di" + "muon|km" + "3|mu" + "on", flags=re.IGNORECASE)
    found = [
        f"{_name(path)}: {match.group()}"
        for path in sorted(SOURCE.rglob("*"))
        if path.is_file() and path.suffix in TEXT
        for match in [known.search(path.read_text(encoding="utf-8"))]
        if match
    ]
    assert not found


# --- how it is shaped ---------------------------------------------------------------------------------------


def test_no_module_is_longer_than_one_story() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _modules()}
    assert not {name: length for name, length in lengths.items() if length > MODULE_LINES}


def test_no_function_is_longer_than_a_page() -> None:
    found = [
        f"{_name(path)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not found


def test_every_module_says_what_it_is() -> None:
    silent = [
        _name(path)
        for path in _modules()
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def _unsafe_call(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Call):
        return None
    name = ast.unparse(node.func)
    if name in {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}:
        return name
    for keyword in node.keywords:
        is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if keyword.arg in {"shell", "allow_pickle"} and is_true:
            return f"{name}({keyword.arg}=True)"
    return None


def test_nothing_reads_objects_or_runs_shells() -> None:
    found = []
    for path in _python():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [(_name(path), name) for name in _imported(tree) if name.split(".")[0] in UNSAFE_MODULES]
        found += [(_name(path), call) for node in ast.walk(tree) if (call := _unsafe_call(node))]
    assert not found


def _closure(name: str, seen: set[str]) -> set[str]:
    """Return every module that one of ours imports, through ours, at any depth."""
    path = SOURCE.parent / (name.replace(".", "/") + ".py")
    if not path.exists() or name in seen or name == "beamwright":
        return {name}
    seen.add(name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set(_imported(tree))
    for node in ast.walk(tree):  # `from beamwright import durable` names a module
        if isinstance(node, ast.ImportFrom) and node.module in ("beamwright", "beamwright.batch"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name}.union(*(_closure(inner, seen) for inner in names))


def test_the_wrapper_needs_the_standard_library_and_durable_only() -> None:
    needed = _closure("beamwright.batch.wrapper", set())
    own = {name for name in needed if name.split(".")[0] == "beamwright"}
    assert {name for name in needed - own if name.split(".")[0] not in sys.stdlib_module_names} == set()
    assert own <= {"beamwright", "beamwright.durable", *(n for n in own if n.startswith("beamwright.batch"))}


LOADED = """
import sys
before = set(sys.modules)
import beamwright.batch.wrapper
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""


def test_importing_the_wrapper_loads_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"beamwright"} <= sys.stdlib_module_names


# Who may write SQL statements: docs/adr/0021 gives the reasons. A new name needs a reason there.
STATEMENTS = re.compile(
    r"(db|catalog|fsck)/.*"
    r"|conditions/(tags|statements|versions|sharing|mirror)|quality/verdicts"
    r"|production/(tasks|units|inputs|chain|interventions|redoing|scouting|handling|counting|smaller|mending|loading|merging|closing|progress|jobs|failing|listing|importing"
    r"|registration|promoting|inspection|analyses|fairness|live|projection|generating|holes|placing|seeds)"
)


def test_statements_are_written_where_the_tables_are_spoken_for() -> None:
    verb = re.compile(r"\bsa\.(select|insert|update|delete|text)\(|\.execute\(")
    writing = [
        path.relative_to(SOURCE).with_suffix("").as_posix()
        for path in _modules()
        if verb.search(path.read_text(encoding="utf-8"))
    ]
    assert len(writing) > 10
    assert not [name for name in writing if not STATEMENTS.fullmatch(name)]


# Each name as imported, with the distribution that brings it.
DISTRIBUTIONS = {"sqlalchemy": "SQLAlchemy", "pydantic_core": "pydantic"}
OPTIONAL = {
    "numba",
    "psycopg",
    "fastapi",
    "starlette",
    "httpx",
    "uvicorn",
    "XRootD",
    "hypothesis",  # beamwright.testing, which only tests import
    "pytest",
}


def test_dependencies_are_what_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^A-Za-z0-9_-]", line)[0] for line in project["dependencies"]}
    imported = {
        name.split(".")[0]
        for path in _modules()
        for name in _imported(ast.parse(path.read_text(encoding="utf-8")))
    }
    foreign = imported - sys.stdlib_module_names - {"beamwright"} - OPTIONAL
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} == declared


# --- what is documented -------------------------------------------------------------------------------------


def test_the_generated_reference_is_what_the_code_says(generate: ModuleType) -> None:
    assert generate.stale() == [], "run `make docs`"


def test_every_error_is_documented(generate: ModuleType) -> None:
    text = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    from beamwright.core.errors import BeamwrightError

    classes = [cls for _, cls in generate.error_classes(BeamwrightError)]
    assert len(classes) > 10
    assert not [cls.__name__ for cls in classes if f"`{cls.__name__}`" not in text or not cls.__doc__]


def test_every_page_is_reachable_and_every_link_leads_somewhere() -> None:
    for page in sorted((ROOT / "docs").rglob("*.md")) + [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        if "_build" in page.parts:
            continue
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{_name(page)} links to {target}"


FRAGMENT = re.compile(r"[a-z0-9][a-z0-9-]*\.(added|changed|fixed|removed)\.md")


STATUS = re.compile(r"\*\*Status\*\*: (accepted|superseded by \[\d+\]\(\d{4}-[a-z0-9-]+\.md\))\.")


def test_every_decision_record_says_whether_it_holds() -> None:
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    texts = {path.name: path.read_text(encoding="utf-8") for path in records}
    assert not [name for name, text in texts.items() if not STATUS.fullmatch(text.splitlines()[2])]
    assert not [name for name, text in texts.items() if not text.startswith(f"# {int(name[:4])}. ")]


def test_changelog_fragments_are_well_formed() -> None:
    fragments = [path for path in sorted((ROOT / "changelog").iterdir()) if path.name != "README.md"]
    assert fragments
    for path in fragments:
        assert FRAGMENT.fullmatch(path.name), path.name
        text = path.read_text(encoding="utf-8")
        assert text.endswith("\n") and text.strip(), path.name
        assert (text[0].isupper() or text[0] == "`") and text.strip().endswith("."), path.name
        assert not text.startswith("#"), path.name
