"""The page in a real browser, headless Chromium: it draws, it follows the keyboard, and nothing foreign runs in it."""

import contextlib
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import glassformer as gf
from glassformer.glassbox.page.page import page

from .test_page import HOSTILE, hostile_trace, long_page

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="No Chromium is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Without a sandbox of its own, since containers where tests run as root have none.
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    gpt2 = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    t5 = gf.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5")
    settings = {"do_sample": True, "top_k": 20, "temperature": 0.7, "seed": 1, "max_new_tokens": 6}
    page(gpt2, "She had never been", folder / "decoder.html", **settings)
    page(t5, "donnerstag, 4. märz 2021", folder / "both.html")
    bert = gf.AutoModelForTokenClassification.from_pretrained("glassformer/tiny-bert-punctuation")
    page(bert, "how are you", folder / "encoder.html")
    page(hostile_trace(), path=folder / "hostile.html", title=HOSTILE[0], structure=gpt2.structure())
    return {file.stem: file for file in folder.iterdir()}


@pytest.fixture
def opened(browser: Any, files: dict[str, Path]) -> Iterator[Any]:
    """Opens a page; afterwards there was no error, no message and no request but that for the file itself."""
    seen: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})

    def open_(name: str, **media: Any) -> Any:
        tab = context.new_page()
        tab.on("console", lambda message: seen.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: seen.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: seen.append(f"dialog: {dialog.message}"))
        tab.on("request", lambda request: seen.append(request.url))
        if media:
            tab.emulate_media(**media)
        address = files[name].as_uri() if name in files else name
        tab.goto(address)
        tab.wait_for_selector("html[data-ready]")
        seen.remove(address)
        return tab

    yield open_
    context.close()
    assert seen == []


def token(tab: Any, text: str) -> Any:
    return tab.locator("#attention [role=option]", has_text=text).first


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "views"), [("encoder", 5), ("decoder", 6), ("both", 6)])
def test_it_draws_without_errors_or_network(opened: Any, name: str, views: int, scheme: str) -> None:
    """All views are there, maps are not of one colour, and nothing is wider than the window."""
    tab = opened(name, color_scheme=scheme)
    assert tab.locator("section:visible").count() == views
    assert tab.locator("nav a").count() == views
    colours = """canvas => {
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(new Uint32Array(data.buffer)).size }"""
    assert tab.locator("#attention .frame canvas").evaluate(colours) > 8
    tab.wait_for_timeout(100)
    assert max(tab.locator(".heads canvas").evaluate_all(f"all => all.map({colours})")) > 4
    for width in (1280, 360):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_pointing_at_a_token_shows_what_it_looks_at(opened: Any) -> None:
    """Fill and bars follow the pointer; the tables name the shares of the map."""
    tab = opened("decoder")
    token(tab, "·never").hover()
    assert token(tab, "·never").get_attribute("aria-selected") == "true"
    captions = tab.locator("#attention caption").all_inner_texts()
    assert captions == ["“·never” (3) looks at", "“·never” (3) is looked at by"]
    fill = "span => [span.style.getPropertyValue('--a'), span.style.getPropertyValue('--b')].map(Number)"
    assert token(tab, "·been").evaluate(fill)[0] == 0  # to the right of it: never looked at, but looks
    assert token(tab, "·been").evaluate(fill)[1] > 0
    assert token(tab, "She").evaluate(fill)[0] > 0
    assert token(tab, "She").evaluate(fill)[1] == 0
    shares = tab.locator("#attention table").first.locator("td").all_inner_texts()
    assert sum(float(share.split()[0]) for share in shares) == pytest.approx(100, abs=3)
    assert tab.locator("#said").inner_text() == ""  # the pointer does not talk


