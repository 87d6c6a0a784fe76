// Filters of all leaderboards: rows by model and source, columns by data set and task, or one by one.
const filters = document.getElementById("filters");
const boards = all("section.board");
const filterListeners = [];
const hiddenColumns = new Set();

const columnKey = (title) => [title.closest("table").dataset.key, title.dataset.dataset, title.dataset.metric].join(" ");

// Hide rows and columns of a leaderboard, and return how many of each stay visible.
const filterBoard = (board, wanted) => {
  const table = board.querySelector("table");
  const titles = Array.from(table.tHead.rows[0].cells);
  const isWanted = titles.map(({ dataset }) =>
    !dataset.dataset ||
    ((!wanted.dataset || dataset.dataset === wanted.dataset) &&
      (!wanted.task || dataset.task === wanted.task)));
  const isShown = titles.map((title, place) => isWanted[place] && !hiddenColumns.has(columnKey(title)));
  titles.forEach((title, place) => { title.hidden = !isShown[place]; });
  let visibleRows = 0;
  for (const row of table.tBodies[0].rows) {
    const cells = Array.from(row.cells);
    cells.forEach((cell, place) => { cell.hidden = !isShown[place]; });
    row.hidden = !(
      row.dataset.model.toLowerCase().includes(wanted.model) &&
      (!wanted.source || row.dataset.source === wanted.source) &&
      cells.some((cell, place) => isWanted[place] && cell.dataset.value));
    if (!row.hidden) visibleRows += 1;
  }
  board.hidden = visibleRows === 0;
  const columns = titles.filter((title) => !title.hidden && title.dataset.dataset).length;
  return { rows: visibleRows, columns: board.hidden ? 0 : columns };
};

const filterAll = () => {
  const wanted = Object.fromEntries(new FormData(filters));
  wanted.model = wanted.model.trim().toLowerCase();
  const counts = boards.map((board) => filterBoard(board, wanted));
  const sumOf = (name) => counts.reduce((sum, count) => sum + count[name], 0);
  const total = boards.reduce((sum, board) => sum + board.querySelector("tbody").rows.length, 0);
  document.getElementById("filters-found").textContent =
    `${sumOf("rows")} of ${total} rows, ${sumOf("columns")} columns`;
  for (const listener of filterListeners) listener();
  saveState();
};

// Under each leaderboard a list of its columns, in which the reader hides or shows them.
const pickers = boards.flatMap((board) => {
  const titles = all("thead th[data-dataset]", board);
  const boxes = titles.map((title) => make("input", { type: "checkbox", checked: true, value: columnKey(title) }));
  const labels = titles.map((title, place) => make("label", {}, [boxes[place], ` ${plainText(title)}`]));
  const applyBox = (box) => {
    if (box.checked) hiddenColumns.delete(box.value);
    else hiddenColumns.add(box.value);
  };
  const checkAllButton = (text, checked) => {
    const button = make("button", { type: "button", textContent: text });
    button.addEventListener("click", () => {
      for (const box of boxes) {
        box.checked = checked;
        applyBox(box);
      }
      filterAll();
    });
    return button;
  };
  for (const box of boxes) box.addEventListener("change", () => { applyBox(box); filterAll(); });
  const list = make("div", { className: "controls" }, [checkAllButton("All", true), checkAllButton("None", false), ...labels]);
  board.querySelector(".tools").append(make("details", { className: "columns" }, [make("summary", { textContent: "Columns" }), list]));
  return boxes;
});

stateParts.push({
  write: (state) => {
    for (const [name, value] of new FormData(filters)) if (value) state.set(name, value);
    for (const key of hiddenColumns) state.append("hide", key);
  },
  read: (state) => {
    for (const { name } of filters.elements) if (name) filters.elements[name].value = state.get(name) ?? "";
    hiddenColumns.clear();
    for (const key of state.getAll("hide")) hiddenColumns.add(key);
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
