// A slider that wipes from an image over the true label map to the label maps of two models.
const STOPS = ["image", "truth", "A", "B"];

const layersOf = (figure) => Object.fromEntries(
  all(".layers > figure", figure).map((layer) => [layer.dataset.layer, layer]));

// A select element for model A or B. It starts with the model that the page compares first, or
// else with the first or second model that has a map.
const choiceOf = (letter, models, place) => {
  const options = models.map((model) => make("option", { value: model, textContent: model }));
  const select = make("select", {}, options);
  const first = models.indexOf(data.models[data.first[place]]);
  select.selectedIndex = first < 0 ? Math.min(place, models.length - 1) : first;
  return { select, label: make("label", {}, [`${letter} `, select]) };
};

const makeSlider = (figure) => {
  const layers = layersOf(figure);
  const models = Object.keys(layers).filter((name) => layers[name].classList.contains("map") && name !== "truth");
  const name = figure.querySelector(":scope > figcaption").textContent;
  const range = make("input", { type: "range", min: "0", max: String(1 + Math.min(2, models.length)), step: "0.05", value: "1" });
  range.setAttribute("aria-label", `Image, truth, models: ${name}`);
  const [a, b] = [choiceOf("A", models, 0), choiceOf("B", models, 1)];
  const edge = make("div", { className: "edge", ariaHidden: "true" });
  const stops = STOPS.slice(0, Number(range.max) + 1).map((stop, place) => {
    const button = make("button", { type: "button", textContent: stop });
    button.addEventListener("click", () => { range.value = place; show(); });
    return button;
  });

  const show = () => {
    const at = Number(range.value);
    const stopLayers = [layers.image, layers.truth, layers[a.select.value], layers[b.select.value]];
    for (const layer of Object.values(layers)) layer.classList.remove("shown");
    // If B is the same model as A, nothing is wiped from A to B.
    const last = stopLayers[3] === stopLayers[2] ? 2 : stops.length - 1;
    // How far a stop's layer is wiped in, in percent from the left.
    const reached = (stop) => (stop > last ? 0 : 100 * Math.max(0, Math.min(1, at - stop + 1)));
    for (let stop = 1; stop <= last; stop += 1) {
      if (reached(stop) === 0 || reached(stop + 1) === 100) continue;
      stopLayers[stop].classList.add("shown");
      stopLayers[stop].style.setProperty("--to", `${reached(stop)}%`);
      stopLayers[stop].style.setProperty("--from", `${reached(stop + 1)}%`);
    }
    const fraction = at - Math.floor(at);
    edge.hidden = fraction === 0;
    edge.style.setProperty("--at", `${100 * fraction}%`);
    stops.forEach((button, place) => button.setAttribute("aria-pressed", String(place === at)));
    const label = (place) => ({ 2: `A, ${a.select.value}`, 3: `B, ${b.select.value}` })[place] ?? STOPS[place];
    range.setAttribute("aria-valuetext", fraction === 0
      ? label(at)
      : `${label(Math.floor(at))}, and ${label(Math.ceil(at))} from the left up to ${Math.round(100 * fraction)}%`);
  };

  const choices = make("p", { className: "controls" }, models.length > 1 ? [a.label, b.label] : models.length ? [a.label] : []);
  const slider = make("div", { className: "slider" }, [range, make("div", { className: "stops" }, stops), choices]);
  for (const select of [a.select, b.select]) select.addEventListener("change", show);
  range.addEventListener("input", show);
  const stack = figure.querySelector(".layers");
  stack.classList.add("stacked");
  stack.append(edge);
  stack.after(slider);
  show();
};

all("figure.segmentation").forEach(makeSlider);
