"""No circle of modules, imports behind `TYPE_CHECKING` included."""

import grimp


def circles(*packages: str) -> list[list[str]]:
    """Modules that import each other, directly or through others: the strongly connected components of two or more."""
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=False, cache_dir=None)
    upstream = {module: graph.find_upstream_modules(module) for module in graph.modules}
    components = {
        frozenset({module, *(other for other in upstream[module] if module in upstream[other])}) for module in upstream
    }
    return sorted(sorted(component) for component in components if len(component) > 1)


def test_no_modules_import_each_other():
    found = circles("rlhf", "serve")
    assert not found, "move what both sides need into a module below them: " + "; ".join(map(" <-> ".join, found))


def test_a_circle_is_named_also_behind_type_checking(tmp_path, monkeypatch):
    sources = {
        "__init__": "",
        "above": "from intruders import circle",
        "circle": "import intruders.middle",
        "middle": "from intruders.closing import x",
        "closing": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from intruders.circle import y",
        "below": "",
    }
    package = tmp_path / "intruders"
    package.mkdir()
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert circles("intruders") == [["intruders.circle", "intruders.closing", "intruders.middle"]]
