// Rows of all leaderboards by model and source, columns by data set and task.
const filters = document.getElementById("filters");
const boards = all("section.board");
const filterListeners = [];

const filterBoard = (board, wanted) => {
  const table = board.querySelector("table");
  const titles = Array.from(table.tHead.rows[0].cells);
  const shown = titles.map(({ dataset }) =>
    !dataset.dataset ||
    ((!wanted.dataset || dataset.dataset === wanted.dataset) &&
      (!wanted.task || dataset.task === wanted.task)));
  titles.forEach((title, place) => { title.hidden = !shown[place]; });
  let rows = 0;
  for (const row of table.tBodies[0].rows) {
    const cells = Array.from(row.cells);
    cells.forEach((cell, place) => { cell.hidden = !shown[place]; });
    row.hidden = !(
      row.dataset.model.toLowerCase().includes(wanted.model) &&
      (!wanted.source || row.dataset.source === wanted.source) &&
      cells.some((cell) => !cell.hidden && cell.dataset.value));
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
};

filters.addEventListener("input", filterAll);
filters.addEventListener("submit", (event) => event.preventDefault());
// The form has its former values until the event is over.
filters.addEventListener("reset", () => setTimeout(filterAll));
