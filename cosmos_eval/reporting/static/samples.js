// Filters of samples: by text, data set, outcomes of the two compared models, class, the class that
// model A takes it for, size and number of words.
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
      (!wanted.dataset || wanted.dataset === figure.parentElement.dataset.name) &&
      (!wanted.outcome || wanted.outcome === outcomeCode) && (!wanted.group || wanted.group === group) &&
      (!wanted.taken || wanted.taken === outcomes[0]?.dataset.taken) &&
      (!wanted.size || isWithin(size, wanted.size)) && (!wanted.words || isWithin(words, wanted.words)));
    if (!figure.hidden) visibleSamples += 1;
  }
  for (const section of all(".samples")) {
    const visible = all("figure.sample:not([hidden])", section).length;
    section.hidden = visible === 0;
    section.querySelector(".count").textContent = `${visible} ${visible === 1 ? "sample" : "samples"}`;
  }
  models.forEach((model, side) => { document.getElementById(`sample-${"ab"[side]}`).textContent = data.models[Number(model)]; });
  document.getElementById("samples-found").textContent =
    `${visibleSamples} of ${all("figure.sample").length} samples on this page`;
  saveState();
};

// Show the samples that pass some filters, which are given by their names. For example, `outcome` is
// "10" for those that only A has right. The last filter gets the focus.
const showSamples = (filters) => {
  sampleForm.reset();
  const { elements } = sampleForm;
  for (const [name, value] of Object.entries(filters)) {
    // A page with samples of one data set has no choice of data sets.
    if (elements[name]) elements[name].value = value;
  }
  filterSamples();
  for (const block of all(".samples:not([hidden])")) block.open = true;
  revealAndScroll(document.getElementById("samples"));
  elements[Object.keys(filters).at(-1)].focus({ preventScroll: true });
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
