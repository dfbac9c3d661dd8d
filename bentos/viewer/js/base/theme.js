/**
 * Light and dark: as the system says, or as the reader chose.
 */

const KEY = "ecg-viewer-theme";
const THEMES = /** @type {const} */ (["system", "light", "dark"]);
const NAMES = { system: "Auto", light: "Light", dark: "Dark" };
const SIGNS = { system: "◐", light: "○", dark: "●" };

/**
 * Let a button go through the themes.
 *
 * @param {HTMLButtonElement} button
 */
export function bindTheme(button) {
  let theme = read();
  apply();
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
    apply();
  });

  function apply() {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `${SIGNS[theme]} ${NAMES[theme]}`;
    button.setAttribute("aria-label", `Colours: ${NAMES[theme]}. Change them`);
  }
}

/** @returns {"system" | "light" | "dark"} */
function read() {
  try {
    const stored = localStorage.getItem(KEY);
    return THEMES.find((theme) => theme === stored) ?? "system";
  } catch {
    return "system";
  }
}

/**
 * Print on white paper, whatever the screen shows.
 *
 * @param {() => void} redraw
 */
export function bindPrinting(redraw) {
  const root = document.documentElement;
  /** @type {string | undefined} */
  let chosen;
  addEventListener("beforeprint", () => {
    chosen = root.dataset.theme;
    root.dataset.theme = "light";
    root.classList.add("is-printed");
    redraw();
  });
  addEventListener("afterprint", () => {
    if (chosen) root.dataset.theme = chosen;
    else delete root.dataset.theme;
    root.classList.remove("is-printed");
    redraw();
  });
}
