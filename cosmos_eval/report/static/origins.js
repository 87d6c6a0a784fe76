// A dialog that shows the provenance of a number, copied from the end of the page.
const originDialog = document.getElementById("origin");
const originTitle = document.getElementById("origin-title");
const originBody = originDialog.querySelector(".dialog-body");
let originFrom = null;

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
  originTitle.textContent = heading.textContent;
  heading.remove();
  for (const kind of all(".kind", copy)) {
    kind.replaceWith(make("h3", { className: "kind", textContent: kind.textContent }));
  }
  originBody.replaceChildren(copy);
  originFrom = link;
  originDialog.showModal();
  originBody.scrollTop = 0;
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
originDialog.querySelector(".close").addEventListener("click", () => originDialog.close());
originDialog.addEventListener("click", (event) => {
  if (event.target === originDialog) originDialog.close();
});
originDialog.addEventListener("close", () => originFrom?.focus());
