// A dialog that shows the provenance of a number, copied from the end of the page.
const showOrigin = makeDialog("origin");

// The metric of the column that a link stands in.
const metricOf = (link) => {
  const cell = link.closest("td");
  return cell.closest("table").tHead.rows[0].cells[cell.cellIndex].dataset.metric;
};

const openOrigin = (link, origin) => {
  const copy = origin.cloneNode(true);
  const metric = metricOf(link);
  for (const row of all("tbody tr", copy)) row.classList.toggle("chosen", row.cells[0].textContent === metric);
  copy.removeAttribute("id");
  const heading = copy.querySelector("h4");
  heading.remove();
  for (const kind of all(".kind", copy)) {
    kind.replaceWith(make("h3", { className: "kind", textContent: kind.textContent }));
  }
  showOrigin(heading.textContent, copy, link);
};

for (const link of all("a.number")) {
  link.setAttribute("aria-haspopup", "dialog");
  link.addEventListener("click", (event) => {
    const origin = document.getElementById(link.hash.slice(1));
    // With these keys browsers open another window.
    if (!origin || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openOrigin(link, origin);
  });
}