def test_the_keyboard_walks_through_tokens(opened: Any) -> None:
    """One token of the line is a tab stop; arrows move it, and what it looks at is said."""
    tab = opened("decoder")
    assert tab.locator("#attention [role=option][tabindex='0']").count() == 1
    token(tab, "She").click()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.textContent") == "·never"
    said = tab.locator("#said").inner_text()
    assert said.startswith("“·never” (3) looks at “")
    assert "is looked at by" in said
    tab.keyboard.press("End")
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')").endswith("9 of 9")
    tab.keyboard.press("Home")
    assert tab.evaluate("document.activeElement.textContent") == "She"
    assert tab.locator("#attention [role=option][tabindex='0']").count() == 1


def test_layers_and_heads_are_chosen(opened: Any) -> None:
    """By lists, by thumbnails and arrows; map, tables and code follow."""
    tab = opened("decoder")
    numbers = tab.locator("#attention table").first.inner_text()
    tab.get_by_label("Layer", exact=True).select_option("2")
    tab.get_by_label("Head", exact=True).select_option("3")
    assert tab.locator("#attention table").first.inner_text() != numbers
    code = tab.locator("#attention aside code")
    assert '"decoder.layers.2.attention.weights"' in code.inner_text()
    assert "weights[0, 3]" in code.inner_text()
    radio = tab.get_by_role("radio", name="Layer 2, head 3")
    assert radio.get_attribute("aria-checked") == "true"
    radio.focus()
    tab.keyboard.press("ArrowUp")
    assert tab.get_by_role("radio", name="Layer 1, head 3").get_attribute("aria-checked") == "true"
    assert "layers.1." in code.inner_text()
    tab.get_by_label("Head", exact=True).select_option("the mean of all")
    assert "mean(0)" in code.inner_text()


def test_cross_attention_links_two_texts(opened: Any) -> None:
    """A token of the decoder lights those of the encoder, and back."""
    tab = opened("both")
    tab.get_by_label("Which attention").select_option("Cross-attention: the decoder over the encoder’s text")
    lines = tab.locator("#attention [role=listbox]")
    assert lines.count() == 2
    lines.nth(0).locator("[role=option]").nth(1).hover()
    filled = "all => all.filter(span => Number(span.style.getPropertyValue('--a')) > 0.5).length"
    barred = "all => all.filter(span => Number(span.style.getPropertyValue('--b')) > 0.1).length"
    assert lines.nth(1).locator("[role=option]").evaluate_all(filled) >= 1
    lines.nth(1).locator("[role=option]").nth(4).hover()
    assert lines.nth(0).locator("[role=option]").evaluate_all(barred) >= 1
    assert lines.nth(1).locator("[role=option]").evaluate_all(filled) == 0


def test_generation_lens_and_story_answer(opened: Any) -> None:
    """A step shows its candidates, a cell its distribution, a word its tensors, a part its code."""
    tab = opened("decoder")
    tab.locator("#generation [role=option]").nth(3).click()
    assert tab.locator("#generation caption").first.inner_text().startswith("Step 4: ")
    heads = tab.locator("#generation thead").first.inner_text()
    assert "After Temperature" in heads
    assert "After TopK" in heads
    assert tab.locator("#generation tr.chosen").count() == 1
    tab.locator("#lens td").first.click()
    assert "After embedding" in tab.locator("#lens caption").last.inner_text()
    tab.keyboard.press("ArrowDown")
    assert "After layer 0" in tab.locator("#lens caption").last.inner_text()
    tab.get_by_label("Find by name or meaning").fill("layers.2.attention.weights")
    assert tab.locator("#story tbody tr:visible").count() == 1
    tab.locator("#structure .place").first.click()
    assert "def forward" in tab.locator("dialog[open] code").inner_text()
    tab.keyboard.press("Escape")
    assert tab.locator("dialog[open]").count() == 0


def test_a_choice_a_token(opened: Any) -> None:
    """Of a tagger, each token shows its classes."""
    tab = opened("encoder")
    tab.locator("#choices [role=option]").nth(1).click()
    assert tab.locator("#choices caption").inner_text() == "“how” (2)"
    assert tab.locator("#choices tbody tr").count() >= 2


