// Samples by what the two compared models made of them, by class, size and number of words.
const sampleForm = document.getElementById("sample-filters");

const isWithin = (text, range) => {
  const [least, end] = range.split(" ").map(Number);
  return text !== undefined && Number(text) >= least && Number(text) < end;
};

const filterSamples = () => {
  const wanted = Object.fromEntries(new FormData(sampleForm));
  const models = choice.a ? [choice.a.value, choice.b.value] : [String(data.first[0])];
  let shown = 0;
  for (const figure of all("figure.sample")) {
    const outcomes = models.map((model) => figure.querySelector(`li[data-model="${model}"]`));
    for (const one of all("li", figure)) one.hidden = !outcomes.includes(one);
    outcomes.forEach((one, side) => {
      if (!one) return;
      one.firstChild.textContent = `${"AB"[side]}: `;
      one.parentElement.append(one);
    });
    const found = outcomes.map((one) => (one ? Number(one.classList.contains("good")) : "?")).join("");
    const { group, size, words } = figure.dataset;
    figure.hidden = !(
      outcomes.some(Boolean) && (!wanted.outcome || wanted.outcome === found) && (!wanted.group || wanted.group === group) &&
      (!wanted.size || isWithin(size, wanted.size)) && (!wanted.words || isWithin(words, wanted.words)));
    shown += !figure.hidden;
  }
  for (const set of all(".samples")) {
    const left = all("figure.sample:not([hidden])", set).length;
    set.hidden = left === 0;
    set.querySelector(".count").textContent = `${left} samples`;
  }
  models.forEach((model, side) => { document.getElementById(`sample-${"ab"[side]}`).textContent = data.models[Number(model)]; });
  document.getElementById("samples-found").textContent = `${shown} samples`;
  saveState();
};

if (sampleForm) {
  sampleForm.addEventListener("input", filterSamples);
  sampleForm.addEventListener("submit", (event) => event.preventDefault());
  sampleForm.addEventListener("reset", () => setTimeout(filterSamples));
  compareListeners.push(filterSamples);
  stateParts.push({
    write: (given) => {
      for (const [name, value] of new FormData(sampleForm)) if (value) given.set(`sample-${name}`, value);
    },
    read: (given) => {
      for (const { name } of sampleForm.elements) if (name) sampleForm.elements[name].value = given.get(`sample-${name}`) ?? "";
      filterSamples();
    },
  });
}
