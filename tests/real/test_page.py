"""The page of ``inspect --html`` in a real browser: by keyboard, by eye, and without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamabuild.inspect import Entry, Kernel, Module, page

from .browser import Browser, opened

CARDS = {
    "30": ("GeForce GTX 770",),
    "52": ("GeForce GTX 980",),
    "60": ("Tesla P100",),
    "61": ("TITAN Xp", "GeForce GTX 1080"),
    "75": ("GeForce RTX 2080",),
    "90": ("H100",),
}
FOCUS = """(element => {
  const style = getComputedStyle(element)
  return [element.id, style.outlineStyle, parseFloat(style.outlineWidth)]
})(document.activeElement)"""
#: The smallest contrast of any sign with what lies behind it, as WCAG 2 defines it.
CONTRAST = """(() => {
  const light = parts => parts.slice(0, 3).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0)
  const numbers = text => text.match(/[\\d.]+/g).map(Number)
  const behind = element => {
    const color = numbers(getComputedStyle(element).backgroundColor)
    return color.length === 4 && color[3] === 0 ? behind(element.parentElement) : color
  }
  return Math.min(...[...document.querySelectorAll('td, th, .legend b, label, pre')].map(each => {
    const [low, high] = [light(numbers(getComputedStyle(each).color)), light(behind(each))].sort()
    return (high + 0.05) / (low + 0.05)
  }))
})()"""


def module() -> Module:
    """A wide module in which each state of the matrix occurs."""
    states = ["trapped", "none", "suspect", "unknown", *["none"] * 40]
    kernels = tuple(
        Kernel(f"kernel{number:02}", state)  # type: ignore[arg-type]
        for number, state in enumerate(states)
    )
    entries = (
        Entry("ptx", "52", 0, 1000, kernels[:20]),
        Entry("sass", "60", 0, 1000, kernels),
        Entry("sass", "75", 0, 1000, kernels[1:2]),
    )
    return Module(
        path=Path("ggml-cuda.so"),
        format="elf",
        machine="x86_64",
        exported=("ggml_cuda_link",),
        undefined=(),
        needed=("libc.so.6",),
        soname="",
        stripped=True,
        entries=entries,
        sha256="0" * 64,
        size_bytes=4000,
        notes=(),
    )


@pytest.fixture
def browser(tmp_path: Path, need: Any) -> Iterator[Browser]:
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    need(program, "a Chromium")
    path = tmp_path / "page.html"
    path.write_text(page.page(module(), CARDS), encoding="utf-8")
    with opened(str(program), tmp_path / "profile", width=800, height=600) as found:
        found.open(path)
        yield found


def test_by_keyboard_alone(browser: Browser) -> None:
    """Each box can be reached, shows that it is, and says its name; the matrix scrolls."""
    reached = []
    for _ in range(3):
        browser.press("Tab")
        name, style, width = browser.value(FOCUS)
        reached.append(name)
        assert (style, width >= 2) == ("solid", True), name
    assert reached == ["gpu", "kernel", "matrix"]
    browser.press("ArrowRight")
    scrolled = """new Promise(done => {
      const look = () => document.activeElement.scrollLeft ? done(1) : requestAnimationFrame(look)
      look()
    })"""
    assert browser.ask("Runtime.evaluate", expression=scrolled, awaitPromise=True)
    browser.press("Tab", shift=True)
    browser.press("Tab", shift=True)
    browser.write("1080")
    shown = "[...document.querySelectorAll('tbody tr')].filter(row => !row.hidden).length"
    assert browser.value(shown) == 1
    browser.press("Tab")
    browser.write("kernel3")
    columns = "[...document.querySelectorAll('thead th')].filter(head => !head.hidden).length"
    assert browser.value(columns) == 11
    told = browser.value("document.getElementById('shown').value")
    assert told == "1 of 6 GPUs, 10 of 44 kernel families"


def test_names_for_those_who_listen(browser: Browser) -> None:
    tree = browser.ask("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node["name"]["value"])
        for node in tree
        if not node["ignored"] and "name" in node
    }
    assert {
        ("searchbox", "GPU"),
        ("searchbox", "Kernel"),
        ("region", "GPUs and kernels"),
        ("columnheader", "kernel00"),
        ("rowheader", "6.1 TITAN Xp, GTX 1080"),
    } <= named


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_one_needs_to_tell_colours_apart(browser: Browser, scheme: str) -> None:
    """Each state has a sign of its own, readable on its ground."""
    browser.ask(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    cells = browser.value(
        "[...document.querySelectorAll('td')].map(cell => [cell.className, cell.textContent])"
    )
    signs = {
        state: {text.split()[0] for kind, text in cells if kind == state} for state, _ in cells
    }
    assert signs.keys() == {
        *("native", "older", "jit", "trapped", "left-out", "suspect", "unknown", "absent", "no"),
    }
    assert all(len(found) == 1 for found in signs.values())
    assert len(set.union(*signs.values())) == len(signs)
    assert browser.value(CONTRAST) >= 4.5


def test_nothing_is_fetched_and_nothing_fails(browser: Browser) -> None:
    browser.value("document.readyState")
    asked = [told["request"]["url"] for method, told in browser.events if "requestWill" in method]
    assert [url.rpartition("/")[2] for url in asked] == ["page.html"]
    assert not [told for method, told in browser.events if "exception" in method.lower()]
    assert not [told for method, told in browser.events if method == "Log.entryAdded"]
