// Tables that are sorted by a click on a column's title.
const sortKey = (cell, isText) => {
  if (isText) return cell.textContent.trim().toLowerCase();
  const given = cell.dataset.value ?? cell.textContent;
  return given.trim() === "" ? null : Number(given.replace(/[<+]/g, "").replace("\u2212", "-"));
};

// What has no number comes last, whichever way is up.
const compareKeys = (a, b, direction) => {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "string" ? a.localeCompare(b) : a - b;
  return direction * order;
};

const sortBy = (table, title, direction) => {
  const place = title.cellIndex;
  const isText = "text" in title.dataset;
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [sortKey(row.cells[place], isText), row]);
  keyed.sort(([a], [b]) => compareKeys(a, b, direction));
  for (const other of title.parentElement.cells) other.removeAttribute("aria-sort");
  title.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  body.append(...keyed.map(([, row]) => row));
};

const nextDirection = (title) => {
  const now = title.getAttribute("aria-sort");
  if (now) return now === "ascending" ? -1 : 1;
  return "text" in title.dataset ? 1 : -1;
};

for (const table of all("table.sortable")) {
  for (const title of table.tHead.rows[0].cells) {
    const button = make("button", { type: "button" }, Array.from(title.childNodes));
    button.addEventListener("click", () => sortBy(table, title, nextDirection(title)));
    title.append(button);
  }
}
