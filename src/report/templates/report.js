// In the `srcdoc` of an iframe, as notebooks show the page, links within it would lead to the page around it.
if (location.protocol === "about:") {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      document.getElementById(link.hash.slice(1)).scrollIntoView();
    });
  }
}

// Sorts and filters the passages that flipped. Without it the table is complete, in the order of the passages.
(() => {
  "use strict";
  const table = document.getElementById("flip-table");
  const form = document.getElementById("filter");
  if (!table || !form) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const count = form.querySelector("output");
  const texts = new Map(rows.map((row) => [row, row.querySelector(".passage").textContent.toLowerCase()]));

  const filter = () => {
    const variant = form.elements.variant.value;
    const direction = form.elements.direction.value;
    const text = form.elements.text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits =
        (!variant || row.dataset.variants.split("|").includes(variant)) &&
        (!direction || row.dataset.direction === direction) &&
        (!text || texts.get(row).includes(text));
      row.hidden = !fits;
      if (fits) shown += 1;
    }
    count.textContent = `${shown} of ${rows.length} shown`;
  };

  const key = (row, column) => {
    const value = row.dataset[column];
    return column === "variants" ? value : Number(value);
  };

  const sort = (heading) => {
    const column = heading.dataset.sort;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const order = ascending ? 1 : -1;
    const compare = (one, other) => (one < other ? -order : one > other ? order : 0);
    const sorted = [...rows].sort((one, other) => compare(key(one, column), key(other, column)));
    body.append(...sorted);
  };

  for (const heading of table.tHead.rows[0].cells) {
    if (!heading.dataset.sort) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(heading));
    // Browsers leave buttons out of headings that are repeated on every sheet of paper.
    const printed = document.createElement("span");
    printed.className = "printed";
    printed.textContent = heading.textContent;
    heading.replaceChildren(button, printed);
  }
  table.querySelector('th[data-sort="passage"]').setAttribute("aria-sort", "ascending");
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
})();
