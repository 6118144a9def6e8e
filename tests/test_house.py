"""The house: which file imports which, read from the code with `ast`, and the laws of that.

`python tests/test_house.py` prints the drawing of the rooms that CONTRIBUTING.md shows.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
# A room imports only rooms that stand before it.
ROOMS = (
    *("processing", "modeling_ivt", "messages", "choices", "errors", "files", "metric", "corpora", "retrieval"),
    *("training", "gallery", "explanations", "page", "hub", "train_hf", "cli", "evaluate_hf", "__main__"),
)
Graph = dict[str, set[str]]  # file -> the files that it imports


def python_files() -> list[str]:
    """The files of the wheel, without what a checkpoint or a Space brings."""
    folders = [path for package in ("ivt", "modeling_ivt", "processing") for path in (REPO / package).rglob("*.py")]
    files = [path.relative_to(REPO) for path in (*folders, REPO / "train_hf.py", REPO / "evaluate_hf.py")]
    return sorted(str(path) for path in files if not {"checkpoints", "space"} & set(path.parts))


def absolute_imports(file: str, tree: ast.AST) -> Iterator[str]:
    """Names of all modules that a file may mean, `package.name` for `from package import name` too."""
    package = list(Path(file).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def file_of(name: str, files: set[str]) -> str | None:
    """The file of a module, or of the module that has an object of this name; None: of another project."""
    parts = name.split(".")
    for length in (len(parts), len(parts) - 1):
        path = "/".join(parts[:length])
        found = {f"{path}.py", f"{path}/__init__.py"} & files
        if found:
            return found.pop()
    return None


def draw_imports() -> Graph:
    """All imports between the project's files: of a module, inside of functions, and for types alone."""
    files = set(python_files())
    graph = {}
    for file in sorted(files):
        names = absolute_imports(file, ast.parse((REPO / file).read_text()))
        graph[file] = {found for name in names if (found := file_of(name, files))} - {file}
    return graph


def room_of(file: str) -> str:
    """The folder or single file that a file is in: `gallery` for ivt/gallery/store.py, `page` for ivt/page.py."""
    parts = Path(file).with_suffix("").parts
    return parts[1] if parts[0] == "ivt" and len(parts) > 1 else parts[0]


def rooms_of(graph: Graph) -> Graph:
    """Room -> other rooms that its files import."""
    rooms: Graph = {}
    for file, imported in graph.items():
        rooms.setdefault(room_of(file), set()).update(map(room_of, imported))
    return {room: others - {room} for room, others in rooms.items() if room != "__init__"}


def draw_rooms(rooms: Graph) -> str:
    """One line for each room in their order, with the rooms that it imports."""
    width = max(map(len, rooms))
    lines = []
    for room in sorted(rooms, key=ROOMS.index):
        lines.append(f"{room:<{width}} -> {', '.join(sorted(rooms[room], key=ROOMS.index)) or 'nothing'}")
    return "\n".join(lines)


def reachable(start: str, graph: Graph) -> set[str]:
    """The files that a file imports, and those that these import, and so on."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def circles_of(graph: Graph) -> list[list[str]]:
    """Groups of files each of which imports all others, directly or not."""
    reach = {file: reachable(file, graph) for file in graph}
    groups = {tuple(sorted(other for other in reach[file] if file in reach[other])) for file in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return draw_imports()


def test_a_room_imports_only_rooms_before_it(graph: Graph) -> None:
    assert {room_of(file) for file in graph} - {"__init__"} <= set(ROOMS), "a new room: name its place in ROOMS"
    wrong_way = [
        f"{file} imports {other}"
        for file, imported in graph.items()
        for other in imported
        if "ivt/__init__.py" not in (file, other) and ROOMS.index(room_of(other)) > ROOMS.index(room_of(file))
    ]
    assert wrong_way == []


def test_no_file_goes_through_the_front_door(graph: Graph) -> None:
    """`from ivt import Gallery` is for users; inside, it would hide which room is meant."""
    assert [file for file, imported in graph.items() if "ivt/__init__.py" in imported] == []


def test_files_do_not_import_each_other_in_circles(graph: Graph) -> None:
    assert circles_of(graph) == []


def test_import_ivt_needs_only_the_standard_library() -> None:
    tree = ast.parse((REPO / "ivt/__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name.split(".")[0] for node in imports for name in absolute_imports("ivt/__init__.py", node)} <= (
        sys.stdlib_module_names
    )


def test_contributing_shows_the_rooms_as_they_are(graph: Graph) -> None:
    shown = re.search(r"```text\n(processing .*?)\n```", (REPO / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert shown and shown[1] == draw_rooms(rooms_of(graph)), "python tests/test_house.py prints what to show"


def test_what_the_laws_are_read_from_is_seen(tmp_path: Path) -> None:
    lines = "import ivt.files\ndef f():\n    from . import crops\n    from ..corpora.rows import FEATURES, datasets\n"
    files = {"ivt/files.py", "ivt/gallery/crops.py", "ivt/corpora/rows.py"}
    names = set(absolute_imports("ivt/gallery/store.py", ast.parse(lines)))
    assert {file_of(name, files) for name in names} == files
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert circles_of(graph) == [["b", "c"]]


if __name__ == "__main__":
    print(draw_rooms(rooms_of(draw_imports())))