def test_code_is_copied(opened: Any) -> None:
    """The button gives the whole program to the clipboard."""
    tab = opened("decoder")
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.locator("#structure").get_by_label("Copy the code of this view").click()
    tab.locator("#said", has_text="Copied").wait_for(state="attached")
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("import glassformer")
    assert copied.endswith("print(model.structure())")


@pytest.mark.parametrize("name", ["encoder", "decoder", "both", "hostile"])
def test_everything_has_a_name_and_tab_reaches_it(opened: Any, name: str) -> None:
    """Controls are named, pictures too, ids are single, headings in order; the tab key visits every stop."""
    tab = opened(name)
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    problems = tab.evaluate("""() => {
        const found = [], named = node => (node.getAttribute("aria-label") || node.closest("label")?.textContent
            || node.textContent || "").trim();
        const controls = "button, select, input, a, [role], summary, table, [tabindex]";
        for (const node of document.querySelectorAll(controls)) {
            if (node.closest("dialog, [role=status], [role=presentation]")) continue;
            if (node.id !== "main" && !named(node)) found.push(`no name: ${node.outerHTML.slice(0, 80)}`);
        }
        for (const node of document.querySelectorAll("canvas:not([role=img])"))
            if (!node.closest("[aria-hidden]")) found.push("a canvas without a role");
        for (const node of document.querySelectorAll("table"))
            if (!node.caption) found.push("a table without a caption");
        for (const node of document.querySelectorAll("[aria-labelledby]"))
            if (!document.getElementById(node.getAttribute("aria-labelledby"))) found.push("labelled by nothing");
        const ids = [...document.querySelectorAll("[id]")].map(node => node.id);
        if (new Set(ids).size !== ids.length) found.push("an id twice");
        let level = 0;
        for (const node of document.querySelectorAll("h1, h2, h3")) {
            if (node.closest("dialog")) continue;
            if (Number(node.tagName[1]) > level + 1) found.push(`heading ${node.textContent} jumps`);
            level = Number(node.tagName[1]);
        }
        return found }""")
    assert problems == []
    stops = tab.evaluate("""() => [...document.querySelectorAll("a, button, select, input, summary, [tabindex='0']")]
        .filter(node => node.tabIndex >= 0 && !node.closest("dialog") && node.checkVisibility()).length""")
    reached = set()
    tab.evaluate("document.body.setAttribute('tabindex', '-1'), document.body.focus()")
    for _ in range(stops + 1):
        tab.keyboard.press("Tab")
        reached.add(
            tab.evaluate("""() => {
            window.order ??= new Map();
            const node = document.activeElement;
            if (node !== document.body && getComputedStyle(node).outlineStyle === "none") return "no outline";
            if (!order.has(node)) order.set(node, order.size);
            return node === document.body ? "body" : order.get(node) }""")
        )
    assert "no outline" not in reached
    assert len(reached - {"body"}) == stops


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(opened: Any, scheme: str) -> None:
    """Every text has 4.5 : 1 against what is behind it (WCAG AA); colours of the maps are not text."""
    tab = opened("both", color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    worst = tab.evaluate("""() => {
        const parse = text => { const [r, g, b, a = 1] = text.match(/[0-9.]+/g).map(Number); return [r, g, b, a] };
        const over = ([r, g, b, a], under) => [r, g, b].map((x, i) => x * a + under[i] * (1 - a));
        const light = rgb => rgb.map(x => x / 255).map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
            .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = node => { const under = node.parentElement ? behind(node.parentElement) : [255, 255, 255];
            return over(parse(getComputedStyle(node).backgroundColor), under) };
        let worst = [99, ""];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const node = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
            if (!text || !node.checkVisibility() || node.closest("script, noscript")) continue;
            const ground = behind(node), ink = over(parse(getComputedStyle(node).color), ground);
            const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
            const ratio = (high + 0.05) / (low + 0.05);
            if (ratio < worst[0]) worst = [ratio, `${node.tagName}.${node.className}: ${text.slice(0, 30)}`];
        }
        return worst }""")
    assert worst[0] >= 4.5, worst


def test_hostile_text_does_not_run(opened: Any) -> None:
    """It stands there to be read, and does nothing, whatever is clicked."""
    tab = opened("hostile")
    tab.locator("#attention [role=option]").first.click()
    tab.keyboard.press("ArrowRight")
    tab.locator(".place").first.click()
    tab.keyboard.press("Escape")
    assert tab.title() == HOSTILE[0]
    assert tab.locator("h1").inner_text() == HOSTILE[0]
    assert tab.locator("#tokens li.token").first.inner_text().startswith(HOSTILE[0])
    tab.wait_for_timeout(200)
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("img").count() == 0
    assert tab.locator("script").count() == 2


def test_even_what_gets_in_cannot_run_or_call_out(browser: Any, files: dict[str, Path]) -> None:
    """The policy stops scripts and requests that a fault of the page would let in."""
    calls: list[str] = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ear) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab = browser.new_page()
        tab.goto(files["decoder"].as_uri())
        attack = """address => {
            const add = (tag, set) => { const made = document.createElement(tag);
                try { set(made) } catch { } document.body.append(made) };
            add("script", made => { made.text = "window.pwned = 1" });
            add("script", made => { made.src = address + "script" });
            add("img", made => { made.src = address + "image" });
            add("iframe", made => { made.src = address + "frame" });
            add("form", made => { made.action = address + "form"; document.body.append(made); made.submit() });
            try { document.body.innerHTML += "<img src=x onerror='window.pwned = 1'>" } catch { }
            return fetch(address + "fetch").catch(() => null) }"""
        tab.evaluate(attack, f"http://127.0.0.1:{server.server_port}/")
        tab.wait_for_timeout(500)
        assert tab.evaluate("window.pwned") is None
        assert calls == []
        tab.goto("about:blank")
        with contextlib.suppress(sync_api.Error):  # the form leads away
            tab.evaluate(attack, f"http://127.0.0.1:{server.server_port}/")
        tab.wait_for_timeout(500)
        assert calls  # the attack is one, where there is no policy
        tab.close()
        server.shutdown()


