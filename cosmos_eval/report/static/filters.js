// Rows of all leaderboards by model and source, columns by data set and task, and one by one.
const filters = document.getElementById("filters");
const boards = all("section.board");
const filterListeners = [];
const hiddenColumns = new Set();

const columnKey = (title) => [title.closest("table").dataset.key, title.dataset.dataset, title.dataset.metric].join(" ");

const filterBoard = (board, wanted) => {
  const table = board.querySelector("table");
  const titles = Array.from(table.tHead.rows[0].cells);
  const found = titles.map(({ dataset }) =>
    !dataset.dataset ||
    ((!wanted.dataset || dataset.dataset === wanted.dataset) &&
      (!wanted.task || dataset.task === wanted.task)));
  const shown = titles.map((title, place) => found[place] && !hiddenColumns.has(columnKey(title)));
  titles.forEach((title, place) => { title.hidden = !shown[place]; });
  let rows = 0;
  for (const row of table.tBodies[0].rows) {
    const cells = Array.from(row.cells);
    cells.forEach((cell, place) => { cell.hidden = !shown[place]; });
    row.hidden = !(
      row.dataset.model.toLowerCase().includes(wanted.model) &&
      (!wanted.source || row.dataset.source === wanted.source) &&
      cells.some((cell, place) => found[place] && cell.dataset.value));
    rows += !row.hidden;
  }
  board.hidden = rows === 0;
  const columns = titles.filter((title) => !title.hidden && title.dataset.dataset).length;
  return { rows, columns: board.hidden ? 0 : columns };
};

const filterAll = () => {
  const given = new FormData(filters);
  const wanted = Object.fromEntries(given);
  wanted.model = wanted.model.trim().toLowerCase();
  const found = boards.map((board) => filterBoard(board, wanted));
  const count = (name) => found.reduce((sum, one) => sum + one[name], 0);
  const total = boards.reduce((sum, board) => sum + board.querySelector("tbody").rows.length, 0);
  document.getElementById("filters-found").textContent =
    `${count("rows")} of ${total} rows, ${count("columns")} columns`;
  for (const listener of filterListeners) listener();
  saveState();
};

// A list of a leaderboard's columns to choose from.
const pickers = boards.flatMap((board) => {
  const titles = all("thead th[data-dataset]", board);
  const boxes = titles.map((title) => make("input", { type: "checkbox", checked: true, value: columnKey(title) }));
  const labels = titles.map((title, place) => make("label", {}, [boxes[place], ` ${plainText(title)}`]));
  const set = (box) => hiddenColumns[box.checked ? "delete" : "add"](box.value);
  const choose = (text, checked) => {
    const button = make("button", { type: "button", textContent: text });
    button.addEventListener("click", () => {
      for (const box of boxes) set(Object.assign(box, { checked }));
      filterAll();
    });
    return button;
  };
  for (const box of boxes) box.addEventListener("change", () => { set(box); filterAll(); });
  const list = make("div", { className: "controls" }, [choose("All", true), choose("None", false), ...labels]);
  board.querySelector(".tools").append(make("details", { className: "columns" }, [make("summary", { textContent: "Columns" }), list]));
  return boxes;
});

stateParts.push({
  write: (given) => {
    for (const [name, value] of new FormData(filters)) if (value) given.set(name, value);
    for (const key of hiddenColumns) given.append("hide", key);
  },
  read: (given) => {
    for (const { name } of filters.elements) if (name) filters.elements[name].value = given.get(name) ?? "";
    hiddenColumns.clear();
    for (const key of given.getAll("hide")) hiddenColumns.add(key);
    for (const box of pickers) box.checked = !hiddenColumns.has(box.value);
    filterAll();
  },
});

filters.addEventListener("input", filterAll);
filters.addEventListener("submit", (event) => event.preventDefault());
// The form has its former values until the event is over.
filters.addEventListener("reset", () => {
  hiddenColumns.clear();
  for (const box of pickers) box.checked = true;
  setTimeout(filterAll);
});
