// Filters of samples: by text, data set, outcomes of the two compared models, class, size and number
// of words.
const sampleForm = document.getElementById("sample-filters");

const isWithin = (text, range) => {
  const [least, end] = range.split(" ").map(Number);
  return text !== undefined && Number(text) >= least && Number(text) < end;
};

const filterSamples = () => {
  const wanted = Object.fromEntries(new FormData(sampleForm));
  const models = choice.a ? [choice.a.value, choice.b.value] : [String(data.first[0])];
  const wantedText = wanted.text.trim().toLowerCase();
  let visibleSamples = 0;
  for (const figure of all("figure.sample")) {
    const outcomes = models.map((model) => figure.querySelector(`li[data-model="${model}"]`));
    for (const item of all("li", figure)) item.hidden = !outcomes.includes(item);
    outcomes.forEach((outcome, side) => {
      if (!outcome) return;
      outcome.firstChild.textContent = `${"AB"[side]}: `;
      outcome.parentElement.append(outcome);
    });
    // For example "10": A is right and B is wrong.
    const outcomeCode = outcomes.map((outcome) => (outcome ? Number(outcome.classList.contains("good")) : "?")).join("");
    const { group, size, words } = figure.dataset;
    const answers = outcomes.map((outcome) => outcome?.textContent ?? "");
    const text = [figure.dataset.title, ...answers, figure.querySelector("img").dataset.file ?? ""].join(" ");
    figure.hidden = !(
      outcomes.some(Boolean) && text.toLowerCase().includes(wantedText) &&
      (!wanted.dataset || wanted.dataset === figure.parentElement.dataset.set) &&
      (!wanted.outcome || wanted.outcome === outcomeCode) && (!wanted.group || wanted.group === group) &&
      (!wanted.size || isWithin(size, wanted.size)) && (!wanted.words || isWithin(words, wanted.words)));
    if (!figure.hidden) visibleSamples += 1;
  }
  for (const section of all(".samples")) {
    const visible = all("figure.sample:not([hidden])", section).length;
    section.hidden = visible === 0;
    section.querySelector(".count").textContent = `${visible} samples`;
  }
  models.forEach((model, side) => { document.getElementById(`sample-${"ab"[side]}`).textContent = data.models[Number(model)]; });
  document.getElementById("samples-found").textContent =
    `${visibleSamples} of ${all("figure.sample").length} samples on this page`;
  saveState();
};

// Show the samples of a data set that only A (outcome 10) or only B (01) has right.
const showSamples = (set, outcome) => {
  const { dataset, outcome: outcomeChoice } = sampleForm.elements;
  sampleForm.reset();
  outcomeChoice.value = outcome;
  if (dataset) dataset.value = set;
  filterSamples();
  for (const block of all(".samples:not([hidden])")) block.open = true;
  revealAndScroll(document.getElementById("samples"));
  outcomeChoice.focus({ preventScroll: true });
};

if (sampleForm) {
  sampleForm.addEventListener("input", filterSamples);
  sampleForm.addEventListener("submit", (event) => event.preventDefault());
  sampleForm.addEventListener("reset", () => setTimeout(filterSamples));
  compareListeners.push(filterSamples);
  stateParts.push({
    write: (state) => {
      for (const [name, value] of new FormData(sampleForm)) if (value) state.set(`sample-${name}`, value);
    },
    read: (state) => {
      for (const { name } of sampleForm.elements) if (name) sampleForm.elements[name].value = state.get(`sample-${name}`) ?? "";
      filterSamples();
    },
  });
}
