from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

NAMELESS = """() => {
  const nameOf = (element) => (element.getAttribute('aria-label')
    ?? (element.getAttribute('aria-labelledby') && document.getElementById(
         element.getAttribute('aria-labelledby'))?.textContent)
    ?? [...(element.labels ?? [])].map((label) => label.textContent).join(' '))
    || element.textContent || element.title;
  return [...document.querySelectorAll('button, a, input, select, textarea, [tabindex="0"]')]
    .filter((element) => element.checkVisibility() && !nameOf(element).trim())
    .map((element) => element.outerHTML.slice(0, 120));
}"""

CONTRASTS = """(pairs) => {
  const style = getComputedStyle(document.documentElement);
  const probe = document.createElement('canvas').getContext('2d');
  const light = (variable) => {
    probe.clearRect(0, 0, 1, 1);
    const value = style.getPropertyValue(variable);
    const element = document.createElement('span');
    document.body.append(element);
    element.style.color = `var(${variable})`;
    probe.fillStyle = getComputedStyle(element).color;
    element.remove();
    probe.fillRect(0, 0, 1, 1);
    const parts = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  return pairs.map(([one, other]) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
}"""

FOCUSED = """() => {
  const element = document.activeElement;
  if (element === document.body) return ['BODY', []];
  const name = element.id || element.getAttribute('aria-label') || element.textContent.trim();
  const shown = [element, element.nextElementSibling].filter(Boolean);
  return [name, shown.map((one) => getComputedStyle(one).outlineStyle)];
}"""

PRINTED = """() => {
  addEventListener('beforeprint', () => {
    const canvas = document.querySelector('#strip');
    const {data} = canvas.getContext('2d').getImageData(3, 3, 1, 1);
    const rows = document.querySelectorAll('#table tbody tr:not(.spacer)').length;
    window.printed = [canvas.getBoundingClientRect().width, canvas.width, data[0], rows];
  });
}"""

TEXT_ON = [
    ("--ink", "--page"), ("--ink", "--card"), ("--ink", "--raised"), ("--soft", "--page"),
    ("--soft", "--card"), ("--soft", "--raised"), ("--accent", "--card"), ("--accent", "--page"),
    ("--on-accent", "--accent"), ("--n", "--paper"), ("--v", "--paper"), ("--n", "--card"),
    ("--on-v", "--v"), ("--soft", "--paper"), ("--reader", "--card"), ("--warn", "--warn-soft"),
    ("--bad", "--bad-soft"), ("--ink", "--bad-soft"), ("--ink", "--warn-soft"),
    ("--ink", "--good-soft"), ("--trace", "--paper"),
]  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/?example=run", "/?example=flat", "/?prediction=nix"])
def test_every_control_has_a_name(page: Page, viewer_url: str, path: str) -> None:
    page.goto(f"{viewer_url}{path}")
    page.locator("#summary:visible, .problem:visible, #served dl:visible").first.wait_for()
    assert page.evaluate(NAMELESS) == []
    assert page.locator("h1:visible").count() == 1 or "nix" in path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_themes(page: Page, viewer_url: str, scheme: Any) -> None:  # noqa: ANN401  a literal
    page.emulate_media(color_scheme=scheme)
    page.goto(viewer_url)
    contrasts = page.evaluate(CONTRASTS, TEXT_ON)
    low = [
        (pair, round(value, 2))
        for pair, value in zip(TEXT_ON, contrasts, strict=True)
        if value < 4.5
    ]
    assert low == []


def test_the_theme_is_chosen_and_kept(page: Page, viewer_url: str) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(viewer_url)
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(243, 244, 246)"
    button = page.get_by_role("button", name="Colours")
    button.click()
    button.click()
    expect(button).to_contain_text("Dark")
    assert page.evaluate(background) == "rgb(14, 18, 22)"
    page.reload()
    expect(button).to_contain_text("Dark")
    page.goto(f"{viewer_url}/?example=run")
    page.locator("#summary").wait_for()
    corner = page.locator("#strip").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(3, 3, 1, 1).data].slice(0, 3)"
    )
    assert max(corner) < 40


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1400])
@pytest.mark.parametrize("path", ["/", "/?example=run", "/?example=flat"])
def test_no_width_makes_the_page_scroll_sideways(
    page: Page, viewer_url: str, width: int, path: str
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{viewer_url}{path}")
    page.locator("#summary:visible, .problem:visible, #served dl:visible").first.wait_for()
    over = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert over <= 0


def test_everything_is_reached_by_the_tab_key(page: Page, viewer_url: str) -> None:
    page.goto(f"{viewer_url}/?example=run")
    page.locator("#summary").wait_for()
    reached: list[str] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        name, outlines = page.evaluate(FOCUSED)
        if name == "BODY":
            break
        reached.append(name)
        # Radio buttons show their focus at the label beside.
        assert "solid" in outlines, name
    for name in (
        "close",
        "demo",
        "speed-25",
        "gain-10",
        "paper",
        "overview",
        "table-filter",
        "curl",
    ):
        assert name in reached, name


def test_two_fingers_zoom_and_one_moves(browser: Browser, viewer_url: str) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(f"{viewer_url}/?example=run")
    page.locator("#summary").wait_for()
    page.locator("#strip").scroll_into_view_if_needed()
    box = page.locator("#strip").bounding_box()
    assert box is not None
    touch = context.new_cdp_session(page)
    y = box["y"] + 120

    def fingers(kind: str, *xs: float) -> None:
        points = [{"x": x, "y": y, "id": number} for number, x in enumerate(xs)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    shown = page.locator("#toolbar output")
    overview = page.locator("#overview")
    before = shown.inner_text()
    fingers("touchStart", 200, 260)
    for step in range(1, 7):
        fingers("touchMove", 200 - 10 * step, 260 + 10 * step)
    fingers("touchEnd")
    expect(shown).not_to_have_text(before)
    start = float(overview.get_attribute("aria-valuenow") or "nan")
    fingers("touchStart", 300)
    for step in range(1, 9):
        fingers("touchMove", 300 - 20 * step)
    fingers("touchEnd")
    assert float(overview.get_attribute("aria-valuenow") or "nan") > start
    context.close()


def test_it_prints_the_strip_to_scale_in_light_colours(page: Page, viewer_url: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(f"{viewer_url}/?example=bigeminy")
    page.locator("#summary").wait_for()
    page.evaluate(PRINTED)
    assert page.pdf(prefer_css_page_size=True, print_background=True).startswith(b"%PDF")
    width, bitmap, red, rows = page.evaluate("window.printed")
    # 277 mm of A4 without its margins, less the frame; one px of the canvas is one on paper.
    assert width == bitmap == pytest.approx(277 * 96 / 25.4 - 2, abs=1)
    assert red > 200
    assert rows == 11
    dark = "canvas => canvas.getContext('2d').getImageData(3, 3, 1, 1).data[0] < 60"
    assert page.locator("#strip").evaluate(dark)


def test_the_page_and_its_files_have_a_strict_policy_and_are_checked_for_changes(
    page: Page, viewer_url: str
) -> None:
    seen: dict[str, dict[str, str]] = {}
    page.on("response", lambda response: seen.update({response.url: response.headers}))
    page.goto(viewer_url)
    page.locator("#served dl").wait_for()
    files = [headers for url, headers in seen.items() if re.search(r"/$|/viewer/", url)]
    assert len(files) > 20
    assert {headers["cache-control"] for headers in files} == {"no-cache"}
    (policy,) = {headers["content-security-policy"] for headers in files}
    assert policy.startswith("default-src 'self'; object-src 'none'")
    assert "unsafe" not in policy