def test_it_works_in_the_frame_of_a_notebook(browser: Any, files: dict[str, Path], tmp_path: Path) -> None:
    """In a sandboxed frame it draws as it does alone, and its links stay in it."""
    made = page(gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2"), "She had", max_new_tokens=2)
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><title>n</title>{made._repr_html_()}", encoding="utf-8")
    tab = browser.new_page()
    tab.goto(notebook.as_uri())
    frame = tab.frame_locator("iframe")
    frame.locator("nav a").last.click()
    assert frame.locator("#story-title").evaluate("node => document.activeElement === node")
    assert frame.locator("#attention [role=option]").count() == 3
    assert tab.url == notebook.as_uri()
    tab.close()


def test_it_prints_on_white(opened: Any) -> None:
    """From a dark screen too, with everything unfolded."""
    tab = opened("decoder", color_scheme="dark")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 252, 249)"
    assert tab.locator("details:not([open])").count() == 0
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"


@pytest.mark.slow
def test_a_thousand_tokens_open_in_two_seconds(opened: Any, tmp_path: Path) -> None:
    """By the page's own clock, from navigation to the last view drawn; the best of three, since machines are shared."""
    file = tmp_path / "long.html"
    long_page(path=file)
    times = []
    for _ in range(3):
        tab = opened(file.as_uri())
        times.append(tab.evaluate("Number(document.documentElement.dataset.ready)"))
        assert tab.locator("#attention .word").count() == 1
        assert "sum over the keys" in tab.locator("#attention .word").inner_text()
        assert tab.locator("#attention [role=option]").count() == 1000
        tab.close()
    assert min(times) < 2000, os.getloadavg()
