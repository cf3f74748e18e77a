"use strict";
// A click on a heading sorts its table; a second click turns the order. What was not measured stays last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const table = head.closest("table");
    const column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => {
      const [x, y] = [a.cells[column], b.cells[column]];
      const missing = x.classList.contains("missing") - y.classList.contains("missing");
      if (missing) return missing;
      const order = x.dataset.value !== undefined && y.dataset.value !== undefined
        ? x.dataset.value - y.dataset.value
        : x.textContent.localeCompare(y.textContent, "en", { numeric: true });
      return down ? -order : order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  });
}
