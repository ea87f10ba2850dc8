// Narrow windows: each cell of a wide table is told its column's name, so that a row can stand as a block (css: table.stacks).
// The roles stay what they were: a browser forgets them when a table is not displayed as one. Without scripts the table scrolls.
const roles = [["thead, tbody", "rowgroup"], ["tr", "row"], ["thead th", "columnheader"], ["tbody th", "rowheader"], ["td", "cell"]];

function stack(table) {
  const heads = [...table.querySelectorAll(":scope > thead > tr > th")];
  // A cell that stands for several rows cannot be in a block: such a table scrolls. The name of a group of rows (first in its tbody) can: it
  // stands above them.
  if (heads.length < 3 || table.classList.contains("stacks") || table.querySelector("td[rowspan], th[rowspan]:not([scope=rowgroup])")) return;
  const names = heads.map((head) => head.querySelector(".sr, input") ? "" : head.textContent.trim());
  for (const row of table.querySelectorAll(":scope > tbody > tr")) {
    const cells = [...row.cells];
    if (cells[0]?.scope === "rowgroup") cells.shift();
    const grouped = heads.length - cells.length;
    if (grouped !== 0 && !(grouped === 1 && row.parentNode.querySelector("th[scope=rowgroup]"))) continue;
    cells.forEach((cell, at) => {
      // The first cell of a row is its name and needs none.
      const first = at === (cells[0].classList.contains("pick") ? 1 : 0);
      if (!names[at + grouped] || first || cell.tagName !== "TD") return;
      if (!cell.textContent.trim() && !cell.querySelector("svg, img, input, button")) { cell.classList.add("blank"); return; }
      if ([...cell.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()) || cell.children.length > 1) {
        const whole = document.createElement("div");
        whole.append(...cell.childNodes);
        cell.append(whole);
      }
      cell.dataset.label = names[at + grouped];
    });
  }
  table.setAttribute("role", "table");
  for (const [which, role] of roles) for (const each of table.querySelectorAll(which)) each.setAttribute("role", role);
  table.classList.add("stacks");
}

function stackAll(within) {
  if (innerWidth > 600) return;
  for (const table of within.querySelectorAll(".table-wrap > table:not(.diff)")) stack(table);
}
stackAll(document);
addEventListener("resize", () => stackAll(document));
document.addEventListener("htmx:afterSwap", () => stackAll(document));
