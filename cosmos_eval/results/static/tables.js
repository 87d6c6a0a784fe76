// Tables that readers sort by a click on a column's title, download as CSV, and copy as CSV or LaTeX.
// The titles of columns stand in the last row of a head. Above them may be names of several columns.
const titlesOf = (table) => Array.from(Array.from(table.tHead.rows).at(-1).cells);

const sortKey = (cell, isText) => {
  if (isText) return cell.textContent.trim().toLowerCase();
  const text = cell.dataset.value ?? cell.textContent;
  const number = Number.parseFloat(text.replace(/[<+]/g, "").replace("\u2212", "-"));
  return Number.isNaN(number) ? null : number;
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
  for (const title of titlesOf(table)) {
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
      const title = table && titlesOf(table)[Number(column)];
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

const columnTitle = (title) => [title.dataset.group, plainText(title)].filter(Boolean).join(" ");

// Write the visible rows and columns; two more columns hold the ends of intervals.
const toCsv = (table) => {
  const titles = titlesOf(table);
  const rows = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
  const columns = titles.map((_, column) => column).filter((column) => !titles[column].hidden);
  const hasEnds = (column) => rows.some((row) => row.cells[column].dataset.low);
  const head = columns.flatMap((column) => {
    const title = columnTitle(titles[column]);
    return hasEnds(column) ? [title, `${title} low`, `${title} high`] : [title];
  });
  const cells = (row) => columns.flatMap((column) => {
    const cell = row.cells[column];
    const { value, low = "", high = "" } = cell.dataset;
    return hasEnds(column) ? [value ?? "", low, high] : [value ?? plainText(cell)];
  });
  return [head, ...rows.map(cells)].map((line) => `${line.map(csvCell).join(",")}\r\n`).join("");
};

const LATEX = {
  "\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "<": "\\textless{}",
  ">": "\\textgreater{}", "|": "\\textbar{}", "[": "{[}", "]": "{]}", "\u2212": "$-$", "\u25c6": "$\\diamond$",
  "\u2020": "$\\dagger$", "\u2021": "$\\ddagger$",
};
const latexText = (text) => text.replace(/[\\^~<>|[\]\u2212\u25c6\u2020\u2021{}$&#%_]/g, (character) => LATEX[character] ?? `\\${character}`);

// The text of a cell without what only screen readers read, and its small texts in a smaller font.
const latexCell = (cell) => {
  const copy = cell.cloneNode(true);
  for (const unseen of all(".unseen, svg", copy)) unseen.remove();
  const details = all("small", copy).map((small) => {
    small.remove();
    return `{\\footnotesize ${latexText(plainText(small))}}`;
  });
  const text = latexText(plainText(copy));
  return [cell.matches(".best, :has(> b)") ? `\\textbf{${text}}` : text, ...details].join(" ");
};

// Write the visible rows and columns for the package booktabs; columns of bars are left out.
const toLatex = (table) => {
  const titles = titlesOf(table);
  const columns = titles.map((_, column) => column).filter((column) => !titles[column].hidden && !titles[column].classList.contains("forest"));
  const line = (texts) => `${texts.join(" & ")} \\\\`;
  const rows = Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
  const types = columns.map((column) => (column === 0 || "text" in titles[column].dataset ? "l" : "r")).join("");
  return [
    "% needs \\usepackage{booktabs}", `\\begin{tabular}{@{}${types}@{}}`, "\\toprule",
    line(columns.map((column) => latexText(columnTitle(titles[column])))), "\\midrule",
    ...rows.map((row) => line(columns.map((column) => latexCell(row.cells[column])))), "\\bottomrule", "\\end{tabular}", "",
  ].join("\n");
};

const nameOf = (table) => table.caption?.textContent ?? document.getElementById(table.getAttribute("aria-labelledby")).textContent;

const copyTable = async (table, form, text) => {
  try {
    await copyText(text);
    tell(`Copied as ${form}: ${nameOf(table)}`);
  } catch (problem) {
    tell(`This browser does not allow copying (${problem.message}).`);
  }
};

for (const table of all("table.sortable")) {
  const toolButton = (text, action) => {
    const button = make("button", { type: "button", textContent: text, ariaLabel: `${text}: ${nameOf(table)}` });
    button.addEventListener("click", action);
    return button;
  };
  table.parentElement.after(make("p", { className: "controls tools" }, [
    toolButton("Download CSV", () => saveFile(nameOf(table), "csv", toCsv(table), "text/csv")),
    toolButton("Copy CSV", () => copyTable(table, "CSV", toCsv(table))),
    toolButton("Copy LaTeX", () => copyTable(table, "LaTeX", toLatex(table))),
  ]));
}
