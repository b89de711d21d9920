// Every page: light or dark, links to the sections, sortable tables, tables that scroll by keyboard.
"use strict";
(() => {
  const root = document.documentElement;

  // Light and dark: the system's choice until the button is pressed.
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();
  theme.hidden = false;

  // Links to the sections of a long page.
  const headings = [...document.querySelectorAll("main section > h2")];
  if (headings.length > 2) {
    const list = document.getElementById("contents");
    headings.forEach((heading, index) => {
      const section = heading.parentElement;
      section.id = section.id || "section-" + (index + 1);
      const link = document.createElement("a");
      link.href = "#" + section.id;
      link.textContent = heading.textContent;
      list.appendChild(document.createElement("li")).append(link);
    });
    list.hidden = false;
  }

  // Tables: a button in each header sorts by its column; cells without a value stay last.
  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (text === "" || text === "–") return null;
    const number = Number(text.replace(/\u2212/g, "-").replace(/^\* |[ ,%]/g, ""));
    return Number.isNaN(number) ? text : number;
  }

  function compareValues(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, {numeric: true});
  }

  function sortBy(table, column, header) {
    const up = header.getAttribute("aria-sort") === "ascending" ||
      (header.getAttribute("aria-sort") === "none" && header.classList.contains("num")) ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map(row => [valueOf(row, column), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : up * compareValues(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      if (!header.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...header.childNodes);
      header.append(button);
      header.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sortBy(table, column, header));
    });
  }

  // Only what scrolls needs a stop of the Tab key.
  const boxes = document.querySelectorAll(".scroll");
  const stops = () => boxes.forEach(box => {
    const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  addEventListener("resize", stops);
  stops();
})();
