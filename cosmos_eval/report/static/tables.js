// Tables that readers sort by a click on a column's title, and download as CSV.
const sortKey = (cell, isText) => {
  if (isText) return cell.textContent.trim().toLowerCase();
  const text = cell.dataset.value ?? cell.textContent;
  return text.trim() === "" ? null : Number(text.replace(/[<+]/g, "").replace("\u2212", "-"));
};

// Cells without a number come last in both directions.
const compareKeys = (a, b, direction) => {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "string" ? a.localeCompare(b) : a - b;
  return direction * order;
};

const sortBy = (table, title, direction) => {
  const column = title.cellIndex;
  const isText = "text" in title.dataset;
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => ({ key: sortKey(row.cells[column], isText), row }));
  keyed.sort((a, b) => compareKeys(a.key, b.key, direction));
  for (const otherTitle of title.parentElement.cells) otherTitle.removeAttribute("aria-sort");
  title.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  body.append(...keyed.map(({ row }) => row));
};

const nextDirection = (title) => {
  const direction = title.getAttribute("aria-sort");
  if (direction) return direction === "ascending" ? -1 : 1;
  return "text" in title.dataset ? 1 : -1;
};

for (const table of all("table.sortable")) {
  for (const title of table.tHead.rows[0].cells) {
    const button = make("button", { type: "button" }, Array.from(title.childNodes));
    button.addEventListener("click", () => {
      sortBy(table, title, nextDirection(title));
      saveState();
    });
    title.append(button);
  }
}

stateParts.push({
  write: (state) => {
    for (const title of all("table[data-key] th[aria-sort]")) {
      const down = title.getAttribute("aria-sort") === "descending";
      state.append("sort", [title.closest("table").dataset.key, title.cellIndex, down ? "down" : "up"].join(" "));
    }
  },
  read: (state) => {
    for (const sorting of state.getAll("sort")) {
      const [, key, column, direction] = sorting.match(/^(.*) (\d+) (down|up)$/s) ?? [];
      const table = all("table[data-key]").find((candidate) => candidate.dataset.key === key);
      const title = table?.tHead.rows[0].cells[Number(column)];
      if (title) sortBy(table, title, direction === "down" ? -1 : 1);
    }
  },
});

const plainText = (cell) => cell.querySelector(".name")?.title || cell.textContent.replace(/\s+/g, " ").trim();

// A text that a spreadsheet would take for a formula gets an apostrophe in front.
const csvCell = (text) => {
  const isFormula = /^[=+\-@\uff1d\uff0b\uff0d\uff20']/.test(text) && Number.isNaN(Number(text));
  return `"${isFormula ? "'" : ""}${text.replaceAll('"', '""')}"`;
};

// Write the visible rows and columns; two more columns hold the ends of intervals.
const toCsv = (table) => {
  const titles = Array.from(table.tHead.rows[0].cells);
  const rows = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
  const columns = titles.map((_, column) => column).filter((column) => !titles[column].hidden);
  const hasEnds = (column) => rows.some((row) => row.cells[column].dataset.low);
  const head = columns.flatMap((column) => {
    const title = plainText(titles[column]);
    return hasEnds(column) ? [title, `${title} low`, `${title} high`] : [title];
  });
  const cells = (row) => columns.flatMap((column) => {
    const cell = row.cells[column];
    const { value, low = "", high = "" } = cell.dataset;
    return hasEnds(column) ? [value ?? "", low, high] : [value ?? plainText(cell)];
  });
  return [head, ...rows.map(cells)].map((line) => `${line.map(csvCell).join(",")}\r\n`).join("");
};

const nameOf = (table) => table.caption?.textContent ?? document.getElementById(table.getAttribute("aria-labelledby")).textContent;

for (const table of all("table.sortable")) {
  const button = make("button", { type: "button", textContent: "Download CSV" });
  button.addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([toCsv(table)], { type: "text/csv" }));
    make("a", { href: address, download: `${nameOf(table).replace(/[^\w.-]+/g, "-").slice(0, 80)}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address));
  });
  button.setAttribute("aria-label", `Download CSV: ${nameOf(table)}`);
  table.parentElement.after(make("p", { className: "controls tools" }, [button]));
}
