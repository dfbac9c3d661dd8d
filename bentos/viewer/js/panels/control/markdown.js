/**
 * The little Markdown that model cards are written in: headings, paragraphs, lists, tables, bold
 * and code. Everything becomes text in elements; what is not known stays as it is written.
 */

import { h } from "../../base/dom.js";

/**
 * Render a text.
 *
 * @param {string} text
 * @returns {DocumentFragment}
 */
export function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  for (const block of text.split(/\n{2,}/)) {
    const lines = block.split("\n").filter((line) => line.trim());
    while (lines.length && /^#{1,6} /.test(lines[0])) {
      fragment.append(renderHeading(/** @type {string} */ (lines.shift())));
    }
    if (lines.length) fragment.append(renderBlock(lines));
  }
  return fragment;
}

/** @param {string} line */
function renderHeading(line) {
  const level = line.indexOf(" ");
  const tag = /** @type {"h2" | "h3" | "h4"} */ (`h${Math.min(4, level + 1)}`);
  return h(tag, {}, ...renderInline(line.slice(level + 1)));
}

/** @param {string[]} lines */
function renderBlock(lines) {
  if (lines.length > 1 && lines.every((line) => line.startsWith("|"))) return renderTable(lines);
  if (lines[0].startsWith("- ")) {
    const items = lines.join("\n").slice(2).split(/\n- /);
    return h(
      "ul",
      {},
      ...items.map((item) => h("li", {}, ...renderInline(item.replace(/\n\s*/g, " ")))),
    );
  }
  return h("p", {}, ...renderInline(lines.join(" ")));
}

/** @param {string[]} lines */
function renderTable([head, , ...rows]) {
  const cells = (/** @type {string} */ line) => line.replace(/^\||\|$/g, "").split("|");
  return h(
    "div",
    { class: "table-frame" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...cells(head).map((cell) => h("th", {}, cell.trim())))),
      h(
        "tbody",
        {},
        ...rows.map((row) =>
          h("tr", {}, ...cells(row).map((cell) => h("td", {}, ...renderInline(cell.trim())))),
        ),
      ),
    ),
  );
}

/**
 * @param {string} text
 * @returns {Array<Node | string>}
 */
function renderInline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (part.startsWith("**") && part.length > 4) return h("strong", {}, part.slice(2, -2));
    if (part.startsWith("`") && part.length > 2) return h("code", {}, part.slice(1, -1));
    return part;
  });
}
