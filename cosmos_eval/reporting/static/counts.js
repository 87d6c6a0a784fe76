// Counts that lead to their samples, if the page has such samples.
const sampleCards = all(".samples .cards");

// Turn the content of a table cell into a button.
const addCountButton = (cell, label, action) => {
  const ariaLabel = `${cell.textContent}: ${label}`;
  const button = make("button", { type: "button", className: "count-button", ariaLabel }, Array.from(cell.childNodes));
  button.addEventListener("click", action);
  cell.append(button);
};

// The samples of the page by data set and class, and by data set, class, model and the class that
// the model takes them for, as JSON: ["animals own", "wolf"] and ["animals own", "wolf", "0", "dog"].
const classSamples = new Set();
for (const cards of sampleCards) {
  for (const figure of all("figure.sample", cards)) {
    const kind = [cards.dataset.set, figure.dataset.group];
    classSamples.add(JSON.stringify(kind));
    for (const { dataset } of all("li[data-taken]", figure)) {
      classSamples.add(JSON.stringify([...kind, dataset.model, dataset.taken]));
    }
  }
}

// The number of samples of a class.
const linkClassCount = (cell) => {
  const dataset = cell.closest("table").dataset.set;
  const group = cell.parentElement.cells[0].textContent;
  if (!classSamples.has(JSON.stringify([dataset, group]))) return;
  addCountButton(cell, `show samples of ${dataset} of class ${group}`, () => showSamples({ dataset, group }));
};
all("#classes td[data-samples]").forEach(linkClassCount);

// The share of a class that a model takes for another class.
const linkMistake = (cell) => {
  const dataset = cell.closest("table").dataset.set;
  const [group, taken] = Array.from(cell.parentElement.cells, (named) => named.textContent);
  const { model } = cell.dataset;
  if (!classSamples.has(JSON.stringify([dataset, group, model, taken]))) return;
  const label = `show samples of ${dataset} of class ${group} that ${data.models[Number(model)]} takes for ${taken}`;
  addCountButton(cell, label, () => {
    chooseA(Number(model));
    showSamples({ dataset, group, taken });
  });
};
all("#mistakes td[data-model]").forEach(linkMistake);
